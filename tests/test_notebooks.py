"""The notebooks as they lie in git: all there, without outputs or code of their own. `make notebooks` runs them."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "notebooks"
NAMES = (
    "01_data_exploration", "02_feature_engineering", "03_baseline_models", "04_lstm_experiments", "05_gnn_experiments",
)  # fmt: skip
LIBRARIES = {"IPython", "matplotlib", "numpy", "pyarrow", "velib_predictor"}
"""Beside the standard library. What learns, scores and reads comes from the package."""
LONGEST_FUNCTION = 15
DRAWN = re.compile(r"plt\.show\(\)|display\(SVG\(")
notebook = pytest.mark.parametrize("name", NAMES)


def cells(name: str, kind: str) -> list[str]:
    """The sources of a notebook's cells of one kind."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def code(name: str) -> ast.Module:
    return ast.parse("\n".join(cells(name, "code")))


def test_all_are_there_and_no_others() -> None:
    assert sorted(file.stem for file in FOLDER.glob("*.ipynb")) == list(NAMES)
    told = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.ipynb)" in told for name in NAMES)


@notebook
def test_nothing_of_a_run_is_kept(name: str) -> None:
    content = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert set(content["metadata"]) == {"kernelspec", "language_info"}
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert content["metadata"]["language_info"] == {"name": "python"}
    identities = [cell["id"] for cell in content["cells"]]
    assert len(set(identities)) == len(identities)
    for cell in content["cells"]:
        assert cell["metadata"] == {}
        assert cell["cell_type"] in ("code", "markdown")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@notebook
def test_tools_come_from_the_package(name: str) -> None:
    """What is imported is the package and what draws; and it is there: a name that was moved is found here."""
    import sys
    from importlib import import_module

    parts: set[str] = set()
    for node in ast.walk(code(name)):
        if isinstance(node, ast.Import):
            parts |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            parts.add(node.module.partition(".")[0])
            if node.module.startswith("velib_predictor"):
                home = import_module(node.module)
                for alias in node.names:
                    if not hasattr(home, alias.name):
                        import_module(f"{node.module}.{alias.name}")
    assert parts - set(sys.stdlib_module_names) <= LIBRARIES
    assert "velib_predictor" in parts


@notebook
def test_functions_are_short_and_no_class_is_made(name: str) -> None:
    for node in ast.walk(code(name)):
        assert not isinstance(node, ast.ClassDef)
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name
            assert ast.get_docstring(node), node.name


@notebook
def test_no_path_of_a_machine_and_no_network(name: str) -> None:
    text = "\n".join([*cells(name, "code"), *cells(name, "markdown")])
    assert not re.search(r"(?<![\w.:/])/(home|tmp|work|root|Users|usr|var|mnt)/|[A-Z]:\\", text)
    assert "http" not in "\n".join(cells(name, "code"))
    for node in ast.walk(code(name)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not Path(node.value).is_absolute(), node.value


@notebook
def test_every_figure_is_read_below(name: str) -> None:
    """A cell that draws is followed, after cells of code at most, by words."""
    content = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    kinds = [cell["cell_type"] for cell in content]
    drawing = [
        place for place, cell in enumerate(content)
        if cell["cell_type"] == "code" and DRAWN.search("".join(cell["source"]))
    ]  # fmt: skip
    assert len(drawing) >= 4
    for place in drawing:
        assert "markdown" in kinds[place + 1 :], f"nothing is said of what cell {place} draws"


@notebook
def test_it_says_what_it_is_about_first(name: str) -> None:
    first = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"][0]
    assert first["cell_type"] == "markdown"
    assert "".join(first["source"]).startswith(f"# {int(name[:2])}. ")


@pytest.mark.parametrize("name", [name for name in NAMES if name[:2] in ("04", "05")])
def test_it_says_before_anything_that_it_needs_torch(name: str) -> None:
    assert "needs torch" in cells(name, "markdown")[0]
    first = cells(name, "code")[0]
    assert "velib_predictor" not in first, "without torch the plain message must come first"
    asked = first.replace('("torch", ', '("no_such_library", ')
    assert asked != first
    with pytest.raises(SystemExit, match=r"no_such_library.* is not installed"):
        exec(compile(asked, name, "exec"), {})  # noqa: S102 - our own cell
