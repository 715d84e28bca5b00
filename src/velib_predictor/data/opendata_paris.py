"""The Paris Data portal's copy of Vélib' ("velib-disponibilite-en-temps-reel"), in the shapes it is exported in.

JSON: Explore v2.1 exports (a bare list) and records (`results`); legacy v1 (`records`, or a list, with `fields`).
CSV: separated by semicolons, headed by field names or, with use_labels=true, by French labels.
The portal knows no station_id: stations are named by the code on the kiosk.
"""

import csv
import io
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from velib_predictor.data import quirks
from velib_predictor.data.fields import (
    MAX_AHEAD,
    BadFieldError,
    clean,
    count,
    described,
    flag,
    identifier,
    moment,
    parse_json,
    sequence,
)
from velib_predictor.data.gbfs import StatusPart, StatusReader
from velib_predictor.data.information import read_information
from velib_predictor.data.raw import DecodeError
from velib_predictor.data.snapshot import StationStatus, Values

WHAT = "the portal's export"
LABELS = {
    "Identifiant station": "stationcode",
    "Nom station": "name",
    "Station en fonctionnement": "is_installed",
    "Capacité de la station": "capacity",
    "Nombre bornettes libres": "numdocksavailable",
    "Nombre total vélos disponibles": "numbikesavailable",
    "Vélos mécaniques disponibles": "mechanical",
    "Vélos électriques disponibles": "ebike",
    "Borne de paiement disponible": "is_renting",  # the label is wrong: the column is is_renting (2026-04-06)
    "Retour vélib possible": "is_returning",
    "Actualisation de la donnée": "duedate",
    "Coordonnées géographiques": "coordonnees_geo",
}


def decode_export(body: bytes, fetched_at: datetime, ids: Mapping[str, str] | None = None) -> StatusPart:
    """Decode an export of the portal.

    Args:
        body: the document as it came, JSON or CSV.
        fetched_at: when it came (UTC); times later than 5 minutes after it are not believed.
        ids: the feed's station_id of each code, where station information is known. Rows are then placed by it, and
            their own names and positions are not used.

    Raises:
        DecodeError: the document is neither JSON with rows nor CSV with a column for the station's code.
    """
    rows = _rows(body)
    reader = StatusReader(fetched_at, {})
    latest = fetched_at + MAX_AHEAD
    stations = []
    for position, row in enumerate(rows):
        try:
            stations.append(_station(row, position, latest, ids, reader))
        except BadFieldError as problem:
            reader.findings.rejected.append(str(problem))
    part = reader.part(stations, None, None)
    if ids is not None:
        return part
    own = read_information(_as_information(row) for row in rows if identifier(row.get("stationcode")))
    return msgspec.structs.replace(part, information=own.stations)


def _rows(body: bytes) -> list[Mapping[str, Any]]:
    cleaned = clean(body).lstrip()
    if cleaned[:1] in (b"{", b"["):
        document = parse_json(cleaned, WHAT)
        if isinstance(document, dict):
            document = document.get("results", document.get("records"))
        if not isinstance(document, list):
            raise DecodeError(f"{WHAT} holds no list of rows: {described(body)}")
        return [_fields(row) for row in document]
    return _csv_rows(cleaned)


def _fields(row: Any) -> Mapping[str, Any]:
    """A row's values, which v1 (2020-06-24) nests under `fields` and the first v2 under `record.fields`."""
    if not isinstance(row, dict):
        return {}
    inner = row.get("record", row)
    fields = inner.get("fields", inner) if isinstance(inner, dict) else row
    return fields if isinstance(fields, dict) else {}


def _csv_rows(body: bytes) -> list[Mapping[str, Any]]:
    text = body.decode("utf-8", errors="replace")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";")
    try:
        header = [LABELS.get(name.strip(), name.strip()) for name in next(reader, [])]
        if "stationcode" not in header:
            raise DecodeError(f"{WHAT} is neither JSON nor a table with a column stationcode: {described(body)}")
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise DecodeError(f"{WHAT} is no readable table ({error}): {described(body)}") from None
    # A line that is cut off is the end of a truncated download, not a row with empty columns.
    if lines and len(lines[-1]) < len(header):
        raise DecodeError(f"{WHAT} breaks off in row {len(lines)}: {described(body)}")
    return [{name: value if value != "" else None for name, value in zip(header, line, strict=False)} for line in lines]


def _station(
    row: Mapping[str, Any],
    position: int,
    latest: datetime,
    ids: Mapping[str, str] | None,
    reader: StatusReader,
) -> StationStatus:
    """One row as a station.

    Raises:
        BadFieldError: the row names no station, or a count that is none; the message is the sentence.
    """
    code = identifier(row.get("stationcode"))
    if code is None:
        # The portal's own join of status and information fails at times (10 of 770 exports, 2024-11).
        raise BadFieldError(f"row {position} has no stationcode")
    station_id = code if ids is None else ids.get(code)
    if station_id is None:
        raise BadFieldError(f"station code {code} is not in station_information, so that its station_id is unknown")
    bikes = _count(row, "numbikesavailable", code)
    docks = _count(row, "numdocksavailable", code)
    if bikes is None:
        raise BadFieldError(f"station {code}: numbikesavailable is missing")
    mechanical, ebikes = _soft_count(row, "mechanical"), _soft_count(row, "ebike")
    if max(ebikes or 0, (ebikes or 0) + (mechanical or 0)) > bikes:
        reader.findings.repair("more bikes by kind than in all, kinds taken as unknown", code)
        mechanical = ebikes = None
    values = Values(
        bikes=bikes,
        mechanical=mechanical,
        ebikes=ebikes,
        docks=quirks.dock_sentinel(docks),
        is_installed=flag(row.get("is_installed")),
        is_renting=flag(row.get("is_renting")),
        is_returning=flag(row.get("is_returning")),
    )
    return StationStatus(station_id, code, values, moment(row.get("duedate"), latest))


def _count(row: Mapping[str, Any], key: str, code: str) -> int | None:
    try:
        return count(row.get(key))
    except BadFieldError as problem:
        raise BadFieldError(f"station {code}: {key} is {problem}") from None


def _soft_count(row: Mapping[str, Any], key: str) -> int | None:
    try:
        return count(row.get(key))
    except BadFieldError:
        return None


def _as_information(row: Mapping[str, Any]) -> dict[str, Any]:
    lat, lon = _position(row.get("coordonnees_geo"))
    code = row.get("stationcode")
    return {
        "station_id": code,
        "stationCode": code,
        "name": row.get("name"),
        "lat": lat,
        "lon": lon,
        "capacity": row.get("capacity"),
    }


def _position(value: Any) -> tuple[Any, Any]:
    """Latitude and longitude of {"lon": ..., "lat": ...} (v2.1), "lat, lon" (CSV) or [lat, lon] (v1)."""
    if isinstance(value, dict):
        return value.get("lat"), value.get("lon")
    parts = value.split(",") if isinstance(value, str) else sequence(value)
    return (parts[0], parts[1]) if len(parts) == 2 else (None, None)
