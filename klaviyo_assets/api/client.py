"""The HTTP client: sends requests within the rate limit, retries, and counts what it did.

It uses `requests` with one adapter and none of its conveniences: no redirects, cookies, `.netrc` or
retries. Proxies (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) and CA bundles (`REQUESTS_CA_BUNDLE`,
`CURL_CA_BUNDLE`) are read from the environment once, the way `requests` reads them; where it finds
no bundle, `SSL_CERT_FILE` and `SSL_CERT_DIR` are used. A proxy never sees the key, which stays
inside the TLS tunnel. Plain http is allowed to loopback only, and never goes through a proxy.

`requests` is built on urllib3. We use urllib3 directly for two things that `requests` does not
expose: the connection, because only the holder of its socket can end a wait, and the errors of
reading a raw body.

It also compares Klaviyo's clock with this machine's, and goes by the earlier of the two. Either may
be wrong, by minutes or by years, in one response or in all. A window counts as completely read up
to a safety margin before now, and a report day as final after a fixed time. With a clock that is
ahead, records that arrive late would be missed; with one that is behind, data is only read again.

No other module opens a connection: what is posted to an operator's webhook is sent here as well.
"""

import logging
import os
import random
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import TypeVar
from urllib.parse import urlsplit

import requests
from requests import PreparedRequest, Session
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import select_proxy
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse, HTTPResponse

from klaviyo_assets.api.messages import (
    BYTES_PER_MIB,
    Request,
    Response,
    check_request,
    check_response,
    connection_error,
    describe_error_in_body,
    describe_request,
    validate_api_key,
    validate_base_url,
)
from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.api.requests import MEDIA_TYPE, parse_date_header, request_headers
from klaviyo_assets.api.retry import (
    CancelToken,
    InFlightConnection,
    RetryBudget,
    RetryPolicy,
)
from klaviyo_assets.errors import (
    BrokenBodyError,
    KlaviyoAssetsError,
    QuotaError,
    RateLimitError,
    SettingError,
    TransientError,
)
from klaviyo_assets.seams import utc_now


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStats:
    """Counts since the client was made; immutable.

    `requests`: requests sent; `retries`: how many of them repeated a failed one; `rate_limited`:
    responses with status 429; `received_bytes`: size of the bodies as they came over the wire.
    `throttled_seconds`: time during which at least one request waited for the rate limit, ours or
    Klaviyo's. Requests that wait at the same time count once, so it never exceeds the elapsed time.
    """

    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    received_bytes: int = 0
    throttled_seconds: float = 0.0


MAX_CLOCK_SKEW = timedelta(minutes=5)
"""More than network delay can explain; as long as the safety margin before the high-water mark."""


class ClockSkewTracker:
    """Tracks how far Klaviyo's clock differs from this machine's during a run. Thread-safe."""

    def __init__(self, now: Callable[[], datetime] | None = None) -> None:
        """Use `now` as this machine's clock, `utc_now` without one."""
        self.now = now if now is not None else utc_now
        self.largest_skew = timedelta()
        """How far Klaviyo's clock was ahead of ours (negative: behind) in the worst response."""
        self._has_warned = False
        self._lock = Lock()

    @property
    def is_skewed(self) -> bool:
        """Return whether a response's date differed from this machine's clock by over 5 minutes."""
        return abs(self.largest_skew) > MAX_CLOCK_SKEW

    def resolve_response_time(self, server_time: datetime | None, *, sent_at: datetime) -> datetime:
        """Return the time whose state a response shows, in UTC, in whole seconds.

        `server_time` is its `Date` header, None if it cannot be read. `sent_at` is our clock when
        the request was sent: a record created after that may be missing from the response.
        """
        if server_time is None:
            return sent_at.replace(microsecond=0)
        # A correct `Date` lies between sending and now; then there is no difference to record.
        ahead, behind = server_time - self.now(), server_time - sent_at
        difference = max(ahead, timedelta()) or min(behind, timedelta())
        with self._lock:
            if abs(difference) > abs(self.largest_skew):
                self.largest_skew = difference
        return min(server_time, sent_at).replace(microsecond=0)

    def conservative_now(self) -> datetime:
        """Return the time by the clock that is behind, as far as responses have shown, in UTC."""
        return self.now() + min(self.largest_skew, timedelta())

    def skew_metadata(self) -> dict[str, float]:
        """Return the difference under its metadata key; empty where the clocks agree."""
        if not self.is_skewed:
            return {}
        return {"clock_difference_seconds": self.largest_skew.total_seconds()}

    def take_skew_warning(self) -> str | None:
        """Return a warning for the operator the first time the clocks differ, else None."""
        if not self.is_skewed or self._has_warned:
            return None
        self._has_warned = True
        minutes = abs(self.largest_skew) // timedelta(minutes=1)
        side = "ahead of" if self.largest_skew > timedelta() else "behind"
        return (
            f"Klaviyo's responses were dated up to {minutes} minutes {side} this machine's clock: "
            "the earlier of the two counts, so nothing is lost, and more is read again than needed "
            "until the clocks agree. Set this machine's clock by NTP; if it is right, look for a "
            "proxy that changes or repeats responses"
        )


class ClientStatsCollector:
    """Collects `ClientStats`, for any number of threads; `clock` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.lock = Lock()
        self.clock = clock
        self.totals = ClientStats()
        self.throttled_until = clock()
        """The end of the latest wait for the rate limit that has begun."""

    @property
    def stats(self) -> ClientStats:
        """Return the counts so far; a wait still under way counts up to now."""
        with self.lock:
            ahead = max(0.0, self.throttled_until - self.clock())
            # Subtracting 0.0 could change the last bit, so the value is returned as it is.
            if not ahead:
                return self.totals
            passed = max(0.0, self.totals.throttled_seconds - ahead)
            return replace(self.totals, throttled_seconds=passed)

    def add(
        self,
        *,
        requests: int = 0,
        retries: int = 0,
        rate_limited: int = 0,
        received_bytes: int = 0,
    ) -> None:
        """Add to the counts."""
        with self.lock:
            so_far = self.totals
            self.totals = replace(
                so_far,
                requests=so_far.requests + requests,
                retries=so_far.retries + retries,
                rate_limited=so_far.rate_limited + rate_limited,
                received_bytes=so_far.received_bytes + received_bytes,
            )

    def add_throttled_wait(self, seconds: float) -> None:
        """Count a wait for the rate limit that begins now; time others already wait counts once."""
        with self.lock:
            now = self.clock()
            end = now + seconds
            more = end - max(now, self.throttled_until)
            if more > 0:
                waited = self.totals.throttled_seconds + more
                self.totals = replace(self.totals, throttled_seconds=waited)
                self.throttled_until = end


CONNECT_TIMEOUT_SECONDS = 10.0
MAX_CONNECTIONS = 20
"""Threads that may read at once: enough to use up the largest rate tier at 340 ms a page."""

OPENSSL_CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""The variables in which OpenSSL looks for certificate authorities, and `requests` does not."""

PROXY_PATTERN = re.compile(
    r"(?=.*[.:])(?:http://)?(?:[^/\s]*@)?(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::0*[1-9][0-9]*)?/?",
    re.IGNORECASE,
)
"""The address of a proxy reached by http; it must have a dot, a port or a scheme."""

_FetchResult = TypeVar("_FetchResult")

PageShrinker = Callable[[Request, KlaviyoAssetsError, int], Request]
"""Returns the request to send after a failure, given the number of failures so far."""

_log = logging.getLogger(__name__)

CURRENT_CONNECTION: ContextVar[InFlightConnection] = ContextVar("CURRENT_CONNECTION")
"""The connection of the request that this thread is making."""


def get_abortable_response(self: HTTPConnection) -> HTTPResponse:
    """Return the connection's next response; first register how to abort the wait for it."""
    # The plain socket's method: SSLSocket.shutdown would take the TLS session from its reader.
    CURRENT_CONNECTION.get().attach(partial(socket.socket.shutdown, self.sock, socket.SHUT_RDWR))
    return HTTPConnection.getresponse(self)


class AbortableHttpConnection(HTTPConnection):
    """An HTTP connection whose waits can be aborted from another thread."""

    getresponse = get_abortable_response


class AbortableHttpsConnection(HTTPSConnection):
    """An HTTPS connection whose waits can be aborted from another thread."""

    getresponse = get_abortable_response


class AbortableAdapter(HTTPAdapter):
    """The adapter of `requests`, with connections whose waits can be aborted."""

    def get_connection_with_tls_context(
        self,
        request: PreparedRequest,
        verify: bool | str,  # noqa: FBT001 - the signature is that of `requests`
        proxies: dict[str, str] | None = None,
        cert: tuple[str, str] | str | None = None,
    ) -> HTTPConnectionPool:
        """Return the pool of `requests`, set to make abortable connections."""
        pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
        # urllib3 types this as a protocol that its own connections do not satisfy.
        pool.ConnectionCls = (
            AbortableHttpsConnection if pool.scheme == "https" else AbortableHttpConnection
        )  # pyright: ignore[reportAttributeAccessIssue]
        return pool


class OneServerSession(Session):
    """A session that talks to one server only, and sends no cookies or credentials of its own."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self.adapters.clear()
        self.mount(
            f"{base_url}/", AbortableAdapter(pool_connections=1, pool_maxsize=MAX_CONNECTIONS)
        )
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        found = self.merge_environment_settings(base_url, {}, stream=True, verify=None, cert=None)
        # The environment was just read; and a login in `.netrc` would replace the key.
        self.trust_env = False
        if base_url.startswith("https:"):
            named = (found["verify"], *map(os.environ.get, OPENSSL_CA_VARIABLES))
            self.verify = resolve_ca_bundle(
                [each for each in named if isinstance(each, str) and each]
            )
            self.proxies = resolve_proxies(base_url, found["proxies"])

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - as `requests` has it
        """Return None: `requests` reads a redirect's whole body, even where it does not follow."""
        return None


class KlaviyoClient:
    """Reads from one server with one key, in up to `MAX_CONNECTIONS` threads.

    Args:
        base_url: the server, https, or plain http to loopback.
        api_key: a private key; it appears in no text of the process.
        revision: value of the `revision` header.
        rate_limiter: reserves each request before it is sent.
        clock_skew: compares Klaviyo's clock with this machine's, and dates the responses.
        timeout_seconds: for a whole response, from the first byte sent to the last one received.
        max_rate_limit_wait_seconds: how long one request waits in all because of 429s.
        max_body_mib: largest body, compressed or decompressed.
        sleep: replaces waiting, for tests.
        clock: monotonic seconds, for tests.
        jitter: a number in [0, 1) that spreads retries, for tests.
    """

    def __init__(  # noqa: PLR0913 - settings, and the seams for tests, all by name
        self,
        *,
        base_url: str,
        api_key: str,
        revision: str,
        rate_limiter: RateLimiter,
        clock_skew: ClockSkewTracker | None = None,
        timeout_seconds: float = 60.0,
        max_rate_limit_wait_seconds: float = RetryPolicy().max_rate_limit_wait_seconds,
        max_body_mib: int = 256,
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] = monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.base_url = validate_base_url(base_url)
        self.host = urlsplit(self.base_url).hostname or ""
        self.headers = request_headers(validate_api_key(api_key), revision)
        self.rate_limiter = rate_limiter
        self.clock_skew = clock_skew if clock_skew is not None else ClockSkewTracker()
        self.timeout = (min(CONNECT_TIMEOUT_SECONDS, timeout_seconds), timeout_seconds)
        self.timeout_seconds = timeout_seconds
        self.max_body_bytes = max_body_mib * BYTES_PER_MIB
        self.retry_policy = RetryPolicy(max_rate_limit_wait_seconds=max_rate_limit_wait_seconds)
        self.cancel_token = CancelToken()
        self.sleep = sleep or self.cancel_token.wait
        self.jitter = jitter
        self.on_wait: Callable[[Request, float], None] | None = None
        """Told of each wait for the rate limit as it begins, with its seconds; in any thread."""
        self.stats_collector = ClientStatsCollector(clock)
        self.session = OneServerSession(self.base_url)
        # At DEBUG, urllib3 logs every URL, and a filter in it may name a person.
        logging.getLogger("urllib3").setLevel(logging.INFO)

    def __repr__(self) -> str:
        return f"KlaviyoClient({self.base_url!r})"

    @property
    def stats(self) -> ClientStats:
        """Return the counts so far."""
        return self.stats_collector.stats

    def fetch(  # noqa: PLR0913 - the options of a retry, all by name
        self,
        request: Request,
        parse: Callable[[Response], _FetchResult],
        *,
        stream: str,
        retry_policy: RetryPolicy | None = None,
        shrink: PageShrinker | None = None,
        on_failure: Callable[[KlaviyoAssetsError], None] | None = None,
    ) -> _FetchResult:
        """Send a request and return what `parse` makes of its response; wait and retry as needed.

        Args:
            request: what to send.
            parse: reads the response; a BrokenBodyError that it raises makes the client retry.
            stream: the stream's name, for errors.
            retry_policy: replaces the client's own for this request.
            shrink: returns the request to retry with, after each failure.
            on_failure: called with the error of each failed try, before the next one.

        Raises:
            KlaviyoAssetsError: as `messages.py` maps a response or a lost connection, once
                `retry.py` gives up; QuotaError and StorageError from the rate limiter.
            PermanentError: the request could write, or its target is no path of the API.
            StoppedError: `cancel` was called.
        """
        check_request(request)
        budget = RetryBudget(retry_policy or self.retry_policy)
        while True:
            try:
                return self.fetch_once(request, parse)
            except KlaviyoAssetsError as error:
                failure = error
            failure.stream = failure.stream or stream
            if on_failure is not None:
                on_failure(failure)
            self.wait_before_retry(request, failure, budget)
            if shrink is not None:
                request = shrink(request, failure, budget.failures)

    def fetch_once(
        self, request: Request, parse: Callable[[Response], _FetchResult]
    ) -> _FetchResult:
        """Wait for the rate limit, send the request once, and parse its response.

        Raises:
            KlaviyoAssetsError: the error that the response, or the lack of one, stands for.
        """
        self.wait_for_rate_limit(request)
        response = self.send(request)
        try:
            return parse(response)
        except BrokenBodyError as error:
            reason = f"{error.message}{describe_error_in_body(response.body)}"
            raise BrokenBodyError(f"{describe_request(request)}: {reason}") from None

    def wait_before_retry(
        self, request: Request, failure: KlaviyoAssetsError, budget: RetryBudget
    ) -> None:
        """Wait for the next try; after a 429, all processes leave its buckets alone meanwhile.

        Raises:
            KlaviyoAssetsError: there is none, as `RetryBudget.spend` says.
        """
        is_rate_limited = isinstance(failure, RateLimitError)
        self.stats_collector.add(rate_limited=int(is_rate_limited))
        now = self.clock_skew.now().astimezone()
        try:
            seconds = budget.spend(failure, jitter=self.jitter(), now=now)
        except QuotaError as error:
            if is_rate_limited:
                self.rate_limiter.block_until_daily_reset(
                    request.buckets, error.retry_after_seconds or 0
                )
            raise
        _log.info("%s Next try in %.1f s.", failure, seconds)
        self.stats_collector.add(retries=1)
        if is_rate_limited:
            self.rate_limiter.block_for_retry_after(request.buckets, seconds)
            self.begin_throttled_wait(request, seconds)
        self.wait(seconds)

    def wait_for_rate_limit(self, request: Request) -> None:
        """Reserve a time for the request and wait for it.

        If another request got a 429 meanwhile, that time is void and a later one is reserved.
        """
        while seconds := self.rate_limiter.reserve(request.buckets):
            self.begin_throttled_wait(request, seconds)
            self.wait(seconds)
            if not self.rate_limiter.blocked_seconds(request.buckets):
                return

    def begin_throttled_wait(self, request: Request, seconds: float) -> None:
        """Count a wait for the rate limit that begins now, and tell of it."""
        self.stats_collector.add_throttled_wait(seconds)
        if self.on_wait is not None:
            self.on_wait(request, seconds)

    def wait(self, seconds: float) -> None:
        """Sleep; `cancel`, or a signal in the main thread, ends the wait at once.

        Raises:
            StoppedError: `cancel` was called.
        """
        self.sleep(seconds)
        self.cancel_token.raise_if_cancelled()

    def cancel(self) -> None:
        """End every wait and every request in flight; later calls raise StoppedError."""
        self.cancel_token.cancel()

    def close(self) -> None:
        """Close idle connections; the client may be used again."""
        self.session.close()

    def send(self, request: Request) -> Response:
        """Send the request once and return the response.

        Raises:
            KlaviyoAssetsError: the status is not 2xx, the body cannot be used, or none came.
        """
        self.stats_collector.add(requests=1)
        with self.cancel_token.track_connection(self.timeout_seconds) as connection:
            outcome = self.exchange(request, connection)
            was_sent = connection.was_sent
        self.cancel_token.raise_if_cancelled()
        if connection.is_aborted:
            outcome = TimeoutError(f"no complete response within {self.timeout_seconds:g} s")
        if isinstance(outcome, Exception):
            addresses = resolve_host(self.host)
            raise connection_error(
                request, outcome, host=self.host, addresses=addresses, was_sent=was_sent
            )
        self.stats_collector.add(received_bytes=len(outcome.body))
        return check_response(outcome, request, max_bytes=self.max_body_bytes)

    def exchange(self, request: Request, connection: InFlightConnection) -> Response | Exception:
        """Return the response with its body still compressed, or the error of the connection."""
        token, sent_at = CURRENT_CONNECTION.set(connection), self.clock_skew.now()
        try:
            response: BaseHTTPResponse = self.session.send(
                self.prepare_request(request),
                stream=True,
                timeout=self.timeout,
                proxies=self.session.proxies,
                allow_redirects=False,
            ).raw
            body = read_body(response, self.max_body_bytes)
        except (HTTPError, HTTPException, OSError) as error:
            return error
        finally:
            CURRENT_CONNECTION.reset(token)
        headers = {name.lower(): value for name, value in response.headers.items()}
        at = self.clock_skew.resolve_response_time(parse_date_header(headers), sent_at=sent_at)
        found = Response(response.status, headers, body or b"", at)
        return found if body is not None else replace(found, is_too_large=True)

    def prepare_request(self, request: Request) -> PreparedRequest:
        """Return the request in the form `requests` sends, always to the client's own server.

        It is filled in by hand: the request is complete already, and letting `requests` prepare it
        and merge it with a session's settings is most of the time that `requests` takes.
        """
        prepared = PreparedRequest()
        prepared.method = request.method
        prepared.url = self.base_url + request.target
        prepared.headers = CaseInsensitiveDict(self.headers)
        if request.body is not None:
            prepared.body = request.body
            prepared.headers["Content-Type"] = MEDIA_TYPE
            prepared.headers["Content-Length"] = str(len(request.body))
        return prepared


def read_body(response: BaseHTTPResponse, max_bytes: int) -> bytes | None:
    """Return the body, still compressed; None if it is larger: then the connection is closed.

    Raises:
        HTTPError, HTTPException, OSError: the connection broke before the body was complete.
    """
    length = response.length_remaining
    if length is not None and length <= max_bytes:
        return response.read()
    body = b"" if length is not None else response.read(max_bytes + 1)
    if length is None and len(body) <= max_bytes:
        return body
    # The unread rest of this body must not be read as the next response.
    response.close()
    return None


def resolve_host(host: str) -> list[str]:
    """Return the IP addresses of a host name; none where it cannot be resolved."""
    with suppress(OSError):
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    return []


def resolve_ca_bundle(found: Sequence[str]) -> bool | str:
    """Return the first CA file or folder of `found`; True without any: those `requests` brings.

    Raises:
        SettingError: it cannot be read. The text does not quote the path.
    """
    if not found:
        return True
    named = found[0]
    try:
        if not Path(named).is_dir():
            ssl.create_default_context(cafile=named)
    except OSError as error:
        raise SettingError(
            "REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE or SSL_CERT_DIR names no "
            f"certificates that can be read ({error.strerror}). Allowed is a file in PEM, or a "
            "folder as OpenSSL wants it; unset it to trust the usual authorities."
        ) from None
    return named


def resolve_proxies(base_url: str, found: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy for a server by scheme, chosen from those that `requests` found.

    The proxy itself is reached by plain http; the tunnel through it is encrypted.

    Raises:
        SettingError: its address has another form. The text does not quote it: it may hold a login.
    """
    proxy = select_proxy(base_url, dict(found))
    if not proxy:
        return {}
    if not PROXY_PATTERN.fullmatch(proxy):
        raise SettingError(
            "HTTPS_PROXY or ALL_PROXY names no proxy that can be used. Allowed is "
            "http://host:port, through which the connection to Klaviyo is encrypted all the way; "
            "unset it where there is no proxy, or name Klaviyo's host in NO_PROXY."
        )
    return {"https": proxy}


WEBHOOK_TIMEOUT_SECONDS = 10.0


def post_to_webhook(url: str, text: str) -> None:
    """Post `{"text": ...}`. One attempt, and no redirect is followed.

    Raises:
        TransientError: it was not accepted; the message does not quote the address, which is a
            secret.
    """
    try:
        with requests.post(
            url,
            json={"text": text},
            timeout=WEBHOOK_TIMEOUT_SECONDS,
            allow_redirects=False,
        ) as response:
            status = response.status_code
    except requests.RequestException as error:
        raise TransientError(f"the webhook cannot be reached: {type(error).__name__}") from None
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        raise TransientError(f"the webhook answered with status {status}")
