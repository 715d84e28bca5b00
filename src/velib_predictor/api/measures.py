"""What the API measures of itself, for Prometheus."""

from collections.abc import Iterator
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from velib_predictor.api.service import Service

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class _Freshness(Collector):
    """Age of what is served, read when asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        issue = GaugeMetricFamily("velib_issue_age_seconds", "Since the newest issue's origin.", labels=["system"])
        feed = GaugeMetricFamily("velib_feed_age_seconds", "Since the feed was last believed.", labels=["system"])
        count = GaugeMetricFamily("velib_stations", "Stations of the system.", labels=["system"])
        stale = GaugeMetricFamily("velib_issue_fresh", "1 if the newest issue is fresh.", labels=["system"])
        now = self._service.now()
        for name, known in sorted(self._service.systems.items()):
            count.add_metric([name], len(known.current.stations))
            if known.served:
                issue.add_metric([name], (now - known.served.issue.issued_at).total_seconds())
                stale.add_metric([name], float(known.served.issue.state == "fresh"))
            if known.current.heard_at:
                feed.add_metric([name], (now - known.current.heard_at).total_seconds())
        yield from (issue, feed, count, stale)


class Measures:
    """The metrics of one application, in a registry of its own."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        labels = ("route", "status")
        self.requests = Counter("velib_http_requests", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram(
            "velib_http_request_seconds", "Time to answer.", ("route",), registry=self.registry, buckets=_BUCKETS
        )
        self.registry.register(_Freshness(service))
        self._kept: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request. Looking up a metric by its labels takes longer than counting, so that is done once."""
        found = self._kept.get((route, status))
        if found is None:
            found = self.requests.labels(route, str(status)), self.seconds.labels(route)
            self._kept[route, status] = found
        found[0].inc()
        found[1].observe(seconds)


class Measured:
    """ASGI middleware that counts requests by route (never by address: there are as many as stations)."""

    def __init__(self, app: ASGIApp, measures: Measures) -> None:
        self._app = app
        self._measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._measures.answered(route, status, perf_counter() - begun)
