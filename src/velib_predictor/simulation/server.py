"""A city's feeds over HTTP on the loopback interface, at any speed of time, with faults on demand.

GET  /gbfs/gbfs.json and the documents that it lists; /v1/forecast; /control (time, speed, faults that are on).
POST /control with JSON: faults of the feed by name, and `weather` (faults of the forecast), `speed`, `clock`, `clear`.
"""

import gzip
import hashlib
import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from velib_predictor.simulation import gbfs, open_meteo
from velib_predictor.simulation.clock import Clock, checked_speed
from velib_predictor.simulation.faults import FaultBox, Faults, changed
from velib_predictor.simulation.gbfs import Flavour, View
from velib_predictor.simulation.handler import Handler
from velib_predictor.simulation.simulation import Counts, Simulation
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import format_time, parse_time

FEED, WEATHER, CONTROL = "/gbfs", "/v1/forecast", "/control"
_KEEP_UP_S = 0.5
_QUERIES_KEPT = 64


class Answer(NamedTuple):
    """What goes over the wire; `announced` is the length that the header tells, `None` body closes the connection."""

    status: int
    body: bytes | None
    headers: dict[str, str]
    announced: int


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the city's."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class CityServer:
    """Serves a simulation, which lives on with the clock. Use as a context manager.

    Args:
        simulation: belongs to the server while it runs.
        port: 0 takes a free one.

    Attributes:
        faults, weather_faults: switch them while the server runs.
    """

    def __init__(
        self,
        simulation: Simulation,
        clock: Clock,
        flavour: Flavour = "velib",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if flavour not in gbfs.FLAVOURS:
            raise UsageError(f"there is no flavour {flavour!r}; there are: {', '.join(gbfs.FLAVOURS)}")
        self.simulation, self.clock, self.flavour = simulation, clock, flavour
        self.faults, self.weather_faults = FaultBox(), FaultBox()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._view: View | None = None  # the last one shown, for a frozen feed
        self._forecast: dict[str, bytes] = {}
        owner = self

        class Bound(Handler):
            city = owner

        self._http = _QuietServer((host, port), Bound)
        self._threads = (
            threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True),
            threading.Thread(target=self._keep_up, daemon=True),
        )

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._http.shutdown()
        self._http.server_close()
        for thread in self._threads:
            thread.join()

    # -- where it is ----------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """http://host:port"""
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def url(self) -> str:
        """The discovery document."""
        return f"{self.base_url}{FEED}/gbfs.json"

    @property
    def weather_url(self) -> str:
        """The forecast API, without a query."""
        return self.base_url + WEATHER

    @property
    def control_url(self) -> str:
        """Where faults and time are set."""
        return self.base_url + CONTROL

    # -- what it says ---------------------------------------------------------------------------------------

    def get(self, path: str, query: Mapping[str, str], accepts_gzip: bool, etag: str | None) -> Answer:
        """The answer to a GET; `etag` is what the client has."""
        if path == CONTROL:
            return _json(200, self.control({}))
        faults = self.weather_faults.now if path == WEATHER else self.faults.now
        if faults.refuse:
            return Answer(0, None, {}, 0)
        if faults.status:
            wait = {"Retry-After": str(int(faults.retry_after_s))} if faults.retry_after_s else {}
            body = b"<html>the city is out of order</html>"
            return Answer(faults.status, body, {"Content-Type": "text/html"} | wait, len(body))
        if path == WEATHER:
            try:
                found = self._weather(query, faults)
            except UsageError as reason:
                return _json(400, {"error": True, "reason": str(reason)})
        else:
            name = path.removeprefix(FEED + "/").removesuffix(".json")
            if path != f"{FEED}/{name}.json" or name not in gbfs.names(self.flavour):
                return _json(404, {"error": "there is no such document"})
            document = gbfs.document(name, self.flavour, self.view(), self.base_url + FEED)
            found = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        return _sent(found, faults, accepts_gzip, etag)

    def view(self) -> View:
        """What the feed shows now, with its faults. It is generated anew every simulated minute."""
        faults = self.faults.now
        with self._lock:
            last = self._view
            if not (faults.freeze and last):
                self.simulation.advance(self.clock.now())
                counts: Counts = last.counts if faults.stall and last else self.simulation.counts()
                stations = len(self.simulation.city)
                last = View(self.simulation.city, counts, self.simulation.now, stations)
                self._view = last
        shown = last.shown - round(faults.vanish * last.shown)
        return replace(last, shown=shown, at=gbfs.skewed(last.at, faults.skew_s))

    def control(self, wishes: Mapping[str, Any]) -> dict[str, Any]:
        """Do what was posted to /control, and tell how things stand.

        Raises:
            UsageError: something in it cannot be done; then nothing is done.
        """
        known = {"clear", "weather", "speed", "clock"}
        named = {name: value for name, value in wishes.items() if name not in known}, wishes.get("weather", {})
        if not isinstance(named[1], dict):
            raise UsageError("weather is an object of faults by name")
        boxes = self.faults, self.weather_faults
        faults = [changed(Faults() if wishes.get("clear") else b.now, n) for b, n in zip(boxes, named, strict=True)]
        speed = checked_speed(wishes.get("speed", self.clock.speed))
        if "clock" in wishes:
            self.clock.set(parse_time(str(wishes["clock"])))
        if "speed" in wishes:
            self.clock.speed = speed
        for box, now in zip(boxes, faults, strict=True):
            box.put(now)
        return {
            "clock": format_time(self.clock.now()),
            "speed": self.clock.speed,
            "flavour": self.flavour,
            "faults": self.faults.as_dict(),
            "weather": self.weather_faults.as_dict(),
        }

    def _weather(self, query: Mapping[str, str], faults: Faults) -> bytes:
        key = json.dumps(sorted(query.items()))
        if not (faults.freeze and key in self._forecast):
            if len(self._forecast) >= _QUERIES_KEPT:
                self._forecast.clear()
            answer = open_meteo.forecast(self.simulation.city.climate, query, self.clock.now())
            self._forecast[key] = json.dumps(answer, separators=(",", ":")).encode()
        return self._forecast[key]

    def _keep_up(self) -> None:
        """Live on between requests, so that none has to wait for hours of simulation."""
        while not self._stop.wait(_KEEP_UP_S):
            now: datetime = self.clock.now()
            with self._lock:
                self.simulation.advance(now)


def _json(status: int, data: Any) -> Answer:
    body = json.dumps(data).encode()
    return Answer(status, body, {"Content-Type": "application/json"}, len(body))


def _sent(body: bytes, faults: Faults, accepts_gzip: bool, etag: str | None) -> Answer:
    """A document with what goes wrong on its way; 304 where the client has it."""
    if faults.truncate and not faults.cut:
        body = body[: int(len(body) * (1 - faults.truncate))]
    headers = {"Content-Type": "application/json", "ETag": f'"{hashlib.sha256(body).hexdigest()[:20]}"'}
    if etag == headers["ETag"]:
        return Answer(304, b"", headers, 0)
    if accepts_gzip:
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    announced = len(body)
    if faults.cut:
        body = body[: int(len(body) * (1 - (faults.truncate or 0.5)))]
    return Answer(200, body, headers, announced)
