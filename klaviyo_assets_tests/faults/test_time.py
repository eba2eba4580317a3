"""F35 to F41, F74, F78: records dated ahead and late; clocks that are wrong or go back."""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from klaviyo_assets.seams import use_clock
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    REPORT_PATHS,
    assert_rows_match,
    days_between,
    report_metrics,
    run_partitions,
    stored_rows,
)
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home
from klaviyo_assets_tests.faults.assertions import (
    assert_complete,
    assert_sound_part,
    assert_unique_keys,
    read_committed_cursor,
)

SetClock = Callable[[Home, Callable[[], datetime]], None]

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SETTLED = timedelta(minutes=5)
"""What the mark stays behind Klaviyo's clock."""


def late_events(home: Home, *, days: float) -> set[str]:
    """Let events appear in six hours that are dated so many days before that."""
    seen = home.account.now + 6 * HOUR
    dated = (seen - days * DAY).isoformat()
    return home.account.add_events(
        {"datetime": dated, "visible_at": seen.isoformat(), "count": 40, "profile": None}
    )


@pytest.fixture
def set_local_clock() -> Generator[SetClock]:
    """Return what gives this machine another clock until the test ends."""
    with ExitStack() as clocks:

        def set_clock(home: Home, clock: Callable[[], datetime]) -> None:
            home.clock = clock
            clocks.enter_context(use_clock(clock))

        yield set_clock


def test_f35_events_of_the_future_are_kept_and_move_nothing(open_home: StartHome) -> None:
    """Events 300 days ahead are stored, the cursor stays behind now, and others still come."""
    # No events but those written here: an account's own come late now and then.
    home = open_home(events=0, future_events=0)
    ahead = home.account.add_events(
        {"datetime": (home.account.now + 300 * DAY).isoformat(), "count": 25}
    )
    for hours in (0, 6, 30):
        home.account.advance_clock(hours=hours)
        ordinary = home.account.add_events({"datetime": (home.account.now - HOUR).isoformat()})
        run = home.sync("events")
        assert run.success
        assert run.warnings == ""
        assert ahead | ordinary <= set(home.ids("events"))
        mark = read_committed_cursor(home, "events")
        assert mark is not None
        assert home.account.now - 2 * HOUR <= mark <= home.account.now - SETTLED
        assert_complete(home, "events")


def test_f36_late_events_within_the_lookback_arrive(home: Home) -> None:
    """Events that appear six days late come with a lookback of seven days.

    That a daily re-read of seven days brings them, too: e2e/test_second_sync.py.
    """
    home.sync("events")
    late = late_events(home, days=6)
    home.account.advance_clock(hours=7)
    assert home.sync("events").success
    assert not late & set(home.ids("events"))
    assert home.sync("events", lookback_days="7").success
    assert late <= set(home.ids("events"))
    assert_complete(home, "events")


@pytest.mark.parametrize("road", ["window", "schedule"])
def test_f37_later_events_are_missing_until_read_again(home: Home, road: str) -> None:
    """Events 17 days late are not in a sync with a lookback of 7, and are in a deep re-read."""
    home.sync("events")
    late = late_events(home, days=17)
    home.account.advance_clock(hours=7)
    assert home.sync("events", lookback_days="7").success
    assert home.run_schedule("klaviyo_late_events", home.account.now, late_events_days="7").success
    assert home.account.true_ids("events") - set(home.ids("events")) == late
    assert_sound_part(home, "events")
    mark = read_committed_cursor(home, "events")
    if road == "window":
        dated = home.account.now - HOUR - 17 * DAY
        window = {"start": f"{dated - DAY:%Y-%m-%d}", "end": f"{dated + DAY:%Y-%m-%d}"}
        assert home.sync("events", config=window).success
    else:
        at = home.account.now
        assert home.run_schedule("klaviyo_late_events", at, late_events_days="20").success
    assert late <= set(home.ids("events"))
    assert read_committed_cursor(home, "events") == mark
    assert_complete(home, "events")


def test_f38_events_of_one_moment_are_all_there(home: Home) -> None:
    """2,500 events of one second, over two page borders, and 1,200 more of it after the run."""
    same = (home.account.now - HOUR).isoformat()
    home.account.add_events({"datetime": same, "count": 2500})
    assert home.sync("events").success
    assert_complete(home, "events")
    mark = read_committed_cursor(home, "events")
    assert mark is not None
    home.account.add_events({"datetime": mark.isoformat(), "count": 1200})
    assert home.sync("events").success
    assert_complete(home, "events")
    assert read_committed_cursor(home, "events") == mark


def test_f38_profiles_of_one_moment_are_all_there(open_home: StartHome) -> None:
    """250 profiles that changed in one second, over page borders, and 30 more after the run."""
    home = open_home(profiles=300)
    same = (home.account.now - SETTLED).isoformat()
    people = sorted(home.account.true_ids("profiles"))
    for person in people[:250]:
        home.account.mutate(profile=person, set={"updated": same, "last_name": "First"})
    first = home.sync("profiles")
    assert first.cursor("profiles") == same
    assert_complete(home, "profiles")
    for person in people[235:265]:
        home.account.mutate(profile=person, set={"updated": same, "last_name": "Second"})
    assert home.sync("profiles").success
    assert_complete(home, "profiles")
    named = "SELECT id FROM klaviyo.profiles WHERE last_name = 'Second'"
    assert sorted(each for (each,) in home.query(named)) == people[235:265]


@pytest.mark.parametrize("hours", [2, -72], ids=["ahead", "days behind"])
def test_f39_a_wrong_local_clock_loses_nothing(
    home: Home, set_local_clock: SetClock, hours: int
) -> None:
    """With this machine's clock wrong, marks keep behind the earlier of the two clocks."""
    set_local_clock(home, lambda: home.account.now + hours * HOUR)
    for wait in (0.0, 3):
        home.account.advance_clock(hours=wait)
        settled = home.account.now - timedelta(minutes=6)
        young = home.account.now - timedelta(minutes=4)
        home.account.add_events({"datetime": settled.isoformat()}, {"datetime": young.isoformat()})
        person = min(home.account.true_ids("profiles"))
        home.account.mutate(profile=person, set={"updated": settled.isoformat()})
        run = home.sync("events", "profiles")
        assert run.success
        side = "behind" if hours > 0 else "ahead of"
        message = f"dated up to {abs(hours) * 60} minutes {side} this machine's clock"
        assert run.warnings.count(message) == 2
        for stream in ("events", "profiles"):
            mark = read_committed_cursor(home, stream)
            assert mark is not None
            assert mark <= home.account.now + min(hours, 0) * HOUR - SETTLED
            assert hours < 0 or mark >= settled
            assert run.metadata_number(stream, "clock_difference_seconds") == -hours * 3600
        assert_complete(home, "events", "profiles")
    statuses = {entry.status for entry in home.account.sandbox.journal.requests()}
    assert statuses == {200}


@pytest.mark.parametrize("hours", [2, -2], ids=["ahead", "behind"])
def test_f39_a_wrong_local_clock_ends_no_day(
    open_home: StartHome, set_local_clock: SetClock, hours: int
) -> None:
    """A day of reports is over once it is by both clocks, an hour before midnight and after."""
    now = datetime(2026, 10, 10, 23 if hours > 0 else 1, tzinfo=UTC)
    home = report_home(open_home, now, days=30)
    set_local_clock(home, lambda: home.account.now + hours * HOUR)
    metric = report_metrics(home)[0]
    over = date(2026, 10, 9 if hours > 0 else 8)
    assert run_partitions(home, FLOW_REPORT, (metric, over)).run.success
    refused = run_partitions(home, FLOW_REPORT, (metric, over + DAY))
    assert "not over" in refused.run.failures[FLOW_REPORT]
    assert "this machine's clock" in refused.run.warnings
    assert assert_rows_match(home, FLOW_REPORT, metric, [over])
    assert not stored_rows(home, FLOW_REPORT, metric, [over + DAY])


@pytest.mark.parametrize(
    ("change", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25)], ids=["23h", "25h"]
)
def test_f40_a_day_of_another_length_is_one_day(
    open_home: StartHome, change: date, hours: int
) -> None:
    """Days around a change of clocks have the numbers of their own hours, and each key once."""
    span = (NOW.date() - change).days + 60
    home = report_home(open_home, NOW, "Europe/Copenhagen", days=span, campaigns=span)
    zone = ZoneInfo("Europe/Copenhagen")
    first, last = (
        datetime.combine(change + each * DAY, datetime.min.time(), zone) for each in (0, 1)
    )
    assert (last.astimezone(UTC) - first.astimezone(UTC)) == hours * HOUR
    metric = report_metrics(home)[0]
    days = days_between(change - DAY, change + DAY)
    for stream, times in ((FLOW_REPORT, 1), (CAMPAIGN_REPORT, 2)):
        for _ in range(times):
            done = run_partitions(home, stream, (metric, days[0], metric, days[-1]))
            assert done.run.success, done.run.failures
            assert assert_rows_match(home, stream, metric, days)
        assert_unique_keys(home, stream)
    assert stored_rows(home, FLOW_REPORT, metric, [change])


@pytest.mark.parametrize("whose", ["local", "Klaviyo's", "both"])
def test_f41_a_clock_that_goes_back_lowers_no_cursor(
    home: Home, set_local_clock: SetClock, whose: str
) -> None:
    """Three hours back between two runs leave the cursor; when time goes on, so does the cursor."""
    # A cursor is a cursor, whichever stream has it: two are synced where both clocks go back.
    streams = ("events", "profiles") if whose == "both" else ("events",)
    local = timedelta()
    set_local_clock(home, lambda: home.account.now + local)
    home.sync(*streams)
    before = [read_committed_cursor(home, each) for each in streams]
    local = -3 * HOUR if whose == "local" else timedelta()
    home.account.advance_clock(hours=0 if whose == "local" else -3)
    if whose == "Klaviyo's":
        local = 3 * HOUR
    assert home.sync(*streams).success
    assert [read_committed_cursor(home, each) for each in streams] == before
    home.account.advance_clock(hours=7)
    assert home.sync(*streams).success
    after = [read_committed_cursor(home, each) for each in streams]
    assert all(
        then is not None and now is not None and now > then
        for then, now in zip(before, after, strict=True)
    )
    assert_complete(home, *streams)


AHEAD = {"hour": HOUR, "day": DAY, "sixty days": 60 * DAY}
WHICH = {"one": {"path": "/api/events", "nth": 1}, "all": {"path": "*"}}


@pytest.mark.parametrize(
    ("ahead", "which"),
    [("hour", "one"), ("day", "all"), ("sixty days", "one"), ("sixty days", "all")],
)
def test_f74_events_that_come_late_are_read_however_far_ahead_klaviyo_dates_its_answers(
    open_home: StartHome, ahead: str, which: str
) -> None:
    """Events of the last minutes that Klaviyo shows after a sync come with the next one."""
    home = open_home(events=40, future_events=0)
    minute = timedelta(minutes=1)
    home.account.add_events({"datetime": (home.account.now - minute / 6).isoformat()})
    seconds = AHEAD[ahead].total_seconds()
    with home.account.inject_fault("date", match=WHICH[which], seconds=seconds):
        first = home.sync("events")
    assert first.success
    assert first.warnings.count("minutes ahead of this machine's clock") == 1
    assert first.metadata_number("events", "clock_difference_seconds") == seconds
    mark, then = read_committed_cursor(home, "events"), home.account.now
    late = home.account.add_events(
        {
            "datetime": (home.account.now - 4 * minute).isoformat(),
            "visible_at": (home.account.now + minute).isoformat(),
            "count": 5,
        }
    )
    home.account.advance_clock(minutes=10)
    second = home.sync("events")
    assert second.success
    assert second.warnings == ""
    assert late <= set(home.ids("events"))
    assert_complete(home, "events")
    assert mark is not None
    assert mark <= then - SETTLED


@pytest.mark.parametrize("text", ["", "yesterday", "Mon, 99 Feb 2026 25:61:00 GMT"])
def test_f74_without_a_date_that_can_be_read_our_own_clock_counts(home: Home, text: str) -> None:
    """Without a readable `Date` the cursor's safety margin is taken from this machine's clock."""
    home.account.add_events({"datetime": home.account.now.isoformat()})
    with home.account.inject_fault("date", match={"path": "*"}, text=text):
        run = home.sync("events")
    assert run.success
    assert run.warnings == ""
    mark = read_committed_cursor(home, "events")
    assert mark is not None
    assert mark <= home.account.now - SETTLED
    assert_complete(home, "events")


def test_f74_a_newer_version_wins_over_one_that_was_dated_ahead(home: Home) -> None:
    """Events get another profile after a sync whose responses were dated a day ahead."""
    with home.account.inject_fault("date", match={"path": "*"}, seconds=DAY.total_seconds()):
        assert home.sync("events").success
    owners = home.query("SELECT profile_id, count(*) FROM events GROUP BY 1 ORDER BY 2 DESC")
    old, new = str(owners[0][0]), str(owners[1][0])
    home.account.mutate(profile=old, merge_into=new)
    home.account.advance_clock(hours=1)
    window = {"start": "2026-08-01", "end": f"{home.account.now + DAY:%Y-%m-%d}"}
    assert home.sync("events", config=window).success
    now = dict(home.query("SELECT profile_id, count(*) FROM events GROUP BY 1"))
    assert old not in now
    assert now[new] == owners[0][1] + owners[1][1]


@pytest.mark.parametrize("path", [REPORT_PATHS[FLOW_REPORT], "*"], ids=["one", "all"])
def test_f74_no_day_of_reports_is_final_too_early(open_home: StartHome, path: str) -> None:
    """With responses dated sixty days ahead recent days stay open, and today is not over."""
    now = datetime(2026, 10, 10, 12, tzinfo=UTC)
    home = report_home(open_home, now, days=30)
    metric, yesterday, today = report_metrics(home)[0], date(2026, 10, 9), date(2026, 10, 10)
    with home.account.inject_fault(
        "date", match={"path": path}, seconds=(60 * DAY).total_seconds()
    ):
        done = run_partitions(home, FLOW_REPORT, (metric, yesterday))
        refused = run_partitions(home, FLOW_REPORT, (metric, today))
    assert done.run.success
    ((_, _, shown),) = done.materializations
    assert shown["klaviyo/is_final"] is False
    assert shown["klaviyo/fetched_at"] == now.isoformat()
    assert shown["klaviyo/clock_difference_seconds"] == (60 * DAY).total_seconds()
    assert "minutes ahead of this machine's clock" in done.run.warnings
    assert "not over" in refused.run.failures[FLOW_REPORT]
    stored = stored_rows(home, FLOW_REPORT, metric, [yesterday])
    assert stored
    assert {row["is_final"] for row in stored.values()} == {False}


@pytest.mark.parametrize(("what", "lookback"), [("account", "0"), ("metric", "0"), ("metric", "7")])
def test_f78_what_comes_late_into_emptiness_is_read(
    open_home: StartHome, what: str, lookback: str
) -> None:
    """A late event, and a history, of an account or a metric that had no event until then."""
    home = open_home(events=0, future_events=0)
    busy, quiet = sorted(home.account.attributes("metric"))[:2]
    chosen = ""
    if what == "metric":
        chosen = f"{busy},{quiet}"
        home.account.add_events({"metric": busy, "datetime": (home.account.now - HOUR).isoformat()})
    for _ in range(2):
        assert home.sync("events", lookback_days=lookback, event_metric_ids=chosen).success
        home.account.advance_clock(hours=1)
    late = home.account.add_events(
        {"metric": quiet, "datetime": (home.account.now - 3 * DAY).isoformat()},
        {"metric": quiet, "datetime": (home.account.now - 400 * DAY).isoformat(), "count": 30},
    )
    home.account.clear_journal()
    second = home.sync("events", lookback_days=lookback, event_metric_ids=chosen)
    assert second.success
    assert late <= set(home.ids("events"))
    assert_complete(home, "events")
    assert home.account.request_counts()["/api/events"] <= (1 if what == "account" else 2)
