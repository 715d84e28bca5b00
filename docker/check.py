"""What an image must be able to do, asked of it while it is built: `docker/slim.sh` may not take out too much."""

import importlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NEEDED = (
    "adbc_driver_postgresql.dbapi", "adbc_driver_sqlite.dbapi", "fastapi", "holidays", "httptools", "httpx", "onnxruntime",
    "psycopg", "pyarrow.compute", "pyarrow.csv", "pyarrow.dataset", "safetensors.numpy", "sqlalchemy", "uvicorn", "uvloop",
    "velib_predictor.api.app", "velib_predictor.cli", "velib_predictor.commands.live", "xgboost", "zstandard",
)  # fmt: skip


def main() -> None:
    """Import, fit, write and read a little."""
    for name in NEEDED:
        importlib.import_module(name)
    import xgboost

    features = np.random.default_rng(0).random((50, 3))
    data = xgboost.QuantileDMatrix(features, features[:, 0])
    booster = xgboost.train({"nthread": 1}, data, num_boost_round=3)
    error = np.abs(booster.inplace_predict(features) - features[:, 0]).mean()
    if not error < 0.2:
        sys.exit(f"XGBoost does not learn: mean error {error}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.parquet"
        pq.write_table(pa.table({"x": features[:, 0]}), file, compression="zstd")
        if not np.array_equal(pq.read_table(file)["x"].to_numpy(), features[:, 0]):
            sys.exit("Parquet does not come back as it went")


if __name__ == "__main__":
    main()
