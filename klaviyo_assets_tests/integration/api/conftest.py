"""Clients for the tests of this folder, with their own rate limit store, clock and deadlines."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.messages import Request
from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.model.stream import TIER_XL, RateLimitBucket
from klaviyo_assets.settings import DEFAULT_REVISION
from klaviyo_assets_tests.integration.api.scripted_server import ScriptedServer

KEY = "pk_0123456789abcdef0123456789abcdef01"


@dataclass(slots=True)
class FakeClock:
    """Time that passes only while somebody sleeps; each sleep is noted, in seconds."""

    now: float = 1_795_000_000.0
    sleeps: list[float] = field(default_factory=list[float])

    def wall_time(self) -> float:
        """Tell the wall clock's time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def fake_clock() -> FakeClock:
    """Give a clock that sleeping moves."""
    return FakeClock()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without a proxy, and with the usual authorities."""
    names = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE")
    for name in (*names, "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


MakeClient = Callable[..., KlaviyoClient]


@pytest.fixture
def client_of(tmp_path: Path, fake_clock: FakeClock) -> Iterator[MakeClient]:
    """Give a function that makes a client of a server; waits take no time but on `fake_clock`."""
    with ExitStack() as stack:

        def make(
            server: ScriptedServer | str,
            *,
            timeout_seconds: float = 5.0,
            max_waiting: float = 600.0,
        ) -> KlaviyoClient:
            ledger = stack.enter_context(
                closing(RateLimiter(tmp_path, "a", clock=fake_clock.wall_time))
            )
            client = KlaviyoClient(
                base_url=server if isinstance(server, str) else server.url,
                api_key=KEY,
                revision=DEFAULT_REVISION,
                rate_limiter=ledger,
                timeout_seconds=timeout_seconds,
                max_rate_limit_wait_seconds=max_waiting,
                sleep=fake_clock.sleep,
                clock=fake_clock.wall_time,
                jitter=lambda: 0.0,
            )
            return stack.enter_context(closing(client))

        yield make


@pytest.fixture
def patient_client_of(tmp_path: Path) -> Iterator[MakeClient]:
    """Give a function that makes a client which really sleeps."""
    with ExitStack() as stack:

        def make(server: ScriptedServer, *, timeout_seconds: float = 5.0) -> KlaviyoClient:
            ledger = stack.enter_context(closing(RateLimiter(tmp_path, "a")))
            client = KlaviyoClient(
                base_url=server.url,
                api_key=KEY,
                revision=DEFAULT_REVISION,
                rate_limiter=ledger,
                timeout_seconds=timeout_seconds,
            )
            return stack.enter_context(closing(client))

        yield make


def events_request(query: str = "") -> Request:
    """Return a request for events."""
    target = f"/api/events?{query}" if query else "/api/events"
    return Request("GET", target, (RateLimitBucket("GET /api/events", TIER_XL),), "/api/events")
