"""The second sync: its requests, its rows, and what it leaves unchanged."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from klaviyo_assets.model.stream import Collection, Detail, Stream
from klaviyo_assets.seams import use_clock
from klaviyo_assets.streams import DEFAULT_COLLECTIONS
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.e2e.sandbox_account import NOON, open_sandbox_account

LISTS = 5


def second_sync_requests(stream: Stream) -> int:
    """Return the requests of a second sync at once, where every collection fits on a page."""
    match stream.source:
        case Collection(slices=slices):
            return len(slices)
        # One a record, where nothing in the parent says that the detail changed: the members of a
        # list come and go without a trace.
        case Detail(version_column=None):
            return LISTS
        case _:
            return 0


EXPECTED_REQUESTS = {stream.name: second_sync_requests(stream) for stream in DEFAULT_COLLECTIONS}
"""Campaigns and flows come archived and not: two requests."""

KNOWN_BY_ID = tuple(each.name for each in DEFAULT_COLLECTIONS if each.key == ("id",))
"""All but the rows that a view makes of an event's attributions."""

DAY = timedelta(days=1)
LATE = {"datetime": (NOON - timedelta(days=3)).isoformat()}


SLICE_COLUMNS = {"campaigns": "archived", "flows": "archived", "images": "hidden"}
"""Columns that tell a stream's slices apart."""

SLICES = {
    stream.name: (
        stream.cursor.column,
        SLICE_COLUMNS.get(stream.name, "1"),
    )
    for stream in DEFAULT_COLLECTIONS
    if stream.cursor is not None and stream.is_sorted_by_cursor
}
"""Streams with a mark: the cursor, and the columns that Klaviyo makes us ask by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoSyncs:
    """A home after two syncs of everything at once, and what was there between the two."""

    home: Home
    first: RunResult
    between: dict[str, list[str]]
    second: RunResult
    requested: int


@pytest.fixture(scope="module")
def two_syncs(
    dagster_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoSyncs]:
    """Give two syncs of everything, one right after the other."""
    with open_sandbox_account(lists=LISTS) as account:
        home = Home(
            account=account, root=tmp_path_factory.mktemp("home"), dagster_template=dagster_template
        )
        first = home.sync()
        between = {stream: sorted(home.ids(stream)) for stream in KNOWN_BY_ID}
        account.clear_journal()
        second = home.sync()
        requested = sum(account.request_counts().values())
        yield TwoSyncs(home=home, first=first, between=between, second=second, requested=requested)


def test_a_second_sync_at_once_asks_only_what_could_be_new(two_syncs: TwoSyncs) -> None:
    """It makes one request a slice and one a list, and logs no warning."""
    assert two_syncs.second.success
    assert {
        each: two_syncs.second.metadata_number(each, "requests") for each in EXPECTED_REQUESTS
    } == EXPECTED_REQUESTS
    assert two_syncs.requested == sum(EXPECTED_REQUESTS.values())
    assert two_syncs.second.warnings == ""


def test_a_second_sync_at_once_changes_nothing(two_syncs: TwoSyncs) -> None:
    """It doubles nothing, loses nothing, and hands every mark on as it was."""
    for stream, ids in two_syncs.between.items():
        assert sorted(two_syncs.home.ids(stream)) == ids
        assert two_syncs.second.cursor(stream) == two_syncs.first.cursor(stream)
        assert two_syncs.second.materializations[stream]["dagster/row_count"] == len(ids)


@pytest.mark.parametrize("stream", SLICES)
def test_only_records_at_the_cursor_are_read_again(two_syncs: TwoSyncs, stream: str) -> None:
    """A second sync reads what shares the second of a slice's mark or is later, and no more."""
    column, slices = SLICES[stream]
    (expected,) = two_syncs.home.query(
        "SELECT count(*) FILTER (again) FROM (SELECT "
        f"{column} >= date_trunc('second', max({column}) FILTER (WHERE {column} <= "
        f"TIMESTAMPTZ '{NOON.isoformat()}' - INTERVAL 5 MINUTE) OVER (PARTITION BY {slices})) "
        f"AS again FROM klaviyo.{stream})"
    )
    assert two_syncs.second.metadata_number(stream, "records_read") == expected[0]
    assert expected[0] < len(two_syncs.between[stream])


def test_a_preview_has_rows_and_nothing_of_a_person(two_syncs: TwoSyncs) -> None:
    """Five rows are in the metadata, which no erasure reaches: of people only times and flags."""
    for run in (two_syncs.first, two_syncs.second):
        shown = {
            stream: metadata["klaviyo/preview"]
            for stream, metadata in run.materializations.items()
            if "klaviyo/preview" in metadata
        }
        assert shown.keys() >= {"campaigns", "events", "lists", "metrics", "profiles"}
        # The UI shows metadata in its order: the rows, then how many there are.
        first, second = [*run.materializations["campaigns"]][:2]
        assert (first, second) == ("klaviyo/preview", "dagster/row_count")
        campaigns = shown["campaigns"]
        assert isinstance(campaigns, dg.TableMetadataValue)
        # The second sync reads few campaigns again, and shows those.
        assert len(campaigns.records) == 5 or run is two_syncs.second
        ids = {each.data["id"] for each in campaigns.records}
        assert ids <= set(two_syncs.home.ids("campaigns"))
        people = two_syncs.home.query("SELECT id, email, phone_number, last_name FROM profiles")
        texts = {text for person in people for text in person if text}
        cells = {
            f"{cell}"
            for preview in shown.values()
            if isinstance(preview, dg.TableMetadataValue)
            for record in preview.records
            for cell in record.data.values()
        }
        assert cells & texts == set()


CHANGING = ("campaigns", "email_templates", "events", "flows", "lists", "profiles", "segments")


def test_after_a_day_exactly_the_new_rows_arrive(home: Home) -> None:
    """When a day has passed, all that is new or changed arrives; late events alone do not."""
    first = home.sync(*CHANGING)
    known = home.account.true_ids("events")
    late_by_hand = home.account.add_events({**LATE, "visible_at": (NOON + DAY / 2).isoformat()})
    home.account.advance_clock(days=1)
    changed = home.account.mutate(campaign=home.ids("campaigns")[0], set={"name": "Renamed"})
    for kind in ("template", "flow", "list"):
        home.account.mutate(create=kind, set={"name": "New"})
    home.account.advance_clock(minutes=10)
    second = home.sync(*CHANGING)
    assert second.success
    mark = datetime.fromisoformat(str(first.cursor("events")))
    moments = home.account.true_cursors("events")
    late = {each for each, at in moments.items() if each not in known and at and at < mark}
    assert late >= late_by_hand
    assert sorted(home.ids("events")) == sorted(set(moments) - late)
    for stream in set(CHANGING) - {"events"}:
        assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))
    names = home.query(f"SELECT name FROM klaviyo.campaigns WHERE id = '{changed}'")
    assert names == [("Renamed",)]
    for stream in SLICES.keys() & set(CHANGING):
        assert str(second.cursor(stream)) > str(first.cursor(stream))


def test_a_lookback_brings_late_events(home: Home) -> None:
    """With a lookback of four days exactly what is dated from then on is read again."""
    first = home.sync("events")
    known = home.account.true_ids("events")
    late = home.account.add_events({**LATE, "visible_at": (NOON + DAY / 2).isoformat()})
    home.account.advance_clock(days=1)
    home.account.clear_journal()
    second = home.sync("events", lookback_days="4")
    since = datetime.fromisoformat(str(first.cursor("events"))) - 4 * DAY
    again = {each for each, at in home.account.true_cursors("events").items() if at and at >= since}
    assert late <= again
    assert set(home.account.shown_record_counts("/api/events")) == again
    assert sorted(home.ids("events")) == sorted(known | again)
    assert str(second.cursor("events")) > str(first.cursor("events"))


def test_the_daily_job_brings_late_events(home: Home) -> None:
    """The late-arrivals schedule reads the last seven days again and leaves the cursor alone."""
    home.sync("events")
    late = home.account.add_events({**LATE, "visible_at": (NOON + DAY / 2).isoformat()})
    home.account.advance_clock(days=1)
    hourly = home.sync("events")
    assert not late & set(home.ids("events"))
    home.account.advance_clock(hours=3)
    home.account.clear_journal()
    daily = home.run_schedule("klaviyo_late_events", home.account.now)
    assert daily.success
    since = home.account.now - 7 * DAY
    again = {each for each, at in home.account.true_cursors("events").items() if at and at >= since}
    assert set(home.account.shown_record_counts("/api/events")) == again
    assert late <= set(home.ids("events"))
    assert len(home.ids("events")) == len(set(home.ids("events")))
    assert daily.cursor("events") == hourly.cursor("events")


def test_the_job_of_late_events_reads_them_by_hand_too(home: Home) -> None:
    """Launched from its page, with what the launchpad shows, it does what its schedule does."""
    home.sync("events")
    home.account.advance_clock(days=1)
    hourly = home.sync("events")
    home.account.clear_journal()
    job = home.load_definitions().resolve_job_def("klaviyo_late_events")
    assert job.run_config == {"ops": {"klaviyo__events": {"config": {"start": "7 days ago"}}}}
    since = home.account.now - 7 * DAY
    with use_clock(lambda: since + 7 * DAY):
        by_hand = home.execute(lambda each: job.execute_in_process(instance=each))
    again = {each for each, at in home.account.true_cursors("events").items() if at and at >= since}
    assert set(home.account.shown_record_counts("/api/events")) == again
    assert by_hand.cursor("events") == hourly.cursor("events")
    without = home.load_definitions(late_events_days="0").resolve_job_def("klaviyo_late_events")
    assert not without.run_config


def test_the_late_days_are_a_setting(home: Home) -> None:
    """KLAVIYO_LATE_EVENTS_DAYS says how far the schedule reaches back, whatever the lookback."""
    home.sync("events")
    home.account.clear_journal()
    at = home.account.now
    assert home.run_schedule("klaviyo_late_events", at, late_events_days="2").success
    again = {
        k
        for k, when in home.account.true_cursors("events").items()
        if when and when >= at - 2 * DAY
    }
    assert set(home.account.shown_record_counts("/api/events")) == again


def test_future_events_are_kept_and_move_nothing(open_home: StartHome) -> None:
    """An event dated ahead is stored at once, and later ordinary events still arrive."""
    home = open_home(future_events=4)
    first = home.sync("events")
    mark = datetime.fromisoformat(str(first.cursor("events")))
    ahead = f"SELECT count(*) FROM klaviyo.events WHERE datetime > '{NOON + DAY}'"
    assert home.query(ahead) == [(4,)]
    assert mark <= NOON - timedelta(minutes=5)
    home.account.advance_clock(hours=6)
    second = home.sync("events")
    arrived = [
        k for k, at in home.account.true_cursors("events").items() if at and mark < at < NOON + DAY
    ]
    assert len(arrived) > 5
    assert set(arrived) <= set(home.ids("events"))
    assert datetime.fromisoformat(str(second.cursor("events"))) <= home.account.now


def test_what_shares_the_marks_second_is_not_lost(home: Home) -> None:
    """A profile that changes in the second of the cursor, after the sync, arrives next time."""
    one, two = sorted(home.account.true_ids("profiles"))[:2]
    same = (NOON - timedelta(minutes=6)).isoformat()
    home.account.mutate(profile=one, set={"updated": same, "last_name": "First"})
    first = home.sync("profiles")
    home.account.mutate(profile=two, set={"updated": same, "last_name": "Second"})
    second = home.sync("profiles")
    assert first.cursor("profiles") == second.cursor("profiles") == same
    assert home.query(f"SELECT last_name FROM klaviyo.profiles WHERE id = '{two}'") == [("Second",)]
