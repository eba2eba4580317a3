"""The rate limit store is shared by all processes, whatever happens to its file or clock."""

import logging
import os
import sqlite3
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klaviyo_assets.api.limits import BURST_WINDOW_SECONDS, STEADY_WINDOW_SECONDS
from klaviyo_assets.api.rate_limiter import (
    RATE_LIMIT_STORE_FILE_NAME,
    RateLimiter,
    RevenueMetric,
    hash_api_key,
    last_known_timezone,
)
from klaviyo_assets.errors import QuotaError, StorageError
from klaviyo_assets.model.stream import (
    TIER_L,
    TIER_M,
    TIER_REPORT,
    TIER_S,
    TIER_XS,
    RateLimitBucket,
    RateTier,
)
from klaviyo_assets_tests.unit.api.samples import KEY

FLOWS = (RateLimitBucket("GET /api/flows", TIER_S),)
PROFILES = (RateLimitBucket("GET /api/profiles", TIER_L),)
PREDICTED = (*PROFILES, RateLimitBucket("additional-fields[profile]=predictive_analytics", TIER_M))
REPORTS = (RateLimitBucket("POST /api/campaign-values-reports", TIER_REPORT),)


class Clock:
    """A wall clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands still until it is moved."""
    return Clock()


@pytest.fixture
def open_rate_limiter(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., RateLimiter]]:
    """Give a function that opens the store of one folder, each time as another process would."""
    ledgers: list[RateLimiter] = []

    def ledger(account: str = "AbC123", *, share: float = 1.0, scale: float = 1.0) -> RateLimiter:
        made = RateLimiter(tmp_path / "state", account, share=share, scale=scale, clock=clock)
        ledgers.append(made)
        return made

    yield ledger
    for each in ledgers:
        each.close()


def test_a_burst_goes_out_and_the_next_waits(open_rate_limiter: Callable[..., RateLimiter]) -> None:
    """The first requests of a tier wait for nothing, the one beyond the burst for its window."""
    ledger = open_rate_limiter()
    assert [round(ledger.reserve(FLOWS), 6) for _ in range(4)] == [0, 0, 0, BURST_WINDOW_SECONDS]


def test_processes_share_one_budget(open_rate_limiter: Callable[..., RateLimiter]) -> None:
    """What one process has booked is spent for all others with the same account."""
    for _ in range(3):
        assert open_rate_limiter().reserve(FLOWS) == 0
    assert open_rate_limiter().reserve(FLOWS) == pytest.approx(BURST_WINDOW_SECONDS)


def test_many_who_book_at_once_all_get_a_moment(
    open_rate_limiter: Callable[..., RateLimiter],
) -> None:
    """Connections that collide wait for each other: no error, no booking lost, none made twice."""
    slow = (RateLimitBucket("GET /api/any", RateTier(name="any", burst=1, steady=60)),)

    def book(ledger: RateLimiter) -> list[float]:
        return [ledger.reserve(slow) for _ in range(100)]

    with ThreadPoolExecutor(4) as threads:
        waits = sorted(chain(*threads.map(book, [open_rate_limiter() for _ in range(4)])))
    gaps = [later - earlier for earlier, later in pairwise(waits)]
    assert len(waits) == 400
    assert min(gaps) >= BURST_WINDOW_SECONDS - 1e-6


def test_the_file_is_whole_from_its_first_moment(
    open_rate_limiter: Callable[..., RateLimiter], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No process can open a rate limit store that another one is still creating."""
    path, ledger = tmp_path / "state" / RATE_LIMIT_STORE_FILE_NAME, open_rate_limiter()
    was_there: list[bool] = []

    create = ledger.store.create_tables

    def prepare(connection: sqlite3.Connection) -> None:
        was_there.append(path.exists())
        create(connection)

    monkeypatch.setattr(ledger.store, "create_tables", prepare)
    ledger.reserve(FLOWS)
    assert was_there == [False, True]
    # Bytes 18 and 19 of a database in WAL mode are 2: there is nothing left to switch.
    assert path.read_bytes()[18:20] == b"\x02\x02"
    ledger.close()
    assert {file.name for file in path.parent.iterdir()} == {RATE_LIMIT_STORE_FILE_NAME, ".locks"}


def test_a_file_system_without_links_will_do(
    open_rate_limiter: Callable[..., RateLimiter], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where a file cannot have two names, the rate limit store is made all the same."""

    def refuse_link(*_: object, **__: object) -> NoReturn:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse_link)
    for _ in range(3):
        assert open_rate_limiter().reserve(FLOWS) == 0
    assert open_rate_limiter().reserve(FLOWS) == pytest.approx(BURST_WINDOW_SECONDS)
    assert (tmp_path / "state" / RATE_LIMIT_STORE_FILE_NAME).exists()


def test_nobody_books_in_the_middle_of_anothers_booking(
    open_rate_limiter: Callable[..., RateLimiter], monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A reservation during another one waits for it, and is booked after it."""
    slow = (RateLimitBucket("GET /api/any", RateTier(name="any", burst=1, steady=60)),)
    one, other = open_rate_limiter(), open_rate_limiter()
    for each in (one, other):
        each.reserve(FLOWS)
    with ThreadPoolExecutor(1) as thread:
        coming: list[Future[float]] = []

        def meanwhile() -> float:
            if not coming:
                coming.append(thread.submit(other.reserve, slow))
                wait(coming, timeout=0.2)
            return clock()

        monkeypatch.setattr(one.store, "clock", meanwhile)
        assert one.reserve(slow) == 0
        assert coming[0].result() == pytest.approx(BURST_WINDOW_SECONDS)


def test_accounts_and_endpoints_are_apart(open_rate_limiter: Callable[..., RateLimiter]) -> None:
    """Klaviyo counts per account and endpoint, and so do we."""
    for _ in range(3):
        open_rate_limiter().reserve(FLOWS)
    assert open_rate_limiter("XyZ987").reserve(FLOWS) == 0
    assert open_rate_limiter().reserve((RateLimitBucket("GET /api/forms", TIER_S),)) == 0


def test_one_request_spends_all_its_budgets(open_rate_limiter: Callable[..., RateLimiter]) -> None:
    """A request with a limited parameter waits for the slower of both, and books both at once."""
    ledger = open_rate_limiter()
    waits = [ledger.reserve(PREDICTED) for _ in range(11)]
    assert waits[:10] == [0] * 10
    assert waits[10] == pytest.approx(BURST_WINDOW_SECONDS)
    # Moments are handed out in order: the endpoint's own next one comes no earlier.
    assert ledger.reserve(PROFILES) == pytest.approx(BURST_WINDOW_SECONDS)


def test_a_request_without_a_budget_never_waits(
    open_rate_limiter: Callable[..., RateLimiter],
) -> None:
    """Nothing to spend, nothing to wait for."""
    assert open_rate_limiter().reserve(()) == 0


def test_each_project_keeps_its_own_share(open_rate_limiter: Callable[..., RateLimiter]) -> None:
    """A project with half the share stops earlier, but counts what the others have booked."""
    greedy, modest = open_rate_limiter(share=1.0), open_rate_limiter(share=0.5)
    tier = RateTier(name="any", burst=100, steady=10)
    budget = (RateLimitBucket("GET /api/any", tier),)
    for _ in range(6):
        assert greedy.reserve(budget) == 0
    assert modest.reserve(budget) == pytest.approx(STEADY_WINDOW_SECONDS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 80), st.floats(-200, 0)),
        ),
        min_size=20,
        max_size=80,
    )
)
def test_no_window_is_broken_whatever_the_clock_does(steps: list[tuple[int, float]]) -> None:
    """Three projects in turn, a wall clock that goes on and back: no true minute is too full.

    True time is what goes by; a step back of the wall clock takes no time at all.
    """
    clock, true_time = Clock(), 0.0
    tier = RateTier(name="any", burst=3, steady=8)
    with TemporaryDirectory() as folder:
        ledgers = [RateLimiter(Path(folder), "a", share=1, clock=clock) for _ in range(3)]
        sent: list[float] = []
        for who, pause in steps:
            clock.now += pause
            true_time += max(0.0, pause)
            sent.append(true_time + ledgers[who].reserve((RateLimitBucket("b", tier),)))
        for ledger in ledgers:
            ledger.close()
    for seconds, limit in ((1, 3), (60, 8)):
        sent.sort()
        for place, start in enumerate(sent):
            assert bisect_left(sent, start + seconds - 1e-6) - place <= limit


def test_a_clock_that_jumps_back_neither_blocks_nor_bursts(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """Two hours back: the next request waits as long as it would have without the jump."""
    ledger = open_rate_limiter()
    for _ in range(3):
        ledger.reserve(FLOWS)
    clock.now -= 7200
    assert ledger.reserve(FLOWS) == pytest.approx(BURST_WINDOW_SECONDS)
    clock.now += 10
    assert ledger.reserve(FLOWS) == 0


def test_a_clock_that_jumps_ahead_and_back_blocks_nobody(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """A year ahead by mistake, then put right: nothing waits for a year."""
    ledger = open_rate_limiter()
    clock.now += 31_536_000
    for _ in range(3):
        ledger.reserve(FLOWS)
    clock.now -= 31_536_000
    assert ledger.reserve(FLOWS) == pytest.approx(BURST_WINDOW_SECONDS)


def test_a_refusal_holds_all_processes_back(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """After a 429 everybody stays out of that budget, and of no other, until the time is over."""
    one, other = open_rate_limiter(), open_rate_limiter()
    one.block_for_retry_after(FLOWS, 20)
    assert other.blocked_seconds(FLOWS) == pytest.approx(20)
    assert other.blocked_seconds(PROFILES) == 0
    assert other.reserve(PROFILES) == 0
    assert other.reserve(FLOWS) == pytest.approx(20)
    clock.now += 21
    assert other.blocked_seconds(FLOWS) == 0
    assert other.reserve(FLOWS) == 0


def test_a_later_shorter_refusal_does_not_shorten_the_hold(
    open_rate_limiter: Callable[..., RateLimiter],
) -> None:
    """The longest Retry-After counts."""
    ledger = open_rate_limiter()
    ledger.block_for_retry_after(FLOWS, 20)
    ledger.block_for_retry_after(FLOWS, 1)
    assert ledger.blocked_seconds(FLOWS) == pytest.approx(20)


def test_no_refusal_holds_for_hours(open_rate_limiter: Callable[..., RateLimiter]) -> None:
    """A wait that ends the stream that met it must not freeze all others."""
    ledger = open_rate_limiter()
    ledger.block_for_retry_after(FLOWS, 73473)
    assert ledger.blocked_seconds(FLOWS) == pytest.approx(300)


def test_a_spent_day_is_refused_and_not_booked(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """With the daily quota used up the request fails with the reset time and books nothing."""
    ledger = open_rate_limiter(scale=0.04)  # nine a day
    for _ in range(9):
        clock.now += ledger.reserve(REPORTS) + 61
    for _ in range(3):
        with pytest.raises(QuotaError, match="9 of our 9 requests a day are used") as caught:
            ledger.reserve(REPORTS)
        assert caught.value.retry_after_seconds == pytest.approx(86_460 - 9 * 61, abs=5)
    clock.now += 86_500 - 8 * 61
    assert ledger.reserve(REPORTS) == 0


def test_bookings_outlive_the_process(open_rate_limiter: Callable[..., RateLimiter]) -> None:
    """A process that dies after booking leaves its bookings to the next one."""
    ledger = open_rate_limiter()
    for _ in range(3):
        ledger.reserve(FLOWS)
    ledger.close()
    assert open_rate_limiter().reserve(FLOWS) == pytest.approx(BURST_WINDOW_SECONDS)


def test_old_bookings_are_forgotten(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock, tmp_path: Path
) -> None:
    """The file does not grow: what lies before every window goes as new bookings come."""
    ledger = open_rate_limiter()
    for _ in range(500):
        clock.now += max(ledger.reserve(FLOWS), 1.5)
    with closing(sqlite3.connect(tmp_path / "state" / RATE_LIMIT_STORE_FILE_NAME)) as file:
        (stored,) = file.execute("SELECT count(*) FROM booking").fetchone()
    assert stored <= 60


@pytest.mark.parametrize(
    "rubbish", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4000]
)
def test_a_broken_file_is_set_aside(
    open_rate_limiter: Callable[..., RateLimiter],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    rubbish: bytes,
) -> None:
    """A corrupt store is renamed and logged, and its successor starts carefully."""
    path = tmp_path / "state" / RATE_LIMIT_STORE_FILE_NAME
    path.parent.mkdir()
    path.write_bytes(rubbish)
    ledger = open_rate_limiter()
    with caplog.at_level(logging.WARNING):
        # What was spent before is unknown, so the first requests wait a whole window.
        assert ledger.reserve(FLOWS) == pytest.approx(STEADY_WINDOW_SECONDS)
    assert "is broken" in caplog.text
    assert path.with_name(f"{RATE_LIMIT_STORE_FILE_NAME}.broken").read_bytes() == rubbish


def test_a_file_that_breaks_under_us_is_set_aside(
    open_rate_limiter: Callable[..., RateLimiter], tmp_path: Path, clock: Clock
) -> None:
    """Pages overwritten while the rate limit store is open are noticed, and the run goes on."""
    ledger = open_rate_limiter()
    for _ in range(200):
        clock.now += ledger.reserve(FLOWS)
    ledger.close()
    path = tmp_path / "state" / RATE_LIMIT_STORE_FILE_NAME
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    waits = [ledger.reserve(FLOWS) for _ in range(3)]
    assert min(waits) >= STEADY_WINDOW_SECONDS - 1
    assert path.with_name(f"{RATE_LIMIT_STORE_FILE_NAME}.broken").exists()


def test_a_deleted_file_comes_back(
    open_rate_limiter: Callable[..., RateLimiter], tmp_path: Path
) -> None:
    """After the state folder was cleared during a run, all processes share one store again."""
    one, other = open_rate_limiter(), open_rate_limiter()
    one.reserve(FLOWS)
    other.reserve(FLOWS)
    for file in (tmp_path / "state").iterdir():
        file.unlink()
    assert one.reserve(FLOWS) == 0
    assert other.reserve(FLOWS) == 0
    # One that comes later finds the file of today, and the others must not be on yesterday's.
    assert open_rate_limiter().reserve(FLOWS) == 0
    assert one.reserve(FLOWS) == pytest.approx(BURST_WINDOW_SECONDS)


def test_what_is_dear_is_on_the_disk(
    open_rate_limiter: Callable[..., RateLimiter], tmp_path: Path
) -> None:
    """A report's booking waits for the disk, whatever came before it, also in a file made anew."""
    ledger = open_rate_limiter()
    for budgets, level in ((REPORTS, 2), (FLOWS, 1), (REPORTS, 2), (REPORTS, 2), (FLOWS, 1)):
        ledger.reserve(budgets)
        assert ledger.store.connection is not None
        assert ledger.store.connection.execute("PRAGMA synchronous").fetchone() == (level,)
    for file in (tmp_path / "state").iterdir():
        file.unlink()
    ledger.reserve(FLOWS)
    assert ledger.store.connection.execute("PRAGMA synchronous").fetchone() == (1,)


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path, clock: Clock) -> None:
    """Without a folder for the store no request is sent: the error names the setting."""
    (tmp_path / "file").write_text("in the way")
    ledger = RateLimiter(tmp_path / "file" / "state", "a", clock=clock)
    with pytest.raises(StorageError, match="KLAVIYO_STATE_DIR"):
        ledger.reserve(FLOWS)


def test_a_locked_file_is_reported_and_not_set_aside(
    open_rate_limiter: Callable[..., RateLimiter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that does not end is waited for, then named; its file is not thrown away."""
    monkeypatch.setattr("klaviyo_assets.api.rate_limit_store.BUSY_TIMEOUT_SECONDS", 0.05)
    ledger = open_rate_limiter()
    ledger.reserve(FLOWS)
    with closing(
        sqlite3.connect(tmp_path / "state" / RATE_LIMIT_STORE_FILE_NAME, isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            ledger.reserve(FLOWS)
    assert ledger.reserve(FLOWS) == 0
    assert not list((tmp_path / "state").glob("*.broken"))


def test_an_interrupted_booking_is_not_half_there(
    open_rate_limiter: Callable[..., RateLimiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal between two statements books nothing and leaves no lock."""
    ledger = open_rate_limiter()
    with monkeypatch.context() as patch:
        patch.setattr(ledger.store, "clock", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            ledger.reserve(FLOWS)
    assert open_rate_limiter().reserve(FLOWS) == 0


def raise_interrupt() -> float:
    """Stand for a signal's exception while the transaction is open."""
    raise KeyboardInterrupt


def test_only_the_user_can_read_it(
    open_rate_limiter: Callable[..., RateLimiter], tmp_path: Path
) -> None:
    """The folder is 0700 and every file in it 0600."""
    open_rate_limiter().reserve(FLOWS)
    folder = tmp_path / "state"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_an_account_is_known_for_a_day(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """A key's account is shared by all processes for a day."""
    name = hash_api_key(KEY)
    assert open_rate_limiter().account_facts(name) is None
    open_rate_limiter().store_account_facts(name, account_id="AbC123", timezone="Europe/Copenhagen")
    clock.now += 86_399
    facts = open_rate_limiter().account_facts(name)
    assert facts is not None
    assert (facts.account_id, facts.timezone) == ("AbC123", "Europe/Copenhagen")
    assert facts.fetched_at == datetime.fromtimestamp(clock.now - 86_399, UTC)
    clock.now += 1
    assert open_rate_limiter().account_facts(name) is None


def test_facts_from_the_future_are_requested_again(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """After a clock that was wrong, nothing is believed for longer than a day."""
    open_rate_limiter().store_account_facts("k", account_id="AbC123", timezone="UTC")
    clock.now -= 1
    assert open_rate_limiter().account_facts("k") is None


def test_the_zone_that_was_stored_last_is_known_for_good(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock, tmp_path: Path
) -> None:
    """Of an account's keys the last stored zone counts, for good."""
    folder = tmp_path / "state"
    assert last_known_timezone(folder, "AbC123") is None
    assert not folder.exists()
    open_rate_limiter().store_account_facts(
        "one", account_id="AbC123", timezone="Europe/Copenhagen"
    )
    clock.now += 1
    open_rate_limiter().store_account_facts("two", account_id="AbC123", timezone="America/New_York")
    open_rate_limiter().store_account_facts("else", account_id="XyZ789", timezone=None)
    clock.now += 10 * 86_400
    assert last_known_timezone(folder, "AbC123") == "America/New_York"
    assert last_known_timezone(folder, "XyZ789") is None
    assert last_known_timezone(folder, "Nobody") is None


def test_an_account_without_a_zone_is_known_as_such(
    open_rate_limiter: Callable[..., RateLimiter],
) -> None:
    """Klaviyo may name no zone; who the account is counts all the same."""
    open_rate_limiter().store_account_facts("k", account_id="AbC123", timezone=None)
    facts = open_rate_limiter().account_facts("k")
    assert facts is not None
    assert (facts.account_id, facts.timezone) == ("AbC123", None)


def test_the_zone_that_was_stored_last_waits_for_nobody(
    open_rate_limiter: Callable[..., RateLimiter], tmp_path: Path
) -> None:
    """Reading the zone waits for no transaction, and a corrupt store counts as none."""
    open_rate_limiter().store_account_facts("k", account_id="AbC123", timezone="UTC")
    path = tmp_path / "state" / RATE_LIMIT_STORE_FILE_NAME
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert last_known_timezone(path.parent, "AbC123") == "UTC"
    for file in path.parent.iterdir():
        file.write_bytes(b"rubbish" * 400)
    assert last_known_timezone(path.parent, "AbC123") is None


def test_the_revenue_metric_is_remembered_by_account(
    open_rate_limiter: Callable[..., RateLimiter], clock: Clock
) -> None:
    """No mapped metric differs from one never requested, and from another account's."""
    assert open_rate_limiter().revenue_metric() is None
    open_rate_limiter().store_revenue_metric("AbC123")
    asked_at = datetime.fromtimestamp(clock.now, UTC)
    clock.now += 10 * 86_400
    assert open_rate_limiter().revenue_metric() == RevenueMetric("AbC123", asked_at)
    assert open_rate_limiter("other").revenue_metric() is None
    open_rate_limiter().store_revenue_metric(None)
    assert open_rate_limiter().revenue_metric() == RevenueMetric(
        None, asked_at + timedelta(days=10)
    )


def test_the_key_is_not_in_the_file(
    open_rate_limiter: Callable[..., RateLimiter], tmp_path: Path
) -> None:
    """A key is known by a hash; no part of it is on the disk."""
    name = hash_api_key(KEY)
    assert KEY[:6] not in name
    assert hash_api_key(KEY + "x") != name
    ledger = open_rate_limiter(name)
    ledger.store_account_facts(name, account_id="AbC123", timezone="UTC")
    ledger.reserve((RateLimitBucket("GET /api/accounts", TIER_XS),))
    ledger.close()
    for file in (tmp_path / "state").iterdir():
        assert KEY[:12].encode() not in file.read_bytes()
