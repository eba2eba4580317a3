"""The client: the only socket and the only sleep of the project.

What belongs here: sending one request, waiting, trying again. What does not: what to ask
(`protocol.py`), how fast (`limits.py`, `ledger.py`), whether again (`retries.py`).

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
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from time import monotonic
from typing import TypeVar
from urllib.parse import urlsplit

from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import select_proxy
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse, HTTPResponse

from klaviyo_assets.api.answers import MIB, judged
from klaviyo_assets.api.clock import Clocks
from klaviyo_assets.api.counters import Counters, Tally
from klaviyo_assets.api.exchange import Answer, Request
from klaviyo_assets.api.gate import check_request, checked_base_url, checked_key
from klaviyo_assets.api.ledger import Ledger
from klaviyo_assets.api.losses import lost
from klaviyo_assets.api.protocol import MEDIA_TYPE, headers, server_time
from klaviyo_assets.api.refusals import asked, words_in
from klaviyo_assets.api.retries import GiveUp, Policy, Tries, next_wait
from klaviyo_assets.api.stopping import Line, Switch
from klaviyo_assets.errors import (
    BrokenBodyError,
    KlaviyoAssetsError,
    QuotaError,
    RateLimitError,
    SettingError,
)

CONNECT_SECONDS = 10.0
CONNECTIONS = 20
"""Threads that may read at once: they keep the largest tier busy at 340 ms a page."""

OPENSSL_BUNDLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where OpenSSL looks for authorities, and `requests` does not."""

PROXY = re.compile(
    r"(?=.*[.:])(?:http://)?(?:[^/\s]*@)?(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::0*[1-9][0-9]*)?/?",
    re.IGNORECASE,
)
"""A proxy that is spoken to by http; a dot, a port or a scheme tells its address from a word."""

Result = TypeVar("Result")

Smaller = Callable[[Request, KlaviyoAssetsError, int], Request]
"""What to ask for after a failure, given how many there were."""

log = logging.getLogger(__name__)

LINE: ContextVar[Line] = ContextVar("LINE")
"""The line of the request that this thread is making."""


def watched_response(self: HTTPConnection) -> HTTPResponse:
    """Return the connection's next response, once this thread's line can end the wait for it."""
    # The plain method: that of TLS sockets takes the session from its reader.
    LINE.get().take(partial(socket.socket.shutdown, self.sock, socket.SHUT_RDWR))
    return HTTPConnection.getresponse(self)


class PlainConnection(HTTPConnection):
    """A connection whose waits can be ended."""

    getresponse = watched_response


class TlsConnection(HTTPSConnection):
    """The same over TLS."""

    getresponse = watched_response


class Adapter(HTTPAdapter):
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
        pool.ConnectionCls = TlsConnection if pool.scheme == "https" else PlainConnection  # pyright: ignore[reportAttributeAccessIssue]
        return pool


class OneServerSession(Session):
    """A session that speaks to one server only, and sends nothing that it was not given."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self.adapters.clear()
        self.mount(f"{base_url}/", Adapter(pool_connections=1, pool_maxsize=CONNECTIONS))
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        found = self.merge_environment_settings(base_url, {}, stream=True, verify=None, cert=None)
        # Once is enough, and what `.netrc` holds would take the place of the key.
        self.trust_env = False
        if base_url.startswith("https:"):
            named = (found["verify"], *map(os.environ.get, OPENSSL_BUNDLES))
            self.verify = checked_bundle([each for each in named if isinstance(each, str) and each])
            self.proxies = checked_proxies(base_url, found["proxies"])

    def get_redirect_target(self, resp: Response) -> str | None:  # noqa: ARG002 - as `requests` has it
        """Know of none: else the body would be read without bounds, even where none is followed."""
        return None


class Client:
    """Reads from one server with one key, by up to `CONNECTIONS` threads; it has no other state.

    `timeout_seconds` is for a whole answer, from the first byte sent to the last one received;
    `max_body_mib` bounds its body, packed or not; `max_waiting` bounds what one request waits in
    all because of 429s, in seconds. `clocks` dates the answers. `sleep`, `clock` (monotonic
    seconds) and `chance` stand for time and for luck in tests.
    """

    def __init__(  # noqa: PLR0913 - settings, and the seams for tests, all by name
        self,
        *,
        base_url: str,
        key: str,
        revision: str,
        ledger: Ledger,
        clocks: Clocks | None = None,
        timeout_seconds: float = 60.0,
        max_waiting: float = Policy().waiting_seconds,
        max_body_mib: int = 256,
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] = monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.base_url = checked_base_url(base_url)
        self.host = urlsplit(self.base_url).hostname or ""
        self.headers = headers(checked_key(key), revision)
        self.ledger = ledger
        self.clocks = clocks if clocks is not None else Clocks()
        self.timeout = (min(CONNECT_SECONDS, timeout_seconds), timeout_seconds)
        self.timeout_seconds = timeout_seconds
        self.max_body_bytes = max_body_mib * MIB
        self.policy = Policy(waiting_seconds=max_waiting)
        self.switch = Switch()
        self.sleep = sleep or self.switch.wait
        self.chance = chance
        self.tally = Tally(clock)
        self.session = OneServerSession(self.base_url)
        # At DEBUG it writes every URL into the log, and a filter may name a person.
        logging.getLogger("urllib3").setLevel(logging.INFO)

    def __repr__(self) -> str:
        return f"Client({self.base_url!r})"

    @property
    def counters(self) -> Counters:
        """Return what was done so far."""
        return self.tally.counters

    def read(  # noqa: PLR0913 - how to try again, all by name
        self,
        request: Request,
        reader: Callable[[Answer], Result],
        *,
        stream: str,
        policy: Policy | None = None,
        smaller: Smaller | None = None,
        failed: Callable[[KlaviyoAssetsError], None] | None = None,
    ) -> Result:
        """Return what `reader` makes of the answer, waiting and trying again where that helps.

        A `BrokenBodyError` of the reader counts as a broken body: the page is asked for again.
        `smaller` says what to ask for then, after each failure and by their number so far.
        `policy` is how patient to be with this request, the client's own without it; `failed` takes
        the error of each try that failed, before the next one.

        Raises:
            KlaviyoAssetsError: as `refusals.py` and `losses.py` map what came back, after the tries
                and waits of `retries.py`; QuotaError and StorageError from the ledger.
            PermanentError: the request would write; ForeignLinkError: it goes to another server.
            StoppedError: `stop` was called.
        """
        check_request(request, self.base_url)
        policy, tries = policy or self.policy, Tries()
        while True:
            try:
                return self.attempt(request, reader, stream)
            except KlaviyoAssetsError as error:
                failure = error
            failure.stream = failure.stream or stream
            if failed is not None:
                failed(failure)
            self.tally.add(rate_limited=int(isinstance(failure, RateLimitError)))
            now = self.clocks.now().astimezone()
            outcome = next_wait(tries, failure, policy=policy, chance=self.chance(), now=now)
            if isinstance(outcome, GiveUp):
                if isinstance(failure, RateLimitError) and isinstance(outcome.error, QuotaError):
                    self.ledger.note_spent_day(request.budgets, failure.retry_after_seconds or 0)
                raise outcome.error
            tries = outcome.tries
            log.info("%s Next try in %.1f s.", failure, outcome.seconds)
            self.before_retry(request, failure, outcome.seconds)
            if smaller is not None:
                request = smaller(request, failure, tries.failures)

    def attempt(self, request: Request, reader: Callable[[Answer], Result], stream: str) -> Result:
        """Wait for the budget, ask once, and read; raise what the answer or its lack means."""
        self.queue(request)
        answer = self.ask(request, stream)
        try:
            return reader(answer)
        except BrokenBodyError as error:
            text = f"{asked(request)}: {error.message}{words_in(answer.body)}"
            raise BrokenBodyError(text, stream=stream) from None

    def before_retry(self, request: Request, failure: Exception, seconds: float) -> None:
        """Wait for the next try; a 429 keeps every process out of its budgets meanwhile."""
        self.tally.add(retries=1)
        if isinstance(failure, RateLimitError):
            self.ledger.note_retry_after(request.budgets, seconds)
            self.tally.hold(seconds)
        self.wait(seconds)

    def queue(self, request: Request) -> None:
        """Book the request and wait for its moment.

        If Klaviyo refused another request meanwhile, the moment is void and a later one is booked.
        """
        while seconds := self.ledger.reserve(request.budgets):
            self.tally.hold(seconds)
            self.wait(seconds)
            if not self.ledger.held(request.budgets):
                return

    def wait(self, seconds: float) -> None:
        """Sleep; `stop`, or a signal in the main thread, ends it at once."""
        self.sleep(seconds)
        self.switch.check()

    def stop(self) -> None:
        """End every wait and every request under way, and let nothing begin again."""
        self.switch.stop()

    def close(self) -> None:
        """Close idle connections; the client may be used again."""
        self.session.close()

    def ask(self, request: Request, stream: str) -> Answer:
        """Send the request once; return a good answer, raise what any other means."""
        self.tally.add(requests=1)
        with self.switch.line(self.timeout_seconds) as line:
            outcome = self.outcome(request, line)
            was_sent = line.is_taken
        self.switch.check()
        if line.is_cut:
            outcome = TimeoutError(f"no whole answer within {self.timeout_seconds:g} s")
        if isinstance(outcome, Exception):
            addresses = addresses_of(self.host)
            raise lost(
                request,
                outcome,
                stream=stream,
                host=self.host,
                addresses=addresses,
                was_sent=was_sent,
            )
        self.tally.add(received_bytes=len(outcome.body))
        return judged(outcome, request, stream, most_bytes=self.max_body_bytes)

    def outcome(self, request: Request, line: Line) -> Answer | Exception:
        """Return the answer as it came over the wire, or what went wrong on it."""
        token, asked_at = LINE.set(line), self.clocks.now()
        try:
            response: BaseHTTPResponse = self.session.send(
                self.prepared(request),
                stream=True,
                timeout=self.timeout,
                proxies=self.session.proxies,
                allow_redirects=False,
            ).raw
            body = body_of(response, self.max_body_bytes)
        except (HTTPError, HTTPException, OSError) as error:
            return error
        finally:
            LINE.reset(token)
        told = {name.lower(): value for name, value in response.headers.items()}
        at = self.clocks.earlier(server_time(told), asked_at=asked_at)
        answer = Answer(response.status, told, body or b"", at)
        return answer if body is not None else replace(answer, is_too_large=True)

    def prepared(self, request: Request) -> PreparedRequest:
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


def body_of(response: BaseHTTPResponse, most_bytes: int) -> bytes | None:
    """Return the body as it came over the wire; None, and the line cut, where it is larger.

    Raises:
        HTTPError, HTTPException, OSError: the rest did not come.
    """
    length = response.length_remaining
    if length is not None and length <= most_bytes:
        return response.read()
    body = b"" if length is not None else response.read(most_bytes + 1)
    if length is None and len(body) <= most_bytes:
        return body
    # What is still to come must not be taken for the next answer.
    response.close()
    return None


def addresses_of(host: str) -> list[str]:
    """Return what a host name now stands for; nothing where it cannot be resolved."""
    with suppress(OSError):
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    return []


def checked_bundle(found: Sequence[str]) -> bool | str:
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


def checked_proxies(base_url: str, found: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy on the way to a server, if there is one, of all that `requests` found.

    It is spoken to by plain http; the tunnel through it is encrypted.

    Raises:
        SettingError: it cannot be used so. The text does not quote it: it may hold a login.
    """
    proxy = select_proxy(base_url, dict(found))
    if not proxy:
        return {}
    if not PROXY.fullmatch(proxy):
        raise SettingError(
            "HTTPS_PROXY or ALL_PROXY names no proxy that can be used. Allowed is "
            "http://host:port, through which the connection to Klaviyo is encrypted all the way; "
            "unset it where there is no proxy, or name Klaviyo's host in NO_PROXY."
        )
    return {"https": proxy}
