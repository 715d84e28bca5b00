"""Where the database is: what the variables of the environment say, and whether an address can be one."""

import re
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from velib_predictor.config.explain import Variable
from velib_predictor.utils.errors import SettingsError


def database_url(variables: Mapping[str, Variable]) -> str | None:
    """The address in DATABASE_URL, else that which DB_* make up if there is a password; None: they say nothing.

    Raises:
        SettingsError: the port is none, or the password's file cannot be read.
    """
    values = {name: variable.value for name, variable in variables.items()}
    if url := values.get("DATABASE_URL"):
        return url
    if not (password := values.get("DB_PASSWORD") or _secret(variables.get("DB_PASSWORD_FILE"))):
        return None
    port = values.get("DB_PORT", "5432")
    if not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65_535):
        raise SettingsError(f"{variables['DB_PORT']} is {port!r}; expected a number from 1 to 65535 such as 5432")
    return URL.create(
        "postgresql",
        username=values.get("DB_USER", "velib_user"),
        password=password,
        host=values.get("DB_HOST", "localhost"),
        port=int(port),
        database=values.get("DB_NAME", "velib"),
    ).render_as_string(hide_password=False)


def _secret(variable: Variable | None) -> str | None:
    """What a file holds that a variable names, as Compose's secrets are handed over; without the last line's end."""
    if variable is None:
        return None
    try:
        found = Path(variable.value).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"{variable}: the file {variable.value} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{variable}: the file {variable.value} is not UTF-8 text") from None
    if not found:
        raise SettingsError(f"{variable}: the file {variable.value} is empty; expected the password in it")
    return found


def check_database_url(url: str, where: str, *, password_allowed: bool = True) -> None:
    """Refuse what is no address of SQLite or PostgreSQL.

    Raises:
        SettingsError: it is none, or holds a password where it must not; `where` it stands is said.
    """
    expected = "expected sqlite:///data/velib.db or postgresql://user:password@host:5432/name"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: the port is no number
        raise SettingsError(f"{where}: the database address cannot be read; {expected}") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise SettingsError(f"{where}: the database address starts with {parsed.drivername!r}; {expected}")
    if not password_allowed and (parsed.password or "password" in parsed.query):
        raise SettingsError(
            f"{where} holds a password; put it into DATABASE_URL or DB_PASSWORD in the environment or .env"
        )
