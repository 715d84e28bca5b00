"""The raw archive: nothing acknowledged is lost, whatever happens in between."""

import os
import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from velib_predictor.data.archive import Archive, ArchiveError, read_paths
from velib_predictor.data.raw import STATUS, Document, RawPoll, content_hash

START = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


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


def fill(archive: Archive, count: int, every: timedelta = HOUR) -> list[tuple[RawPoll, list[bytes]]]:
    """`count` polls; every third repeats the body before, all share one long-lived document."""
    generator = random.Random(7)
    stored, status = [], b""
    for i in range(count):
        if i % 3 != 2:
            status = generator.randbytes(3000)
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


def test_packing_keeps_everything_and_only_packs_closed_days(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 30)  # two hours of 1 March, all of 2 March, four hours of 3 March
    now = datetime(2026, 3, 3, 3, 30, tzinfo=UTC)
    assert archive.pack(now, after=timedelta(hours=4)) == [date(2026, 3, 1)]
    assert archive.pack(now, after=timedelta(hours=2)) == [date(2026, 3, 2)]
    assert sorted(p.name for p in (tmp_path / "velib").iterdir()) == [
        "2026-03-01.tar.zst",
        "2026-03-02.tar.zst",
        "2026-03-03",
    ]
    assert contents(archive.read()) == stored
    assert contents(read_paths([tmp_path / "velib" / "2026-03-02.tar.zst"])) == stored[2:26]


def test_a_packed_day_is_far_smaller_than_its_files(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    generator = random.Random(1)
    body = bytearray(generator.randbytes(20_000))
    for i in range(60):
        body[generator.randrange(len(body))] = 0  # one station moves
        archive.put(*poll_of(START + i * timedelta(minutes=1), bytes(body)))
    loose = sum(path.stat().st_size for path in (tmp_path / "velib" / "2026-03-01").iterdir())
    archive.pack(START + timedelta(days=2), after=HOUR)
    assert (tmp_path / "velib" / "2026-03-01.tar.zst").stat().st_size < loose / 10


def test_a_poll_added_to_a_packed_day_is_read_in_its_place_and_packed_in(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 2)
    archive.pack(START + timedelta(days=2), after=HOUR)
    late, bodies = poll_of(START + HOUR / 2, b"late")
    archive.put(late, bodies)
    expected = [stored[0], (late, [b"late"]), stored[1]]
    assert contents(archive.read()) == expected
    archive.pack(START + timedelta(days=2), after=HOUR)
    assert not (tmp_path / "velib" / "2026-03-01").exists()
    assert contents(archive.read()) == expected


def test_killed_between_packing_and_deleting_reads_each_poll_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 2)

    def killed(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("velib_predictor.data.archive.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        archive.pack(START + timedelta(days=2), after=HOUR)
    assert contents(archive.read()) == stored


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


def test_damage_is_told_not_returned(tmp_path: Path) -> None:
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
    with pytest.raises(ArchiveError):  # and packing keeps the loose files
        archive.pack(START + timedelta(days=2), after=HOUR)
    assert day.exists()


def test_retention_deletes_whole_days(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "velib")
    stored = fill(archive, 30)
    archive.pack(datetime(2026, 3, 3, 3, tzinfo=UTC), after=HOUR)
    assert archive.prune(date(2026, 3, 3)) == [date(2026, 3, 1), date(2026, 3, 2)]
    assert contents(archive.read()) == stored[26:]


def test_read_paths_takes_root_system_day_and_refuses_the_rest(tmp_path: Path) -> None:
    stored = fill(Archive(tmp_path / "raw", "velib"), 3)
    fill(Archive(tmp_path / "raw", "other"), 1)
    root = tmp_path / "raw"
    assert len(contents(read_paths([root]))) == 4
    assert contents(read_paths([root / "velib"])) == stored
    assert contents(read_paths([root / "velib" / "2026-03-01"])) == stored[:2]
    with pytest.raises(ArchiveError, match="is no raw archive"):
        list(read_paths([tmp_path]))
