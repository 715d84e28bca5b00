"""What an image must be able to do, asked of it while it is built: `docker/slim.sh` may not take out too much."""

import importlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from holidays import country_holidays
from rich.console import Console
from rich.syntax import Syntax

SERVING = (
    "adbc_driver_postgresql.dbapi", "adbc_driver_sqlite.dbapi", "fastapi", "holidays", "httptools", "psycopg",
    "pyarrow.compute", "pyarrow.csv", "pyarrow.dataset", "safetensors.numpy", "sqlalchemy", "uvicorn", "uvloop",
    "velib_predictor.api.app", "velib_predictor.cli", "velib_predictor.commands.serve", "zstandard",
)  # fmt: skip
FORECASTING = ("httpx", "onnxruntime", "velib_predictor.commands.live", "xgboost")


def main() -> None:
    """Import, fit, write and read a little; `serving` as an argument leaves the models out."""
    models = sys.argv[1:] != ["serving"]
    for name in (*SERVING, *(FORECASTING if models else ())):
        importlib.import_module(name)
    if "2026-07-14" not in country_holidays("FR", years=2026) or "2026-12-25" not in country_holidays("US", years=2026):
        sys.exit("a public holiday is missing")
    Console(file=io.StringIO()).print(Syntax("print(1)", "python"))
    numbers = np.random.default_rng(0).random((50, 3))
    if models:
        learn(numbers)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.parquet"
        pq.write_table(pa.table({"x": numbers[:, 0]}), file, compression="zstd")
        if not np.array_equal(pq.read_table(file)["x"].to_numpy(), numbers[:, 0]):
            sys.exit("Parquet does not come back as it went")


def learn(features: npt.NDArray[np.float64]) -> None:
    """XGBoost finds a column that it is shown."""
    import xgboost

    data = xgboost.QuantileDMatrix(features, features[:, 0])
    booster = xgboost.train({"nthread": 1}, data, num_boost_round=3)
    error = np.abs(booster.inplace_predict(features) - features[:, 0]).mean()
    if not error < 0.2:
        sys.exit(f"XGBoost does not learn: mean error {error}")


if __name__ == "__main__":
    main()
