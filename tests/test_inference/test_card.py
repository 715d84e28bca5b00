"""What is kept beside a model: the same data has the same hash, and the card says what the files say."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.test_models.panels import small_city
from velib_predictor.data.panel import BIKES, Panel
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.inference.card import about, beside, card
from velib_predictor.inference.current import SystemAbout
from velib_predictor.models.base import MODELS, Forecaster, forecaster
from velib_predictor.utils.version import program

UNTIL = datetime(2024, 10, 25, tzinfo=UTC)
SYSTEM = SystemAbout("small", "Small Bikes", "Europe/Paris", "Licence Ouverte 2.0", "Small Bikes & Co.")


@pytest.fixture(scope="module")
def city() -> Panel:
    return small_city(days=3)


@pytest.fixture(scope="module")
def model(city: Panel) -> Forecaster:
    made = forecaster("climatology")(ForecastSpec(horizons=(timedelta(hours=1),), targets=("bikes", "docks")))
    made.fit(city, UNTIL)
    return made


def test_the_hash_is_of_what_was_read_and_of_nothing_later(city: Panel) -> None:
    def sha(panel: Panel) -> str:
        return str(about(panel, UNTIL, SYSTEM, 1.0, "velib train")["data"]["sha256"])

    cut = city.before(UNTIL)
    assert sha(city) == sha(small_city(days=3)) == sha(city.between(0, cut))
    for place, same in ((cut, True), (cut - 1, False), (0, False)):
        counts = city.counts.copy()
        counts[place, 0, BIKES] += 1
        assert (sha(replace(city, counts=counts)) == sha(city)) is same
    for name in ("observed", "trusted", "open"):
        mask = getattr(city, name).copy()
        mask[cut - 1] = ~mask[cut - 1]
        assert sha(replace(city, **{name: mask})) != sha(city)
    assert sha(replace(city, tolerance=timedelta(minutes=5))) != sha(city)
    assert sha(replace(city, capacity=city.capacity + np.int16(1))) != sha(city)
    assert len(bytes.fromhex(sha(city))) == hashlib.sha256().digest_size


def test_the_card_says_what_it_is_from_what_how_good_and_where_its_use_ends(city: Panel, model: Forecaster) -> None:
    made_from = about(city, UNTIL, SYSTEM, 1.25, "velib retrain")
    text = card(model, made_from)
    assert model.report is not None
    for words in (
        "# climatology for small",
        "Horizons: 1h.",
        f"from {model.report.first} to 2024-10-25T00:00:00Z",
        made_from["data"]["sha256"],
        "Licence of the data: Licence Ouverte 2.0.",
        "Attribution: Small Bikes & Co.",
        "Not yet judged on days that it has not seen",
        "## Limits",
        "`velib retrain`, velib-predictor ",
    ):
        assert words in text
    assert "ask the operator before passing it on" in card(model, about(city, UNTIL, None, 1.0, "x"))
    comparison = {
        "days": 8, "test_from": "2024-10-26T00:00:00Z", "test_until": "2024-11-03T00:00:00Z", "rps": 1.25,
        "rps_champion": 1.5, "rps_persistence": 2.0, "champion": "queueing/2024", "reason": "it is better",
    }  # fmt: skip
    files = beside(model, made_from, comparison)
    assert sorted(files) == ["MODEL_CARD.md", "about.json", "comparison.json"]
    assert "| this model | 1.2500 |" in files["MODEL_CARD.md"]
    assert "| queueing/2024, in force before | 1.5000 |" in files["MODEL_CARD.md"]


def test_every_model_has_its_sentence(city: Panel, model: Forecaster) -> None:
    made_from = about(city, UNTIL, SYSTEM, 1.0, "velib train")
    for name in MODELS:
        other = type(model)(model.spec)
        other.__dict__.update(model.__dict__, name=name)
        assert f"# {name} for small" in card(other, made_from)


def test_the_commit_is_gits_and_none_where_the_package_was_installed(tmp_path: Path) -> None:
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    git = subprocess.run(asked, capture_output=True, text=True, check=False)
    if git.returncode == 0:
        assert str(program()["commit"]).removesuffix("-dirty") == git.stdout.strip()
    # Inside a checkout of somebody else, where git does not keep it.
    package = tmp_path / "velib_predictor"
    (package / "utils").mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "1"\n')
    (package / "utils" / "__init__.py").write_text("")
    source = Path(sys.modules["velib_predictor.utils.version"].__file__ or "").read_text()
    (package / "utils" / "version.py").write_text(source)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    code = "from velib_predictor.utils.version import program; print(program()['commit'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, text=True,
                          capture_output=True, check=True)  # fmt: skip
    assert done.stdout.strip() == "None"
