"""The report's page holds the numbers of its tables, needs nothing else, and stands whatever a feed calls a station."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.test_models.panels import small_city
from velib_predictor.evaluation.evaluator import Protocol, backtest
from velib_predictor.evaluation.figures import _clock
from velib_predictor.evaluation.html import COLUMNS, percent
from velib_predictor.evaluation.report import report
from velib_predictor.evaluation.visualizer import write_report
from velib_predictor.forecast.forecast import ForecastSpec

Data = dict[str, Any]
HOSTILE = "<script>alert(1)</script>\"'&$x_$\ud800"
SHOWN = 1
"""Place of the only horizon of the small copies in tables by target and horizon."""
VOID = {"meta", "link", "br", "hr", "img", "input"}


def judged(horizons: tuple[int, ...], targets: tuple[str, ...], models: list[str]) -> Data:
    """A real report: eight days of a small city, the last two and a half of them (four local dates) tested."""
    protocol = Protocol(
        ForecastSpec(horizons=tuple(timedelta(minutes=minutes) for minutes in horizons), targets=targets),
        datetime(2024, 10, 23, tzinfo=UTC),
        datetime(2024, 10, 28, 12, tzinfo=UTC),
        datetime(2024, 10, 28, 12, tzinfo=UTC),
        datetime(2024, 10, 31, tzinfo=UTC),
        timedelta(minutes=15),
    )
    return report(backtest(small_city(), models, protocol))


@pytest.fixture(scope="module")
def whole() -> Data:
    return judged((15, 60), ("bikes", "ebikes", "docks"), ["persistence_delta", "climatology"])


@pytest.fixture
def data(whole: Data) -> Data:
    """A copy of few figures, to be changed."""
    small = copy.deepcopy(whole)
    small["protocol"]["horizons"] = small["protocol"]["horizons"][-1:]
    small["examples"] = small["examples"][:1]
    return small


@pytest.fixture(scope="module")
def single() -> Data:
    return judged((30,), ("docks",), [])


class Page(HTMLParser):
    """What the tests ask of a page. Reading one fails where a tag is closed that is not the open one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.bold: set[str] = set()
        self.words: list[str] = []
        self.source = (folder / "report.html").read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += f"|{data}" if "small" in self.open else data
            if "b" in self.open:
                self.bold.add(data)

    @property
    def scores(self) -> Iterator[list[str]]:
        """Rows of the tables of scores, without the horizon that stands only in the first row of each."""
        for table in self.of_scores:
            yield from (row[len(row) - len(COLUMNS) - 1 :] for row in table[1:])

    @property
    def of_scores(self) -> list[list[list[str]]]:
        """The tables of scores."""
        return [table for table in self.tables if table[0][:3] == ["Horizon", "Model", "Rows"]]


@pytest.fixture(scope="module")
def shown(whole: Data, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The whole report's page."""
    return drawn(whole, tmp_path_factory.mktemp("whole"))


def drawn(data: Data, folder: Path) -> Page:
    write_report(data, folder)
    return Page(folder)


def figures(page: Page) -> int:
    return sum(tag == "figure" for tag, _ in page.tags)


def test_the_json_is_the_dictionary(data: Data, tmp_path: Path) -> None:
    write_report(data, tmp_path / "made" / "here")
    assert json.loads((tmp_path / "made" / "here" / "report.json").read_text()) == data
    names = sorted(path.name for path in (tmp_path / "made" / "here").iterdir())
    assert names == ["report.html", "report.json"], "nothing half-written stays"


def test_numbers_that_are_none_become_null(data: Data, tmp_path: Path) -> None:
    row = data["models"]["climatology"]["scores"][SHOWN]
    row["skill_rps_low"], row["rps"] = float("nan"), float("inf")
    write_report(data, tmp_path)
    text = (tmp_path / "report.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    found = json.loads(text)["models"]["climatology"]["scores"][SHOWN]
    assert (found["skill_rps_low"], found["rps"]) == (None, None)
    assert row["rps"] == float("inf"), "the caller's dictionary stays as it was"


def test_the_page_needs_nothing_else(shown: Page) -> None:
    assert "http" not in shown.source
    assert "@import" not in shown.source
    assert not {tag for tag, _ in shown.tags} & {"script", "link", "iframe", "object", "embed", "img"}
    pointers = [
        value
        for _, attributes in shown.tags
        for name, value in attributes.items()
        if name.split(":")[-1] in ("src", "href") and value
    ]
    assert pointers, "the figures' markers are pointed at"
    assert all(pointer.startswith(("#", "data:image/png;base64,")) for pointer in pointers)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", shown.source))


def test_ids_are_unique_and_every_pointer_has_its_id(shown: Page) -> None:
    ids = [attributes["id"] for _, attributes in shown.tags if "id" in attributes]
    used = re.findall(r'(?:href="|url\()#([^")]*)', shown.source)
    assert len(set(ids)) == len(ids)
    assert set(used) <= set(ids)


def test_every_colour_follows_the_reader(shown: Page) -> None:
    assert "prefers-color-scheme:dark" in shown.source
    assert "#0d0e" not in shown.source, "a colour that only stands for one"


def test_the_table_shows_the_dictionary(whole: Data, shown: Page) -> None:
    expected = [
        [
            name,
            *(
                "–" if (value := row[column.key]) is None else column.show(value)  # noqa: RUF001
                for column in COLUMNS
            ),
        ]
        for target in whole["protocol"]["targets"]
        for horizon in whole["protocol"]["horizons"]
        for name, entry in whole["models"].items()
        for row in entry["scores"]
        if (row["target"], row["horizon"]) == (target, horizon)
    ]
    assert list(shown.scores) == expected
    assert [row[0] for row in expected][:: len(whole["models"])] == ["persistence"] * 6


def test_formats_are_plain() -> None:
    show = {column.key: column.show for column in COLUMNS}
    assert show["rows"](90340) == "90,340"
    assert show["rps"](1.17885) == "1.179"
    assert show["brier"](0.03769) == "0.0377"
    assert (percent(0.22904), percent(-0.0292), percent(-0.00001)) == ("22.9 %", "−2.9 %", "0.0 %")  # noqa: RUF001


def test_the_best_is_bold(data: Data, tmp_path: Path) -> None:
    names = list(data["models"])
    rows = {name: data["models"][name]["scores"][SHOWN] for name in names}
    for name, rps, skill, coverage in zip(names, (7.1, 7.3, 7.2), (0.11, 0.13, 0.12), (0.99, 0.7, 0.83), strict=True):
        rows[name].update(rps=rps, skill_rps=skill, coverage_80=coverage, log_score=77.0)
    bold = drawn(data, tmp_path).bold
    assert {"7.100", "13.0 %", "83.0 %"} <= bold
    assert not {"7.200", "7.300", "11.0 %", "99.0 %", "77.000"} & bold


def test_an_interval_stands_under_its_skill(data: Data, tmp_path: Path) -> None:
    data["models"]["climatology"]["scores"][SHOWN].update(skill_rps=0.21, skill_rps_low=-0.05, skill_rps_high=0.31)
    rows = [row for row in drawn(data, tmp_path).scores if "|" in row[3]]
    assert [row[3] for row in rows] == ["21.0 %|−5.0 % to 31.0 %"]  # noqa: RUF001


def test_differences_stand_in_a_table_with_their_intervals(whole: Data, data: Data, tmp_path: Path) -> None:
    for row in data["differences"]:
        row.update(difference=-0.0123, low=-0.02, high=0.001)
    data["differences"][0].update(difference=-0.5, low=-0.75, high=-0.25)
    page = drawn(data, tmp_path)
    (table,) = [table for table in page.tables if table[0][:2] == ["Target", "Horizon"]]
    base = data["differences"][0]["reference"]
    assert sorted([base, *table[0][2:]]) == sorted(data["models"])
    assert f"Differences in RPS from {base}" in page.text
    assert table[1] == ["all", "all", "−0.5000|−0.7500 to −0.2500", "−0.0123|−0.0200 to +0.0010"]  # noqa: RUF001
    assert [row[:2] for row in table[2:5]] == [["bikes", "all"], ["bikes", "15m"], ["bikes", "1h"]]
    assert "−0.5000" in page.bold  # noqa: RUF001
    assert "−0.0123" not in page.bold  # noqa: RUF001
    assert all(row["low"] is None for row in whole["differences"]), "four days tell no interval"


def test_words_fit_the_target(shown: Page) -> None:
    heads = [" ".join(table[0]) for table in shown.of_scores]
    for head, word in zip(heads, ("bike", "e\u2011bike", "dock"), strict=True):
        assert f"P(≥\u00a01\u00a0{word})" in head


def test_all_figures_are_there(whole: Data, shown: Page) -> None:
    horizons, models, days = 2, 3, len(whole["days"])
    assert days > 2, "so weekdays are shown"
    fans = sum(len(set(example["models"]) - {"persistence"}) for example in whole["examples"])
    assert fans
    assert figures(shown) == 3 * horizons + 1 + 2 * horizons + models + fans
    for title in ("Skill by hour", "Skill by weekday", "Skill by day", "Skill by station", "Reliability", "PIT"):
        assert title in shown.text
    order = [shown.text.index(part) for part in ("Backtest of small", "Scores", "Figures", "How it was made")]
    assert order == sorted(order)


def test_two_days_have_no_weekdays(data: Data, tmp_path: Path) -> None:
    data["days"] = data["days"][:2]
    assert "Skill by weekday" not in drawn(data, tmp_path).text


def test_a_fan_stands_in_local_time(whole: Data, shown: Page) -> None:
    assert whole["examples"][0]["issued_at"].endswith("Z")
    issued = datetime.fromisoformat(whole["examples"][0]["issued_at"]) + timedelta(hours=1)  # Paris, winter
    assert f"{issued:%a %Y-%m-%d %H:%M}" in shown.text


def test_a_clock_is_round_in_its_own_zone() -> None:
    def clock(first: datetime, hours: float, zone: str) -> list[str]:
        times = _clock(first, first + timedelta(hours=hours), ZoneInfo(zone))
        return [f"{time.astimezone(ZoneInfo(zone)):%H:%M}" for time in times]

    start = datetime(2024, 10, 26, 22, 7, tzinfo=UTC)
    assert clock(start, 1, "Europe/Paris") == ["00:15", "00:30", "00:45", "01:00"]
    assert clock(start, 5, "Europe/Paris") == ["01:00", "02:00", "02:00", "03:00", "04:00"], "clocks go back"
    assert clock(start, 9, "Asia/Kathmandu") == ["04:00", "06:00", "08:00", "10:00", "12:00"]
    assert set(clock(start, 24 * 7, "Europe/Paris")) == {"00:00"}


def test_what_a_feed_says_stays_text(data: Data, tmp_path: Path) -> None:
    for example in data["examples"]:
        example["name"] = example["station_id"] = HOSTILE
    data["places"]["station_id"] = [HOSTILE] * data["stations"]
    data["system_id"] = data["program"] = HOSTILE
    data["models"][f"_{HOSTILE}"] = data["models"].pop("climatology")
    data["models"]["persistence"]["fit"]["details"] = {HOSTILE: HOSTILE}
    page = drawn(data, tmp_path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in page.source
    assert page.text.count("<script>alert(1)</script>") > 10


def test_one_horizon_one_target_and_only_persistence(single: Data, tmp_path: Path) -> None:
    page = drawn(single, tmp_path)
    assert [row[0] for row in page.scores] == ["persistence"]
    assert page.bold == set(), "alone, nobody is best"
    assert "Skill by" not in page.text
    assert figures(page) == 2 + 1 + len(single["examples"])


def test_skills_that_are_not_known(data: Data, tmp_path: Path) -> None:
    for entry in data["models"].values():
        for table in ("scores", "by_hour", "by_weekday", "by_day"):
            for row in entry[table]:
                row["skill_rps"] = None
    page = drawn(data, tmp_path)
    assert "there is no map" in page.text
    assert {row[3] for row in page.scores} == {"–"}  # noqa: RUF001


@pytest.mark.parametrize("lacking", [1, 6, 7])
def test_stations_without_coordinates(lacking: int, data: Data, tmp_path: Path) -> None:
    for axis in ("lat", "lon"):
        data["places"][axis][:lacking] = [None] * lacking
    page = drawn(data, tmp_path)
    assert f"{lacking} of 7 stations have no coordinates" in page.text


def test_stations_whose_skill_is_not_known(data: Data, tmp_path: Path) -> None:
    for entry in data["models"].values():
        for row in entry["by_station"]:
            row["skill_rps"] = [None] * 7
        for row in entry["stations"]:
            row.update(stations=0, share_rps_not_worse=None, share_mae_worse_by_1pct=None)
    assert "not worse off" not in drawn(data, tmp_path).text


def test_the_map_tells_how_many_are_not_worse(data: Data, tmp_path: Path) -> None:
    for entry in data["models"].values():
        for row in entry["stations"]:
            row.update(stations=1434, share_rps_not_worse=0.972)
    assert "Of 1,434 stations 97.2 % are not worse off in RPS" in drawn(data, tmp_path).text


def test_no_examples(data: Data, tmp_path: Path) -> None:
    data["examples"] = []
    assert "Thin line with dots" not in drawn(data, tmp_path).text


def test_an_example_that_nobody_saw_or_foretold(data: Data, tmp_path: Path) -> None:
    first = data["examples"][0]
    second = copy.deepcopy(first)
    data["examples"] = [first, second]
    first["observed"] = [[time, None] for time, _ in first["observed"]]
    second["models"] = {}
    assert "No model had a forecast." in drawn(data, tmp_path).text


def test_empty_reliability_and_pit(data: Data, tmp_path: Path) -> None:
    for entry in data["models"].values():
        for row in entry["reliability"] + entry["reliability_undecided"]:
            row["bins"] = [[0.0, 0.0, 0.0]] * 20
        for row in entry["pit"]:
            row["bins"] = [0.0] * 20
    assert figures(drawn(data, tmp_path)) > 10


def test_many_stations_stay_small(data: Data, tmp_path: Path) -> None:
    many = 4000
    data["places"] = {
        "station_id": [str(number) for number in range(many)],
        "lat": [48.8 + 0.001 * (number % 63) for number in range(many)],
        "lon": [2.3 + 0.001 * (number // 63) for number in range(many)],
    }
    for entry in data["models"].values():
        for row in entry["by_station"]:
            row["skill_rps"] = [None if number % 9 == 0 else number / many - 0.5 for number in range(many)]
    assert len(drawn(data, tmp_path).source) < 1_500_000


def test_more_models_than_colours(data: Data, tmp_path: Path) -> None:
    for number in range(8):
        data["models"][f"other {number}"] = data["models"]["climatology"]
    data["examples"] = []
    page = drawn(data, tmp_path)
    dashed = {attributes["stroke-dasharray"] for tag, attributes in page.tags if "stroke-dasharray" in attributes}
    assert len(dashed) == 2
    assert "var(--m240" not in page.source


def test_a_report_that_fails_leaves_the_old_one(data: Data, tmp_path: Path) -> None:
    write_report(data, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    del data["models"]["climatology"]["pit"]
    with pytest.raises(KeyError):
        write_report(data, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_settings_of_matplotlib_stay(data: Data, tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_report(data, tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_is_loaded_only_to_draw() -> None:
    code = "import sys, velib_predictor.evaluation.visualizer; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
