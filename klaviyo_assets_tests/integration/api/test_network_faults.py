"""What a server or the network does wrong is survived or reported; no partial response is read."""

import gzip
import json

import pytest

from klaviyo_assets.api.messages import Response
from klaviyo_assets.api.retry import RetryPolicy
from klaviyo_assets.errors import (
    BadKeyError,
    BrokenBodyError,
    ConnectionLostError,
    KlaviyoAssetsError,
    MissingScopeError,
    NotFoundError,
    QuotaError,
    RateLimitError,
    RequestError,
    RevisionRetiredError,
    ServerError,
)
from klaviyo_assets_tests.integration.api.conftest import KEY, FakeClock, MakeClient, events_request
from klaviyo_assets_tests.integration.api.scripted_server import (
    PAGE_BODY,
    ServerAction,
    http_response,
    run_server,
    send_and_close,
    send_and_hang,
    send_and_reset,
    send_bytes,
    send_gzip_response,
    send_response,
    send_slowly,
)

CHALLENGE = b"<!DOCTYPE html><html><title>Just a moment...</title></html>"
LENGTH = {"Content-Length": str(len(PAGE_BODY) + 9)}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HALF = http_response()[:-300]
HEAD = http_response()[: -len(PAGE_BODY)]

DEADLINE_SECONDS = 2.0
"""Long enough for a good answer from a busy machine."""

ENDLESS_SECONDS = 9
"""Without a deadline each of the slow answers would take longer than this."""


def body_of(answer: Response) -> bytes:
    """Read an answer as a decoder would: what is not JSON is a broken body."""
    try:
        json.loads(answer.body)
    except ValueError:
        raise BrokenBodyError("not valid JSON") from None
    return answer.body


def refusal(code: str, detail: str) -> bytes:
    """Return an error body in Klaviyo's form."""
    return json.dumps({"errors": [{"code": code, "detail": detail, "meta": []}]}).encode()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(send_and_close(b""), id="closed without a byte"),
        pytest.param(send_and_reset(b""), id="reset without a byte"),
        pytest.param(send_and_close(HALF[:60]), id="cut in the headers"),
        pytest.param(send_and_close(HALF), id="cut in the body"),
        pytest.param(send_and_reset(HALF), id="reset in the body"),
        pytest.param(send_and_close(http_response(headers=LENGTH)), id="shorter than its length"),
        pytest.param(send_response(headers={"Content-Length": "90"}), id="longer than its length"),
        pytest.param(
            send_and_close(CHUNKED + b"40\r\n" + PAGE_BODY[:64] + b"\r\n"), id="cut between chunks"
        ),
        pytest.param(send_and_close(CHUNKED + b"fff\r\n" + PAGE_BODY[:64]), id="cut in a chunk"),
        pytest.param(send_bytes(CHUNKED + b"zz\r\n" + PAGE_BODY[:64]), id="chunk without a size"),
        pytest.param(
            send_and_close(b"HTTP/1.0 200 OK\r\n\r\n" + PAGE_BODY[:-9]), id="cut without a length"
        ),
        pytest.param(send_bytes(b"SSH-2.0-OpenSSH\r\n\r\n"), id="no HTTP"),
        pytest.param(
            send_response(200, gzip.compress(PAGE_BODY)[:-30], {"Content-Encoding": "gzip"}),
            id="half a gzip",
        ),
        pytest.param(send_response(200, PAGE_BODY, {"Content-Encoding": "gzip"}), id="no gzip"),
        pytest.param(
            send_response(200, PAGE_BODY, {"Content-Encoding": "br"}), id="another coding"
        ),
        pytest.param(send_response(200, CHALLENGE), id="HTML with 200"),
        pytest.param(send_response(200, b""), id="nothing with 200"),
        pytest.param(send_response(200, PAGE_BODY[:-1]), id="half of the JSON"),
        pytest.param(send_response(403, CHALLENGE), id="HTML with 403"),
        pytest.param(send_response(408, b""), id="408"),
        pytest.param(send_response(500, refusal("error", "A server error occurred.")), id="500"),
        pytest.param(send_response(502, CHALLENGE), id="502"),
        pytest.param(send_response(503, b""), id="503"),
        pytest.param(send_response(504, b""), id="504"),
        pytest.param(send_response(524, CHALLENGE), id="524"),
    ],
)
def test_a_passing_fault_is_survived(
    fault: ServerAction, client_of: MakeClient, fake_clock: FakeClock
) -> None:
    """Twice the fault, then the page: it is read whole, after two waits, on a sound connection."""
    with run_server(fault, fault, send_response()) as server:
        client = client_of(server)
        assert client.fetch(events_request(), body_of, stream="events") == PAGE_BODY
        assert client.fetch(events_request(), body_of, stream="events") == PAGE_BODY
        assert fake_clock.sleeps == [1, 2]
        assert (client.stats.requests, client.stats.retries) == (4, 2)
        assert client.stats.rate_limited == 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(send_response(500, b""), ServerError, id="500"),
        pytest.param(send_response(403, CHALLENGE), ServerError, id="HTML with 403"),
        pytest.param(send_and_reset(HALF), ConnectionLostError, id="reset"),
        pytest.param(send_response(200, CHALLENGE), BrokenBodyError, id="HTML with 200"),
        pytest.param(
            send_response(200, b"x", {"Content-Encoding": "gzip"}), BrokenBodyError, id="gzip"
        ),
    ],
)
def test_a_lasting_fault_ends_after_six_tries(
    fault: ServerAction,
    kind: type[KlaviyoAssetsError],
    client_of: MakeClient,
    fake_clock: FakeClock,
) -> None:
    """The stream fails with the last error after exactly six requests."""
    with run_server(fault) as server:
        with pytest.raises(kind, match="Given up after 6 tries") as caught:
            client_of(server).fetch(events_request("sort=datetime"), body_of, stream="events")
        assert str(caught.value).startswith("events: GET /api/events?sort=datetime")
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        assert len(server.received) == 6
    assert fake_clock.sleeps == [1, 2, 4, 8, 10]


def test_a_costly_request_is_tried_less_often_and_each_failure_is_reported(
    client_of: MakeClient, fake_clock: FakeClock
) -> None:
    """A costly request has two tries far apart, and each failure is reported to its counter."""
    failed: list[KlaviyoAssetsError] = []
    policy = RetryPolicy(max_tries=2, has_constant_backoff=True)
    with run_server(send_and_reset(HALF)) as server:
        with pytest.raises(ConnectionLostError, match="Given up after 2 tries"):
            client_of(server).fetch(
                events_request(),
                body_of,
                stream="events",
                retry_policy=policy,
                on_failure=failed.append,
            )
        assert len(server.received) == 2
    assert fake_clock.sleeps == [10]
    assert [isinstance(each, ConnectionLostError) and each.was_sent for each in failed] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, refusal("invalid", "Invalid filter provided"), RequestError),
        (401, refusal("authentication_failed", "Incorrect credentials."), BadKeyError),
        (403, refusal("permission_denied", "Missing events:read"), MissingScopeError),
        (404, refusal("not_found", "It does not exist."), NotFoundError),
        (410, b"", RevisionRetiredError),
    ],
    ids=str,
)
def test_a_permanent_refusal_is_asked_once(
    status: int, body: bytes, kind: type[KlaviyoAssetsError], client_of: MakeClient
) -> None:
    """What would fail again is not requested again."""
    with run_server(send_response(status, body)) as server:
        with pytest.raises(kind):
            client_of(server).fetch(events_request(), body_of, stream="events")
        assert len(server.received) == 1


def test_one_429_is_waited_out(client_of: MakeClient, fake_clock: FakeClock) -> None:
    """Klaviyo's second is honoured, and counted as waiting for the limit."""
    with run_server(send_response(429, b"", {"Retry-After": "1"}), send_response()) as server:
        client = client_of(server)
        assert client.fetch(events_request(), body_of, stream="events") == PAGE_BODY
        assert fake_clock.sleeps == [1]
        assert client.stats.rate_limited == 1
        assert client.stats.throttled_seconds == 1


def test_a_storm_of_429s_is_survived(client_of: MakeClient, fake_clock: FakeClock) -> None:
    """Fifty refusals in a row: each is waited out, none is requested again at once."""
    storm = [send_response(429, b"", {"Retry-After": "1"})] * 50
    with run_server(*storm, send_response()) as server:
        client = client_of(server)
        assert client.fetch(events_request(), body_of, stream="events") == PAGE_BODY
        assert len(server.received) == 51
    assert fake_clock.sleeps == [1] * 50
    assert client.stats.rate_limited == 50


def test_an_endless_storm_ends(client_of: MakeClient, fake_clock: FakeClock) -> None:
    """The patience with 429s is bounded in all."""
    with run_server(send_response(429, b"", {"Retry-After": "7"})) as server:
        with pytest.raises(RateLimitError, match="Given up"):
            client_of(server, max_waiting=30).fetch(events_request(), body_of, stream="events")
        assert len(server.received) == 5
    assert sum(fake_clock.sleeps) == 28


def test_a_days_wait_is_not_slept_through(client_of: MakeClient, fake_clock: FakeClock) -> None:
    """A daily quota ends the stream at once and says when to come back."""
    with run_server(send_response(429, b"", {"Retry-After": "73473"})) as server:
        client = client_of(server)
        with pytest.raises(QuotaError, match="run it after 20"):
            client.fetch(events_request(), body_of, stream="events")
        assert len(server.received) == 1
        assert client.stats.rate_limited == 1
    assert fake_clock.sleeps == []


@pytest.mark.parametrize(
    "message", [None, "", "-3", "Wed, 21 Oct 2026 07:28:00 GMT", "soon", "1.5"], ids=str
)
def test_a_retry_after_that_says_nothing_is_backed_off(
    message: str | None, client_of: MakeClient, fake_clock: FakeClock
) -> None:
    """Without whole seconds our own back-off decides; it is never no wait at all."""
    headers = {} if message is None else {"Retry-After": message}
    with run_server(*[send_response(429, b"", headers)] * 3, send_response()) as server:
        assert client_of(server).fetch(events_request(), body_of, stream="events") == PAGE_BODY
    assert fake_clock.sleeps == [1, 2, 4]


@pytest.mark.parametrize(
    "slow",
    [
        pytest.param(send_and_hang(), id="not a byte"),
        pytest.param(send_and_hang(HALF), id="half a body"),
        pytest.param(
            send_and_hang(http_response(headers=LENGTH)), id="waiting for more than there is"
        ),
        pytest.param(send_and_hang(b"HTTP/1.0 200 OK\r\n\r\n{}"), id="an end that never comes"),
        pytest.param(send_slowly(http_response(), every_seconds=0.05), id="headers byte by byte"),
        pytest.param(send_slowly(PAGE_BODY, every_seconds=0.05, head=HEAD), id="body byte by byte"),
        pytest.param(send_slowly(CHUNKED + b"1\r\nx\r\n" * 999, every_seconds=0.01), id="chunks"),
    ],
)
def test_an_answer_has_a_deadline(
    slow: ServerAction, client_of: MakeClient, fake_clock: FakeClock
) -> None:
    """However steadily bytes trickle in, a request ends in time and is tried again."""
    with run_server(slow, send_response()) as server:
        client = client_of(server, timeout_seconds=DEADLINE_SECONDS)
        assert client.fetch(events_request(), body_of, stream="events") == PAGE_BODY
        first, second = server.received
        assert DEADLINE_SECONDS * 0.9 < second.at - first.at < ENDLESS_SECONDS
    assert fake_clock.sleeps == [1]


def test_slow_is_not_broken(client_of: MakeClient) -> None:
    """Small chunks and pauses within the deadline are only slow."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (1, bytes([byte])) for byte in PAGE_BODY[:600])
    body = CHUNKED + chunks + b"0\r\n\r\n"
    with run_server(send_slowly(body, every_seconds=0.001, size=100)) as server:
        client = client_of(server)
        answer = client.fetch(events_request(), lambda answer: answer.body, stream="events")
    assert answer == PAGE_BODY[:600]
    assert client.stats.retries == 0


def test_a_good_answer_is_handed_over_whole(client_of: MakeClient) -> None:
    """Status, headers in lower case, the unpacked body and the server's clock."""
    date = {"Date": "Sun, 06 Nov 1994 08:49:37 GMT", "X-Request-Id": "7"}
    answer_bytes = http_response(200, gzip.compress(PAGE_BODY), {"Content-Encoding": "gzip"} | date)
    with run_server(send_bytes(answer_bytes)) as server:
        client = client_of(server)
        answer = client.fetch(events_request(), lambda answer: answer, stream="events")
    assert (answer.status, answer.body, answer.headers["x-request-id"]) == (200, PAGE_BODY, "7")
    assert answer.responded_at.isoformat() == "1994-11-06T08:49:37+00:00"
    assert client.stats.received_bytes == len(gzip.compress(PAGE_BODY))


def test_one_connection_serves_many_requests(client_of: MakeClient) -> None:
    """A connection is reused, for gzipped and plain responses in turn."""
    with run_server(send_gzip_response(), send_response()) as server:
        client = client_of(server)
        for _ in range(20):
            assert client.fetch(events_request(), body_of, stream="events") == PAGE_BODY
        assert server.connections == 1


def test_a_connection_that_was_closed_meanwhile_costs_no_try(
    client_of: MakeClient, fake_clock: FakeClock
) -> None:
    """A server that closes idle connections is met with a new one."""
    with run_server(send_response(200, PAGE_BODY, {"Connection": "close"})) as server:
        client = client_of(server)
        for _ in range(3):
            assert client.fetch(events_request(), body_of, stream="events") == PAGE_BODY
        assert client.stats.retries == 0
    assert fake_clock.sleeps == []


def test_the_request_arrives_as_it_was_made(client_of: MakeClient) -> None:
    """Encoded characters of path and query are not changed on the way; headers are all there."""
    with run_server(send_response()) as server:
        query = "filter=equals%28name%2C%22a%20%26%2Bb%22%29&page%5Bcursor%5D=WzE3%3D"
        client_of(server).fetch(events_request(query), body_of, stream="events")
        (seen,) = server.received
    assert seen.line == f"GET /api/events?{query} HTTP/1.1"
    assert seen.headers["authorization"] == f"Klaviyo-API-Key {KEY}"
    assert seen.headers["revision"] == "2026-10-15"
    assert seen.headers["x-klaviyo-revision-fall-forward-opt-out"] == "1"
    assert seen.headers["accept"] == "application/vnd.api+json"
    assert seen.headers["accept-encoding"] == "gzip"
    assert "content-type" not in seen.headers


@pytest.mark.parametrize(
    "action",
    [
        send_response(401, b""),
        send_response(403, b""),
        send_response(404, b""),
        send_response(200, b"x", {"Content-Encoding": "br"}),
        send_response(200, b"x" * 2**21),
    ],
    ids=["key", "refusal", "absence", "coding", "size"],
)
def test_every_error_names_the_stream(action: ServerAction, client_of: MakeClient) -> None:
    """Whatever the response, the client's error names the stream of the request."""
    with run_server(action) as server:
        client = client_of(server)
        client.max_body_bytes = 2**20
        with pytest.raises(KlaviyoAssetsError) as caught:
            client.fetch(events_request(), body_of, stream="events")
    assert caught.value.stream == "events"
