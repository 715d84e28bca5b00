"""Freed memory goes back to the machine, where the C library can; where it cannot, nothing breaks."""

import ctypes
import sys
from pathlib import Path

import pytest

from velib_predictor.utils.memory import give_back


def resident_kb() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def has_glibc() -> bool:
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "malloc_trim")


@pytest.mark.skipif(not has_glibc(), reason="the C library here gives nothing back when asked")
def test_what_was_freed_goes_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    pieces = [libc.malloc(60_000) for _ in range(2_000)]  # below what is mapped apart
    for piece in pieces:
        ctypes.memset(piece, 1, 60_000)
    last = libc.malloc(60_000)  # keeps the end of the heap
    for piece in pieces:
        libc.free(piece)
    before = resident_kb()
    assert give_back()
    assert resident_kb() < before - 80_000
    libc.free(last)


def test_another_platform_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not give_back()


def test_another_c_library_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not give_back()
