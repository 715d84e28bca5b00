"""Logging: structlog in front of the standard library, set up once by the command line.

Messages go to stderr, as lines for people or as JSON. Passwords in addresses never reach a handler. `import
structlog` takes 0.2 s, so it waits for the first message.
"""

import copy
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from velib_predictor.utils.errors import SettingsError
from velib_predictor.utils.temporal import format_time

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

DEFAULT_FILE = Path("config/logging_config.yaml")

# The content of config/logging_config.yaml (a test compares them), for an installation that has no such file.
DEFAULT: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "console": {"()": "velib_predictor.utils.logger.console_formatter"},
        "json": {"()": "velib_predictor.utils.logger.json_formatter"},
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "auto"},
        "file": {
            "class": "logging.handlers.RotatingFileHandler",
            "filename": "logs/velib.log",
            "maxBytes": 10_485_760,
            "backupCount": 5,
            "encoding": "utf-8",
            "delay": True,
            "formatter": "json",
        },
    },
    "loggers": {name: {"level": "WARNING"} for name in ("alembic", "httpcore", "httpx", "stamina")},
    "root": {"level": "INFO", "handlers": ["stderr"]},
}

_PASSWORD_IN_URL = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s\"'<>]*@", re.IGNORECASE)
_PASSWORD_IN_TEXT = re.compile(r"(?P<before>\b(?:db_)?(?:password|passwd|pwd)\s*=\s*)[^\s&\"',;]+", re.IGNORECASE)
_SECRET_KEY = re.compile(r"passw|secret|token|authorization|api_?key", re.IGNORECASE)
_FIRST = ("timestamp", "level", "logger", "event")


def get_logger(name: str) -> "BoundLogger":
    """The logger of a module: `log = get_logger(__name__)`, then `log.info("polled", stations=1450)`."""
    return cast("BoundLogger", _Lazy(name))


def configure_logging(
    level: str = "INFO", fmt: Literal["auto", "console", "json"] = "auto", file: Path | None = None
) -> None:
    """Send messages of `level` and above to the handlers of `config/logging_config.yaml`.

    Args:
        level: least severe message; the levels of single loggers in the file hold beside it.
        fmt: what `formatter: auto` in the file means; `auto` is console where stderr is a terminal, else json.
        file: another such file. Without it, and without the usual one, the built-in content of it holds.

    Raises:
        SettingsError: the file does not exist, or logging cannot be set up from it.
    """
    import logging.config

    if file and not file.exists():
        raise SettingsError(f"the logging settings {file} do not exist")
    path = file or DEFAULT_FILE
    config = _read(path) if path.exists() else copy.deepcopy(DEFAULT)
    if fmt == "auto":
        fmt = "console" if sys.stderr.isatty() else "json"
    try:
        _complete(config, level, fmt)
        logging.config.dictConfig(config)
    except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        reason = error.__cause__ or error
        raise SettingsError(f"{path}: logging cannot be set up from it: {error} ({reason})") from error
    _route_through_stdlib()


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected `key: value` lines, found {type(content).__name__}")
    return content


def _complete(config: dict[str, Any], level: str, fmt: str) -> None:
    """Put the level and format in; drop handlers that no logger names, so that their files are never opened."""
    config["root"]["level"] = level
    loggers = [config["root"], *(config.get("loggers") or {}).values()]
    used = {name for logger in loggers for name in logger.get("handlers", ())}
    config["handlers"] = {name: handler for name, handler in config["handlers"].items() if name in used}
    for handler in config["handlers"].values():
        if handler.get("formatter") == "auto":
            handler["formatter"] = fmt
        if filename := handler.get("filename"):
            Path(filename).parent.mkdir(parents=True, exist_ok=True)


# -- structlog ---------------------------------------------------------------------------------------------------


class _Lazy:
    """Stands for a structlog logger until it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        import structlog

        if not structlog.is_configured():
            _route_through_stdlib()  # structlog's own default writes to stdout, where a command's result belongs
        return getattr(structlog.stdlib.get_logger(self._name), attribute)


def _route_through_stdlib() -> None:
    import structlog

    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared_processors(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _shared_processors() -> list[Any]:
    """What every message passes, whether it comes from structlog or from a library's standard logger."""
    import structlog

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def json_formatter() -> logging.Formatter:
    """One JSON object a line: timestamp (UTC, RFC 3339), level, logger, event, then the message's own values."""
    import structlog

    return _formatter(structlog.processors.JSONRenderer(ensure_ascii=False))


def console_formatter() -> logging.Formatter:
    """Lines for people, coloured on a terminal."""
    import structlog

    plain = structlog.dev.plain_traceback  # a rich traceback prints local variables, secrets among them
    return _formatter(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain))


def _formatter(renderer: Any) -> logging.Formatter:
    import structlog

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_shared_processors(),
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
    )


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """A structlog processor: values become plain JSON without secrets, the well-known keys come first."""
    keys = [key for key in _FIRST if key in event] + [key for key in event if key not in _FIRST]
    return {key: "***" if _SECRET_KEY.search(key) else _plain(event[key]) for key in keys}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime) and value.tzinfo is not None:
        return format_time(value)
    if isinstance(value, Mapping):
        return {str(key): "***" if _SECRET_KEY.search(str(key)) else _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return redact_text(str(value))


def redact_text(text: str) -> str:
    """`text` without passwords: neither in addresses (`//user:password@host`) nor in `password=...`."""
    text = _PASSWORD_IN_URL.sub(r"\g<before>***@", text)
    return _PASSWORD_IN_TEXT.sub(r"\g<before>***", text)
