"""Which program made something: its version and, where it runs from a checkout, the commit."""

import platform
import subprocess
from functools import cache
from pathlib import Path

from velib_predictor import __version__


@cache
def program() -> dict[str, str | None]:
    """Version, commit (`-dirty` where files differ from it; null where it was installed) and Python's version."""
    return {"version": __version__, "commit": _commit(), "python": platform.python_version()}


def _commit() -> str | None:
    here = Path(__file__)
    # An installed package may lie inside somebody else's checkout: only where git keeps this very file it is ours.
    if _git(here, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12")


def _git(here: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed words
            ["git", "-C", str(here.parent), *arguments],  # noqa: S607 - whichever git there is
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
