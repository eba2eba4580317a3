"""The HTTP client: sends requests within the rate limit, retries, and counts what it did.

`requests`, with one adapter and without conveniences: no redirects, cookies, `.netrc` or retries.
Proxies (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) and authorities (`REQUESTS_CA_BUNDLE`,
`CURL_CA_BUNDLE`) are read from the environment as `requests` reads them, once; `SSL_CERT_FILE` and
`SSL_CERT_DIR` count where it finds none. The key stays inside the TLS tunnel, and plain http, which
is allowed to loopback alone, is never proxied.

Of urllib3, on which `requests` stands, only what `requests` has no name for: the connection, since
who holds its socket can end a wait, and the errors of a body that is read raw.
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
from functools import partial
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

from klaviyo_assets.api.cancellation import CancelToken, InFlightConnection
from klaviyo_assets.api.clock import ClockSkewTracker
from klaviyo_assets.api.messages import Request, Response
from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.api.request_guard import check_request, validate_api_key, validate_base_url
from klaviyo_assets.api.requests import MEDIA_TYPE, parse_date_header, request_headers
from klaviyo_assets.api.response_errors import (
    BYTES_PER_MIB,
    check_response,
    connection_error,
    describe_error_in_body,
    describe_request,
)
from klaviyo_assets.api.retry import GiveUp, RetryPolicy, RetryState, decide_retry
from klaviyo_assets.errors import (
    BrokenBodyError,
    KlaviyoAssetsError,
    QuotaError,
    RateLimitError,
    SettingError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStats:
    """Counts since the client was made; a value that does not change.

    `requests` were sent, `retries` are those among them that were tried again, `rate_limited` were
    answered with 429. `throttled_seconds` are those in which at least one request waited for the
    rate limit, ours or Klaviyo's: never more than have passed, however many waited at once.
    `received_bytes` are bodies as they came over the wire.
    """

    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    received_bytes: int = 0
    throttled_seconds: float = 0.0


class ClientStatsCollector:
    """The changing side of `ClientStats`; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.lock = Lock()
        self.clock = clock
        self.totals = ClientStats()
        self.throttled_until = clock()
        """The end of the latest wait for the rate limit that has begun."""

    @property
    def stats(self) -> ClientStats:
        """Return what was counted so far; of a wait that has not ended, what has passed of it."""
        with self.lock:
            ahead = max(0.0, self.throttled_until - self.clock())
            # A value from which nothing was taken is the same one, to the last bit.
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
        """Count."""
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
        """Count a wait for the rate limit that begins now; what others wait already counts once."""
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
"""Threads that may read at once: they keep the largest tier busy at 340 ms a page."""

OPENSSL_CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where OpenSSL looks for authorities, and `requests` does not."""

PROXY_PATTERN = re.compile(
    r"(?=.*[.:])(?:http://)?(?:[^/\s]*@)?(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::0*[1-9][0-9]*)?/?",
    re.IGNORECASE,
)
"""A proxy that is spoken to by http; a dot, a port or a scheme tells its address from a word."""

_FetchResult = TypeVar("_FetchResult")

PageShrinker = Callable[[Request, KlaviyoAssetsError, int], Request]
"""What to ask for after a failure, given how many there were."""

_log = logging.getLogger(__name__)

CURRENT_CONNECTION: ContextVar[InFlightConnection] = ContextVar("CURRENT_CONNECTION")
"""The line of the request that this thread is making."""


def get_abortable_response(self: HTTPConnection) -> HTTPResponse:
    """Return the connection's next response, once this thread's line can end the wait for it."""
    # The plain method: that of TLS sockets takes the session from its reader.
    CURRENT_CONNECTION.get().attach(partial(socket.socket.shutdown, self.sock, socket.SHUT_RDWR))
    return HTTPConnection.getresponse(self)


class AbortableHttpConnection(HTTPConnection):
    """A connection whose waits can be ended."""

    getresponse = get_abortable_response


class AbortableHttpsConnection(HTTPSConnection):
    """The same over TLS."""

    getresponse = get_abortable_response


class AbortableAdapter(HTTPAdapter):
    """The adapter of `requests`, on connections whose waits can be ended."""

    def get_connection_with_tls_context(
        self,
        request: PreparedRequest,
        verify: bool | str,  # noqa: FBT001 - the signature is that of `requests`
        proxies: dict[str, str] | None = None,
        cert: tuple[str, str] | str | None = None,
    ) -> HTTPConnectionPool:
        """Return the pool of `requests`, once it makes connections of ours."""
        pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
        # urllib3 types this as a protocol that its own connections do not keep to.
        pool.ConnectionCls = (
            AbortableHttpsConnection if pool.scheme == "https" else AbortableHttpConnection
        )  # pyright: ignore[reportAttributeAccessIssue]
        return pool


class OneServerSession(Session):
    """A session that speaks to one server only, and sends nothing that it was not given."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self.adapters.clear()
        self.mount(
            f"{base_url}/", AbortableAdapter(pool_connections=1, pool_maxsize=MAX_CONNECTIONS)
        )
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        found = self.merge_environment_settings(base_url, {}, stream=True, verify=None, cert=None)
        # Once is enough, and what `.netrc` holds would take the place of the key.
        self.trust_env = False
        if base_url.startswith("https:"):
            named = (found["verify"], *map(os.environ.get, OPENSSL_CA_VARIABLES))
            self.verify = resolve_ca_bundle(
                [each for each in named if isinstance(each, str) and each]
            )
            self.proxies = resolve_proxies(base_url, found["proxies"])

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - as `requests` has it
        """Know of none: else the body would be read without bounds, even where none is followed."""
        return None


class KlaviyoClient:
    """Reads from one server with one key, by up to `MAX_CONNECTIONS` threads.

    It has no other state.

    `timeout_seconds` is for a whole answer, from the first byte sent to the last one received;
    `max_body_mib` bounds its body, packed or not; `max_rate_limit_wait_seconds` bounds what one
    request waits in all because of 429s, in seconds. `clock_skew` dates the answers. `sleep`,
    `clock` (monotonic seconds) and `jitter` stand for time and for luck in tests.
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
        self.stats_collector = ClientStatsCollector(clock)
        self.session = OneServerSession(self.base_url)
        # At DEBUG it writes every URL into the log, and a filter may name a person.
        logging.getLogger("urllib3").setLevel(logging.INFO)

    def __repr__(self) -> str:
        return f"KlaviyoClient({self.base_url!r})"

    @property
    def stats(self) -> ClientStats:
        """Return what was done so far."""
        return self.stats_collector.stats

    def fetch(  # noqa: PLR0913 - how to try again, all by name
        self,
        request: Request,
        parse: Callable[[Response], _FetchResult],
        *,
        stream: str,
        retry_policy: RetryPolicy | None = None,
        shrink: PageShrinker | None = None,
        on_failure: Callable[[KlaviyoAssetsError], None] | None = None,
    ) -> _FetchResult:
        """Return what `parse` makes of the answer, waiting and trying again where that helps.

        A `BrokenBodyError` of the reader counts as a broken body: the page is asked for again.
        `shrink` says what to ask for then, after each failure and by their number so far.
        `retry_policy` is how patient to be with this request, the client's own without it;
        `on_failure` takes the error of each try that failed, before the next one.

        Raises:
            KlaviyoAssetsError: as `refusals.py` and `losses.py` map what came back, after the tries
                and waits of `retries.py`; QuotaError and StorageError from the ledger.
            PermanentError: the request would write; ForeignLinkError: it goes to another server.
            StoppedError: `cancel` was called.
        """
        check_request(request, self.base_url)
        retry_policy, tries = retry_policy or self.retry_policy, RetryState()
        while True:
            try:
                return self.fetch_once(request, parse, stream)
            except KlaviyoAssetsError as error:
                failure = error
            failure.stream = failure.stream or stream
            if on_failure is not None:
                on_failure(failure)
            self.stats_collector.add(rate_limited=int(isinstance(failure, RateLimitError)))
            now = self.clock_skew.now().astimezone()
            outcome = decide_retry(
                tries, failure, policy=retry_policy, jitter=self.jitter(), now=now
            )
            if isinstance(outcome, GiveUp):
                if isinstance(failure, RateLimitError) and isinstance(outcome.error, QuotaError):
                    self.rate_limiter.block_until_daily_reset(
                        request.buckets, failure.retry_after_seconds or 0
                    )
                raise outcome.error
            tries = outcome.state
            _log.info("%s Next try in %.1f s.", failure, outcome.seconds)
            self.wait_before_retry(request, failure, outcome.seconds)
            if shrink is not None:
                request = shrink(request, failure, tries.failures)

    def fetch_once(
        self, request: Request, parse: Callable[[Response], _FetchResult], stream: str
    ) -> _FetchResult:
        """Wait for the budget, ask once, and read; raise what the answer or its lack means."""
        self.wait_for_rate_limit(request)
        answer = self.send(request, stream)
        try:
            return parse(answer)
        except BrokenBodyError as error:
            text = (
                f"{describe_request(request)}: {error.message}{describe_error_in_body(answer.body)}"
            )
            raise BrokenBodyError(text, stream=stream) from None

    def wait_before_retry(self, request: Request, failure: Exception, seconds: float) -> None:
        """Wait for the next try; a 429 keeps every process out of its budgets meanwhile."""
        self.stats_collector.add(retries=1)
        if isinstance(failure, RateLimitError):
            self.rate_limiter.block_for_retry_after(request.buckets, seconds)
            self.stats_collector.add_throttled_wait(seconds)
        self.wait(seconds)

    def wait_for_rate_limit(self, request: Request) -> None:
        """Book the request and wait for its moment.

        If Klaviyo refused another request meanwhile, the moment is void and a later one is booked.
        """
        while seconds := self.rate_limiter.reserve(request.buckets):
            self.stats_collector.add_throttled_wait(seconds)
            self.wait(seconds)
            if not self.rate_limiter.blocked_seconds(request.buckets):
                return

    def wait(self, seconds: float) -> None:
        """Sleep; `cancel`, or a signal in the main thread, ends it at once."""
        self.sleep(seconds)
        self.cancel_token.raise_if_cancelled()

    def cancel(self) -> None:
        """End every wait and every request under way, and let nothing begin again."""
        self.cancel_token.cancel()

    def close(self) -> None:
        """Close idle connections; the client may be used again."""
        self.session.close()

    def send(self, request: Request, stream: str) -> Response:
        """Send the request once; return a good answer, raise what any other means."""
        self.stats_collector.add(requests=1)
        with self.cancel_token.track_connection(self.timeout_seconds) as line:
            outcome = self.exchange(request, line)
            was_sent = line.was_sent
        self.cancel_token.raise_if_cancelled()
        if line.is_aborted:
            outcome = TimeoutError(f"no whole answer within {self.timeout_seconds:g} s")
        if isinstance(outcome, Exception):
            addresses = resolve_host(self.host)
            raise connection_error(
                request,
                outcome,
                stream=stream,
                host=self.host,
                addresses=addresses,
                was_sent=was_sent,
            )
        self.stats_collector.add(received_bytes=len(outcome.body))
        return check_response(outcome, request, stream, max_bytes=self.max_body_bytes)

    def exchange(self, request: Request, connection: InFlightConnection) -> Response | Exception:
        """Return the answer as it came over the wire, or what went wrong on it."""
        token, asked_at = CURRENT_CONNECTION.set(connection), self.clock_skew.now()
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
        told = {name.lower(): value for name, value in response.headers.items()}
        at = self.clock_skew.resolve_response_time(parse_date_header(told), sent_at=asked_at)
        answer = Response(response.status, told, body or b"", at)
        return answer if body is not None else replace(answer, is_too_large=True)

    def prepare_request(self, request: Request) -> PreparedRequest:
        """Return the request as `requests` sends it, to the client's own server in any case.

        By hand: it is whole already, and to have it prepared and merged with a session's settings
        is most of what `requests` costs.
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
    """Return the body as it came over the wire; None, and the line cut, where it is larger.

    Raises:
        HTTPError, HTTPException, OSError: the rest did not come.
    """
    length = response.length_remaining
    if length is not None and length <= max_bytes:
        return response.read()
    body = b"" if length is not None else response.read(max_bytes + 1)
    if length is None and len(body) <= max_bytes:
        return body
    # What is still to come must not be taken for the next answer.
    response.close()
    return None


def resolve_host(host: str) -> list[str]:
    """Return what a host name now stands for; nothing where it cannot be resolved."""
    with suppress(OSError):
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    return []


def resolve_ca_bundle(found: Sequence[str]) -> bool | str:
    """Return the first file or folder of authorities found; True for those that `requests` brings.

    Raises:
        SettingError: it cannot be read. The text does not quote it.
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
    """Return the proxy on the way to a server, if there is one, of all that `requests` found.

    It is spoken to by plain http; the tunnel through it is encrypted.

    Raises:
        SettingError: it cannot be used so. The text does not quote it: it may hold a login.
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
