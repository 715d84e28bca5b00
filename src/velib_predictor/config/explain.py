"""Why settings are refused, in plain words: where it stands, what was found, what is allowed. No secret is repeated."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic_core import ErrorDetails

ENV_PREFIX = "VELIB_"
# Read by the test-suite, not by the package.
NO_SETTINGS = frozenset({"VELIB_TEST_POSTGRES"})


class Variable(NamedTuple):
    """A variable that is set outside, and where: in the environment or in `.env`."""

    source: str
    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.source}: {self.name}"


def place(loc: Sequence[str], file: Path, variables: Mapping[str, Variable]) -> str:
    """Where the setting at `loc` (`["collector", "every"]`) was given: a variable, else the file."""
    found = _variable(loc, variables)
    if found is None and list(loc) == ["log_level"]:
        found = variables.get("LOG_LEVEL")
    return str(found) if found else f"{file}: {'.'.join(loc)}"


def explain_unknown(
    in_file: Mapping[Any, Any], model: type[BaseModel], file: Path, variables: Mapping[str, Variable]
) -> str:
    """One line for each key of the file and each variable of ours that is no setting; empty if there is none."""
    known = model.model_fields
    lines = [f"{file}: unknown key {key!r}{_did_you_mean(str(key), known)}" for key in in_file if key not in known]
    for name, variable in variables.items():
        if name.startswith(ENV_PREFIX) and name not in NO_SETTINGS:
            key, *below = name.removeprefix(ENV_PREFIX).lower().split("__")
            if key not in known or (below and not _is_section(known[key].annotation)):
                lines.append(f"{variable.source}: unknown variable {variable.name}{_did_you_mean(key, known)}")
    return "\n".join(lines)


def explain(error: ValidationError, model: type[BaseModel], file: Path, variables: Mapping[str, Variable]) -> str:
    """One line for each problem that pydantic found."""
    # A default that follows from another setting is not made where that one is wrong, which has its own line.
    problems = (problem for problem in error.errors() if problem["type"] != "default_factory_not_called")
    return "\n".join(_line(problem, model, file, variables) for problem in problems)


def _line(problem: ErrorDetails, model: type[BaseModel], file: Path, variables: Mapping[str, Variable]) -> str:
    loc = [str(part) for part in problem["loc"] if part != "[key]"]  # pydantic's mark where the key itself is wrong
    where = place(loc, file, variables)
    match problem["type"]:
        case "extra_forbidden":
            return f"{where} is unknown{_did_you_mean(loc[-1], _siblings(model, loc))}"
        case "missing":
            asking = _variable(loc[:-1], variables)
            return f"{file}: {'.'.join(loc)} is missing" + (f" ({asking} belongs to it)" if asking else "")
        case "model_type" | "dict_type":
            message = "this is a section: set its keys one by one"
        case _:
            message = problem["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
    found = problem["input"]
    # Headers and addresses hold keys and passwords, and whatever is nested may hold them: only the type is told.
    is_address = isinstance(found, str) and "//" in found
    hidden = "headers" in loc or isinstance(found, list | dict) or is_address
    return f"{where}: found {type(found).__name__ if hidden else repr(found)}; {message}"


def _variable(loc: Sequence[str], variables: Mapping[str, Variable]) -> Variable | None:
    """The variable that sets `loc`, or something below it."""
    name = ENV_PREFIX + "__".join(loc).upper()
    below = (variable for other, variable in variables.items() if other.startswith(f"{name}__"))
    return variables.get(name) or next(below, None)


def _is_section(annotation: Any) -> bool:
    return get_origin(annotation) is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel))


def _siblings(model: type[BaseModel], loc: Sequence[str]) -> Iterator[Any]:
    """The keys that are allowed where `loc` stands."""
    here: Any = model
    for part in loc[:-1]:
        if get_origin(here) in (dict, tuple):
            here = get_args(here)[get_origin(here) is dict]
        else:
            here = here.model_fields[part].annotation
        if get_origin(here) in (Union, UnionType):
            here = next(kind for kind in get_args(here) if _is_section(kind))
    fields: Mapping[str, Any] = here.model_fields
    for name, field in fields.items():
        alias = field.validation_alias
        yield from alias.choices if isinstance(alias, AliasChoices) else [alias or name]


def _did_you_mean(key: str, allowed: Iterable[str]) -> str:
    names = list(allowed)
    close = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(names)}"
