"""The two figures of the README: `python benchmarks/readme_figures.py`, from the repository's root.

The first draws the README's own table of results as skill against persistence. The second is one station of the
synthetic city: what was forecast at one moment, and what came.
"""

import re
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from velib_predictor.commands.sandbox import city_panel
from velib_predictor.evaluation.evaluator import Protocol
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import forecaster

FOLDER = Path("docs/figures")
HORIZONS_MIN = ((15, 30, 60), (60, 120, 180, 360), (15, 30, 60, 120))


def table() -> dict[str, list[list[float]]]:
    """RPS of each model on each data set, from the README."""
    rows = re.findall(r"^\| (\w+)[^|]* \|((?: [\d. /]+ \|){3})$", Path("README.md").read_text("utf-8"), re.MULTILINE)
    return {
        name: [[float(x) for x in cell.split("/")] for cell in cells.strip(" |").split("|")] for name, cells in rows
    }


def skill(plt: Any) -> None:
    found = table()
    names = ("Vélib' 2024", "Vélib' 2022, hourly", "Bay Wheels 2023")
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True, layout="constrained")
    for place, (axis, name) in enumerate(zip(axes, names, strict=True)):
        base = np.array(found["persistence"][place])
        for model, rows in found.items():
            if model != "persistence":
                axis.plot(HORIZONS_MIN[place], 1 - np.array(rows[place]) / base, marker=".", label=model)
        axis.set(title=name, xlabel="minutes ahead", xscale="log")
        axis.set_xticks(HORIZONS_MIN[place], [str(m) for m in HORIZONS_MIN[place]])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("skill in RPS against 'same as now'")
    axes[-1].legend(fontsize=8, loc="upper left")
    figure.savefig(FOLDER / "skill.png", dpi=110, metadata={"Software": None})


def fan(plt: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        panel = city_panel(Path(folder))
    horizons = tuple(timedelta(minutes=15 * n) for n in range(1, 25))
    spec = ForecastSpec(horizons=horizons, targets=("bikes",))
    protocol = Protocol.last_days(panel, spec, 2)
    model = forecaster("queueing")(spec)
    model.fit(panel, protocol.fitted_until)
    origin = panel.before(protocol.test_from) + 7 * 4  # seven in the morning
    told = next(model.predict(panel, panel.ticks[[origin]]))
    moved = np.abs(panel.counts[origin + 24, :, 0] - panel.counts[origin, :, 0])
    place = int(np.argsort(moved)[int(len(moved) * 0.8)])
    pmf, k = told.pmf[0, place, :, 0], int(told.k[0, place])
    came = panel.counts[origin : origin + 25, place, 0]
    figure, axis = plt.subplots(figsize=(10, 3), layout="constrained")
    hours = np.arange(25) / 4
    image = axis.pcolormesh(hours[1:], np.arange(k + 1), pmf[:, : k + 1].T, cmap="Blues", vmax=0.3, shading="nearest")
    axis.plot(hours, came, color="black", linewidth=1.5, label="what came")
    axis.set(xlabel="hours ahead", ylabel="bikes", title="One station, one morning: the probability of each count")
    axis.legend(loc="upper right")
    figure.colorbar(image, label="probability")
    figure.savefig(FOLDER / "fan.png", dpi=110, metadata={"Software": None})


def main() -> None:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    FOLDER.mkdir(exist_ok=True)
    skill(plt)
    fan(plt)


if __name__ == "__main__":
    main()
