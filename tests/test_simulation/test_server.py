"""A city over real HTTP: fetched by the project's own client, at any speed, and wrong in every way that it can be."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.test_simulation.small import START, city, living
from velib_predictor.config.config import CollectorSettings, SystemSettings
from velib_predictor.data.decoder import Decoder
from velib_predictor.data.feed import Feed
from velib_predictor.data.raw import RawPoll
from velib_predictor.data.snapshot import Snapshot
from velib_predictor.data.transport import HttpTransport
from velib_predictor.simulation.clock import Clock
from velib_predictor.simulation.faults import FaultBox
from velib_predictor.simulation.gbfs import FLAVOURS, Flavour
from velib_predictor.simulation.server import CityServer
from velib_predictor.utils.errors import UsageError

WEATHER: dict[str, str | float] = {
    "latitude": 48.85,
    "longitude": 2.35,
    "hourly": "rain",
    "timeformat": "unixtime",
    "timezone": "UTC",
}


@pytest.fixture
def server() -> Iterator[CityServer]:
    with CityServer(living(), Clock(START, 0)) as running:
        yield running


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as running:
        yield running


class Poller:
    """The project's client and decoder, with one try a document."""

    def __init__(self, server: CityServer) -> None:
        settings = CollectorSettings(attempts=1)
        self._transport = HttpTransport(settings)
        self._feed = Feed("city", SystemSettings(url=server.url), settings, self._transport)

    def ask(self, now: datetime = START) -> tuple[RawPoll, dict[str, bytes]]:
        return self._feed.poll(now, lambda: now)

    def snapshot(self, now: datetime = START) -> Snapshot:
        raw, bodies = self.ask(now)
        return Decoder().decode(raw, bodies.__getitem__)


@pytest.fixture
def poller(server: CityServer) -> Poller:
    return Poller(server)


def status_url(server: CityServer) -> str:
    return server.url.replace("gbfs.json", "station_status.json")


def later(server: CityServer, minutes: int) -> datetime:
    """Move the clock."""
    at = server.clock.now() + timedelta(minutes=minutes)
    server.clock.set(at)
    return at


def bikes_of(snapshot: Snapshot) -> list[int | None]:
    return [station.values.bikes for station in snapshot.stations]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_it_is_collected_as_it_is(flavour: Flavour) -> None:
    with CityServer(living(), Clock(START, 0), flavour) as server:
        snapshot = Poller(server).snapshot()
    counts = living().counts()
    assert [station.station_id for station in snapshot.stations] == city().stations.id.astype(str).tolist()
    assert bikes_of(snapshot) == counts.bikes.tolist()
    assert [station.values.ebikes for station in snapshot.stations] == counts.ebikes.tolist()
    assert [station.values.docks for station in snapshot.stations] == counts.docks.tolist()
    assert [info.capacity for info in snapshot.information] == city().stations.capacity.tolist()
    assert snapshot.system is not None
    assert snapshot.system.timezone == "Europe/Paris"


def test_it_lives_with_the_clock(server: CityServer, poller: Poller) -> None:
    first = poller.snapshot()
    at = later(server, 90)
    lived = living()
    lived.advance(at)
    second = poller.snapshot(at)
    assert bikes_of(second) == lived.counts().bikes.tolist() != bikes_of(first)
    assert second.feed_time == at


def test_an_unchanged_document_is_not_sent_twice(server: CityServer, client: httpx.Client) -> None:
    first = client.get(status_url(server))
    assert first.headers["content-encoding"] == "gzip"
    tag = {"If-None-Match": first.headers["etag"]}
    same = client.get(status_url(server), headers=tag)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first.headers["etag"])
    later(server, 1)
    assert client.get(status_url(server), headers=tag).status_code == 200
    plain = client.get(status_url(server), headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert len(plain.content) == int(plain.headers["content-length"])


@pytest.mark.parametrize("path", ["/", "/gbfs/vehicle_types.json", "/gbfs/x.json", "/station_status.json"])
def test_unknown_documents_are_not_there(server: CityServer, client: httpx.Client, path: str) -> None:
    assert client.get(server.base_url + path).status_code == 404


# -- faults ----------------------------------------------------------------------------------------------------


def test_freeze(server: CityServer, client: httpx.Client) -> None:
    before = client.get(status_url(server)).content
    server.faults.set(freeze=True)
    later(server, 60)
    assert client.get(status_url(server)).content == before
    server.faults.set(freeze=False)
    assert client.get(status_url(server)).content != before


def test_stall(server: CityServer, poller: Poller) -> None:
    before = poller.snapshot()
    server.faults.set(stall=True)
    at = later(server, 120)
    stalled = poller.snapshot(at)
    assert bikes_of(stalled) == bikes_of(before)
    assert stalled.feed_time == at
    server.faults.clear()
    assert bikes_of(poller.snapshot(later(server, 1))) != bikes_of(before)


def test_truncate(server: CityServer, client: httpx.Client, poller: Poller) -> None:
    whole = client.get(status_url(server)).content
    server.faults.set(truncate=0.25)
    cut = client.get(status_url(server))
    assert cut.status_code == 200
    assert cut.content == whole[: int(len(whole) * 0.75)]
    with pytest.raises(json.JSONDecodeError):
        cut.json()
    raw, _ = poller.ask()
    assert raw.error, "the project's client takes no half document for one"


def test_cut(server: CityServer, client: httpx.Client, poller: Poller) -> None:
    server.faults.set(cut=True)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(status_url(server))
    raw, _ = poller.ask()
    assert raw.error


@pytest.mark.parametrize("status", [429, 500, 503])
def test_status(server: CityServer, client: httpx.Client, poller: Poller, status: int) -> None:
    server.faults.set(status=status, retry_after_s=7)
    answer = client.get(status_url(server))
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "7")
    raw, _ = poller.ask()
    assert raw.error is not None
    assert str(status) in raw.error
    server.faults.clear()
    assert client.get(status_url(server)).status_code == 200


def test_refuse(server: CityServer, client: httpx.Client, poller: Poller) -> None:
    server.faults.set(refuse=True)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(server.url)
    raw, _ = poller.ask()
    assert raw.error
    server.faults.clear()
    raw, _ = poller.ask()
    assert raw.error is None


def test_vanish(server: CityServer, poller: Poller) -> None:
    server.faults.set(vanish=0.4)
    snapshot = poller.snapshot()
    assert [station.station_id for station in snapshot.stations] == city().stations.id.astype(str).tolist()[:18]
    assert len(snapshot.information) == 30, "they are still described"
    server.faults.set(vanish=1)
    assert client_json(server)["data"]["stations"] == []
    server.faults.clear()
    assert len(poller.snapshot().stations) == 30


def client_json(server: CityServer) -> Any:
    return httpx.get(status_url(server)).json()


def test_skew(server: CityServer) -> None:
    server.faults.set(skew_s=-7200)
    assert client_json(server)["lastUpdatedOther"] == START.timestamp() - 7200
    server.faults.set(skew_s=90)
    assert client_json(server)["lastUpdatedOther"] == START.timestamp() + 90
    newest = max(station["last_reported"] for station in client_json(server)["data"]["stations"])
    assert newest <= START.timestamp() + 90


@pytest.mark.parametrize(
    "wrong",
    [{"freese": True}, {"freeze": 1}, {"status": 200}, {"status": 503.5}, {"truncate": 2}, {"vanish": "all"}],
)
def test_a_fault_that_there_is_not_changes_nothing(wrong: dict[str, Any]) -> None:
    box = FaultBox()
    box.set(freeze=True)
    with pytest.raises(UsageError):
        box.set(refuse=True, **wrong)
    assert box.now.freeze
    assert not box.now.refuse


# -- the other doors -------------------------------------------------------------------------------------------


def test_control(server: CityServer, client: httpx.Client) -> None:
    told = client.post(server.control_url, json={"status": 503, "weather": {"refuse": True}, "speed": 0.0}).json()
    assert (told["faults"]["status"], told["weather"]["refuse"], told["clock"]) == (503, True, "2026-10-06T05:00:00Z")
    assert client.get(status_url(server)).status_code == 503
    assert client.get(server.control_url).json() == told
    told = client.post(server.control_url, json={"clear": True, "clock": "2026-10-06T06:30:00Z"}).json()
    assert (told["faults"]["status"], told["clock"]) == (0, "2026-10-06T06:30:00Z")
    assert client.get(status_url(server)).json()["lastUpdatedOther"] == START.timestamp() + 5400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "Expecting"),
        (b"[]", "no JSON object"),
        (b'{"freese": true}', "no fault 'freese'"),
        (b'{"clock": "2020-01-01T00:00:00Z"}', "turned back"),
        (b'{"speed": "fast"}', "speed"),
        (b'{"weather": 3}', "weather"),
        (b'{"freeze": true, "speed": -1}', "speed"),
    ],
)
def test_control_says_what_it_cannot_do(server: CityServer, client: httpx.Client, body: bytes, said: str) -> None:
    answer = client.post(server.control_url, content=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert not server.faults.now.freeze, "nothing is done by half"


def test_only_control_is_posted_to(server: CityServer, client: httpx.Client) -> None:
    refused = client.post(server.url, json={}), client.post(server.control_url, content=b"x" * 70_000)
    assert [answer.status_code for answer in refused] == [404, 413]
    assert [answer.headers["Connection"] for answer in refused] == ["close", "close"]


def test_weather(server: CityServer, client: httpx.Client) -> None:
    answer = client.get(server.weather_url, params=WEATHER)
    assert answer.json()["hourly"]["time"][0] == datetime(2026, 10, 6, tzinfo=UTC).timestamp()
    wrong = client.get(server.weather_url, params={**WEATHER, "hourly": "fog"})
    assert (wrong.status_code, wrong.json()["error"]) == (400, True)
    server.weather_faults.set(freeze=True)
    later(server, 6 * 60)
    assert client.get(server.weather_url, params=WEATHER).content == answer.content
    server.weather_faults.set(freeze=False, status=500)
    assert client.get(server.weather_url, params=WEATHER).status_code == 500
    assert client.get(status_url(server)).status_code == 200, "the feed has its own faults"


# -- time ------------------------------------------------------------------------------------------------------


def ticking() -> tuple[list[float], Callable[[], float]]:
    now = [100.0]
    return now, lambda: now[0]


def test_the_clock_runs_at_any_speed() -> None:
    now, monotonic = ticking()
    clock = Clock(START, 60, monotonic=monotonic)
    now[0] += 10
    assert clock.now() == START + timedelta(minutes=10)
    clock.speed = 3600
    assert clock.now() == START + timedelta(minutes=10), "it does not jump"
    now[0] += 1
    assert clock.now() == START + timedelta(minutes=70)
    clock.set(START + timedelta(days=1))
    clock.speed = 0
    now[0] += 1000
    assert clock.now() == START + timedelta(days=1)
    with pytest.raises(UsageError):
        clock.set(START)


def test_a_clock_needs_an_offset_and_a_speed() -> None:
    with pytest.raises(UsageError):
        Clock(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
    for speed in (-1.0, float("nan"), 1e9):
        with pytest.raises(UsageError):
            Clock(START, speed)


def test_there_are_three_flavours() -> None:
    with pytest.raises(UsageError, match=r"velib, 2\.3, 3\.0"):
        CityServer(living(), Clock(START, 0), "4.0")  # type: ignore[arg-type]
