"""How a command that runs until it is told to end is told so."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading


@contextmanager
def stopped_by_signals() -> "Iterator[tuple[threading.Event, threading.Event]]":
    """Two events: stop (SIGTERM, SIGINT), and whether it was SIGINT. A second SIGINT ends the process at once."""
    import signal
    import threading

    stop, interrupted = threading.Event(), threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        stop.set()
        if number == signal.SIGINT:
            interrupted.set()
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
