"""A state folder belongs to one running kernel at a time."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from klaviyo_assets.api import rate_limit_store
from klaviyo_assets.api.rate_limit_store import HostIdentity, current_host
from klaviyo_assets.api.rate_limiter import RATE_LIMIT_STORE_FILE_NAME, RateLimiter
from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.stream import RateLimitBucket, RateTier

NOW = 1_800_000_000.0
BUDGET = RateLimitBucket("GET /api/any", RateTier(name="any", burst=100, steady=1000))
ONE = HostIdentity("kernel-1", "one", NOW - 5000)
TWO = HostIdentity("kernel-2", "two", NOW - 9000)

Use = Callable[..., None]


@pytest.fixture
def book_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Give a function that reserves a request on a host at a time, with a store of its own."""

    def reserve_as(host: HostIdentity, at: float) -> None:
        monkeypatch.setattr(rate_limit_store, "current_host", lambda: host)
        with closing(RateLimiter(tmp_path, "a", clock=lambda: at)) as booking:
            booking.reserve((BUDGET,))

    return reserve_as


def test_two_hosts_at_once_are_refused_by_name(book_request: Use, tmp_path: Path) -> None:
    """The second host's error has both names, folder and setting; the first continues."""
    book_request(ONE, NOW)
    with pytest.raises(SettingError) as caught:
        book_request(TWO, NOW + 100)
    message = str(caught.value)
    assert all(each in message for each in ("host one 100 s ago", "two", str(tmp_path)))
    assert "KLAVIYO_STATE_DIR" in message
    book_request(ONE, NOW + 110)


def test_a_host_that_was_stopped_does_not_lock_out_for_ever(book_request: Use) -> None:
    """A volume that moved to another machine is taken over two minutes after its last use."""
    book_request(ONE, NOW)
    book_request(TWO, NOW + 121)
    with pytest.raises(SettingError):
        book_request(ONE, NOW + 130)


def test_a_restart_goes_on_at_once(book_request: Use) -> None:
    """A machine that came up again, or a container of another name on it, need not wait."""
    book_request(ONE, NOW)
    book_request(HostIdentity("kernel-1b", "one", NOW + 10), NOW + 20)
    book_request(HostIdentity("kernel-1b", "container-2", NOW + 10), NOW + 21)
    with pytest.raises(SettingError, match="host container-2 1 s ago"):
        book_request(TWO, NOW + 22)


def test_a_machine_whose_clock_was_ahead_before_its_restart_goes_on(book_request: Use) -> None:
    """What it wrote in its own future is no other host's."""
    book_request(ONE, NOW + 9000)
    book_request(HostIdentity("kernel-1b", "one", NOW), NOW + 10)
    with pytest.raises(SettingError, match="host one"):
        book_request(TWO, NOW + 20)


def test_a_clock_that_disagrees_is_named(book_request: Use) -> None:
    """Another host's stamp in the future is refused, with how far ahead and both ways out."""
    book_request(ONE, NOW + 7200)
    with pytest.raises(
        SettingError, match=r"host one at a time that is 7200 s ahead.*clocks right"
    ):
        book_request(TWO, NOW)


def test_who_goes_on_booking_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long run beats: an hour after it began another host is refused; the run finds that one."""
    monkeypatch.setattr(rate_limit_store, "current_host", lambda: ONE)
    clock = [NOW]
    with closing(RateLimiter(tmp_path, "a", clock=lambda: clock[0])) as long_run:
        for clock[0] in (NOW, NOW + 1800, NOW + 3600):
            long_run.reserve((BUDGET,))
        monkeypatch.setattr(rate_limit_store, "current_host", lambda: TWO)
        with (
            closing(RateLimiter(tmp_path, "a", clock=lambda: NOW + 3610)) as other,
            pytest.raises(SettingError),
        ):
            other.reserve((BUDGET,))
        with closing(
            sqlite3.connect(tmp_path / RATE_LIMIT_STORE_FILE_NAME, isolation_level=None)
        ) as file:
            # As by a mount on which the other's transaction was not seen.
            file.execute("INSERT INTO host VALUES (?, ?, ?)", (TWO.id, TWO.name, NOW + 3611))
        monkeypatch.setattr(rate_limit_store, "current_host", lambda: ONE)
        clock[0] = NOW + 3640
        with pytest.raises(SettingError, match="host two 29 s ago"):
            long_run.reserve((BUDGET,))


def test_this_host_is_its_running_kernel() -> None:
    """The same in every process until the next boot, which lies in the past."""
    assert current_host() == current_host()
    assert current_host().id
    assert current_host().booted_at >= 0
