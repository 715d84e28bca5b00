"""How much the cold-start model should count on a short history: RPS of mixtures with fixed and with learned shares.

    python benchmarks/cold_share.py ../shared/data --protocol V60 --from 2022-05-12 --days 5 --weights W

W is of `pretrain.py --without` the data set. All days lie inside the protocol's training window: the first are learned
from, the next three are the test. The rest is 40 % xgboost, 40 % stid and 20 % queueing.
"""

import argparse
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from unittest import mock
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from protocols import SETTINGS, imported
from velib_predictor.config.models import ChampionSettings, ModelSettings
from velib_predictor.data.panel import BIKES, Panel
from velib_predictor.models.champion.ensemble import Champion
from velib_predictor.models.champion.gate import block_of
from velib_predictor.models.coldstart.trainer import ColdStart
from velib_predictor.training import metrics

MEMBERS = {"coldstart": 0.5, "xgboost": 0.2, "stid": 0.2, "queueing": 0.1}
SHARES = (0.0, 0.2, 0.5, 0.7, 1.0)
TEST_DAYS = 3
ORIGINS = 60
Floats = npt.NDArray[np.float32]


def fixed(champion: Champion, share: float) -> Floats:
    """The champion's first weights, but for this share of its first member, float32[block, member, horizon, target]."""
    weights = champion._first_weights()
    rest = weights[:, 1:].sum(axis=1, keepdims=True)
    return np.concatenate([np.full_like(weights[:, :1], share), weights[:, 1:] * (1 - share) / rest], axis=1)


def judged(panel: Panel, champion: Champion, first: int) -> dict[str, list[float]]:
    """RPS of bikes of each mixture, by horizon, over origins of the test days."""
    ways = {f"{share:.1f}": fixed(champion, share) for share in SHARES} | {"learned": champion.weights}
    ahead = champion.spec.horizon_ticks
    names = [*ways, "calibrated"]
    total, rows = np.zeros((len(names), len(ahead))), np.zeros(len(ahead))
    last = len(panel) - ahead[-1]
    for origin in np.unique(np.linspace(first, last - 1, ORIGINS).astype(int)):
        parts = [next(member.predict(panel, panel.ticks[[origin]])) for member in champion.made]
        size = max(part.pmf.shape[-1] for part in parts)
        pmf = np.zeros((len(parts), *parts[0].pmf.shape[1:-1], size), dtype=np.float32)
        for place, part in enumerate(parts):
            pmf[place, ..., : part.pmf.shape[-1]] = part.pmf[0]
        hour = panel.ticks[origin].astype("datetime64[s]").item().replace(tzinfo=ZoneInfo("UTC"))
        block = int(block_of(np.array([hour.astimezone(ZoneInfo(panel.timezone)).hour]))[0])
        mixed = [np.einsum("mht,mshtk->shtk", weights[block], pmf) for weights in ways.values()]
        mixed.append(champion.calibration.apply(mixed[-1]))
        here = np.logical_and.reduce([part.known[0, :, 0] for part in parts])
        here &= panel.observed[origin, :, BIKES] & panel.open[origin]
        for horizon, ticks in enumerate(ahead):
            told = here & panel.observed[origin + ticks, :, BIKES] & panel.trusted[origin + ticks]
            truth = panel.counts[origin + ticks, told, BIKES]
            rows[horizon] += told.sum()
            total[:, horizon] += [metrics.rps(np.cumsum(one[told, horizon, 0], axis=-1), truth).sum() for one in mixed]
    return dict(zip(names, (total / rows).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--protocol", choices=SETTINGS, required=True)
    parser.add_argument("--from", dest="begin", type=date.fromisoformat, required=True)
    parser.add_argument("--days", type=int, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args()
    setting = SETTINGS[options.protocol]
    zone = ZoneInfo(setting.timezone)
    begin, cut, end = (
        datetime.combine(options.begin + timedelta(days=days), time(), zone).isoformat()
        for days in (0, options.days, options.days + TEST_DAYS)
    )
    if datetime.fromisoformat(end) > datetime.fromisoformat(setting.cut):
        parser.error(f"the test days end on {end}, after the training window of {options.protocol}, {setting.cut}")
    panel, protocol = imported(
        options.data, replace(setting, train_from=begin, cut=cut, test_until=end), "bikes"
    )  # fmt: skip
    ColdStart.folder = options.weights
    champion = Champion(protocol.spec, ModelSettings(champion=ChampionSettings(members=MEMBERS)))
    # One day of two is held out, too: a day before the cut does not count where the longest horizon ends it.
    with mock.patch("velib_predictor.models.champion.judge._LEAST_DAYS", 2):
        report = champion.fit(panel, protocol.fitted_until)
    print(f"shares learned on {report.details['weighed_on_days']} days: {report.details['weights']}")
    for name, scores in judged(panel, champion, panel.before(protocol.test_from)).items():
        print(f"{name:>10} {' '.join(f'{score:.4f}' for score in scores)}", flush=True)


if __name__ == "__main__":
    main()
