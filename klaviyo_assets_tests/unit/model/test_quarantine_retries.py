"""Windows with broken records are requested again, ever more rarely, and in the end left alone."""

from datetime import UTC, datetime, timedelta

from klaviyo_assets.model.window import (
    MAX_QUARANTINE_TRIES,
    MAX_RETRY_WINDOWS,
    QuarantineRetries,
    SyncProgress,
    Window,
    progress_to_json,
    retries_from_json,
    retries_to_json,
)
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.sync.plan import PreviousSync, SyncOptions, plan_sync

NOW = datetime(2026, 11, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ONE = Window(NOW - 30 * HOUR, NOW - 29 * HOUR)
OTHER = Window(NOW - 9 * HOUR, NOW - 8 * HOUR)


def again(retries: QuarantineRetries, now: datetime) -> tuple[Window, ...]:
    """Return what a sync that begins at `now` asks for again."""
    retries.select_due(now)
    return retries.windows_of_slice("*")


def test_a_window_is_requested_again_until_it_is_whole() -> None:
    """The next sync asks for it; read without a broken record, it is forgotten."""
    retries = QuarantineRetries()
    retries.add("*", ONE, NOW)
    retries.add("other", OTHER, NOW)
    assert again(retries, NOW) == (ONE,)
    retries.finish_slice("*")
    assert again(retries, NOW + HOUR) == ()
    assert [each.slice_name for each in retries.entries] == ["other"]


def test_a_window_that_stays_broken_is_requested_ever_more_rarely() -> None:
    """At once, then after 1, 2, 4, ... hours, and eight times in all."""
    retries = QuarantineRetries()
    retries.add("*", ONE, NOW)
    request_counts: list[int] = []
    for hour in range(24 * 14):
        now = NOW + hour * HOUR
        if again(retries, now):
            request_counts.append(hour)
            retries.add("*", ONE, now)
        retries.finish_slice("*")
    assert request_counts == [0, 1, 3, 7, 15, 31, 63, 127]
    assert len(request_counts) == MAX_QUARANTINE_TRIES
    assert not retries.entries


def test_a_sync_that_is_cut_short_forgets_nothing() -> None:
    """A window that was requested and not read to the end stays, also through its JSON."""
    retries = QuarantineRetries()
    retries.add("*", ONE, NOW)
    again(retries, NOW)
    known = retries_from_json(retries_to_json(retries))
    assert known.entries == retries.entries
    assert again(known, NOW) == ()
    assert again(known, NOW + HOUR) == (ONE,)


def test_windows_that_touch_become_one_and_so_do_the_closest_of_many() -> None:
    """What is remembered has a bound."""
    retries = QuarantineRetries()
    retries.add("*", ONE, NOW)
    retries.add("*", Window(ONE.end, NOW - 28 * HOUR), NOW)
    assert again(retries, NOW) == (Window(ONE.start, NOW - 28 * HOUR),)
    many = QuarantineRetries()
    for day in range(MAX_RETRY_WINDOWS):
        many.add("*", Window(NOW + day * 24 * HOUR, NOW + (day * 24 + 1) * HOUR), NOW)
    many.add("*", Window(NOW + 3 * HOUR, NOW + 4 * HOUR), NOW)
    assert len(many.entries) == MAX_RETRY_WINDOWS
    assert Window(NOW, NOW + 4 * HOUR) in [each.window for each in many.entries]
    assert all(each.window.ceiling - each.window.floor <= 4 * HOUR for each in many.entries)


def test_a_window_whose_tries_are_over_takes_no_other_along() -> None:
    """A record that breaks beside it is requested again, eight times of its own."""
    retries = QuarantineRetries()
    retries.add("*", ONE, NOW)
    now = NOW
    for _ in range(MAX_QUARANTINE_TRIES):
        assert again(retries, now) == (ONE,)
        retries.add("*", ONE, now)
        retries.finish_slice("*")
        now = max(each.due_at for each in retries.entries)
    beside = Window(ONE.end, NOW - 28 * HOUR)
    retries.add("*", beside, now - HOUR)
    assert again(retries, now) == (beside,)


def test_what_no_version_wrote_is_no_reason_to_stop() -> None:
    """Rubbish in the commit's state is passed over."""
    assert not retries_from_json(None).entries
    assert not retries_from_json("x").entries
    assert not retries_from_json([{"slice": "*"}, 7, {"due": "x", "start": None}]).entries


def test_a_plan_asks_for_the_window_beside_what_is_new() -> None:
    """The cursor stays where it is; the window before it is read once more."""
    mark = NOW - HOUR
    progress = SyncProgress(None, {}, ("*",))
    progress.record_window("*", Window(None, mark), mark)
    progress.finish_slice("*")
    progress.retries.add("*", ONE, NOW)
    known = PreviousSync(metadata_cursor=mark, lake_state=progress_to_json(progress))
    made = plan_sync(STREAMS["events"], SyncOptions(), known, settings=Settings(), now=NOW)
    assert [window for _, window in made.windows] == [ONE, Window(mark, None)]
    assert made.progress.high_water_mark == mark
