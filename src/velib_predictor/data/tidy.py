"""The column contract of history files and exports, and their streaming reader (Parquet or CSV, by the suffix).

The reader hands out record batches in the one schema of their kind, and notes in `Findings`, by row and column, what
cannot be read. Nothing is guessed: ids are text, a time has an offset, a missing value is null.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from velib_predictor.data import columns as rules
from velib_predictor.data.columns import FLAG, TIME, Bad, Rule
from velib_predictor.data.snapshot import Values
from velib_predictor.utils.errors import UsageError

Kind = Literal["status", "stations", "polls", "weather"]

FLAGS = ("is_installed", "is_renting", "is_returning")
COUNTS = tuple(name for name in Values._fields if name not in FLAGS)
_COUNT = rules.whole(32_767, pa.int16())
_AMOUNT = rules.whole(2**31 - 1, pa.int32())

WEATHER_SPANS: Mapping[str, tuple[float, float]] = {
    "temperature_c": (-60, 60),
    "apparent_c": (-80, 70),
    "precipitation_mm": (0, 400),
    "rain_mm": (0, 400),
    "snowfall_cm": (0, 200),
    "wind_kmh": (0, 300),
    "gusts_kmh": (0, 450),
    "cloud_percent": (0, 100),
}
"""What of the weather is kept, and what can be true of it on Earth."""


class Column(NamedTuple):
    """One column of the contract: `needed` columns must be there, `filled` ones have a value in every row."""

    name: str
    type: pa.DataType
    rule: Rule
    needed: bool = False
    filled: bool = False


_SYSTEM = Column("system_id", pa.string(), rules.text)
_STATION = Column("station_id", pa.string(), rules.text, needed=True, filled=True)
COLUMNS: dict[Kind, tuple[Column, ...]] = {
    "status": (
        _SYSTEM,
        _STATION,
        Column("observed_at", TIME, rules.time, needed=True, filled=True),
        *(Column(name, pa.int16(), _COUNT) for name in COUNTS),
        *(Column(name, FLAG, rules.flag) for name in FLAGS),
        Column("last_reported", TIME, rules.time),
    ),
    "stations": (
        _SYSTEM,
        _STATION,
        Column("code", pa.string(), rules.text),
        Column("name", pa.string(), rules.text, needed=True),
        Column("lat", pa.float64(), rules.number(-90, 90), needed=True),
        Column("lon", pa.float64(), rules.number(-180, 180), needed=True),
        Column("capacity", pa.int32(), _AMOUNT),
    ),
    "polls": (
        _SYSTEM,
        Column("polled_at", TIME, rules.time, needed=True, filled=True),
        Column("outcome", pa.string(), rules.check_outcome, needed=True, filled=True),
        *(Column(name, pa.int32(), _AMOUNT, needed=True, filled=True) for name in ("stations", "changed", "rejected")),
        Column("detail", pa.string(), rules.text, needed=True),
    ),
    "weather": (
        _SYSTEM,
        Column("issued_at", TIME, rules.time, needed=True, filled=True),
        Column("valid_at", TIME, rules.time, needed=True, filled=True),
        *(Column(name, pa.float64(), rules.number(*span)) for name, span in WEATHER_SPANS.items()),
    ),
}
SCHEMAS: dict[Kind, pa.Schema] = {
    kind: pa.schema([(column.name, column.type) for column in columns]) for kind, columns in COLUMNS.items()
}

_LISTED = 20
_BATCH_ROWS = 131_072
_BLOCK_BYTES = 8 << 20


@dataclass
class Findings:
    """What was seen while one file was read."""

    path: Path
    rows: int = 0
    system_ids: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    found: int = 0
    _listed: list[tuple[int | None, str | None, str]] = field(default_factory=list)

    def add(self, message: str, *, row: int | None = None, column: str | None = None) -> None:
        """Note a problem; `row` is the data row, from 1."""
        self.found += 1
        if len(self._listed) < _LISTED:
            self._listed.append((row, column, message))

    def add_bad(self, bad: Bad, offset: int, column: str) -> None:
        """Note values that a rule refused, in a batch before which `offset` rows were read."""
        for index, message in bad.first(_LISTED - len(self._listed)):
            self._listed.append((offset + index + 1, column, message))
        self.found += bad.total

    def problems(self) -> list[str]:
        """The problems in words: the first twenty, then how many more there are."""
        listed = sorted(self._listed, key=lambda problem: problem[0] or 0)
        lines = _csv_lines(self.path, {row for row, _, _ in listed if row}) if _is_csv(self.path) else {}
        said = []
        for row, column, message in listed:
            where = [str(self.path)]
            if row is not None:
                where.append(f"row {row}" + (f" (line {lines[row]})" if row in lines else ""))
            said.append(", ".join([*where, f"column {column}"] if column else where) + f": {message}")
        if self.found > len(listed):
            said.append(f"{self.path}: and {self.found - len(listed)} more problems")
        return said


def read(path: Path, kind: Kind, findings: Findings) -> Iterator[pa.RecordBatch]:
    """The file's rows in `SCHEMAS[kind]`, batch by batch; what cannot be read is null here and noted in `findings`.

    A file that cannot be read on ends early, with its problem noted.
    """
    columns = COLUMNS[kind]
    try:
        names, raw_batches = _open(path, [column.name for column in columns], texts=kind != "status")
        if not _check_header(names, columns, findings):
            return
        for raw in raw_batches:
            batch = pa.RecordBatch.from_arrays([_column(raw, c, findings) for c in columns], schema=SCHEMAS[kind])
            findings.rows += len(batch)
            findings.system_ids.update(set(batch["system_id"].unique().to_pylist()) - {None})
            yield batch
    except FileNotFoundError:
        findings.add("there is no such file")
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        broken = _broken_row(path) if _is_csv(path) and path.is_file() else None
        if broken:
            findings.add(f"has {broken.fields} fields, the header {broken.expected}", row=broken.row)
        else:
            findings.add(f"cannot be read: {reason}")


def suffix_of(path: Path) -> Literal[".parquet", ".csv"]:
    """The file's format.

    Raises:
        UsageError: it is neither.
    """
    match path.suffix.lower():
        case ".parquet":
            return ".parquet"
        case ".csv":
            return ".csv"
    raise UsageError(f"{path}: the name must end in .parquet or .csv; these are the formats that there are")


def _is_csv(path: Path) -> bool:
    return suffix_of(path) == ".csv"


def _open(path: Path, wanted: Sequence[str], *, texts: bool) -> tuple[list[str], Iterator[pa.RecordBatch]]:
    """The names of all columns, and the batches of those that are wanted; only `texts` may have line breaks in them."""
    if not _is_csv(path):
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        return names, file.iter_batches(batch_size=_BATCH_ROWS, columns=[name for name in wanted if name in names])
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        names = next(csv.reader(lines), [])
    if not names or len(set(names)) < len(names):
        return names, iter(())
    reader = pacsv.open_csv(
        path,
        read_options=pacsv.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=pacsv.ParseOptions(newlines_in_values=texts),
        # Everything is read as text first: left to itself, Arrow makes a number of the id "001".
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=[name for name in wanted if name in names],
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    return names, iter(reader)


def _check_header(names: Sequence[str], columns: Sequence[Column], findings: Findings) -> bool:
    twice = sorted({name for name in names if names.count(name) > 1})
    missing = [column.name for column in columns if column.needed and column.name not in names]
    for name in twice:
        findings.add("appears twice in the header", column=name)
    for name in missing:
        findings.add(f"missing; the file has: {', '.join(names) or 'nothing'}", column=name)
    known = {column.name for column in columns}
    if unknown := [name for name in names if name not in known]:
        findings.notes.append(f"{findings.path}: unknown columns are ignored: {', '.join(unknown)}")
    return not twice and not missing


def _column(raw: pa.RecordBatch, column: Column, findings: Findings) -> pa.Array:
    if column.name not in raw.schema.names:
        return pa.nulls(len(raw), column.type)
    given = raw.column(column.name)
    values, bad = column.rule(given)
    findings.add_bad(bad, findings.rows, column.name)
    if column.filled and given.null_count:
        findings.add_bad(Bad.empty(given), findings.rows, column.name)
    return values


def _csv_lines(path: Path, rows: set[int]) -> dict[int, int]:
    """The line on which each of these data rows ends: blank lines and line breaks in quotes count, too."""
    lines: dict[int, int] = {}
    last = max(rows, default=0)
    if last:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            reader = csv.reader(stream)
            filled = (None for record in reader if record)
            for row, _ in enumerate(filled):
                if row in rows:
                    lines[row] = reader.line_num
                if row >= last:
                    break
    return lines


class _Broken(NamedTuple):
    row: int
    fields: int
    expected: int


def _broken_row(path: Path) -> _Broken | None:
    """The first data row with more or fewer fields than the header; Arrow does not say which one it is."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        filled = (record for record in csv.reader(stream) if record)
        expected = len(next(filled, []))
        return next((_Broken(row, len(r), expected) for row, r in enumerate(filled, 1) if len(r) != expected), None)


def csv_text(batch: pa.RecordBatch | pa.Table) -> Any:
    """Times as RFC 3339 text with a Z, and a fraction of a second only where there is one; the rest as it is."""
    arrays = []
    for array in batch.columns:
        if array.type == TIME:
            array = pc.replace_substring(pc.cast(array, pa.string()), " ", "T")
            array = pc.replace_substring(array, ".000000Z", "Z")
        arrays.append(array)
    return pa.table(arrays, names=batch.schema.names)
