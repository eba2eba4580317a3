"""What a sync reads follows from asset metadata, the lake and the settings, with a sentence."""

from datetime import UTC, date, datetime, timedelta

import pytest

from klaviyo_assets.errors import ConfigError, SettingError
from klaviyo_assets.model.window import (
    Coverage,
    SliceProgress,
    SyncProgress,
    Window,
    progress_to_json,
)
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.sync.plan import PreviousSync, SyncMode, SyncOptions, SyncPlan, plan_sync

EVENTS = STREAMS["events"]
NOW = datetime(2026, 11, 1, tzinfo=UTC)
MARK = datetime(2026, 10, 1, tzinfo=UTC)


def state(mark: datetime = MARK, *, slice_name: str = "*") -> dict[str, object]:
    """Return the lake's state after everything up to `high_water_mark` was read."""
    progress = SyncProgress(None, {}, (slice_name,))
    progress.record_window(slice_name, Window(None, mark), mark)
    progress.finish_slice(slice_name)
    return progress_to_json(progress)


def plan(
    known: PreviousSync, settings: Settings | None = None, order: SyncOptions | None = None
) -> SyncPlan:
    """Return the plan for events."""
    return plan_sync(
        EVENTS, order or SyncOptions(), known, settings=settings or Settings(), now=NOW
    )


def windows(made: SyncPlan) -> list[tuple[str, Window]]:
    """Return slice names and windows."""
    return [(slice_.name, window) for slice_, window in made.windows]


def test_both_marks_there_and_equal() -> None:
    """The sync goes on from the cursor and has nothing to say."""
    made = plan(PreviousSync(metadata_cursor=MARK, lake_state=state()))
    assert windows(made) == [("*", Window(MARK, None))]
    assert made.warnings == ()


def test_lower_cursor_of_the_two_counts() -> None:
    """A difference is logged; the sync goes on from the lower cursor."""
    lower = MARK - timedelta(days=3)
    made = plan(PreviousSync(metadata_cursor=lower, lake_state=state()))
    assert windows(made) == [("*", Window(lower, None))]
    assert "continuing from the lower one" in made.warnings[0]


def test_higher_metadata_moves_nothing() -> None:
    """Asset metadata ahead of the lake never skips records."""
    made = plan(PreviousSync(metadata_cursor=MARK + timedelta(days=3), lake_state=state()))
    assert windows(made) == [("*", Window(MARK, None))]
    assert made.warnings


def test_missing_metadata_takes_the_lakes_cursor() -> None:
    """A wiped asset, or no DAGSTER_HOME, goes on from the lake and says so."""
    made = plan(PreviousSync(lake_state=state()))
    assert windows(made) == [("*", Window(MARK, None))]
    assert "continuing from the lake's" in made.warnings[0]


def test_missing_lake_reads_from_the_beginning() -> None:
    """Metadata without data reads everything and says so."""
    made = plan(PreviousSync(metadata_cursor=MARK))
    assert windows(made) == [("*", Window(None, None))]
    assert "from the beginning" in made.warnings[0]


def test_start_date_bounds_the_beginning() -> None:
    """The start date is inclusive and in UTC."""
    made = plan(PreviousSync(), Settings(start_date=date(2026, 1, 1)))
    assert windows(made) == [("*", Window(datetime(2026, 1, 1, tzinfo=UTC), None))]


def test_earlier_start_date_fills_the_gap() -> None:
    """A start date moved back reads what lies before, and what is new."""
    first = datetime(2026, 3, 1, tzinfo=UTC)
    progress = SyncProgress(first, {}, ("*",))
    progress.record_window("*", Window(first, MARK), MARK)
    progress.finish_slice("*")
    made = plan(
        PreviousSync(metadata_cursor=MARK, lake_state=progress_to_json(progress)),
        Settings(start_date=date(2026, 1, 1)),
    )
    assert windows(made) == [
        ("*", Window(datetime(2026, 1, 1, tzinfo=UTC), first)),
        ("*", Window(MARK, None)),
    ]


def test_lookback_reads_the_days_before_the_cursor_again() -> None:
    """The lookback setting moves the beginning back, and only that."""
    made = plan(PreviousSync(metadata_cursor=MARK, lake_state=state()), Settings(lookback_days=7))
    assert windows(made) == [("*", Window(MARK - timedelta(days=7), None))]


def test_lookback_reads_again_what_was_read_beyond_a_gap() -> None:
    """A killed run had read windows ahead of the gap: a late event may lie in them as well."""
    gap = Window(MARK - timedelta(days=60), MARK - timedelta(days=50))
    progress = SyncProgress(None, {}, ("*",))
    progress.record_window("*", Window(None, gap.start), gap.start)
    progress.record_window("*", Window(gap.end, MARK), MARK)
    known = PreviousSync(
        metadata_cursor=progress.high_water_mark, lake_state=progress_to_json(progress)
    )
    week = timedelta(days=7)
    earlier = MARK - timedelta(days=60) - week
    assert windows(plan(known)) == [("*", gap), ("*", Window(MARK, None))]
    assert windows(plan(known, Settings(lookback_days=7))) == [
        ("*", Window(earlier, gap.end)),
        ("*", Window(MARK - week, None)),
    ]


@pytest.mark.parametrize("lookback", [0, 7])
def test_a_slice_without_a_record_is_requested_as_a_whole(lookback: int) -> None:
    """What is still empty has no mark to look back from; a history may be imported any day."""
    progress = SyncProgress(None, {}, ("full", "empty"))
    progress.record_window("full", Window(None, NOW), MARK)
    progress.record_window("empty", Window(None, NOW), None)
    for name in progress.active_slices:
        progress.finish_slice(name)
    made = plan(
        PreviousSync(metadata_cursor=MARK, lake_state=progress_to_json(progress)),
        Settings(event_metric_ids=("full", "empty"), lookback_days=lookback),
    )
    before = MARK - timedelta(days=lookback)
    assert windows(made) == [("full", Window(before, None)), ("empty", Window(None, None))]


def test_windows_finished_out_of_order_are_not_read_again() -> None:
    """After a kill only what no commit holds is requested again."""
    progress = SyncProgress(None, {}, ("*",))
    progress.record_window("*", Window(None, MARK), MARK)
    later = MARK + timedelta(days=5)
    progress.record_window("*", Window(later, later + timedelta(days=5)), later)
    made = plan(PreviousSync(metadata_cursor=MARK, lake_state=progress_to_json(progress)))
    assert windows(made) == [
        ("*", Window(MARK, later)),
        ("*", Window(later + timedelta(days=5), None)),
    ]


def test_added_metric_is_read_from_its_beginning() -> None:
    """An id that was never read has no mark, whatever the others have."""
    made = plan(
        PreviousSync(metadata_cursor=MARK, lake_state=state(slice_name="AbC123")),
        Settings(event_metric_ids=("AbC123", "XyZ789")),
    )
    assert windows(made) == [("AbC123", Window(MARK, None)), ("XyZ789", Window(None, None))]


def test_metrics_read_with_all_are_known() -> None:
    """Restricting to metrics after everything was read reads nothing twice."""
    made = plan(
        PreviousSync(metadata_cursor=MARK, lake_state=state()),
        Settings(event_metric_ids=("AbC123",)),
    )
    assert windows(made) == [("AbC123", Window(MARK, None))]


def test_quarantined_windows_of_all_metrics_are_requested_again_for_each() -> None:
    """Once of each that is read alone, and of all of them where they are read together again."""
    broken = Window(MARK - timedelta(hours=9), MARK - timedelta(hours=8))
    one = Settings(event_metric_ids=("AbC123",))
    progress = SyncProgress(None, {}, ("*",))
    progress.record_window("*", Window(None, MARK), MARK)
    progress.retries.add("*", broken, MARK)
    progress.finish_slice("*")
    made = plan(PreviousSync(metadata_cursor=MARK, lake_state=progress_to_json(progress)), one)
    assert windows(made) == [("AbC123", broken), ("AbC123", Window(MARK, None))]
    for _ in range(9):
        made.progress.finish_slice("AbC123")
        after = progress_to_json(made.progress)
        made = plan(PreviousSync(metadata_cursor=MARK, lake_state=after), one)
        assert windows(made) == [("AbC123", Window(MARK, None))]
    made = plan(PreviousSync(metadata_cursor=MARK, lake_state=progress_to_json(made.progress)))
    assert windows(made) == [("*", broken), ("*", Window(MARK, None))]


def test_full_refresh_reads_everything_and_replaces() -> None:
    """A full refresh forgets what was read."""
    made = plan(
        PreviousSync(metadata_cursor=MARK, lake_state=state()),
        order=SyncOptions(mode=SyncMode.FULL_REFRESH_OVERWRITE),
    )
    assert made.is_replacement
    assert windows(made) == [("*", Window(None, None))]
    assert made.progress.slices == {}


def test_reading_again_leaves_the_cursor() -> None:
    """start/end read exactly that window and say nothing about progress."""
    again = Window(MARK - timedelta(days=9), MARK - timedelta(days=8))
    made = plan(
        PreviousSync(metadata_cursor=MARK, lake_state=state()),
        order=SyncOptions(reread_window=again),
    )
    assert windows(made) == [("*", again)]
    assert not made.should_advance_cursor


@pytest.mark.parametrize(
    ("stream", "order"),
    [
        pytest.param(
            "events",
            SyncOptions(mode=SyncMode.FULL_REFRESH_APPEND, reread_window=Window(MARK, NOW)),
            id="with a full refresh",
        ),
        pytest.param(
            "lists",
            SyncOptions(reread_window=Window(MARK, NOW)),
            id="for a stream without a filter",
        ),
        pytest.param("events", SyncOptions(reread_window=Window(NOW, MARK)), id="reversed"),
        pytest.param(
            "events_detailed", SyncOptions(reread_window=Window(MARK, NOW)), id="for a view"
        ),
    ],
)
def test_nonsense_is_refused(stream: str, order: SyncOptions) -> None:
    """Combinations that make no sense are refused before anything is requested."""
    with pytest.raises(SettingError):
        plan_sync(STREAMS[stream], order, PreviousSync(), settings=Settings(), now=NOW)


def test_mark_of_the_year_2999_is_brought_back() -> None:
    """A cursor in the future is clamped to now, with a warning."""
    future = datetime(2999, 1, 1, tzinfo=UTC)
    made = plan(PreviousSync(metadata_cursor=future, lake_state=state(future)))
    assert windows(made) == [("*", Window(NOW, None))]
    assert any("cursor in the future" in note for note in made.warnings)


def test_unreadable_state_is_a_clear_error() -> None:
    """A cursor that this version did not write is refused with the way out."""
    with pytest.raises(ConfigError, match="full_refresh_overwrite"):
        plan(PreviousSync(lake_state={"slices": {"*": {"windows": [["yesterday", None]]}}}))


def test_swept_streams_are_read_whole_whatever_is_known() -> None:
    """Lists, segments and metrics are replaced on every sync, so that deletions show."""
    for name in ("lists", "segments", "metrics", "accounts"):
        made = plan_sync(
            STREAMS[name],
            SyncOptions(),
            PreviousSync(lake_state={"cursor": None}),
            settings=Settings(start_date=date(2026, 1, 1)),
            now=NOW,
        )
        assert made.is_replacement
        assert [window for _, window in made.windows] == [Window(None, None)]


def test_unbroken_progress_has_one_window() -> None:
    """A finished sync leaves one window, from the beginning to the cursor."""
    assert slice_of(state()).coverage == Coverage((Window(None, MARK),))


def slice_of(lake_state: dict[str, object]) -> SliceProgress:
    """Return the only slice's progress."""
    made = plan(PreviousSync(metadata_cursor=MARK, lake_state=lake_state))
    return made.progress.slices["*"]
