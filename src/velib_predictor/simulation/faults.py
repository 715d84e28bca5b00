"""What can be made to go wrong with a feed while it runs."""

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from velib_predictor.utils.errors import UsageError


@dataclass(frozen=True)
class Faults:
    """The faults that are on; as made, none is.

    Attributes:
        freeze: each document is answered as it was when last asked for, byte by byte.
        stall: counts stand still while the feed's own times move on (seen on the Paris portal, 2024-11-02).
        status: answer with this HTTP status, 400 to 599; 0 is off.
        retry_after_s: sent with `status`, where it is not 0.
        truncate: share of the body that is left out at its end, without saying so; 0 is off.
        cut: as `truncate`, but the announced length is that of the whole body, and then the connection ends.
        refuse: close the connection without an answer.
        vanish: share of the stations that are missing from status; the last ones of the list.
        skew_s: how far the feed's own times are ahead (negative: behind), in seconds.
    """

    freeze: bool = False
    stall: bool = False
    status: int = 0
    retry_after_s: int = 0
    truncate: float = 0.0
    cut: bool = False
    refuse: bool = False
    vanish: float = 0.0
    skew_s: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = type(field.default)
            if isinstance(value, bool) != (wanted is bool) or not isinstance(value, int | float):
                raise UsageError(f"{field.name} is {'true or false' if wanted is bool else 'a number'}, not {value!r}")
        if self.status and not (isinstance(self.status, int) and 400 <= self.status <= 599):
            raise UsageError(f"status is an HTTP status from 400 to 599, or 0 for none, not {self.status!r}")
        if not (0 <= self.truncate <= 1 and 0 <= self.vanish <= 1):
            raise UsageError("truncate and vanish are shares from 0 to 1")


def changed(before: Faults, faults: Mapping[str, Any]) -> Faults:
    """The faults that are on after those named are set.

    Raises:
        UsageError: there is no such fault, or no such value of it.
    """
    known = [field.name for field in fields(Faults)]
    if unknown := [name for name in faults if name not in known]:
        raise UsageError(f"there is no fault {unknown[0]!r}; there are: {', '.join(known)}")
    return replace(before, **faults)


class FaultBox:
    """Holds the faults that are on. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Faults()

    @property
    def now(self) -> Faults:
        """The faults that are on."""
        return self._now

    def set(self, **faults: Any) -> Faults:
        """Switch faults on or off; those that are not named stay as they are.

        Raises:
            UsageError: there is no such fault, or no such value of it; then nothing changes.
        """
        with self._lock:
            self._now = changed(self._now, faults)
            return self._now

    def put(self, faults: Faults) -> None:
        """Have exactly these on."""
        with self._lock:
            self._now = faults

    def clear(self) -> None:
        """Switch all off."""
        self.put(Faults())

    def as_dict(self) -> dict[str, Any]:
        """All faults by name."""
        return asdict(self._now)
