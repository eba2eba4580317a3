"""Responses that are well-formed and untrue: F71 to F73. A good status proves nothing."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.faults.assertions import (
    STREAM_PATHS,
    assert_complete,
    assert_sound_part,
    stored_ids,
)
from klaviyo_assets_tests.faults.journal import response_statuses

FULL = {"sync_mode": "full_refresh_overwrite"}
ID_SCAN = {"sweep_ids": True}

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

WHOLE_READS: Mapping[str, Mapping[str, object]] = {
    "events": FULL,
    "global_exclusions": FULL,
    "lists": {},
    "profiles": ID_SCAN,
}
"""Streams with what has them read whole: full refreshes, a snapshot, an id scan."""

pytestmark = pytest.mark.usefixtures("fast_retries")


def open_stocked_home(open_home: StartHome) -> Home:
    """Return a home for an account with some pages of lists, profiles and events."""
    return open_home(lists=15, profiles=250, events=1_500, future_events=0, days=3)


def assert_requested_again(home: Home, *false_responses: str) -> None:
    """Have the second page of events be each lie twice, and the first one of lists each once."""
    for stream, first, times in (("events", 2, 2), ("lists", 1, 1)):
        with ExitStack() as stack:
            for place, (kind, options, _) in enumerate(map(NO_PAGES.__getitem__, false_responses)):
                begin = first + place * times
                match = {"path": STREAM_PATHS[stream], "from": begin, "to": begin + times - 1}
                stack.enter_context(home.account.inject_fault(kind, match=match, **options))
            run = home.sync(stream)
        assert run.success, run.failures
        assert run.attempts[stream] == 1
        assert run.metadata_number(stream, "retries") == times * len(false_responses)
        assert_complete(home, stream)


def assert_fails_in_the_end(home: Home, false_response: str, *whole: str) -> None:
    """Have all but the first pages be a lie for ever; nothing is claimed, and a later run is whole.

    Of a first sync of events, then of the streams that are read whole.
    """
    kind, options, message = NO_PAGES[false_response]
    with home.account.inject_fault(
        kind, match={"path": STREAM_PATHS["events"], "from": 2}, **options
    ):
        assert_message(home.sync("events"), message, "events")
    assert_sound_part(home, "events")
    assert 0 < len(stored_ids(home, "events")) < len(home.account.true_ids("events"))
    assert home.sync("events", "lists", "profiles").success
    for stream in whole:
        with home.account.inject_fault(
            kind, match={"path": STREAM_PATHS[stream], "from": 2}, **options
        ):
            assert_message(home.sync(stream, config=WHOLE_READS[stream]), message, stream)
    assert_complete(home, "events", "lists", "profiles")
    assert home.deletion_times("lists") == home.deletion_times("profiles") == {}


def assert_message(run: RunResult, message: str, stream: str) -> None:
    """Assert that a stream failed in words, after all tries."""
    assert list(run.failures) == [stream]
    assert message in run.failures[stream]
    assert "Given up after 6 tries" in run.failures[stream]


@pytest.mark.parametrize("false_responses", [F71[:2], F71[2:]], ids=" and ".join)
def test_f71_a_page_without_its_own_link_is_requested_again(
    open_home: StartHome, false_responses: Sequence[str]
) -> None:
    """Klaviyo always says where a page is: what does not is no page, and never the last one."""
    assert_requested_again(open_stocked_home(open_home), *false_responses)


def test_f71_pages_without_their_place_for_ever_fail(open_home: StartHome) -> None:
    """If it lasts the stream fails, nothing counts as read, and no row is dropped or marked.

    Nor by a full refresh, a snapshot or an id scan.
    """
    home = open_stocked_home(open_home)
    assert_fails_in_the_end(home, "nothing without links", "events", "lists", "profiles")


@pytest.mark.parametrize("false_responses", [F72[:2], F72[2:]], ids=" and ".join)
def test_f72_a_page_with_errors_is_requested_again(
    open_home: StartHome, false_responses: Sequence[str]
) -> None:
    """Klaviyo never sends errors with records, nor an object with neither."""
    assert_requested_again(open_stocked_home(open_home), *false_responses)


def test_f72_errors_for_ever_fail(open_home: StartHome) -> None:
    """If it lasts the stream fails with Klaviyo's own words."""
    assert_fails_in_the_end(open_stocked_home(open_home), "errors beside a page", "lists")


@pytest.mark.parametrize("false_response", ["errors beside a page", "an empty object"])
def test_f72_single_records_are_requested_again(open_home: StartHome, false_response: str) -> None:
    """The same for responses that are no pages: each list's profile count."""
    home = open_home(lists=4, events=0)
    assert home.sync("lists").success
    kind, options, _ = NO_PAGES[false_response]
    one = f"/api/lists/{min(home.ids('lists'))}"
    with home.account.inject_fault(kind, match={"path": one, "to": 2}, **options):
        run = home.sync("lists_detailed")
    assert run.success, run.failures
    assert run.metadata_number("lists_detailed", "retries") == 2
    assert response_statuses(home, one) == [200] * 3
    counted = home.query("SELECT id, profile_count FROM klaviyo.lists_detailed")
    assert dict(counted) == {
        each: len(home.account.list_member_ids(each)) for each in home.account.true_ids("lists")
    }


@pytest.mark.parametrize(("stored", "streams"), [(0, [*WHOLE_READS]), (10, ["lists"])])
def test_f73_a_read_that_leaves_much_out_is_not_believed(
    open_home: StartHome, stored: int, streams: Sequence[str]
) -> None:
    """Nothing, or a list cut short, in Klaviyo's own form: read twice, then refused in words."""
    home = open_stocked_home(open_home)
    assert home.sync(*WHOLE_READS).success
    for stream in streams:
        config = WHOLE_READS[stream]
        before = home.query(f"FROM klaviyo.{stream} ORDER BY id")
        with home.account.inject_fault(
            "cut_list", match={"path": STREAM_PATHS[stream]}, count=stored
        ):
            run = home.sync(stream, config=config)
        message = run.failures[stream]
        assert f"rows before: {len(before):,}, rows now: {stored})" in message
        assert "a second read of everything said the same" in message
        assert "confirm_shrink: true" in message
        assert run.attempts[stream] == 1
        assert "everything is read a second time" in run.warnings
        assert home.query(f"FROM klaviyo.{stream} ORDER BY id") == before
        assert home.sync(stream, config=config).success
        assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))
    assert home.deletion_times("lists") == home.deletion_times("profiles") == {}
    assert_complete(home, "events", "lists", "profiles")


def test_f73_one_false_response_changes_nothing(open_home: StartHome) -> None:
    """The second read has everything: the run is green, and says that it read twice."""
    home = open_stocked_home(open_home)
    assert home.sync(*WHOLE_READS).success
    for stream, config in WHOLE_READS.items():
        with home.account.inject_fault(
            "cut_list", match={"path": STREAM_PATHS[stream], "to": 1}, count=3
        ):
            run = home.sync(stream, config=config)
        assert run.success, run.failures
        assert "everything is read a second time" in run.warnings
        assert run.metadata_number(stream, "records_read") == len(home.account.true_ids(stream))
    assert home.deletion_times("lists") == home.deletion_times("profiles") == {}
    assert_complete(home, "events", "lists", "profiles")


def test_f73_what_is_confirmed_is_believed(open_home: StartHome) -> None:
    """When most lists are really deleted, the sync is refused until confirmed, then marks them."""
    home = open_stocked_home(open_home)
    assert home.sync("lists").success
    gone = {home.account.mutate(list=each, delete=True) for each in sorted(home.ids("lists"))[:12]}
    assert "would mark 12 of 15 rows as deleted" in home.sync("lists").failures["lists"]
    assert home.deletion_times("lists") == {}
    assert home.sync("lists", config={"confirm_shrink": True}).success
    assert set(home.deletion_times("lists")) == gone
    # Those marked are no part of the share any more.
    assert home.sync("lists").success
    assert sorted(home.live_ids("lists")) == sorted(home.account.true_ids("lists"))


def test_f73_a_few_lists_may_go_unless_none_is_left(open_home: StartHome) -> None:
    """Of small tables people delete half in an afternoon; that nothing is left is confirmed."""
    home = open_home(lists=4, events=0)
    assert home.sync("lists").success
    first, second, third, fourth = sorted(home.ids("lists"))
    for each in (first, second, third):
        home.account.mutate(list=each, delete=True)
    home.account.clear_journal()
    run = home.sync("lists")
    assert run.success, run.failures
    assert set(home.deletion_times("lists")) == {first, second, third}
    assert home.account.request_counts()[STREAM_PATHS["lists"]] == 2
    home.account.mutate(list=fourth, delete=True)
    assert "rows before: 1, rows now: 0" in home.sync("lists").failures["lists"]
    assert home.sync("lists", config={"confirm_shrink": True}).success
    assert home.live_ids("lists") == []


def test_f73_the_share_is_a_setting(open_home: StartHome) -> None:
    """What a table may lose is `KLAVIYO_SHRINK_LIMIT`; what lies before a start date is no loss."""
    home = open_stocked_home(open_home)
    assert home.sync("events", "lists").success
    for each in sorted(home.ids("lists"))[:12]:
        home.account.mutate(list=each, delete=True)
    home.account.clear_journal()
    assert home.sync("lists", shrink_limit="0.9").success
    assert len(home.deletion_times("lists")) == 12
    assert home.account.request_counts()[STREAM_PATHS["lists"]] == 1
    day = f"{home.account.now:%Y-%m-%d}"
    assert home.sync("events", config=FULL, start_date=day).success
    assert 0 < home.row_count("events") < len(home.account.true_ids("events")) / 2
