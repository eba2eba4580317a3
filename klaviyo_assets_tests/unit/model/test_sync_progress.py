"""The high-water mark follows what was read: never past a gap, never past the data, never back."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.model.window import (
    Coverage,
    QuarantineRetries,
    QuarantineRetry,
    SliceProgress,
    SyncProgress,
    Window,
    progress_to_json,
    slices_from_json,
)

DAY = datetime(2026, 1, 1, tzinfo=UTC)


def day(number: int) -> datetime:
    """Return the start of a day of 2026, counted from 0."""
    return DAY + timedelta(days=number)


def test_mark_ends_where_the_gap_begins() -> None:
    """A window finished out of order does not move the high-water mark over the gap before it."""
    progress = SyncProgress(None, {}, ("*",))
    progress.record_window("*", Window(None, day(3)), day(2))
    progress.record_window("*", Window(day(6), day(9)), day(8))
    assert progress.high_water_mark == day(3)


def test_mark_never_passes_the_data() -> None:
    """An interval that is empty at its end leaves the high-water mark at the last record."""
    progress = SyncProgress(None, {}, ("*",))
    progress.record_window("*", Window(None, day(9)), day(2))
    progress.finish_slice("*")
    assert progress.high_water_mark == day(2)
    assert progress.slices["*"].coverage == Coverage((Window(None, day(2)),))


def test_mark_of_an_empty_run_is_the_former_one() -> None:
    """A run that brings nothing hands the high-water mark on."""
    before = SliceProgress(Coverage((Window(None, day(2)),)), day(2))
    progress = SyncProgress(None, {"*": before}, ("*",), previous_cursor=day(2))
    progress.record_window("*", Window(day(2), day(5)), None)
    progress.finish_slice("*")
    assert progress.high_water_mark == day(2)


def test_an_unread_slice_holds_the_high_water_mark_back() -> None:
    """As long as one slice has not been read at all, the others' records move nothing."""
    progress = SyncProgress(None, {}, ("email", "sms"))
    progress.record_window("email", Window(None, day(9)), day(8))
    progress.finish_slice("email")
    assert progress.high_water_mark is None
    progress.finish_slice("sms")
    assert progress.high_water_mark == day(8)


def test_a_full_read_goes_on_from_what_others_read_meanwhile() -> None:
    """Of theirs what follows on ours counts, and their mark; what lies before it does not."""
    progress = SyncProgress(day(2), {}, ("*", "new"))
    for name in progress.active_slices:
        progress.record_window(name, Window(day(2), day(6)), day(5))
        progress.finish_slice(name)
    theirs = SliceProgress(Coverage((Window(None, day(8)),)), day(8))
    retry = QuarantineRetry(slice_name="*", window=Window(day(7), day(8)), tries=1, due_at=day(9))
    progress.merge({"*": theirs, "other": theirs}, day(8), QuarantineRetries([retry]))
    progress.merge({}, day(8), QuarantineRetries([retry]))
    assert progress.retries.entries == [retry]
    assert progress.slices["*"] == SliceProgress(Coverage((Window(day(2), day(8)),)), day(8))
    assert progress.slices["new"] == SliceProgress(Coverage((Window(day(2), day(5)),)), day(5))
    assert set(progress.slices) == {"*", "new"}
    assert progress.high_water_mark == day(8)


def test_mark_never_goes_back() -> None:
    """Even if a re-read brings less than before, the high-water mark stays."""
    progress = SyncProgress(None, {}, ("*",), previous_cursor=day(7))
    progress.record_window("*", Window(None, day(9)), day(2))
    progress.finish_slice("*")
    assert progress.high_water_mark == day(7)


windows = st.tuples(
    st.integers(min_value=0, max_value=60), st.integers(min_value=0, max_value=20)
).map(lambda each: Window(day(each[0]), day(each[0] + each[1])))


@given(read=st.lists(windows, max_size=12), wanted=windows)
def test_gaps_and_coverage_make_the_whole(read: list[Window], wanted: Window) -> None:
    """Every day of a wanted window is either covered or in exactly one gap, never both."""
    coverage = Coverage()
    for window in read:
        coverage = coverage.add(window)
    gaps = coverage.gaps(wanted)
    for number in range(90):
        instant = day(number)
        inside = wanted.floor <= instant < wanted.ceiling
        covered = any(each.floor <= instant < each.ceiling for each in read)
        missing = sum(each.floor <= instant < each.ceiling for each in gaps)
        assert missing == (1 if inside and not covered else 0)


@given(read=st.lists(windows, max_size=12))
def test_coverage_never_overlaps(read: list[Window]) -> None:
    """Windows of a coverage ascend and never touch, whatever the order they came in."""
    coverage = Coverage()
    for window in read:
        coverage = coverage.add(window)
    for one, other in zip(coverage.windows, coverage.windows[1:], strict=False):
        assert one.ceiling < other.floor


@given(read=st.lists(windows, max_size=6))
def test_progress_survives_its_json(read: list[Window]) -> None:
    """What the lake's commit carries reads back as it was."""
    progress = SyncProgress(None, {}, ("*",))
    progress.record_window("*", Window(None, DAY), DAY)
    for window in read:
        progress.record_window("*", window, window.end)
    assert slices_from_json(progress_to_json(progress)) == progress.slices
