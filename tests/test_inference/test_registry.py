"""Which version is in force: one file that is old or new and never half, and what damage to it means."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from velib_predictor.inference.registry import KEPT, ChangedError, Ref, Registry, Standing, write_whole
from velib_predictor.models.base import ArtifactError
from velib_predictor.utils.errors import UsageError

AT = datetime(2026, 1, 5, 3, 20, tzinfo=UTC)
REFS = [Ref("queueing", f"202601{n:02}T000000.000000Z") for n in range(1, 31)]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models", "town")


def agrees(_ref: Ref) -> None:
    """Every version can be used."""


def test_the_newest_is_in_force_until_one_is_chosen_and_the_next_ones_challenge_that(registry: Registry) -> None:
    assert registry.read() == registry.settle(AT) == Standing()
    assert [registry.enter(ref, AT) for ref in REFS[:2]] == ["champion", "champion"]
    registry.settle(AT)
    assert [registry.enter(ref, AT) for ref in REFS[2:4]] == ["challenger", "challenger"]
    found = registry.settle(AT)
    assert (found.champion, found.challenger, found.previous) == (REFS[1], REFS[3], (REFS[0],))
    assert [found.alias(ref) for ref in REFS[:4]] == ["previous", "champion", None, "challenger"]
    assert [entry["event"] for entry in found.log] == ["newest", "newest", "settled", "challenger", "challenger"]
    assert found.log[0] == {"at": "2026-01-05T03:20:00Z", "event": "newest", "version": str(REFS[0])}


@pytest.mark.parametrize("decide", ["promote", "rollback"])
def test_whoever_promotes_or_goes_back_has_chosen(registry: Registry, decide: str) -> None:
    registry.enter(REFS[0], AT)
    registry.enter(REFS[1], AT)
    if decide == "promote":
        registry.promote(REFS[2], AT, "", REFS[1])
    else:
        registry.rollback(AT, agrees)
    chosen = registry.read().champion
    assert registry.enter(REFS[3], AT) == "challenger"
    assert registry.read().champion == chosen


def test_promoted_and_back_and_back_again(registry: Registry) -> None:
    registry.enter(REFS[0], AT)
    registry.settle(AT)
    registry.enter(REFS[1], AT)
    registry.promote(REFS[1], AT, "better", REFS[0])
    registry.promote(REFS[2], AT, "better", REFS[1])
    found = registry.read()
    assert (found.champion, found.challenger, found.previous) == (REFS[2], None, (REFS[1], REFS[0]))
    assert found.log[-1]["why"] == "better"
    assert registry.rollback(AT, agrees).champion == REFS[1]
    assert registry.rollback(AT, agrees).champion == REFS[0]
    with pytest.raises(UsageError, match="nothing to roll back to"):
        registry.rollback(AT, agrees)
    assert registry.read().champion == REFS[0]


def test_an_older_champion_that_is_promoted_again_stands_once(registry: Registry) -> None:
    registry.enter(REFS[0], AT)
    for n in (1, 0, 1):
        registry.promote(REFS[n], AT, "", registry.read().champion)
    assert registry.read().previous == (REFS[0],)


def test_who_expected_another_champion_changes_nothing(registry: Registry) -> None:
    registry.enter(REFS[0], AT)
    before = registry.file.read_bytes()
    for expected in (REFS[1], None):
        with pytest.raises(ChangedError, match=f"{REFS[0]} is in force by now"):
            registry.promote(REFS[2], AT, "", expected)
    assert registry.file.read_bytes() == before


@settings(max_examples=20)  # each step is forced onto the disk
@given(st.lists(st.integers(0, 9), max_size=60))
def test_whatever_is_done_the_stack_is_that_of_a_list(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    """Against the plainest model: 0 goes back, n promotes n."""
    registry = Registry(tmp_path_factory.mktemp("models"), "town")
    stack: list[int] = []
    for step in steps:
        if step:
            registry.promote(REFS[step], AT, "", REFS[stack[-1]] if stack else None)
            stack = [n for n in stack if n != step] + [step]
        elif len(stack) > 1:
            stack.pop()
            registry.rollback(AT, agrees)
        found = registry.read()
        assert found.champion == (REFS[stack[-1]] if stack else None)
        assert list(found.previous) == [REFS[n] for n in stack[-2::-1]][:KEPT]
        assert len(found.log) <= KEPT


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_text("{"),
        lambda file: file.write_bytes(b"\xff\xfe\x00"),
        lambda file: file.write_text("[]"),
        lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | {"layout": 2})),
        lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | {"champion": {"model": "queueing"}})),
        lambda file: file.write_text(file.read_text().replace('"queueing"', '"../../evil"')),
        lambda file: file.write_text(file.read_text().replace("20260101T", "../../")),
    ],
)
def test_a_damaged_file_is_refused_with_what_to_do_and_not_written_over(
    registry: Registry, damage: Callable[[Path], None]
) -> None:
    registry.enter(REFS[0], AT)
    damage(registry.file)
    before = registry.file.read_bytes()
    for act in (
        registry.read,
        lambda: registry.enter(REFS[1], AT),
        lambda: registry.settle(AT),
        lambda: registry.promote(REFS[1], AT, "", REFS[0]),
        lambda: registry.rollback(AT, agrees),
    ):
        with pytest.raises(ArtifactError, match=r"town\.json, which says what is in force, is damaged .*--force"):
            act()
    assert registry.file.read_bytes() == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    file = tmp_path / "town.json"
    write_whole(file, "old")

    def broken(_number: int) -> None:
        raise error

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(type(error)):
        write_whole(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["town.json"]


def test_a_system_that_is_no_name_has_no_registry(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no name for a system"):
        Registry(tmp_path, "../evil")
