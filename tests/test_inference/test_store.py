"""Where fitted models live: the newest counts, a damaged one is refused, an interrupted save leaves nothing."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.test_models.panels import small_city
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.inference.registry import Ref
from velib_predictor.inference.store import ModelStore
from velib_predictor.models.base import ArtifactError, Forecaster, forecaster
from velib_predictor.utils.errors import UsageError, VelibError

SPEC = ForecastSpec(horizons=(timedelta(minutes=15),), targets=("bikes",))


@pytest.fixture(scope="module")
def city() -> Panel:
    return small_city(days=3)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def fitted(city: Panel, name: str = "persistence", until: int = 25) -> Forecaster:
    model = forecaster(name)(SPEC)
    model.fit(city, datetime(2024, 10, until, tzinfo=UTC))
    return model


def until(model: Forecaster) -> str:
    assert model.report is not None
    return model.report.until


def test_the_newest_wins_of_a_name_and_of_all(store: ModelStore, city: Panel) -> None:
    folders = [store.add(fitted(city, name, day), "small") for name, day in
               (("persistence", 24), ("persistence_delta", 24), ("persistence", 25))]  # fmt: skip
    assert (store.newest("small").name, until(store.newest("small"))) == ("persistence", "2024-10-25T00:00:00Z")
    assert until(store.newest("small", "persistence")) == "2024-10-25T00:00:00Z"
    assert store.newest("small", "persistence_delta").name == "persistence_delta"
    assert store.folders("small") == folders[::-1]
    assert folders[1].relative_to(folders[1].parents[3]).parts[:3] == ("baseline", "small", "persistence_delta")
    store.add(fitted(city, "climatology"), "small")
    assert store.newest("small").name == "climatology"


def test_newer_is_told_by_version_and_not_by_the_order_of_files(store: ModelStore, city: Panel) -> None:
    newer, older = (store.add(fitted(city, until=day), "small") for day in (25, 24))
    older.rename(older.with_name("20240101T000000.000000Z"))
    (newer.parent / "notes").mkdir()
    (newer.parent / "99990101T000000Z.bak").mkdir()
    assert until(store.newest("small")) == "2024-10-25T00:00:00Z"
    assert [folder.name for folder in store.folders("small")] == [newer.name, "20240101T000000.000000Z"]


def test_what_there_is_not_is_said_with_the_command_that_makes_it(store: ModelStore, city: Panel) -> None:
    with pytest.raises(UsageError, match="unknown model 'oracle'; there are: persistence, persistence_delta"):
        store.newest("small", "oracle")
    with pytest.raises(UsageError, match=r"no model was trained for 'small'; .*`velib train xgboost --system small`"):
        store.newest("small")
    store.add(fitted(city), "small")
    with pytest.raises(
        UsageError,
        match=r"no linear was trained for 'small' \(there are: persistence\); .*`velib train linear --system small`",
    ):
        store.newest("small", "linear")
    with pytest.raises(UsageError, match="no model was trained for 'oslo'"):
        store.newest("oslo")


def rewrite(folder: Path, **changes: object) -> None:
    file = folder / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "metadata.json").unlink(), "there is no model in .*`velib train`"),
        (lambda folder: (folder / "metadata.json").write_text('{"schema": 1'), "there is no model in .*`velib train`"),
        (lambda folder: rewrite(folder, schema=2), "layout 2, this program reads 1; train it anew"),
        (lambda folder: rewrite(folder, fit={}), "damaged .*train it anew"),
        (lambda folder: (folder / "state.safetensors").unlink(), "damaged .*train it anew"),
        (lambda folder: (folder / "state.safetensors").write_bytes(b"{}"), "damaged .*train it anew"),
    ],
)
def test_a_damaged_model_is_refused_and_not_passed_over(
    store: ModelStore, city: Panel, damage: Callable[[Path], None], reason: str
) -> None:
    """An older one in its place would be no answer to what was asked."""
    store.add(fitted(city, until=24), "small")
    damage(store.add(fitted(city), "small"))
    with pytest.raises(ArtifactError, match=reason) as refused:
        store.newest("small")
    assert refused.value.exit_code == 1


def test_a_model_of_another_system_is_refused(store: ModelStore, city: Panel) -> None:
    store.add(fitted(city), "oslo")  # of the system "small"
    with pytest.raises(ArtifactError, match="was fitted on the system 'small', not 'oslo'"):
        store.newest("oslo")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_nothing(
    store: ModelStore, city: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    model, kept = fitted(city, "climatology"), store.add(fitted(city), "small")
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())

    def broken(folder: Path) -> dict[str, object]:
        (folder / "half.json").write_text("{")
        raise error

    monkeypatch.setattr(model, "_state", broken)
    with pytest.raises(type(error)):
        store.add(model, "small")
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    assert not list(tmp_path.rglob("*.partial"))
    assert store.folders("small") == [kept]


def test_what_another_process_is_saving_or_left_half_is_not_seen(store: ModelStore, city: Panel) -> None:
    folder = store.add(fitted(city), "small")
    (folder.parent / ".20991231T000000.000000Z.7.partial").mkdir()
    assert store.folders("small") == [folder]


def test_a_model_that_was_not_fitted_or_a_system_that_is_no_name_is_not_kept(store: ModelStore, city: Panel) -> None:
    with pytest.raises(VelibError, match="was not fitted"):
        store.add(forecaster("persistence")(SPEC), "small")
    assert store.folders("small") == []
    with pytest.raises(UsageError, match="no name for a system"):
        store.add(fitted(city), "../evil")


# -- in force ------------------------------------------------------------------------------------------------


def test_the_chosen_one_stays_in_force_and_what_stands_in_never_is(store: ModelStore, city: Panel) -> None:
    assert store.in_force("small") is None
    assert store.register(fitted(city, "climatology"), "small")[1] is None
    assert store.in_force("small") is None
    assert store.serving("small").name == "climatology"
    first, alias = store.register(fitted(city, "persistence_delta", 24), "small", {"about.json": "{}"})
    assert (alias, (first / "about.json").read_text()) == ("champion", "{}")
    store.settle("small")
    second, alias = store.register(fitted(city, "persistence_delta"), "small")
    assert alias == "challenger"
    assert store.in_force("small") == store.in_force("small", "persistence_delta") == first
    assert store.in_force("small", "climatology") == store.newest_folder("small", "climatology")
    assert until(store.serving("small")) == "2024-10-24T00:00:00Z"
    assert until(store.newest("small")) == "2024-10-25T00:00:00Z"
    assert store.systems() == ["small"]
    assert second != first


def test_without_a_registry_the_newest_is_in_force_and_is_written_down_by_the_next(
    store: ModelStore, city: Panel
) -> None:
    store.add(fitted(city, "persistence_delta", 24), "small")
    old = store.add(fitted(city, "persistence_delta"), "small")
    assert store.in_force("small") == old
    assert not store.registry("small").file.exists(), "reading changes nothing"
    newer, alias = store.register(fitted(city, "persistence_delta"), "small")
    assert (alias, store.in_force("small")) == ("champion", newer)
    assert store.registry("small").read().previous == (Ref.of(old),), "one can go back to it"
    store.registry("small").file.unlink()
    assert store.settle("small").champion == Ref.of(newer)


def test_a_version_is_found_by_what_tells_it_from_the_others(store: ModelStore, city: Panel) -> None:
    made = [store.add(fitted(city, name), "small") for name in ("persistence", "persistence_delta", "persistence")]
    for folder, name in zip(made, ("20240101T000000Z", "20240102T000000Z", "20250101T000000Z"), strict=True):
        folder.rename(folder.with_name(name))
    for text, name in (
        ("2025", "20250101T000000Z"),
        ("20240102T000000Z", "20240102T000000Z"),
        ("persistence_delta", "20240102T000000Z"),
        ("persistence/2024", "20240101T000000Z"),
    ):
        assert store.find("small", text).name == name
    with pytest.raises(
        UsageError, match=r"'2024' means several versions of 'small'; there are: .*/20240102.*/20240101"
    ):
        store.find("small", "2024")
    with pytest.raises(
        UsageError, match=r"'2026' means no version of 'small'; there are: persistence/20250101T000000Z"
    ):
        store.find("small", "2026")
    with pytest.raises(UsageError, match="there are: none yet"):
        store.find("oslo", "2026")


def test_pruning_keeps_what_is_in_force_challenges_or_can_be_gone_back_to(store: ModelStore, city: Panel) -> None:
    made = [store.add(fitted(city, "persistence_delta"), "small") for _ in range(6)]
    store.registry("small").enter(Ref.of(made[0]), datetime.now(UTC))
    registry, now = store.registry("small"), datetime.now(UTC)
    registry.promote(Ref.of(made[1]), now, "", Ref.of(made[0]))
    registry.enter(Ref.of(made[2]), now)
    assert store.prune(1) == 2
    assert [folder.exists() for folder in made] == [True, True, True, False, False, True]
    other = [store.add(fitted(city, "persistence_delta"), "other") for _ in range(2)]
    registry.file.write_text("damaged")
    assert store.prune(1) == 1, "of a system about which nothing is known, nothing goes"
    assert [folder.exists() for folder in made] == [True, True, True, False, False, True]
    assert [folder.exists() for folder in other] == [False, True]
