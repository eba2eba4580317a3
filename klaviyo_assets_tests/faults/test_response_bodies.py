"""Bodies: F18 to F23. Half of a page, or none, is never read as a page."""

from contextlib import ExitStack
from functools import partial

import pytest

from klaviyo_assets.account import connection
from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.faults.assertions import assert_complete, assert_sound_part, stored_ids
from klaviyo_assets_tests.faults.journal import request_pauses, response_statuses

LISTS = "/api/lists"
PROFILES = "/api/profiles"
DEADLINE_SECONDS = 1.0

pytestmark = pytest.mark.usefixtures("fast_retries")


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an answer have a second, where the product gives it a minute."""
    hurried = partial(KlaviyoClient, timeout_seconds=DEADLINE_SECONDS)
    monkeypatch.setattr(connection, "KlaviyoClient", hurried)


def open_stocked_home(open_home: StartHome) -> Home:
    """Return a home for an account with seven pages of lists and seven of profiles."""
    return open_home(lists=65, profiles=650, events=0)


def open_small_home(open_home: StartHome) -> Home:
    """Return a home for an account with two pages of lists and two of profiles."""
    return open_home(lists=15, profiles=150, events=0)


def assert_read_again(home: Home, *kinds: str, times: int = 1, **options: object) -> RunResult:
    """Have a page fail so often for each kind, one after the other, from the second page on.

    Of two streams: each of these pages is read again at once, and no other page is.
    """
    for stream in ("lists", "profiles"):
        home.account.clear_journal()
        with ExitStack() as stack:
            for place, kind in enumerate(kinds):
                first = 2 + place * (times + 1)
                match = {"path": f"/api/{stream}", "from": first, "to": first + times - 1}
                stack.enter_context(home.account.inject_fault(kind, match=match, **options))
            run = home.sync(stream)
        assert run.success
        assert run.attempts[stream] == 1
        assert run.metadata_number(stream, "retries") == times * len(kinds)
        requested = home.account.queries(f"/api/{stream}")
        for place, kind in enumerate(kinds):
            first = 1 + place * (times + 1)
            assert len(set(requested[first : first + times + 1])) == 1, kind
        assert len(set(requested)) == len(requested) - times * len(kinds)
        assert_complete(home, stream)
    return run


def assert_fails(home: Home, kind: str, message: str, **options: object) -> None:
    """Have everything from the second page on fail; check what is logged, stored and read later."""
    with home.account.inject_fault(kind, match={"path": PROFILES, "from": 2}, **options):
        run = home.sync("profiles", "lists")
    assert list(run.failures) == ["profiles"]
    assert message in run.failures["profiles"]
    assert "Given up after 6 tries" in run.failures["profiles"]
    # The first page, and six tries of the second in each of Dagster's two attempts.
    assert home.account.request_counts()[PROFILES] <= 1 + 2 * 6 + 1
    assert_sound_part(home, "profiles")
    assert len(stored_ids(home, "profiles")) == 100
    assert_complete(home, "lists")
    assert home.sync("profiles").success
    assert_complete(home, "profiles")


def test_f18_half_a_page_is_not_stored(open_home: StartHome) -> None:
    """A connection that is reset in the middle of a body costs the same page again."""
    assert_read_again(open_small_home(open_home), "reset")


def test_f19_a_cut_body_is_requested_again(open_home: StartHome) -> None:
    """A body that is not as long as it says, or ends early, is retried."""
    kinds = ("short_body", "long_body", "truncated_json", "broken_chunks")
    assert_read_again(open_stocked_home(open_home), *kinds, times=2)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("short_body", "got no response from 127.0.0.1: IncompleteRead"),
        ("truncated_json", "the response is not JSON"),
    ],
)
def test_f19_a_body_that_stays_cut_fails(open_home: StartHome, kind: str, message: str) -> None:
    """If every try is cut off, the stream fails with what arrived; the pages before are stored."""
    assert_fails(open_small_home(open_home), kind, message)


@pytest.mark.usefixtures("short_deadline")
def test_f20_a_body_that_trickles_ends_at_the_deadline(open_home: StartHome) -> None:
    """Bytes that come steadily, and too slowly, do not hold a stream up beyond the deadline."""
    home = open_small_home(open_home)
    assert_read_again(home, "slow", bytes_per_second=100)
    assert DEADLINE_SECONDS * 0.9 <= request_pauses(home, PROFILES)[1] <= DEADLINE_SECONDS + 20


@pytest.mark.usefixtures("short_deadline")
def test_f21_an_answer_that_never_begins_ends_at_the_deadline(open_home: StartHome) -> None:
    """Without a byte the request ends at the deadline and is made again."""
    home = open_small_home(open_home)
    assert_read_again(home, "hang")
    assert DEADLINE_SECONDS * 0.9 <= request_pauses(home, PROFILES)[1] <= DEADLINE_SECONDS + 20


def test_f22_a_200_without_a_page_is_requested_again(open_home: StartHome) -> None:
    """200 is not believed where the body is no page."""
    kinds = ("html_body", "empty_body", "null_body", "list_body", "text_body")
    assert_read_again(open_stocked_home(open_home), *kinds, times=2)


# What is said of other bodies is tested where it is said: unit/decode/test_broken_records.py.
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("html_body", "the response is HTML or XML, not JSON"),
        ("null_body", "the response is JSON, but not an object"),
    ],
)
def test_f22_no_page_for_ever_fails(open_home: StartHome, kind: str, message: str) -> None:
    """If it lasts, the stream fails and says what came instead of a page."""
    assert_fails(open_small_home(open_home), kind, message)


def test_f23_a_byte_order_mark_is_read_over(open_home: StartHome) -> None:
    """A mark in front of every page changes nothing and costs nothing."""
    home = open_small_home(open_home)
    with home.account.inject_fault("bom", match={"path": "/api/*"}):
        run = home.sync("lists", "profiles")
    assert run.success
    assert (
        run.metadata_number("lists", "retries") == run.metadata_number("profiles", "retries") == 0
    )
    assert response_statuses(home, LISTS) == [200] * 2
    assert_complete(home, "lists", "profiles")


def test_f23_an_unreadable_body_is_requested_again(open_home: StartHome) -> None:
    """Text in another charset, and gzip that is none, are retried."""
    assert_read_again(open_stocked_home(open_home), "charset", "bad_gzip", times=2)


@pytest.mark.parametrize(
    ("kind", "message"), [("charset", "the response is not"), ("bad_gzip", "gzip")]
)
def test_f23_what_stays_unreadable_fails(open_home: StartHome, kind: str, message: str) -> None:
    """If it lasts, the stream fails clearly; no row is guessed from the bytes."""
    assert_fails(open_small_home(open_home), kind, message)
