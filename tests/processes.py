"""`velib` as a process of its own: what it says, line by line, and how it ends."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

DEADLINE_S = 60.0
"""For anything that one waits for: far more than it takes, since a busy machine is no defect."""

T = TypeVar("T")


class Velib:
    """`velib ...` in a folder. Use as a context manager; whatever happens, it has ended afterwards."""

    def __init__(self, *arguments: object, folder: Path, variables: dict[str, str] | None = None, **more: Any) -> None:
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "velib_predictor.cli", *map(str, arguments)],
            cwd=folder,
            env={**os.environ, **(variables or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **more,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout:
            self._process.stdout.close()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def lines(self) -> list[str]:
        """All that it has written so far."""
        with self._news:
            return list(self._lines)

    @property
    def said(self) -> list[str]:
        """What it has told people so far, without its log."""
        return [line for line in self.lines if not line.startswith("{")]

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first of its lines that has this, when it comes."""
        found: list[re.Match[str]] = []

        def there() -> bool:
            found.extend(match for line in self._lines if (match := re.search(pattern, line)))
            return bool(found) or not self._reader.is_alive()

        with self._news:
            self._news.wait_for(there, DEADLINE_S)
            assert found, f"{pattern!r} was not said: {self._lines}"
        return found[0]

    @property
    def address(self) -> str:
        """Where it serves, as soon as it says so."""
        return self.wait_for(r"forecasts at (http://127\.0\.0\.1:\d+)/")[1]

    def end(self, number: signal.Signals | None = None) -> int:
        """Its exit code, after a signal or by itself."""
        if number is not None:
            self._process.send_signal(number)
        code = self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        assert "Traceback" not in "\n".join(self._lines)
        return code

    @property
    def pid(self) -> int:
        """Its number; also that of its group, if it was started in a session of its own."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None


def eventually(check: Callable[[], T | None]) -> T:
    """What `check` gives as soon as it gives anything."""
    give_up_at = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not (found := check()):
        assert time.monotonic() < give_up_at, "it has not come about in time"
        pause.wait(0.05)
    return found
