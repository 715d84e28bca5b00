"""Fetching over real loopback HTTP: what is retried, what is refused, and what the errors say."""

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from tests.test_data.feedserver import FeedServer, Reply, reply
from velib_predictor.config.config import CollectorSettings
from velib_predictor.data.transport import MAX_REDIRECTS, FetchError, HttpTransport

HOUR = timedelta(hours=1)


def settings(**changes: object) -> CollectorSettings:
    return CollectorSettings.model_validate({"connect_timeout": "1s", "read_timeout": "1s", **changes})


@pytest.fixture
def transport() -> Iterator[HttpTransport]:
    with HttpTransport(settings(), {"Client-Identifier": "town-bikes"}, backoff_s=0.001) as made:
        yield made


def failure(transport: HttpTransport, url: str) -> FetchError:
    with pytest.raises(FetchError) as caught:
        transport.get(url)
    return caught.value


def test_an_answer_has_its_bytes_its_time_and_the_headers_that_matter(
    server: FeedServer, transport: HttpTransport
) -> None:
    server.serve("/status", b'{"a": 1}', headers={"Content-Type": "application/json", "X-Other": "no"}, etag=True)
    before = datetime.now(UTC)
    fetched = transport.get(f"{server.url}/status")
    assert (fetched.status, fetched.body, fetched.url) == (200, b'{"a": 1}', f"{server.url}/status")
    assert before <= fetched.fetched_at <= datetime.now(UTC)
    assert 0 < fetched.duration_s < 5
    assert set(fetched.headers) == {"content-type", "date", "etag"}


def test_the_request_says_who_asks(server: FeedServer, transport: HttpTransport) -> None:
    server.serve("/status", b"{}")
    transport.get(f"{server.url}/status")
    headers = server.asked("/status")[0].headers
    assert headers["user-agent"].startswith("velib-predictor/")
    assert headers["client-identifier"] == "town-bikes"
    assert headers["accept-encoding"] == "gzip"


def test_an_unchanged_document_is_not_sent_again(server: FeedServer, transport: HttpTransport) -> None:
    server.serve("/status", b"{}", etag=True)
    first = transport.get(f"{server.url}/status")
    second = transport.get(
        f"{server.url}/status", etag=first.headers["etag"], last_modified="Mon, 23 Nov 2026 18:00:00 GMT"
    )
    assert (second.status, second.body) == (304, b"")
    assert server.asked()[1].headers["if-modified-since"] == "Mon, 23 Nov 2026 18:00:00 GMT"


def test_a_compressed_body_is_unpacked(server: FeedServer, transport: HttpTransport) -> None:
    server.serve("/status", b"x" * 10_000, compressed=True)
    assert transport.get(f"{server.url}/status").body == b"x" * 10_000


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_trouble_is_tried_again(server: FeedServer, transport: HttpTransport, status: int) -> None:
    server.script("/status", [reply(b"busy", status=status), reply(b"busy", status=status), reply(b"{}")])
    assert transport.get(f"{server.url}/status").body == b"{}"
    assert len(server.asked()) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_not_tried_again_and_keeps_its_page(
    server: FeedServer, transport: HttpTransport, status: int
) -> None:
    server.serve("/status", b"<html>no</html>", status=status, headers={"Content-Type": "text/html"})
    error = failure(transport, f"{server.url}/status")
    assert (error.status, error.body) == (status, b"<html>no</html>")
    assert error.headers["content-type"] == "text/html"
    assert error.gone is (status in (404, 410))
    assert f"HTTP {status}" in str(error)
    assert f"{server.url}/status" in str(error)
    assert len(server.asked()) == 1


def test_the_error_says_after_how_many_tries(server: FeedServer, transport: HttpTransport) -> None:
    server.serve("/status", b"down", status=503)
    error = failure(transport, f"{server.url}/status")
    assert "after 3 tries" in str(error)
    assert error.exit_code == 4
    assert len(server.asked()) == 3


def test_a_truncated_body_is_fetched_again(server: FeedServer, transport: HttpTransport) -> None:
    server.script("/status", [reply(b"[1, 2, 3]", truncate_to=5), reply(b"[1, 2, 3]")])
    assert transport.get(f"{server.url}/status").body == b"[1, 2, 3]"


def test_a_body_that_is_always_truncated_is_no_answer(server: FeedServer, transport: HttpTransport) -> None:
    server.serve("/status", b"[1, 2, 3]", truncate_to=5)
    error = failure(transport, f"{server.url}/status")
    assert error.status is None
    assert len(server.asked()) == 3


def test_a_dropped_connection_is_tried_again(server: FeedServer, transport: HttpTransport) -> None:
    server.script("/status", [Reply(drop=True), reply(b"{}")])
    assert transport.get(f"{server.url}/status").body == b"{}"


def test_a_short_retry_after_is_obeyed(server: FeedServer) -> None:
    server.script("/status", [reply(b"", status=429, headers={"Retry-After": "0"}), reply(b"{}")])
    with HttpTransport(settings(), backoff_s=0.001) as transport:
        assert transport.get(f"{server.url}/status").body == b"{}"


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_a_long_retry_after_is_reported_instead_of_waited_for(
    server: FeedServer, transport: HttpTransport, as_date: bool
) -> None:
    value = format_datetime(datetime.now(UTC) + HOUR, usegmt=True) if as_date else "3600"
    server.serve("/status", b"slow down", status=429, headers={"Retry-After": value})
    started = time.monotonic()
    error = failure(transport, f"{server.url}/status")
    assert time.monotonic() - started < 1
    assert error.retry_after == pytest.approx(3600, abs=5)
    assert "it asks to wait" in str(error)
    assert len(server.asked()) == 1


def test_a_refusal_has_no_say_in_when_to_ask_again(server: FeedServer, transport: HttpTransport) -> None:
    server.serve("/status", b"", status=404, headers={"Retry-After": "3600"})
    assert failure(transport, f"{server.url}/status").retry_after is None


def test_an_unreadable_retry_after_is_ignored(server: FeedServer, transport: HttpTransport) -> None:
    server.serve("/status", b"", status=429, headers={"Retry-After": "soon"})
    error = failure(transport, f"{server.url}/status")
    assert error.retry_after is None
    assert len(server.asked()) == 3


def test_a_slow_answer_times_out(server: FeedServer) -> None:
    server.serve("/status", b"{}", delay_s=0.2)
    with HttpTransport(settings(read_timeout="0.02s", attempts=1)) as transport:
        assert "no bytes came in time" in str(failure(transport, f"{server.url}/status"))


def test_a_trickling_answer_meets_the_deadline(server: FeedServer) -> None:
    server.serve("/status", b"x" * 100, pieces=100, delay_s=0.005)
    with HttpTransport(settings(total_timeout="0.05s", attempts=1)) as transport:
        started = time.monotonic()
        error = failure(transport, f"{server.url}/status")
    assert time.monotonic() - started < 0.4
    assert "not complete after 0.05 s" in str(error)


def test_retries_end_with_the_budget(server: FeedServer) -> None:
    server.serve("/status", b"down", status=503)
    with HttpTransport(settings(total_timeout="0.01s", attempts=10), backoff_s=10.0) as transport:
        started = time.monotonic()
        failure(transport, f"{server.url}/status")
    assert time.monotonic() - started < 1
    assert len(server.asked()) < 10


def test_the_budget_for_retries_is_given_or_half_a_minute_and_not_the_cadence(server: FeedServer) -> None:
    server.script("/status", [reply(b"", status=503, headers={"Retry-After": "1"}), reply(b"{}")])
    with HttpTransport(settings(every="1s"), backoff_s=0.001, budget=timedelta(seconds=0.5)) as transport:
        assert "longer than this poll can" in str(failure(transport, f"{server.url}/status"))
    for every, total, expected in (("1s", "30s", 30), ("15m", "10m", 30), ("15m", "5s", 5)):
        with HttpTransport(settings(every=every, total_timeout=total)) as transport:
            assert transport.budget == timedelta(seconds=expected)


def test_a_body_that_is_too_long_is_cut_off_even_when_compressed(server: FeedServer) -> None:
    server.serve("/status", b" " * (1024 * 1024 + 1), compressed=True)
    server.serve("/fits", b" " * (1024 * 1024), compressed=True)
    with HttpTransport(settings(max_body_mb=1)) as transport:
        assert "longer than 1 MB" in str(failure(transport, f"{server.url}/status"))
        assert len(transport.get(f"{server.url}/fits").body) == 1024 * 1024
    assert len(server.asked("/status")) == 1


def test_redirects_are_followed_to_where_the_document_is(server: FeedServer, transport: HttpTransport) -> None:
    for step in range(MAX_REDIRECTS):
        server.serve(f"/{step}", b"", status=302, headers={"Location": f"/{step + 1}"})
    server.serve(f"/{MAX_REDIRECTS}", b"{}")
    fetched = transport.get(f"{server.url}/0")
    assert (fetched.url, fetched.body) == (f"{server.url}/{MAX_REDIRECTS}", b"{}")


def test_redirects_without_end_are_refused(server: FeedServer, transport: HttpTransport) -> None:
    server.serve("/0", b"", status=302, headers={"Location": "/0"})
    assert "redirects more than 3 times" in str(failure(transport, f"{server.url}/0"))
    assert len(server.asked()) == MAX_REDIRECTS + 1


def test_a_redirect_from_https_to_http_is_refused(monkeypatch: pytest.MonkeyPatch, transport: HttpTransport) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(301, headers={"Location": "http://feeds.test/status"})

    monkeypatch.setattr(transport, "_client", httpx.Client(transport=httpx.MockTransport(answer)))
    assert "redirects from https to http://feeds.test/status" in str(failure(transport, "https://feeds.test/status"))
    assert asked == ["https://feeds.test/status"]


def test_a_dead_host_is_tried_three_times_and_then_once(transport: HttpTransport) -> None:
    with FeedServer() as gone:
        address = gone.url
    first, second = failure(transport, f"{address}/a"), failure(transport, f"{address}/b")
    assert "after 3 tries: no connection" in str(first)
    assert "could not be fetched: no connection" in str(second)
    assert first.status is None
    assert first.gone


@pytest.mark.parametrize("url", ["file:src/status.json", "status.json", "http://", "http://[::1", "ftp://a/b"])
def test_an_address_that_is_none_fails_at_once(transport: HttpTransport, url: str) -> None:
    error = failure(transport, url)
    assert error.gone
    assert "tries" not in str(error)


def test_nothing_is_logged_at_info_and_nothing_printed(
    server: FeedServer, transport: HttpTransport, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script("/status", [reply(b"", status=503), reply(b"{}")])
    with caplog.at_level(logging.INFO):
        transport.get(f"{server.url}/status")
    assert [record for record in caplog.records if record.name.split(".")[0] in ("httpx", "httpcore", "stamina")] == []
    assert capsys.readouterr() == ("", "")


def test_a_key_in_the_address_stays_out_of_messages(server: FeedServer, transport: HttpTransport) -> None:
    error = failure(transport, f"{server.url}/status?apiKey=secret")
    assert "secret" not in str(error)
    assert f"{server.url}/status could not be fetched" in str(error)


def test_the_operators_own_headers_do_not_follow_a_redirect_to_another_host(
    server: FeedServer, transport: HttpTransport
) -> None:
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    server.serve("/here", b"", status=302, headers={"Location": "/there"})
    server.serve("/there", b"", status=302, headers={"Location": f"{elsewhere}/elsewhere"})
    server.serve("/elsewhere", b"{}")
    transport.get(f"{server.url}/here")
    assert ["client-identifier" in request.headers for request in server.asked()] == [True, True, False]
