"""Runs `velib ...` in this process, as the tests of the command line do."""

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from velib_predictor.cli import main


class Result(NamedTuple):
    """What a command did."""

    code: int
    output: str
    errors: str

    @property
    def data(self) -> Any:
        """Its one JSON document."""
        return json.loads(self.output)


Velib = Callable[..., Result]


def exit_code() -> int:
    """Run what `sys.argv` says."""
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def runner(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Velib:
    """What runs `velib` with arguments; a traceback is never an answer."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["velib", *map(str, arguments)])
        capfd.readouterr()
        code = exit_code()
        output, errors = capfd.readouterr()
        assert "Traceback" not in errors
        return Result(code, output, errors)

    return run
