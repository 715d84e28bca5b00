"""The raw archive: nothing acknowledged is lost, whatever happens in between."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from velib_predictor.data import archive as archive_module
from velib_predictor.data.archive import Archive, ArchiveError, read_paths
from velib_predictor.data.raw import STATUS, Document, RawPoll, content_hash

START = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)

Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "empty": lambda _content: b"",
    "truncated": lambda content: content[:-10],
    "not UTF-8": lambda content: content.replace(b"velib", b"vel\xffb"),
    "a kind of a newer version": lambda content: content[:-1] + b',"kind":"siri"}',
    "a time without zone": lambda content: content.replace(b":00Z", b":00"),
    "a time before all": lambda content: content.replace(b"2026-03-02T00:00:00Z", b"0001-01-01T00:00:00+05:00"),
    "another time than its name": lambda content: content.replace(b"2026-03-02", b"2026-03-05"),
    "deep": lambda _content: b"[" * 100_000,
}
"""What can become of a poll's file: each gives the damaged content."""


def poll_of(at: datetime, *bodies: bytes, system_id: str = "velib") -> tuple[RawPoll, dict[str, bytes]]:
    documents = tuple(
        Document(
            name=STATUS if i == 0 else f"other{i}",
            url="http://127.0.0.1/",
            status=200,
            fetched_at=at,
            duration_s=0.1,
            sha256=content_hash(body),
            size=len(body),
        )
        for i, body in enumerate(bodies)
    )
    raw = RawPoll(system_id=system_id, polled_at=at, scheduled_at=at, documents=documents)
    return raw, {content_hash(body): body for body in bodies}


def fill(archive: Archive, count: int, every: timedelta = HOUR, size: int = 3000) -> list[tuple[RawPoll, list[bytes]]]:
    """`count` polls; every third repeats the body before, all share one long-lived document."""
    generator = random.Random(7)
    stored, status = [], b""
    for i in range(count):
        if i % 3 != 2:
            status = generator.randbytes(size)
        raw, bodies = poll_of(START + i * every, status, b"information " * 50)
        archive.put(raw, bodies)
        stored.append((raw, [status, b"information " * 50]))
    return stored


def contents(polls: object) -> list[tuple[RawPoll, list[bytes]]]:
    return [(raw, [body(document.sha256) for document in raw.documents]) for raw, body in polls]  # type: ignore[attr-defined]


def test_reads_back_what_was_put(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 5)
    assert contents(archive.read()) == stored
    assert contents(archive.read(since=START + HOUR)) == stored[2:]


def test_equal_bodies_are_kept_once_a_day(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    for i in range(10):
        archive.put(*poll_of(START + i * timedelta(minutes=1), b"the same"))
    assert len(list((tmp_path / "velib" / "2026-03-01").glob("*.zst"))) == 1
    assert len(list((tmp_path / "velib" / "2026-03-01").glob("*.json"))) == 10


def test_half_written_files_are_ignored(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 2)
    day = tmp_path / "velib" / "2026-03-01"
    (day / "20260301T235900.000000Z.json.tmp").write_bytes(b'{"system_id": "ve')
    (tmp_path / "velib" / "2026-03-02.tar.zst.tmp").write_bytes(b"half")
    assert contents(archive.read()) == stored


def test_a_full_disk_leaves_no_half_poll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 1)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            archive.put(*poll_of(START + HOUR, b"lost"))
    assert contents(archive.read()) == stored


def test_retention_deletes_whole_days(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 30)
    archive.pack(datetime(2026, 3, 3, 3, tzinfo=UTC), after=HOUR)
    assert archive.prune(date(2026, 3, 3)) == [date(2026, 3, 1), date(2026, 3, 2)]
    assert contents(archive.read()) == stored[26:]


def test_a_day_that_cannot_be_deleted_is_not_counted_and_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path, "velib")
    fill(archive, 30)
    rmtree = shutil.rmtree

    def refuse(path: Path) -> None:
        if path.name == "2026-03-01":
            raise PermissionError(1, "Operation not permitted")
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert archive.prune(date(2026, 3, 3)) == [date(2026, 3, 2)]
    assert archive.days() == [date(2026, 3, 1), date(2026, 3, 3)]


# -- what the disk is told ----------------------------------------------------------------------------------


def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose entries are forced onto the disk from now on."""
    folders: list[Path] = []
    sync = archive_module._sync_folder

    def noted(folder: Path) -> None:
        folders.append(folder)
        sync(folder)

    monkeypatch.setattr(archive_module, "_sync_folder", noted)
    return folders


def test_new_folders_are_on_the_disk_before_a_poll_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = synced(monkeypatch)
    archive = Archive(tmp_path / "data" / "raw", "velib")
    archive.put(*poll_of(START, b"one"))
    day = tmp_path / "data" / "raw" / "velib" / "2026-03-01"
    assert set(folders) == {day, *day.parents[:4]}
    assert day.parents[3] == tmp_path
    folders.clear()
    archive.put(*poll_of(START + HOUR, b"two"))
    assert folders == [day]  # once a day


def test_folders_of_a_program_killed_just_after_making_them_are_put_on_the_disk_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = tmp_path / "raw" / "velib" / "2026-03-01"
    day.mkdir(parents=True)
    folders = synced(monkeypatch)
    Archive(tmp_path / "raw", "velib").put(*poll_of(START, b"one"))
    assert {day, *day.parents[:3]} <= set(folders)


def test_a_poll_for_a_past_day_survives_that_packing_removes_the_folder_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path, "velib")
    write, calls = archive_module._write_durably, iter(range(9))

    def removed_first(path: Path, content: bytes) -> None:
        if next(calls) == 0:
            path.parent.rmdir()
        write(path, content)

    monkeypatch.setattr(archive_module, "_write_durably", removed_first)
    late, bodies = poll_of(START, b"late")
    archive.put(late, bodies)
    assert contents(archive.read()) == [(late, [b"late"])]


# -- damage -------------------------------------------------------------------------------------------------


def test_a_damaged_body_is_told_not_returned(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    raw, bodies = poll_of(START, b"a body that will be damaged")
    archive.put(raw, bodies)
    other, other_bodies = poll_of(START + HOUR, b"another")
    archive.put(other, other_bodies)
    day = tmp_path / "velib" / "2026-03-01"
    wrong = (day / f"{other.documents[0].sha256}.zst").read_bytes()
    (day / f"{raw.documents[0].sha256}.zst").write_bytes(wrong)
    with pytest.raises(ArchiveError, match="another SHA-256"):
        contents(archive.read())


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_poll_is_skipped_and_told(tmp_path: Path, damage: Damage) -> None:
    told: list[str] = []
    archive = Archive(tmp_path, "velib", on_damage=told.append)
    stored = fill(archive, 6)
    path = tmp_path / "velib" / "2026-03-02" / "20260302T000000.000000Z.json"
    path.write_bytes(damage(path.read_bytes()))
    assert contents(archive.read()) == stored[:2] + stored[3:]
    assert len(told) == 1
    assert str(path) in told[0]
    assert contents(read_paths([tmp_path], on_damage=told.append)) == stored[:2] + stored[3:]
    assert len(told) == 2


def test_a_damaged_pack_is_read_as_far_as_it_can_be_and_ends_nothing_else(tmp_path: Path) -> None:
    told: list[str] = []
    archive = Archive(tmp_path, "velib", on_damage=told.append)
    stored = fill(archive, 30, size=30_000)
    archive.pack(START + timedelta(days=9), after=HOUR)
    pack = tmp_path / "velib" / "2026-03-02.tar.zst"
    pack.write_bytes(pack.read_bytes()[:-20_000])
    read = contents(archive.read())
    assert len(stored) > len(read) > 6
    assert [item for item in stored if item in read] == read
    assert read[:2] + read[-4:] == stored[:2] + stored[26:]  # the days before and after
    assert len(told) == 1
    assert str(pack) in told[0]
    assert contents(read_paths([pack, tmp_path / "velib" / "2026-03-03.tar.zst"], told.append))[-4:] == stored[26:]
    assert len(told) == 2


def test_a_link_to_nowhere_is_told_and_ends(tmp_path: Path) -> None:
    told: list[str] = []
    archive = Archive(tmp_path, "velib", on_damage=told.append)
    stored = fill(archive, 2)
    (tmp_path / "velib" / "2026-03-01" / "20260301T223000.000000Z.json").symlink_to("nowhere")
    assert contents(archive.read()) == stored
    assert len(told) == 1


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    archive = Archive(tmp_path, "velib", on_damage=told.append)
    stored = fill(archive, 6)
    listed = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path.name == "2026-03-01":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert contents(archive.read()) == stored[2:]
    assert len(told) == 1
    assert archive.pack(START + timedelta(days=9), after=HOUR) == [date(2026, 3, 2)]


def test_the_last_answer_is_found_behind_a_damaged_poll_and_one_without_answer(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib", on_damage=lambda _message: None)
    stored = fill(archive, 1)
    archive.put(RawPoll(system_id="velib", polled_at=START + HOUR / 2, scheduled_at=START, error="no answer"), {})
    (tmp_path / "velib" / "2026-03-01" / "20260301T225900.000000Z.json").write_bytes(b"{")
    assert contents([archive.last()]) == stored


# -- others at work meanwhile -------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1, 5, 9, 10])
def test_a_day_that_is_packed_while_it_is_read_is_read_to_its_end(tmp_path: Path, before: int) -> None:
    told: list[str] = []
    archive = Archive(tmp_path, "velib", on_damage=told.append)
    stored = fill(archive, 10, every=timedelta(minutes=1))
    read = []
    reading = archive.read()
    for i, (raw, body) in enumerate(reading):
        if i == before:
            assert archive.pack(START + timedelta(days=2), after=HOUR)
        read += contents([(raw, body)])  # the body in hand is in the pack by now
    assert read == stored
    assert told == []


def test_a_day_that_is_packed_again_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 10, every=timedelta(minutes=1))
    archive.pack(START + timedelta(days=2), after=HOUR)
    for minutes in (0.5, 7.5, 20):
        late, bodies = poll_of(START + minutes * timedelta(minutes=1), b"late %d" % minutes)
        archive.put(late, bodies)
        stored.append((late, [b"late %d" % minutes]))
    read = []
    for i, (raw, body) in enumerate(archive.read()):
        if i == 4:
            assert archive.pack(START + timedelta(days=2), after=HOUR)
        read += contents([(raw, body)])
    assert read == sorted(stored, key=lambda item: item[0].polled_at)


def test_a_day_that_is_packed_between_two_listings_of_the_folder_is_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path, "velib")
    fill(archive, 2)
    listed, first = Path.iterdir, iter([True])

    def packed_behind(path: Path) -> Iterator[Path]:
        paths = list(listed(path))
        if path == archive.folder and next(first, False):  # the pack came where the listing had passed already
            monkeypatch.undo()
            archive.pack(START + timedelta(days=2), after=HOUR)
            monkeypatch.setattr(Path, "iterdir", packed_behind)
            paths = [found for found in paths if found.exists()]
        return iter(paths)

    monkeypatch.setattr(Path, "iterdir", packed_behind)
    assert archive.days() == [date(2026, 3, 1)]


def test_a_day_that_is_deleted_while_it_is_read_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    archive = Archive(tmp_path, "velib", on_damage=told.append)
    fill(archive, 4)
    reading = archive.read()
    next(reading)
    archive.prune(date(2026, 3, 2))
    assert [raw.polled_at.day for raw, _ in reading] == [2, 2]
    assert len(told) == 1
    assert "deleted" in told[0]


def test_read_paths_takes_root_system_day_and_refuses_the_rest(tmp_path: Path) -> None:
    stored = fill(Archive(tmp_path / "raw", "velib"), 3)
    fill(Archive(tmp_path / "raw", "other"), 1)
    root = tmp_path / "raw"
    assert len(contents(read_paths([root]))) == 4
    assert contents(read_paths([root / "velib"])) == stored
    assert contents(read_paths([root / "velib" / "2026-03-01"])) == stored[:2]
    Archive(root, "velib").pack(START + timedelta(days=2), after=HOUR)
    assert contents(read_paths([root / "velib" / "2026-03-01.tar.zst"])) == stored[:2]
    with pytest.raises(ArchiveError, match="is no raw archive"):
        list(read_paths([tmp_path]))
