"""The architecture's promises: imports run one way, files stay short, and the command line starts at once."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

NAME = "velib_predictor"
PACKAGE = REPOSITORY / "src" / NAME
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part may import, beside itself: all parts of the rows above it. `docs/architecture.md` says the same.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("utils", "config"),
    ("forecast", "data"),
    ("training",),
    ("models",),
    ("inference", "evaluation"),
    ("jobs",),
    ("api",),
    ("commands", "cli"),
)
ALLOWED: dict[str, frozenset[str]] = {
    part: frozenset(below for row in LAYERS[:level] for below in row) | {part}
    for level, row in enumerate(LAYERS)
    for part in row
}
ALLOWED["utils"] = frozenset({"utils"})
ALLOWED["config"] |= {"utils"}
ALLOWED["simulation"] = frozenset({"simulation", "utils"})
ALLOWED["commands"] |= {"simulation"}
ALLOWED["cli"] |= {"commands", "simulation"}

HEAVY = {
    "adbc_driver_manager",
    "alembic",
    "httpx",
    "numpy",
    "psycopg",
    "pyarrow",
    "pydantic",
    "sqlalchemy",
    "structlog",
    "yaml",
}


def part_of(module: str) -> str | None:
    """`velib_predictor.data.store` -> `data`; None for the package itself and for other packages."""
    names = module.split(".")
    return names[1] if names[0] == NAME and len(names) > 1 else None


def module_of(file: Path) -> str:
    names = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def imported(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """All modules that a file imports, at its head or inside a function, for running or for typing only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
                base = ".".join([*parents, base] if base else parents)
            # `from velib_predictor import data` names the part in the alias.
            yield from (f"{base}.{alias.name}" for alias in node.names) if base == NAME else (base,)


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    own = part_of(module)
    allowed = ALLOWED[own] if own else frozenset()
    found = {(target, part_of(target)) for target in imported(source, module, is_package)}
    return sorted(f"{module} imports {target}" for target, part in found if part in ALLOWED and part not in allowed)


def test_imports_run_one_way() -> None:
    wrong = [
        line
        for file in FILES
        for line in violations(file.read_text(encoding="utf-8"), module_of(file), file.name == "__init__.py")
    ]
    assert wrong == []


def test_every_part_has_its_place() -> None:
    parts = {part_of(module_of(file)) for file in FILES} - {None}
    assert parts <= set(ALLOWED), "say in LAYERS what the new part may import"


def arrows() -> set[tuple[str, str]]:
    """Which part imports which, beside itself and the two that all may import."""
    found = set()
    for file in FILES:
        own = part_of(module_of(file))
        source = file.read_text(encoding="utf-8")
        for target in imported(source, module_of(file), file.name == "__init__.py"):
            part = part_of(target)
            if own and part and part in ALLOWED and part not in (own, "utils", "config"):
                found.add((own, part))
    return found


def test_the_picture_draws_the_imports_that_there_are() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^ +(\w+) --> (\w+)$", text, flags=re.MULTILINE)
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == arrows()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("velib_predictor.utils.spatial", "from velib_predictor.data.store import Store"),
        ("velib_predictor.utils.spatial", "import velib_predictor.config.config"),
        ("velib_predictor.data.store", "def f():\n    from velib_predictor.models.base import Forecaster"),
        ("velib_predictor.data.store", "from velib_predictor import api"),
        ("velib_predictor.data.store", "from ..api import app"),
        ("velib_predictor.forecast.pmf", "from velib_predictor.data import schema"),
        ("velib_predictor.simulation.city", "from velib_predictor.data.snapshot import Snapshot"),
        ("velib_predictor.api.app", "import velib_predictor.cli"),
    ],
)
def test_an_upward_import_is_found(module: str, source: str) -> None:
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("velib_predictor.cli", "from velib_predictor.commands import collect"),
        ("velib_predictor.commands.demo", "from velib_predictor.simulation.city import City"),
        ("velib_predictor.data.store", "from .rows import Row\nfrom ..utils import errors"),
        ("velib_predictor.config.config", "from velib_predictor.utils.errors import UsageError"),
        ("velib_predictor.models.base", "import numpy\nfrom velib_predictor import __version__"),
    ],
)
def test_a_downward_import_is_allowed(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {module_of(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {module: lines for module, lines in lengths.items() if lines > 400} == {}


def test_no_import_runs_in_circles() -> None:
    """Head imports only: within a part, too, modules form layers."""
    graph: dict[str, set[str]] = {}
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        head = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        graph[module_of(file)] = set(imported(ast.unparse(head), module_of(file), file.name == "__init__.py"))
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for target in graph.get(module, set()):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.skipif(not (PACKAGE / "cli.py").exists(), reason="there is no command line yet")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """The deterministic form of the promise that `velib --help` answers within 0.3 s."""
    command = [sys.executable, "-X", "importtime", "-m", f"{NAME}.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    code, shown, last_line = done.returncode, done.stdout.strip(), done.stderr.splitlines()[-1]
    assert (code, bool(shown)) == (0, True), last_line
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}
    assert "typer" in loaded, "the measurement itself works"
    assert loaded & HEAVY == set()
