"""History files go in by `velib import`, and what comes out as a Panel is what was simulated, value by value."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.test_simulation.small import MINUTE, START, city, living, values
from velib_predictor.data.database import Database
from velib_predictor.data.importer import import_history
from velib_predictor.data.panel import Panel
from velib_predictor.simulation.history import write_history
from velib_predictor.utils.errors import UsageError

EVERY = 5 * MINUTE
END = START + timedelta(hours=7)
FILES = ("stations.parquet", "status.parquet", "polls.parquet")


def test_the_panel_equals_what_was_simulated(tmp_path: Path) -> None:
    expected = []
    watched = living()
    for poll in range(7 * 12):
        watched.advance(START + poll * EVERY)
        expected.append(values(watched.counts()))
    after = write_history(living(), START, END, EVERY, tmp_path / "new" / "folder")
    stations, status, polls = (tmp_path / "new" / "folder" / name for name in FILES)
    database = Database(f"sqlite:///{tmp_path / 'city.db'}")
    database.upgrade()
    report = import_history(database, "city", stations, [status], polls, timezone="Europe/Paris")
    assert report.rows_stored == pq.read_metadata(status).num_rows == report.rows_read
    assert report.polls_stored == len(expected)
    assert not report.warnings
    panel = Panel.load(database, "city", START, END, step=EVERY)
    database.close()
    place = [panel.stations.id.index(str(number)) for number in city().stations.id]
    np.testing.assert_array_equal(panel.counts[:, place], np.stack(expected))
    assert panel.observed.all()
    assert panel.open.all()
    assert (panel.capacity[:, place] == city().stations.capacity).all()
    assert [panel.stations.code[i] for i in place] == list(city().stations.code)
    assert after.now == END


def test_rows_are_changes_and_hourly_checkpoints(tmp_path: Path) -> None:
    write_history(living(), START, END, EVERY, tmp_path)
    status, polls = (pq.read_table(tmp_path / name) for name in FILES[1:])
    minute = pc.minute(status["observed_at"]).to_numpy()
    assert (minute == 0).sum() == 7 * len(city())
    assert len(status) < 0.7 * len(polls) * len(city())
    assert polls["changed"].to_pylist()[0] == len(city())
    between = status.filter(pc.greater(pc.minute(status["observed_at"]), 0))
    by_poll = dict(zip(polls["polled_at"].to_pylist(), polls["changed"].to_pylist(), strict=True))
    for counted in between.group_by("observed_at").aggregate([("station_id", "count")]).to_pylist():
        assert counted["station_id_count"] == by_poll[counted["observed_at"]]
    assert polls["polled_at"].to_pylist() == [START + n * EVERY for n in range(84)], "the last poll lies before the end"


def test_life_goes_on_where_history_ends(tmp_path: Path) -> None:
    lived = living()
    lived.advance(END + timedelta(hours=1))
    after = write_history(living(), START, END, EVERY, tmp_path)
    after.advance(END + timedelta(hours=1))
    np.testing.assert_array_equal(values(after.counts()), values(lived.counts()))


def test_the_end_of_an_uneven_period(tmp_path: Path) -> None:
    after = write_history(living(), START, START + 13 * MINUTE, EVERY, tmp_path)
    assert pq.read_metadata(tmp_path / FILES[2]).num_rows == 3
    assert after.now == START + 13 * MINUTE


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    write_history(living(), START, START + timedelta(hours=2), EVERY, tmp_path, lambda *now: told.append(now))
    assert told == [("history", 0, 24), ("history", 12, 24)]


@pytest.mark.parametrize(
    ("start", "end", "every"),
    [(START, START, EVERY), (START, END, timedelta(seconds=90)), (START + MINUTE, END, EVERY)],
    ids=["empty", "half minutes", "not where the simulation stands"],
)
def test_what_makes_no_history_is_refused(tmp_path: Path, start: object, end: object, every: timedelta) -> None:
    with pytest.raises(UsageError):
        write_history(living(), start, end, every, tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_interrupted_history_leaves_no_file_that_looks_whole(tmp_path: Path) -> None:
    def stop(_phase: str, done: int, _total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_history(living(), START, END, EVERY, tmp_path, stop)
    assert not (tmp_path / "status.parquet").exists()
    assert not (tmp_path / "polls.parquet").exists()
