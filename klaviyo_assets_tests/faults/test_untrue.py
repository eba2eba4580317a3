"""Answers that are well-formed and untrue: F71 to F73. A good status is not believed for its own.

What belongs here: a 200 that is no page of Klaviyo's, and one that leaves out what is there. What
does not: bodies that no program could read (`test_bodies`), the way from page to page
(`test_paging`).
"""

from collections.abc import Mapping

import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.run import Run
from klaviyo_assets_tests.faults.asked import statuses
from klaviyo_assets_tests.faults.judge import PATHS, judge, judge_part, stored_ids

FULL = {"sync_mode": "full_refresh_overwrite"}
SWEEP = {"sweep_ids": True}

NO_PAGES: Mapping[str, tuple[str, Mapping[str, object], str]] = {
    "a page without links": ("bare_page", {}, "no `links.self`"),
    "nothing without links": ("bare_page", {"count": 0}, "no `links.self`"),
    "links without self": ("no_links", {}, "no `links.self`"),
    "errors beside a page": ("errors_beside", {}, "`errors` beside `data` (error: timed out)"),
    "errors beside nothing": ("errors_beside", {"count": 0}, "`errors` beside `data`"),
    "an empty object": ("text_body", {"text": "{}"}, "an object without `data`"),
}
"""What comes with 200 and is no page: the sandbox's fault, its options, and what is told of it."""

F71 = [each for each in NO_PAGES if "links" in each]
F72 = [each for each in NO_PAGES if each not in F71]

pytestmark = pytest.mark.usefixtures("impatient")


def stocked(start: StartHome) -> Home:
    """Return a home for a shop with some pages of lists, profiles and events."""
    return start(lists=15, profiles=250, events=2_500, future_events=0, days=3)


def asked_again(home: Home, lie: str) -> None:
    """Have the second page of events, and the first one of lists, be a lie once or twice."""
    kind, options, _ = NO_PAGES[lie]
    for stream, first, times in (("events", 2, 2), ("lists", 1, 1)):
        match = {"path": PATHS[stream], "from": first, "to": first + times - 1}
        with home.shop.faulty(kind, match=match, **options):
            run = home.sync(stream)
        assert run.success, run.failed
        assert run.attempts[stream] == 1
        assert run.number(stream, "retries") == times
        judge(home, stream)


def fails_in_the_end(home: Home, lie: str) -> None:
    """Have all but the first pages be a lie for ever; nothing is claimed, and a later run is whole.

    Of a first sync, then of a full refresh, a snapshot and a sweep of ids.
    """
    kind, options, said = NO_PAGES[lie]
    with home.shop.faulty(kind, match={"path": PATHS["events"], "from": 2}, **options):
        judge_told(home.sync("events"), said, "events")
    judge_part(home, "events")
    assert 0 < len(stored_ids(home, "events")) < len(home.shop.truth("events"))
    assert home.sync("events", "lists", "profiles").success
    for stream, config in (("events", FULL), ("lists", None), ("profiles", SWEEP)):
        with home.shop.faulty(kind, match={"path": PATHS[stream], "from": 2}, **options):
            judge_told(home.sync(stream, config=config), said, stream)
    judge(home, "events", "lists", "profiles")
    assert home.deleted("lists") == home.deleted("profiles") == {}


def judge_told(run: Run, said: str, stream: str) -> None:
    """Assert that a stream failed in words, after all tries."""
    assert list(run.failed) == [stream]
    assert said in run.failed[stream]
    assert "Given up after 6 tries" in run.failed[stream]


@pytest.mark.parametrize("lie", F71)
def test_f71_a_page_without_its_place_is_asked_for_again(start: StartHome, lie: str) -> None:
    """Klaviyo always says where a page is: what does not is no page, and never the last one."""
    asked_again(stocked(start), lie)


def test_f71_pages_without_their_place_for_ever_fail(start: StartHome) -> None:
    """If it lasts the stream fails, nothing counts as read, and no row is dropped or marked."""
    fails_in_the_end(stocked(start), "nothing without links")


@pytest.mark.parametrize("lie", F72)
def test_f72_what_tells_of_errors_is_asked_for_again(start: StartHome, lie: str) -> None:
    """Klaviyo never sends errors with records, nor an object with neither."""
    asked_again(stocked(start), lie)


def test_f72_errors_for_ever_fail(start: StartHome) -> None:
    """If it lasts the stream fails with Klaviyo's own words."""
    fails_in_the_end(stocked(start), "errors beside a page")


@pytest.mark.parametrize("lie", ["errors beside a page", "an empty object"])
def test_f72_single_records_are_asked_for_again(start: StartHome, lie: str) -> None:
    """The same of answers that are no pages: each list's profile count."""
    home = start(lists=4, events=0)
    assert home.sync("lists").success
    kind, options, _ = NO_PAGES[lie]
    one = f"/api/lists/{min(home.ids('lists'))}"
    with home.shop.faulty(kind, match={"path": one, "to": 2}, **options):
        run = home.sync("lists_detailed")
    assert run.success, run.failed
    assert run.number("lists_detailed", "retries") == 2
    assert statuses(home, one) == [200] * 3
    counted = home.query("SELECT id, profile_count FROM klaviyo.lists_detailed")
    assert dict(counted) == {
        each: len(home.shop.members(each)) for each in home.shop.truth("lists")
    }
