"""Who a station is (one key for good, whatever ids it is given) and what was known of it when (its versions).

The live feed calls a Vélib' station 213688169 and its kiosk 16107; most history files call it 16107. Whichever comes
first, both meet in one station here.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, update

from velib_predictor.data.schema import Station, StationVersion, System
from velib_predictor.data.snapshot import StationInfo

SAME_PLACE_M = 1_000.0
"""Two records that share a number but lie further apart are two stations."""
_EARTH_M = 6_371_000.0
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def ensure_system(
    connection: Connection,
    system_id: str,
    *,
    name: str | None = None,
    timezone: str | None = None,
    licence: str | None = None,
    attribution: str | None = None,
) -> int:
    """The system's key; it is created if it is new. What is not None is written, if it differs."""
    given = {"name": name, "timezone": timezone, "licence": licence, "attribution": attribution}
    given = {column: value for column, value in given.items() if value is not None}
    row = connection.execute(select(System.__table__).where(System.system_id == system_id)).mappings().one_or_none()
    if row is None:
        created = connection.execute(insert(System).values(system_id=system_id, **given))
        assert created.inserted_primary_key is not None  # noqa: S101 - for the type checker
        return int(created.inserted_primary_key[0])
    changed = {column: value for column, value in given.items() if row[column] != value}
    if changed:
        connection.execute(update(System).where(System.key == row["key"]).values(**changed))
    return int(row["key"])


class Attributes(NamedTuple):
    """What a version says of a station. None: not known."""

    name: str | None
    lat: float | None
    lon: float | None
    capacity: int | None

    def over(self, other: "Attributes | None") -> "Attributes":
        """These attributes, with those of `other` where these are not known."""
        if other is None:
            return self
        return other._replace(**{field: value for field, value in self._asdict().items() if value is not None})


_NOTHING = Attributes(None, None, None, None)


class _Version(NamedTuple):
    valid_from: datetime
    valid_to: datetime | None
    attributes: Attributes


class StationBook:
    """The stations of one system, as the database holds them.

    Loaded once; `register` and `vanish` keep it in step. After a transaction that was rolled back, load it anew.
    """

    def __init__(self, connection: Connection, system_key: int) -> None:
        self._system_key = system_key
        self._by_id: dict[str, int] = {}
        self._by_code: dict[str, int] = {}
        self._names: dict[int, tuple[str, str | None]] = {}
        self._versions: dict[int, list[_Version]] = {}
        self._waiting: list[dict[str, Any]] = []
        version = StationVersion.__table__
        query = select(version).join(Station, Station.key == version.c.station_key)
        query = query.where(Station.system_key == system_key).order_by(version.c.station_key, version.c.valid_from)
        for key, valid_from, valid_to, *attributes in connection.execute(query):
            self._versions.setdefault(key, []).append(_Version(valid_from, valid_to, Attributes(*attributes)))
        self._load_stations(connection)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> dict[int, tuple[str, str | None]]:
        """key -> (station_id, code)"""
        return self._names

    def by_id(self, station_id: str) -> int | None:
        """The key of the station with that id: a code does not count, it may be another station's id."""
        return self._by_id.get(station_id)

    def resolve(self, id_or_code: str) -> int | None:
        """The key of the station with that id, else with that code, else None.

        Of several stations with one code it is the newest of those that have not vanished.
        """
        key = self._by_id.get(id_or_code)
        return self._by_code.get(id_or_code) if key is None else key

    def all_names(self) -> dict[str, int]:
        """Keys by all that `resolve` understands."""
        return {**self._by_code, **self._by_id}

    def latest(self, key: int) -> Attributes | None:
        """What the last version says."""
        versions = self._versions.get(key)
        return versions[-1].attributes if versions else None

    def register(
        self, connection: Connection, infos: Sequence[StationInfo], at: datetime, *, claimed: Collection[str] = ()
    ) -> None:
        """Bring identities and versions in line with what was said at a time.

        A record is the station with its station_id. Failing that, since ids change overnight and two sources may call
        one station differently, it is
        - the station with the record's code: it takes the record's id;
        - the station whose station_id is the record's code and that has no code itself: it takes the record's id;
        - the station whose code is the record's station_id, if the record has no code: it keeps its id;
        unless that station is claimed by its own id, or the two lie over a kilometre apart. Else it is a new station.
        Its versions then say at that time what the record says; None there means "as before".

        Args:
            claimed: ids that are in use at that time, beside those of the records.
        """
        in_use = {*claimed, *(info.station_id for info in infos)}
        keys = [self._match(connection, info, in_use) for info in infos]
        new = {info.station_id: info for info, key in zip(infos, keys, strict=True) if key is None}
        if new:
            rows = [{"system_key": self._system_key, "station_id": i.station_id, "code": i.code} for i in new.values()]
            connection.execute(insert(Station), rows)
            self._load_stations(connection)
        for info, key in zip(infos, keys, strict=True):
            self._put(connection, self._by_id[info.station_id] if key is None else key, info, at)
        self._flush(connection)
        self._index()

    def vanish(self, connection: Connection, keys: Iterable[int], at: datetime) -> None:
        """End the open versions of stations that are gone."""
        open_ones = [key for key in keys if key in self._versions and self._versions[key][-1].valid_to is None]
        for key in open_ones:
            last = self._versions[key][-1]
            ended = last._replace(valid_to=max(at, last.valid_from))
            self._replace(connection, key, len(self._versions[key]) - 1, ended)
        if open_ones:
            self._index()

    # -- identities ------------------------------------------------------------------------------------------

    def _load_stations(self, connection: Connection) -> None:
        station = Station.__table__
        query = select(station.c.key, station.c.station_id, station.c.code)
        query = query.where(station.c.system_key == self._system_key).order_by(station.c.key)
        self._names = {key: (station_id, code) for key, station_id, code in connection.execute(query)}
        self._index()

    def _index(self) -> None:
        self._by_id = {station_id: key for key, (station_id, _) in self._names.items()}
        coded = [(code, key) for key, (_, code) in self._names.items() if code is not None]
        self._by_code = dict(sorted(coded, key=lambda pair: self._currency(pair[1])))  # the last holds

    def _currency(self, key: int) -> tuple[bool, datetime, int]:
        """Which of the stations with one code is meant: one that has not vanished, the one described last, the newest.

        Not by key alone: a history file that is imported today brings stations of long ago.
        """
        versions = self._versions.get(key)
        if not versions:
            return True, _LONG_AGO, key
        return versions[-1].valid_to is None, versions[-1].valid_from, key

    def _match(self, connection: Connection, info: StationInfo, in_use: set[str]) -> int | None:
        """The existing station that a record means; ids and codes are brought up to date on the way."""
        key = self._by_id.get(info.station_id)
        if key is not None:
            if info.code is not None and self._names[key][1] != info.code:
                self._rename(connection, key, info.station_id, info.code)
            return key
        if info.code is None:
            candidates = [self._by_code.get(info.station_id)]
        else:
            uncoded = self._by_id.get(info.code)
            if uncoded is not None and self._names[uncoded][1] is not None:
                uncoded = None
            candidates = [self._by_code.get(info.code), uncoded]
        for key in candidates:
            if key is not None and self._names[key][0] not in in_use and not self._far(key, info):
                if info.code is not None:
                    self._rename(connection, key, info.station_id, info.code)
                return key
        return None

    def _rename(self, connection: Connection, key: int, station_id: str, code: str) -> None:
        connection.execute(update(Station).where(Station.key == key).values(station_id=station_id, code=code))
        old_id, old_code = self._names[key]
        self._names[key] = (station_id, code)
        del self._by_id[old_id]
        self._by_id[station_id] = key
        if old_code is None and code not in self._by_code:
            self._by_code[code] = key
        elif code != old_code:
            self._index()  # it may leave or take a code that others have too

    def _far(self, key: int, info: StationInfo) -> bool:
        known = self.latest(key)
        if known is None or known.lat is None or known.lon is None or info.lat is None or info.lon is None:
            return False
        north = math.radians(info.lat - known.lat)
        east = math.radians(info.lon - known.lon) * math.cos(math.radians(known.lat))
        return math.hypot(north, east) * _EARTH_M > SAME_PLACE_M

    # -- versions --------------------------------------------------------------------------------------------

    def _put(self, connection: Connection, key: int, info: StationInfo, at: datetime) -> None:
        """Make the versions say at `at` what the record says.

        The version that covers `at` is split there. Where none does (before the first, or after the station had
        vanished), the next one is stretched back if it says the same, else a new one fills the hole.
        """
        versions = self._versions.setdefault(key, [])
        # The last that starts at or before `at`, and the first that starts later.
        index = next((i for i in range(len(versions) - 1, -1, -1) if versions[i].valid_from <= at), -1)
        before = versions[index] if index >= 0 else None
        after = versions[index + 1] if index + 1 < len(versions) else None
        said = Attributes(info.name, info.lat, info.lon, info.capacity)
        if before and before.valid_from < at and (before.valid_to is None or at < before.valid_to):
            attributes = said.over(before.attributes)
            if attributes != before.attributes:
                self._replace(connection, key, index, before._replace(valid_to=at))
                self._insert(key, index + 1, _Version(at, before.valid_to, attributes))
        elif before and before.valid_from == at:
            ended = before.valid_to == at  # it vanished in the moment that it came: it holds again
            valid_to = (after.valid_from if after else None) if ended else before.valid_to
            self._replace(connection, key, index, _Version(at, valid_to, said.over(before.attributes)))
        else:
            neighbour = before or after
            attributes = said.over(neighbour.attributes if neighbour else None)
            if neighbour is None and attributes == _NOTHING:
                return
            if after and attributes == after.attributes:
                self._replace(connection, key, index + 1, after._replace(valid_from=at))
            else:
                self._insert(key, index + 1, _Version(at, after.valid_from if after else None, attributes))

    def _replace(self, connection: Connection, key: int, index: int, version: _Version) -> None:
        old = self._versions[key][index]
        if version != old:
            self._flush(connection)  # the row may be among those that wait
            held = (StationVersion.station_key == key) & (StationVersion.valid_from == old.valid_from)
            connection.execute(update(StationVersion).where(held).values(_columns(version)))
            self._versions[key][index] = version

    def _insert(self, key: int, index: int, version: _Version) -> None:
        self._waiting.append({"station_key": key, **_columns(version)})
        self._versions[key].insert(index, version)

    def _flush(self, connection: Connection) -> None:
        """Insert the new versions in one go: a first feed brings fifteen hundred."""
        if self._waiting:
            connection.execute(insert(StationVersion), self._waiting)
            self._waiting = []


def _columns(version: _Version) -> dict[str, Any]:
    return {"valid_from": version.valid_from, "valid_to": version.valid_to, **version.attributes._asdict()}
