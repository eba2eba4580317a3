"""Bodies: F18 to F23. Half of a page, or none, is never read as a page."""

from functools import partial

import pytest

from klaviyo_assets.api.client import Client
from klaviyo_assets.sync import account
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.run import Run
from klaviyo_assets_tests.faults.asked import pauses, statuses
from klaviyo_assets_tests.faults.judge import judge, judge_part, stored_ids

LISTS = "/api/lists"
PROFILES = "/api/profiles"
DEADLINE_SECONDS = 1.0

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an answer have a second, where the product gives it a minute."""
    hurried = partial(Client, timeout_seconds=DEADLINE_SECONDS)
    monkeypatch.setattr(account, "Client", hurried)


def stocked(start: StartHome) -> Home:
    """Return a home for a shop with four pages of lists and three of profiles."""
    return start(lists=35, profiles=250)


def survived(home: Home, kind: str, *, times: int = 1, **options: object) -> Run:
    """Have the second page of two streams fail so many times; judge that it was only asked again.

    No page but that one is asked for twice.
    """
    for stream in ("lists", "profiles"):
        home.shop.forget()
        match = {"path": f"/api/{stream}", "from": 2, "to": 1 + times}
        with home.shop.faulty(kind, match=match, **options):
            run = home.sync(stream)
        assert run.success
        assert run.attempts[stream] == 1
        assert run.number(stream, "retries") == times
        asked = home.shop.queries(f"/api/{stream}")
        assert len(set(asked[1 : 2 + times])) == 1
        assert len(set(asked)) == len(asked) - times
        judge(home, stream)
    return run


def fell(home: Home, kind: str, said: str, **options: object) -> None:
    """Have everything from the second page on fail; judge what is told, kept and read later."""
    with home.shop.faulty(kind, match={"path": PROFILES, "from": 2}, **options):
        run = home.sync("profiles", "lists")
    assert list(run.failed) == ["profiles"]
    assert said in run.failed["profiles"]
    assert "Given up after 6 tries" in run.failed["profiles"]
    # The first page, and six tries of the second in each of Dagster's two attempts.
    assert home.shop.asked()[PROFILES] <= 1 + 2 * 6 + 1
    judge_part(home, "profiles")
    assert len(stored_ids(home, "profiles")) == 100
    judge(home, "lists")
    assert home.sync("profiles").success
    judge(home, "profiles")


def test_f18_half_a_page_is_not_stored(start: StartHome) -> None:
    """A connection that is reset in the middle of a body costs the same page again."""
    survived(stocked(start), "reset")


@pytest.mark.parametrize("kind", ["short_body", "long_body", "truncated_json", "broken_chunks"])
def test_f19_a_cut_body_is_asked_for_again(start: StartHome, kind: str) -> None:
    """A body that is not as long as it says, or ends early, is gone over."""
    survived(stocked(start), kind, times=2)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("short_body", "got no answer from 127.0.0.1: IncompleteRead"),
        ("truncated_json", "the answer is not JSON"),
    ],
)
def test_f19_a_body_that_stays_cut_fails(start: StartHome, kind: str, said: str) -> None:
    """If it lasts, the stream fails with what was seen; the pages before it are kept."""
    fell(stocked(start), kind, said)


@pytest.mark.usefixtures("in_a_hurry")
def test_f20_a_body_that_trickles_ends_at_the_deadline(start: StartHome) -> None:
    """Bytes that come steadily, and too slowly, do not hold a stream up beyond the deadline."""
    home = stocked(start)
    survived(home, "slow", bytes_per_second=100)
    assert DEADLINE_SECONDS * 0.9 <= pauses(home, PROFILES)[1] <= DEADLINE_SECONDS + 20


@pytest.mark.usefixtures("in_a_hurry")
def test_f21_an_answer_that_never_begins_ends_at_the_deadline(start: StartHome) -> None:
    """Without a byte the request ends at the deadline and is made again."""
    home = stocked(start)
    survived(home, "hang")
    assert DEADLINE_SECONDS * 0.9 <= pauses(home, PROFILES)[1] <= DEADLINE_SECONDS + 20


@pytest.mark.parametrize("kind", ["html_body", "empty_body", "null_body", "list_body", "text_body"])
def test_f22_a_good_status_with_no_page_is_asked_again(start: StartHome, kind: str) -> None:
    """200 is not believed where the body is no page."""
    survived(stocked(start), kind, times=2)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("html_body", "the answer is HTML or XML, not JSON"),
        ("empty_body", "the answer is empty"),
        ("null_body", "the answer is JSON, but not an object"),
        ("list_body", "the answer is JSON, but not an object"),
    ],
)
def test_f22_no_page_for_ever_fails(start: StartHome, kind: str, said: str) -> None:
    """If it lasts, the stream fails and says what came instead of a page."""
    fell(stocked(start), kind, said)


def test_f23_a_byte_order_mark_is_read_over(start: StartHome) -> None:
    """A mark in front of every page changes nothing and costs nothing."""
    home = stocked(start)
    with home.shop.faulty("bom", match={"path": "/api/*"}):
        run = home.sync("lists", "profiles")
    assert run.success
    assert run.number("lists", "retries") == run.number("profiles", "retries") == 0
    assert statuses(home, LISTS) == [200] * 4
    judge(home, "lists", "profiles")


@pytest.mark.parametrize("kind", ["charset", "bad_gzip"])
def test_f23_what_cannot_be_read_is_asked_for_again(start: StartHome, kind: str) -> None:
    """Text in another charset, and gzip that is none, are gone over."""
    survived(stocked(start), kind, times=2)


@pytest.mark.parametrize(("kind", "said"), [("charset", "the answer is not"), ("bad_gzip", "gzip")])
def test_f23_what_stays_unreadable_fails(start: StartHome, kind: str, said: str) -> None:
    """If it lasts, the stream fails clearly; no row is guessed from the bytes."""
    fell(stocked(start), kind, said)
