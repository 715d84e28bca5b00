"""model_config.yaml: defaults, what is refused and how, and that the shipped file says what the program does anyway."""

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from velib_predictor.config.models import ModelSettings, load_model_settings
from velib_predictor.utils.errors import SettingsError


def written(folder: Path, text: str) -> Path:
    file = folder / "model_config.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_shipped_file_changes_nothing_but_where_checkpoints_go() -> None:
    shipped = load_model_settings(REPOSITORY / "config/model_config.yaml")
    assert shipped.training.checkpoints == Path("models/checkpoints")
    training = shipped.training.model_copy(update={"checkpoints": None})
    assert shipped.model_copy(update={"training": training}) == ModelSettings()


def test_what_is_left_out_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load_model_settings(written(tmp_path, "stid:\n  epochs: 3\nlstm: {rows: 10}\n"))
    assert (found.stid.epochs, found.stid.batch, found.lstm.rows, found.lstm.epochs) == (3, 2_048, 10, 7)
    monkeypatch.chdir(tmp_path / "..")
    assert load_model_settings() == ModelSettings()  # there is no config/ here


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stdi: {}", r"model_config.yaml: stdi is unknown; did you mean 'stid'\?"),
        ("stid: {epoch: 3}", r"stid.epoch is unknown; did you mean 'epochs'\?"),
        ("stid: {epochs: 0}", "stid.epochs: found 0; input should be greater than or equal to 1"),
        ("stid: {head: gaussian}", "stid.head: found 'gaussian'; input should be 'mixture' or 'categorical'"),
        ("champion: {members: {stid: 0}}", "champion.members.stid: found 0"),
        ("- a", "expected `key: value` lines"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_model_settings(written(tmp_path, text))


def test_a_file_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_model_settings(tmp_path / "none.yaml")


def test_a_short_history_takes_the_small_sizes() -> None:
    settings = ModelSettings().lstm
    short = settings.sized(True)
    assert (short.hidden, short.width, short.blocks, short.dropout) == (24, 48, 1, 0.2)
    assert short.epochs == settings.epochs
    assert settings.sized(False) is settings
