"""GBFS station status, versions 1.0 to 3.1, as normalised records.

A document that keeps to the types below is decoded in one typed pass. Any other is read as plain JSON, record by
record, each value as leniently as it can be meant; a record that still cannot be read is rejected with one sentence.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from velib_predictor.data import quirks
from velib_predictor.data.fields import (
    EARLIEST,
    MAX_AHEAD,
    REFUSED,
    BadFieldError,
    Findings,
    clean,
    described,
    moment,
    parse_json,
    text,
)
from velib_predictor.data.information import read_information
from velib_predictor.data.quirks import Kinds
from velib_predictor.data.raw import STATUS, DecodeError
from velib_predictor.data.records import Record, RejectedError, TypeCount, coerced
from velib_predictor.data.snapshot import StationInfo, StationStatus, Values

VehicleKinds = Mapping[str, str | None]
"""Of each vehicle type: "mechanical", "ebike", "" for no bicycle, None where the feed does not tell."""


class _Data(msgspec.Struct):
    stations: list[Record]


class _Document(msgspec.Struct):
    data: _Data
    last_updated: int | float | str | None = None
    last_updated_other: int | float | str | None = msgspec.field(name="lastUpdatedOther", default=None)
    ttl: int | float | str | None = None


class StatusPart(msgspec.Struct, frozen=True, kw_only=True):
    """What a status document says. `information` is empty but for sources that carry both in one document."""

    stations: tuple[StationStatus, ...]
    feed_time: datetime | None = None
    ttl_s: int | None = None
    information: tuple[StationInfo, ...] = ()
    rejected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def decode_status(body: bytes, fetched_at: datetime, vehicle_kinds: VehicleKinds | None = None) -> StatusPart:
    """Decode a station_status document.

    Args:
        body: the document as it came.
        fetched_at: when it came (UTC); times later than 5 minutes after it are not believed.
        vehicle_kinds: the system's vehicle types, by id; without them counts by type stay unknown.

    Raises:
        DecodeError: the document is no JSON, or holds no list of stations.
    """
    reader = StatusReader(fetched_at, vehicle_kinds or {})
    try:
        document = _DOCUMENT.decode(clean(body))
    except REFUSED:
        return reader.read_leniently(body)
    stations = reader.read(document.data.stations)
    last_updated = document.last_updated if document.last_updated is not None else document.last_updated_other
    return reader.part(stations, last_updated, document.ttl)


_DOCUMENT = msgspec.json.Decoder(_Document)


class StatusReader:
    """Turns the records of one status document into stations, and keeps count of what was wrong with them."""

    def __init__(self, fetched_at: datetime, vehicle_kinds: VehicleKinds) -> None:
        self.findings = Findings()
        self._vehicle_kinds = vehicle_kinds
        self._latest = fetched_at + MAX_AHEAD
        self._earliest_s = EARLIEST.timestamp()
        self._latest_s = self._latest.timestamp()

    def read_leniently(self, body: bytes) -> StatusPart:
        """Decode a document that the typed pass refused."""
        document = quirks.unwrapped(parse_json(body, STATUS))
        if quirks.is_smoove(document):
            both = quirks.smoove_records(document)
            part = self.part(self.read(both), None, None)
            return msgspec.structs.replace(part, information=read_information(both).stations)
        if not isinstance(document, dict):
            raise DecodeError(f"{STATUS} is no JSON object: {described(body)}")
        data = quirks.unwrapped(document.get("data"))
        records = data.get("stations") if isinstance(data, dict) else None
        if not isinstance(records, list):
            raise DecodeError(f"{STATUS} holds no list of stations under data.stations: {described(body)}")
        last_updated = document.get("last_updated", document.get("lastUpdatedOther"))
        return self.part(self.read(records), last_updated, document.get("ttl"))

    def part(self, stations: list[StationStatus], last_updated: Any, ttl: Any) -> StatusPart:
        """The result for one document."""
        return StatusPart(
            stations=self.unique(stations),
            feed_time=moment(last_updated, self._latest),
            ttl_s=ttl if isinstance(ttl, int) and not isinstance(ttl, bool) and 0 <= ttl < 2**31 else None,
            rejected=tuple(self.findings.rejected),
            notes=self.findings.notes,
        )

    def read(self, records: Iterable[Any]) -> list[StationStatus]:
        """The readable ones of records that are typed, or plain JSON; the rest is in `findings.rejected`."""
        stations = []
        for position, record in enumerate(records):
            try:
                stations.append(self._station(record if type(record) is Record else coerced(record, self.findings)))
            except RejectedError as sentence:
                self.findings.rejected.append(str(sentence) or f"record {position} has neither station_id nor code")
        return stations

    def _station(self, record: Record) -> StationStatus:
        code = record.station_code
        if code is not None:
            code = str(code).strip() or None
        elif record.short_name is not None:
            code = text(record.short_name)
        # Blanks are cut off as `identifier` does in station information: the two join on equal text.
        station_id = str(record.station_id).strip() or code
        if station_id is None:
            raise RejectedError
        bikes = record.num_bikes_available
        if bikes is None:
            bikes = record.num_vehicles_available if record.num_vehicles_available is not None else record.bikes_camel
            if bikes is None:
                raise RejectedError(f"station {station_id}: num_bikes_available is missing, and so are its other names")
        if bikes == 0 and record.vehicle_types_available:
            bikes = self._dott_bikes(station_id, record.vehicle_types_available)
        mechanical, ebikes = self._kinds(station_id, record, bikes)
        docks = record.num_docks_available if record.num_docks_available is not None else record.docks_camel
        if docks is not None and quirks.dock_sentinel(docks) is None:
            self.findings.repair(f"{docks} docks is no count but a placeholder, taken as unknown", station_id)
            docks = None
        disabled = record.num_bikes_disabled
        installed = record.is_installed
        renting = record.is_renting if record.is_renting is not None else record.can_rent
        returning = record.is_returning if record.is_returning is not None else record.can_return
        reported = record.last_reported
        if type(reported) is int and self._earliest_s <= reported <= self._latest_s:
            last_reported: datetime | None = datetime.fromtimestamp(reported, UTC)
        else:
            last_reported = moment(reported, self._latest)
        values = Values(
            bikes,
            mechanical,
            ebikes,
            docks,
            disabled if disabled is not None else record.num_vehicles_disabled,
            record.num_docks_disabled,
            None if installed is None else bool(installed),
            None if renting is None else bool(renting),
            None if returning is None else bool(returning),
        )
        return StationStatus(station_id, code, values, last_reported)

    def _dott_bikes(self, station_id: str, by_type: list[TypeCount]) -> int:
        try:
            bikes = quirks.dott_bikes(0, sum(entry.count for entry in by_type))
        except BadFieldError as problem:
            raise RejectedError(f"station {station_id}: the sum of vehicle_types_available is {problem}") from None
        if bikes:
            self.findings.repair("0 bikes although vehicle_types_available counts some, their sum taken", station_id)
        return bikes

    def _kinds(self, station_id: str, record: Record, bikes: int) -> Kinds:
        """Mechanical bikes and e-bikes, from the first of the four places that has them."""
        named = record.num_bikes_available_types
        if named is not None:
            merged = quirks.velib_kinds(named) if type(named) is list else named
            mechanical, ebikes = merged.mechanical, merged.ebike  # type: ignore[union-attr]
        elif record.num_ebikes_available is not None:
            mechanical, ebikes = quirks.lyft_kinds(bikes, record.num_ebikes_available)
        elif record.vehicle_types_available is not None:
            mechanical, ebikes = self._kinds_by_type(record.vehicle_types_available)
        else:
            return None, None
        if max(ebikes or 0, (ebikes or 0) + (mechanical or 0)) > bikes:
            self.findings.repair("more bikes by kind than in all, kinds taken as unknown", station_id)
            return None, None
        return mechanical, ebikes

    def _kinds_by_type(self, by_type: list[TypeCount]) -> Kinds:
        totals = {"mechanical": 0, "ebike": 0, "": 0}
        for entry in by_type:
            kind = self._vehicle_kinds.get(entry.vehicle_type_id)
            if kind is None:
                return None, None
            totals[kind] += entry.count
        return totals["mechanical"], totals["ebike"]

    def unique(self, stations: list[StationStatus]) -> tuple[StationStatus, ...]:
        """One record a station: of different ones that with the newest last_reported, else the first.

        Citi Bike listed every station twice (GBFS issue 535), Dott some (OpenTripPlanner 7026).
        """
        chosen: dict[str, StationStatus] = {}
        for station in stations:
            before = chosen.setdefault(station.station_id, station)
            if before is station:
                continue
            same = before == station
            self.findings.repair(
                "listed twice alike, one kept" if same else "listed twice with different values, the newest kept",
                station.station_id,
            )
            if not same and (station.last_reported or EARLIEST) > (before.last_reported or EARLIEST):
                chosen[station.station_id] = station
        return tuple(chosen.values())
