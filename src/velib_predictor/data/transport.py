"""Fetching one document over HTTP: conditional, bounded in time and size, retried where that can help.

The collector depends on `Transport` alone, so that tests and other clients can stand in for the network.
"""

import logging
import random
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Protocol, Self

import httpx
import msgspec
import stamina
from stamina.instrumentation import set_on_retry_hooks

from velib_predictor.config.config import CollectorSettings
from velib_predictor.data.fields import without_query
from velib_predictor.utils.errors import UnreachableError

MAX_REDIRECTS = 3
KEPT_HEADERS = ("content-type", "date", "etag", "last-modified", "retry-after")
TRANSIENT_ERRORS = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.DecodingError)
CONNECTION_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout)
LONGEST_BUDGET = timedelta(seconds=30)


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """An answer in full. `url` is the address that gave it, after redirects, with any key; `body` is empty on a 304.

    `fetched_at` (UTC) is when the last byte was there, `duration_s` how long it took from the request on.
    `headers` holds those of `KEPT_HEADERS` that came, with names in lower case.
    """

    url: str
    status: int
    headers: dict[str, str]
    body: bytes
    fetched_at: datetime
    duration_s: float


class FetchError(UnreachableError):
    """A document could not be had. The message says what, where and after how many tries.

    `status`, `headers` and `body` are those of the answer, where there was one (a 403 page, say); `retry_after` is the
    number of seconds that a 429 or 5xx asked to wait. The message names no key or password of the address.
    """

    def __init__(
        self,
        message: str,
        *,
        url: str,
        status: int | None = None,
        retry_after: float | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        duration_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.url = url
        self.status = status
        self.retry_after = retry_after
        self.body = body
        self.headers = dict(headers or {})
        self.duration_s = duration_s

    @property
    def gone(self) -> bool:
        """Whether nothing is served at the address: no host answers, or the host knows no such document."""
        return self.status in (None, 404, 410)


class Transport(Protocol):
    """How a feed's documents are fetched."""

    def get(self, url: str, *, etag: str | None = None, last_modified: str | None = None) -> Fetched:
        """Fetch `url`; with `etag` or `last_modified` of an earlier answer, a 304 may come back.

        Raises:
            FetchError: no answer, or one that is neither a success nor a 304.
        """
        ...


class _FailureError(Exception):
    """One try that failed. `answer` is what came back, if anything did."""

    def __init__(self, reason: str, *, transient: bool, answer: Fetched | None = None, no_host: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.transient = transient
        self.answer = answer
        self.no_host = no_host
        self.retry_after = _retry_after(answer) if transient else None


class _Patience:
    """Decides after each failed try whether and when to try again: stamina's backoff hook.

    Waits are drawn evenly from 0 to `base_s` * 2**failures ("full jitter"): many clients do not return together.
    An answer's Retry-After is obeyed where the next try would still start within `budget_s` of the first.
    """

    def __init__(self, base_s: float, budget_s: float) -> None:
        self._base_s = base_s
        self._give_up_at = time.monotonic() + budget_s
        self.failures = 0
        self.asked_too_long = False

    def __call__(self, error: Exception) -> bool | float:
        self.failures += 1
        if not isinstance(error, _FailureError) or not error.transient:
            return False
        wait = random.uniform(0, self._base_s * 2**self.failures)  # noqa: S311 - a spread, not a secret
        wait = max(wait, error.retry_after or 0.0)
        if time.monotonic() + wait > self._give_up_at:
            self.asked_too_long = error.retry_after is not None
            return False
        return wait


class HttpTransport:
    """`Transport` over HTTP/1.1, for one system. Safe to use from several threads; close it when done.

    Connection errors, time-outs, truncated bodies, 429 and 5xx are retried. A host that could not be reached a moment
    ago gets a single try, so that a dead host costs its time-out once in a poll and not once a document.
    The deadline per document is checked with each piece of the body that arrives. `budget` is how long after a
    document's first try another may start: 30 s, or less where `total_timeout` is.
    """

    def __init__(
        self,
        settings: CollectorSettings,
        headers: Mapping[str, str] | None = None,
        *,
        budget: timedelta | None = None,
        backoff_s: float = 0.5,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._backoff_s = backoff_s
        self._clock = clock
        self._total_s = settings.total_timeout.total_seconds()
        self.budget = min(settings.total_timeout, LONGEST_BUDGET) if budget is None else budget
        self._unreached: dict[str, float] = {}
        self._own_headers = tuple(headers or ())
        read_s = min(settings.read_timeout.total_seconds(), self._total_s)
        self._client = httpx.Client(
            headers={
                "User-Agent": settings.user_agent,
                "Accept": "application/json, text/csv;q=0.5, */*;q=0.1",
                "Accept-Encoding": "gzip",
                **(headers or {}),
            },
            timeout=httpx.Timeout(read_s, connect=settings.connect_timeout.total_seconds()),
            follow_redirects=False,
        )
        self._closed = weakref.finalize(self, self._client.close)  # also when nobody calls `close`
        # httpx tells of every request at INFO, and stamina of every retry through structlog, which writes to stdout
        # until it is configured; failures are told once, in FetchError.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        set_on_retry_hooks([])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._closed()

    def get(self, url: str, *, etag: str | None = None, last_modified: str | None = None) -> Fetched:
        """Fetch `url`, as `Transport.get` says. A 304 comes back as `Fetched` with status 304."""
        headers = {}
        if etag and etag.isascii():
            headers["If-None-Match"] = etag
        if last_modified and last_modified.isascii():
            headers["If-Modified-Since"] = last_modified
        patience = _Patience(self._backoff_s, self.budget.total_seconds())
        tries = 1 if self._lately_unreached(url) else self._settings.attempts
        try:
            for attempt in stamina.retry_context(on=patience, attempts=tries, timeout=None):
                with attempt:
                    return self._try(url, headers)
        except _FailureError as failure:
            raise self._explain(url, failure, patience) from None
        raise AssertionError("stamina ends a retry with a result or an exception")

    def _lately_unreached(self, url: str) -> bool:
        return time.monotonic() - self._unreached.get(_host(url), -self._total_s) < self._total_s

    def _explain(self, url: str, failure: _FailureError, patience: _Patience) -> FetchError:
        if failure.no_host:
            self._unreached[_host(url)] = time.monotonic()
        tries = f" after {patience.failures} tries" if patience.failures > 1 else ""
        message = f"{without_query(url)} could not be fetched{tries}: {failure.reason}"
        if patience.asked_too_long:
            message += f"; it asks to wait {failure.retry_after:.0f} s, longer than this poll can"
        answer = failure.answer
        return FetchError(
            message,
            url=answer.url if answer else url,
            status=answer.status if answer else None,
            retry_after=failure.retry_after,
            body=answer.body if answer else None,
            headers=answer.headers if answer else None,
            duration_s=answer.duration_s if answer else 0.0,
        )

    def _try(self, url: str, headers: Mapping[str, str]) -> Fetched:
        started = time.monotonic()
        try:
            answer = self._follow(url, headers, started)
        except TRANSIENT_ERRORS as error:
            raise _FailureError(_reason(error), transient=True, no_host=isinstance(error, CONNECTION_ERRORS)) from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise _FailureError(_reason(error), transient=False) from None
        self._unreached.pop(_host(url), None)
        if answer.status == httpx.codes.NOT_MODIFIED or 200 <= answer.status < 300:
            return answer
        name = httpx.codes.get_reason_phrase(answer.status)
        transient = answer.status == httpx.codes.TOO_MANY_REQUESTS or answer.status >= 500
        raise _FailureError(f"it answered HTTP {answer.status} {name}".rstrip(), transient=transient, answer=answer)

    def _follow(self, url: str, headers: Mapping[str, str], started: float) -> Fetched:
        request = self._client.build_request("GET", url, headers=headers)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._client.send(request, stream=True)
            try:
                if response.next_request is None:
                    return self._read(response, started)
            finally:
                response.close()
            target = response.next_request
            if request.url.scheme == "https" and target.url.scheme != "https":
                raise _FailureError(f"it redirects from https to {without_query(str(target.url))}", transient=False)
            if target.url.host != request.url.host:
                for name in self._own_headers:  # an access key, say, is for the operator's host alone
                    target.headers.pop(name, None)
            request = target
        raise _FailureError(f"it redirects more than {MAX_REDIRECTS} times", transient=False)

    def _read(self, response: httpx.Response, started: float) -> Fetched:
        limit = self._settings.max_body_mb * 1024 * 1024
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > limit:
                raise _FailureError(f"its body is longer than {self._settings.max_body_mb} MB", transient=False)
            if time.monotonic() - started > self._total_s:
                raise _FailureError(
                    f"it was not complete after {self._total_s:g} s ({len(body):,} bytes had come)", transient=True
                )
        return Fetched(
            url=str(response.url),
            status=response.status_code,
            headers={name: response.headers[name] for name in KEPT_HEADERS if name in response.headers},
            body=bytes(body),
            fetched_at=self._clock(),
            duration_s=time.monotonic() - started,
        )


def _host(url: str) -> str:
    return url.split("/", 3)[2] if url.count("/") >= 2 else url


def _reason(error: Exception) -> str:
    """What went wrong in plain words: httpx leaves the message of a time-out empty."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection was made in time"
    if isinstance(error, httpx.TimeoutException):
        return "no bytes came in time"
    if isinstance(error, httpx.ConnectError):
        return f"no connection ({error})"
    if isinstance(error, httpx.InvalidURL | httpx.LocalProtocolError):  # their own texts quote passwords and keys
        return "the address, or a header that goes with it, is not valid"
    return str(error) or type(error).__name__


def _retry_after(answer: Fetched | None) -> float | None:
    """Seconds that an answer asks to wait: RFC 9110 10.2.3 allows a number and a date."""
    value = answer.headers.get("retry-after", "").strip() if answer else ""
    if not answer or not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (aware - answer.fetched_at).total_seconds())
