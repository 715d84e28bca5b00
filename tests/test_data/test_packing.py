"""Packing a day: it deletes exactly what it has packed, whoever else is at work, and whenever it is killed."""

import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import msgspec
import pytest

from tests.test_data.test_archive import DAMAGES, HOUR, START, Damage, contents, fill, poll_of
from velib_predictor.data import archive as archive_module
from velib_predictor.data import packing
from velib_predictor.data.archive import Archive, ArchiveError, read_paths
from velib_predictor.data.packing import alone
from velib_predictor.data.raw import RawPoll

LATER = START + timedelta(days=2)
DAY = date(2026, 3, 1)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_packing_keeps_everything_and_only_packs_closed_days(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 30)  # two hours of 1 March, all of 2 March, four hours of 3 March
    now = datetime.fromisoformat("2026-03-03T03:30:00Z")
    assert archive.pack(now, after=timedelta(hours=4)) == [DAY]
    assert archive.pack(now, after=timedelta(hours=2)) == [date(2026, 3, 2)]
    assert names(archive.folder) == ["2026-03-01.tar.zst", "2026-03-02.tar.zst", "2026-03-03"]
    assert contents(archive.read()) == stored
    assert contents(read_paths([archive.folder / "2026-03-02.tar.zst"])) == stored[2:26]


def test_a_packed_day_is_far_smaller_than_its_files(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    generator = random.Random(1)
    body = bytearray(generator.randbytes(20_000))
    for i in range(60):
        body[generator.randrange(len(body))] = 0  # one station moves
        archive.put(*poll_of(START + i * timedelta(minutes=1), bytes(body)))
    loose = sum(path.stat().st_size for path in (archive.folder / "2026-03-01").iterdir())
    archive.pack(LATER, after=HOUR)
    assert (archive.folder / "2026-03-01.tar.zst").stat().st_size < loose / 10


def test_a_poll_added_to_a_packed_day_is_read_in_its_place_and_packed_in(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 2)
    archive.pack(LATER, after=HOUR)
    late, bodies = poll_of(START + HOUR / 2, b"late")
    archive.put(late, bodies)
    expected = [stored[0], (late, [b"late"]), stored[1]]
    assert contents(archive.read()) == expected
    archive.pack(LATER, after=HOUR)
    assert names(archive.folder) == ["2026-03-01.tar.zst"]
    assert contents(archive.read()) == expected


def test_an_empty_body_is_packed_like_any_other(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    raw, bodies = poll_of(START, b"")
    archive.put(raw, bodies)
    assert archive.pack(LATER, after=HOUR) == [DAY]
    assert contents(archive.read()) == [(raw, [b""])]


def test_what_a_newer_version_wrote_into_a_poll_is_packed_with_it(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 1)
    path = archive.folder / "2026-03-01" / "20260301T220000.000000Z.json"
    newer = msgspec.json.decode(path.read_bytes()) | {"mood": "h\u00f4pital\n"}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(newer), indent=2))
    assert archive.pack(LATER, after=HOUR) == [DAY]
    assert contents(archive.read()) == stored
    [(_, line)] = packing.packed_polls(archive.folder / "2026-03-01.tar.zst").values()
    assert msgspec.json.decode(line) == newer


# -- what cannot be read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_day_with_a_poll_that_cannot_be_read_is_kept_as_it_is(tmp_path: Path, damage: Damage) -> None:
    archive = Archive(tmp_path, "velib", on_damage=lambda _message: None)
    stored = fill(archive, 30)
    path = archive.folder / "2026-03-02" / "20260302T000000.000000Z.json"
    path.write_bytes(damage(path.read_bytes()))
    kept = {found: found.read_bytes() for found in path.parent.iterdir()}
    assert archive.pack(START + timedelta(days=9), after=HOUR) == [DAY, date(2026, 3, 3)]  # the others are packed
    assert {found: found.read_bytes() for found in path.parent.iterdir()} == kept
    assert names(archive.folder) == ["2026-03-01.tar.zst", "2026-03-02", "2026-03-03.tar.zst"]
    assert contents(archive.read()) == stored[:2] + stored[3:]


@pytest.mark.parametrize("damage", [None, b"", b"no zstd", b"\x28\xb5\x2f\xfd\xe4" + b"\xff" * 40])
def test_a_day_with_a_body_that_cannot_be_read_is_kept_as_it_is(tmp_path: Path, damage: bytes | None) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 30)
    day = archive.folder / "2026-03-01"
    body = day / f"{stored[1][0].documents[0].sha256}.zst"
    if damage is None:
        body.unlink()
    else:
        body.write_bytes(damage)
    kept = {found: found.read_bytes() for found in day.iterdir()}
    assert archive.pack(START + timedelta(days=9), after=HOUR) == [date(2026, 3, 2), date(2026, 3, 3)]
    assert {found: found.read_bytes() for found in day.iterdir()} == kept
    polls = archive.read()
    assert contents([next(polls)]) == stored[:1]
    _, read = next(polls)
    with pytest.raises(ArchiveError):  # that body alone
        read(body.stem)
    assert contents(polls) == stored[2:]


def test_nothing_is_added_to_a_damaged_pack(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib", on_damage=lambda _message: None)
    fill(archive, 2)
    archive.pack(LATER, after=HOUR)
    pack = archive.folder / "2026-03-01.tar.zst"
    pack.write_bytes(pack.read_bytes()[:-500])
    damaged = pack.read_bytes()
    late, bodies = poll_of(START + HOUR / 2, b"late")
    archive.put(late, bodies)
    assert archive.pack(LATER, after=HOUR) == []
    assert pack.read_bytes() == damaged
    assert (late, [b"late"]) in contents(archive.read())


def test_another_poll_of_the_same_time_does_not_replace_the_packed_one(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 1)
    archive.pack(LATER, after=HOUR)
    archive.put(*poll_of(START, b"something else"))
    assert archive.pack(LATER, after=HOUR) == []
    assert contents(archive.read()) == stored
    assert len(names(archive.folder / "2026-03-01")) == 2


def test_a_flipped_byte_of_a_pack_is_told_or_harmless(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 2)
    archive.pack(LATER, after=HOUR)
    pack = archive.folder / "2026-03-01.tar.zst"
    whole = pack.read_bytes()
    generator = random.Random(3)
    for place in [*range(40), *generator.sample(range(len(whole)), 300), *range(len(whole) - 40, len(whole))]:
        content = bytearray(whole)
        content[place] ^= 1 << generator.randrange(8)
        pack.write_bytes(content)
        told: list[str] = []
        try:
            read = contents(Archive(tmp_path, "velib", on_damage=told.append).read())
        except ArchiveError:
            continue
        assert told or read == stored, place


# -- killed, and no room ------------------------------------------------------------------------------------


def test_killed_between_packing_and_deleting_reads_each_poll_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 2)

    def killed(_folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archive_module, "_sync_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        archive.pack(LATER, after=HOUR)
    assert names(archive.folder) == ["2026-03-01", "2026-03-01.tar.zst"]
    assert contents(archive.read()) == stored


def test_killed_at_any_deletion_loses_nothing_and_is_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink
    for nth in range(20):
        archive = Archive(tmp_path, f"velib{nth}")
        stored = fill(archive, 7, every=timedelta(minutes=1))
        calls = iter(range(nth))

        def killed(path: Path, missing_ok: bool = False, calls: Iterator[int] = calls) -> None:
            if path.parent.name == "2026-03-01" and next(calls, None) is None:
                raise KeyboardInterrupt
            unlink(path, missing_ok)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", killed)
            try:
                archive.pack(LATER, after=HOUR)
                break
            except KeyboardInterrupt:
                pass
        assert contents(archive.read()) == stored
        for path in (archive.folder / "2026-03-01").iterdir():
            os.utime(path, (0, 0))
        archive.pack(LATER, after=HOUR)
        assert contents(archive.read()) == stored
        assert names(archive.folder) == ["2026-03-01.tar.zst"]
    assert nth == 7 + 6  # seven polls, five statuses and the long-lived document


def test_a_full_disk_keeps_the_loose_files_and_leaves_no_half_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 2)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert archive.pack(LATER, after=HOUR) == []
    assert names(archive.folder) == ["2026-03-01"]
    assert contents(archive.read()) == stored


def test_what_killed_programs_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 2)
    day = archive.folder / "2026-03-01"
    (archive.folder / "2026-03-01.tar.zst.tmp").write_bytes(b"half")
    (archive.folder / "2026-03-01.tar.zst.3f.tmp").write_bytes(b"half")
    (day / f"{'0' * 64}.zst").write_bytes(b"of a poll that is just being written, or was not acknowledged")
    (day / "20260301T235900.000000Z.json.tmp").write_bytes(b"{")
    assert archive.pack(LATER, after=HOUR) == [DAY]
    assert names(archive.folder) == ["2026-03-01", "2026-03-01.tar.zst"]
    assert len(names(day)) == 2
    assert contents(archive.read()) == stored
    for path in day.iterdir():
        os.utime(path, (0, 0))
    assert archive.pack(LATER, after=HOUR) == []
    assert names(archive.folder) == ["2026-03-01.tar.zst"]


# -- others at work meanwhile -------------------------------------------------------------------------------


def test_polls_added_while_their_day_is_packed_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, collector = Archive(tmp_path, "velib"), Archive(tmp_path, "velib")
    stored = fill(archive, 2)
    check = packing._check

    def meanwhile(path: Path, index: list[tuple[RawPoll, bytes]]) -> None:
        check(path, index)
        for minutes, body in ((10, b"new"), (20, stored[0][1][0])):  # one body is among those just packed
            raw, bodies = poll_of(START + minutes * timedelta(minutes=1), body)
            collector.put(raw, bodies)
            stored.append((raw, [body]))
        for found in (archive.folder / "2026-03-01").iterdir():
            os.utime(found, (0, 0))  # however old: they are not packed

    with monkeypatch.context() as patched:
        patched.setattr(packing, "_check", meanwhile)
        assert archive.pack(LATER, after=HOUR) == [DAY]
    stored.sort(key=lambda item: item[0].polled_at)
    assert len(names(archive.folder / "2026-03-01")) == 4
    assert contents(archive.read()) == stored
    assert archive.pack(LATER, after=HOUR) == [DAY]
    assert names(archive.folder) == ["2026-03-01.tar.zst"]
    assert contents(archive.read()) == stored


def test_a_body_found_in_place_and_then_deleted_as_packed_is_read_from_the_pack(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 2)
    archive.pack(LATER, after=HOUR)
    late, bodies = poll_of(START + HOUR / 2, stored[1][1][0])
    archive.put(late, bodies)
    (archive.folder / "2026-03-01" / f"{late.documents[0].sha256}.zst").unlink()
    expected = [stored[0], (late, [stored[1][1][0]]), stored[1]]
    assert contents(archive.read()) == expected
    assert archive.pack(LATER, after=HOUR) == [DAY]
    assert contents(archive.read()) == expected


def test_nothing_is_packed_or_deleted_while_somebody_else_does(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    fill(archive, 2)
    half = archive.folder / "2026-03-01.tar.zst.3f.tmp"
    half.write_bytes(b"somebody else writes it")
    with alone(archive.folder) as mine:
        assert mine
        assert archive.pack(LATER, after=HOUR) == []
        assert archive.prune(date(2026, 3, 9)) == []
        assert half.exists()
    assert archive.pack(LATER, after=HOUR) == [DAY]
    assert not half.exists()
    assert archive.prune(date(2026, 3, 9)) == [DAY]


def pack_each(root: Path, rounds: int, start: Barrier) -> None:
    for i in range(rounds):
        start.wait(timeout=60)
        Archive(root, f"velib{i}").pack(LATER, after=HOUR)


def test_packers_in_several_processes_lose_nothing(tmp_path: Path) -> None:
    rounds, stored = 20, []
    for i in range(rounds):
        stored = fill(Archive(tmp_path, f"velib{i}"), 40, every=timedelta(minutes=1))
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    packers = [context.Process(target=pack_each, args=(tmp_path, rounds, start)) for _ in range(3)]
    for packer in packers:
        packer.start()
    try:
        for i in range(rounds):
            told: list[str] = []
            archive = Archive(tmp_path, f"velib{i}", on_damage=told.append)
            start.wait(timeout=60)
            deadline = time.monotonic() + 20
            while not (archive.folder / "2026-03-01.tar.zst").exists():  # a reader beside them
                assert contents(archive.read()) == stored
                assert time.monotonic() < deadline, "nobody has packed"
            assert contents(archive.read()) == stored
            assert told == []
    finally:
        start.abort()
        for packer in packers:
            packer.join(timeout=60)
    assert [packer.exitcode for packer in packers] == [0, 0, 0]
    for i in range(rounds):
        archive = Archive(tmp_path, f"velib{i}")
        assert contents(archive.read()) == stored
        assert names(archive.folder) == ["2026-03-01.tar.zst"]


def test_any_one_body_is_found_in_a_pack(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 3, every=timedelta(minutes=1))
    archive.pack(LATER, after=HOUR)
    pack = archive.folder / "2026-03-01.tar.zst"
    for raw, bodies in stored:
        assert [packing.find_body(pack, document.sha256) for document in raw.documents] == bodies
    with pytest.raises(ArchiveError, match="does not hold"):
        packing.find_body(pack, "0" * 64)
