"""Forecasts -> Parquet, with the whole pmf, some hundred thousand rows at a time."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import Forecast
from velib_predictor.utils.errors import UsageError

SCHEMA = pa.schema(
    [
        ("system_id", pa.string()),
        ("model", pa.string()),
        ("station_id", pa.string()),
        ("issued_at", pa.timestamp("us", "UTC")),
        ("target_at", pa.timestamp("us", "UTC")),
        ("target", pa.string()),
        ("mean", pa.float32()),
        ("p_ge_1", pa.float32()),
        ("pmf", pa.list_(pa.float32())),
    ]
)
_GROUP_ROWS = 100_000


def check_name(file: Path) -> None:
    """Before anything is read or fitted: whether forecasts can be written under that name.

    Raises:
        UsageError: it does not end in .parquet.
    """
    if file.suffix.lower() != ".parquet":
        raise UsageError(f"forecasts are written as .parquet (a pmf is a list), not as {file.name!r}")


class ForecastWriter:
    """Writes all known forecasts of the blocks it is given; without a file it does nothing.

    Raises:
        UsageError: the file's name does not end in .parquet.
    """

    def __init__(self, file: Path | None, system_id: str) -> None:
        if file is not None:
            check_name(file)
        self._file = file
        self._partial = file.with_name(f".{file.name}.partial") if file else None
        self._system_id = system_id
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> "ForecastWriter":
        if self._partial:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._partial, SCHEMA, compression="zstd", use_dictionary=_DICTIONARY)
        return self

    def write(self, forecast: Forecast) -> None:
        """Add a block."""
        if not self._file:
            return
        table = as_table(forecast, self._system_id)
        self._waiting.append(table)
        self._rows += len(table)
        if self._rows >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
        self._waiting, self._rows = [], 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not (self._file and self._partial):
            return
        try:
            if kind is None:
                self._flush()
            self._writer.close()
            if kind is None:
                self._partial.replace(self._file)
        finally:
            self._partial.unlink(missing_ok=True)


_DICTIONARY = [name for name in SCHEMA.names if name not in ("mean", "p_ge_1", "pmf")]


def as_table(forecast: Forecast, system_id: str) -> pa.Table:
    """The known forecasts of a block in `SCHEMA`, by origin, station, horizon and target."""
    shape = forecast.pmf.shape[:-1]
    known = np.broadcast_to(forecast.known[:, :, None, :], shape)
    origin, station, horizon, target = np.nonzero(known)
    pmf = forecast.pmf[known]  # [row, count]
    sizes = forecast.k[origin, station].astype(np.int32) + 1
    inside = np.arange(pmf.shape[1]) < sizes[:, None]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    issued = forecast.origins.astype("datetime64[us]").astype(np.int64)[origin]
    ahead = np.array([h.total_seconds() for h in forecast.spec.horizons]) * 1_000_000
    rows = len(origin)

    def named(values: list[str], which: np.ndarray) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(which.astype(np.int32)), pa.array(values)).cast(pa.string())

    return pa.table(
        [
            pa.repeat(pa.scalar(system_id), rows),
            pa.repeat(pa.scalar(forecast.model), rows),
            named(list(forecast.stations), station),
            pa.array(issued).cast(SCHEMA.field("issued_at").type),
            pa.array(issued + ahead.astype(np.int64)[horizon]).cast(SCHEMA.field("target_at").type),
            named(list(forecast.spec.targets), target),
            pa.array(algebra.mean(pmf)),
            pa.array(algebra.at_least(pmf, 1)),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(pmf[inside])),
        ],
        schema=SCHEMA,
    )
