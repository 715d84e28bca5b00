"""How learned models are made: `config/model_config.yaml`, validated. What is left out is the default.

Models are made with `ModelSettings`; nothing else says how long or how wide they learn.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError

from velib_predictor.config.explain import explain
from velib_predictor.config.values import Section
from velib_predictor.config.yaml_file import read_yaml
from velib_predictor.utils.errors import SettingsError

DEFAULT_FILE = Path("config/model_config.yaml")
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class TrainingSettings(Section):
    """What networks are trained on and with; the names are Lightning's."""

    accelerator: str = "cpu"
    """cpu, gpu, or auto."""
    devices: Count | Literal["auto"] = 1
    """How many of them, or of processes on a CPU."""
    strategy: str = "auto"
    """How several devices or processes share the work, such as ddp_fork."""
    precision: str = "32-true"
    """bf16-mixed is faster on some GPUs and slower on CPUs."""
    clip: Positive = 1.0
    """Longest gradient."""
    decay: Annotated[float, Field(ge=0)] = 1e-4
    """Of the weights, each step."""
    seed: int = 0
    """Where random numbers begin."""
    progress: bool = True
    """Whether a bar is shown where stderr is a terminal."""
    checkpoints: Path | None = None
    """Folder where a training that is killed leaves what it has; begun again on the same data it goes on from there.
    Empty begins anew."""


class NetworkSettings(Section):
    """How one kind of network learns."""

    rows: Count = 1_920_000
    """Rows (origin, station, horizon) that it learns from, at most."""
    folds: Annotated[int, Field(ge=1, le=3)] = 3
    """Networks, each blind to a third of the days and stopped where it is best on them; they are averaged."""
    epochs: Count = 4
    """At most. Many rows seen a few times teach more than few seen often: on S15's validation days
    960,000 five times gave 0.3 to 0.6 % less RPS from an hour on than 400,000 twelve times, at the same cost, and
    1,920,000 four times another 0.2 to 0.3 %."""
    patience: Count = 3
    """Epochs without a better score before it ends."""
    batch: Count = 2_048
    """Examples a step."""
    rate: Positive = 3e-3
    """The highest learning rate."""
    head: Literal["mixture", "categorical"] = "mixture"
    """Three logistic components, or one probability for each change."""
    width: Count = 128
    """Of the hidden layers."""
    blocks: Count = 2
    """Residual blocks."""
    station_width: Count = 16
    """Of the embedding of a station."""
    time_width: Count = 8
    """Of the embeddings of time of day and kind of day."""
    dropout: Share = 0.1
    """Share of hidden values left out in training."""
    station_dropout: Share = 0.1
    """Share of rows whose station is hidden in training, so that a new one is nothing new."""
    short_days: Annotated[int, Field(ge=0)] = 14
    """Days of history below which the small sizes hold: a large network memorises a week (Vélib', 2024-11)."""
    small: dict[str, float] = Field(
        default_factory=lambda: {"width": 48, "blocks": 1, "station_width": 6, "time_width": 4, "dropout": 0.2}
    )
    """Sizes where the history is short."""

    def sized(self, short: bool) -> Self:
        """These settings with the small sizes in place where the history is short."""
        return type(self).model_validate({**self.model_dump(), **self.small}) if short else self


class LstmSettings(NetworkSettings):
    """The LSTM's."""

    rows: Count = 400_000
    """See `NetworkSettings`; an example is some horizons of an origin and station."""
    epochs: Count = 7
    """At most: of a cycle of 12 the fifth was the best in the fold that was watched (V60)."""
    batch: Count = 512
    """Examples (origin, station) a step, several horizons each."""
    hidden: Count = 64
    """Of the LSTM."""
    small: dict[str, float] = Field(
        default_factory=lambda: {
            "hidden": 24, "width": 48, "blocks": 1, "station_width": 6, "time_width": 4, "dropout": 0.2,
        }
    )  # fmt: skip
    """Sizes where the history is short."""


class GnnSettings(NetworkSettings):
    """The graph network's."""

    rows: Count = 400_000
    """See `NetworkSettings`."""
    epochs: Count = 12
    """At most."""
    batch: Count = 4
    """Origins a step, all stations of each as nodes."""
    stations: Count = 256
    """Of an origin, whose truths are learned; the others are its nodes alone."""
    neighbours: Count = 24
    """That a station hears in each graph."""
    layers: Count = 1
    """Of the graph."""
    node_width: Count = 48
    """Of what a station is told of by its neighbours."""
    small: dict[str, float] = Field(
        default_factory=lambda: {
            "node_width": 24, "width": 48, "blocks": 1, "station_width": 6, "time_width": 4, "dropout": 0.2,
        }
    )  # fmt: skip
    """Sizes where the history is short."""


class ChampionSettings(Section):
    """Who is mixed, and with which weights it begins."""

    members: dict[str, Positive] = Field(
        default_factory=lambda: {
            "coldstart": 0.5, "xgboost": 0.22, "stid": 0.22, "lstm": 0.02, "queueing": 0.03,
            "persistence_delta": 0.005, "climatology": 0.005,
        }
    )  # fmt: skip
    """Models, with weights that hold below three days of history and are drawn towards above. What was learned
    elsewhere is worth much in the first days, and how much depends on the city: see `champion/judge.py`."""


class ModelSettings(Section):
    """All of them, by the names of models."""

    training: TrainingSettings = TrainingSettings()
    stid: NetworkSettings = NetworkSettings()
    lstm: LstmSettings = LstmSettings()
    gnn: GnnSettings = GnnSettings()
    champion: ChampionSettings = ChampionSettings()
    blend: ChampionSettings = ChampionSettings(members={"coldstart": 0.5, "xgboost": 0.5})

    def network(self, name: str) -> NetworkSettings:
        """Those of a learned model.

        Raises:
            KeyError: there is none of that name.
        """
        found = getattr(self, name, None)
        if not isinstance(found, NetworkSettings):
            raise KeyError(name)
        return found


def load_model_settings(file: Path | None = None) -> ModelSettings:
    """Read them; `file` None means `config/model_config.yaml` where it exists, else the defaults.

    Raises:
        SettingsError: the file cannot be read, a key is unknown or a value not allowed; the message says which.
    """
    path = file or DEFAULT_FILE
    content: dict[str, Any] = read_yaml(path, required=file is not None)
    try:
        return ModelSettings.model_validate(content)
    except ValidationError as error:
        raise SettingsError(explain(error, ModelSettings, path, {})) from None
