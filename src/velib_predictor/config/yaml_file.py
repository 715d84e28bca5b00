"""A settings file, read: what can be wrong with it is said without repeating what may be a secret."""

from pathlib import Path
from typing import Any

import yaml

from velib_predictor.utils.errors import SettingsError


def read_yaml(path: Path, *, required: bool) -> dict[str, Any]:
    """Its keys that have a value; nothing where it does not exist and is not `required`.

    Raises:
        SettingsError: it cannot be read, or is no YAML of that form.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise SettingsError(f"the settings file {path} does not exist") from None
        return {}
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:  # its own text quotes the line, which may hold a secret
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{path}{line} is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-01
        raise SettingsError(f"{path} is not valid YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected `key: value` lines, found {type(content).__name__}")
    return {key: value for key, value in content.items() if value is not None}
