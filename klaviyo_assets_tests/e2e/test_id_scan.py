"""The id scan: profiles that vanished are marked by a hundred ids a request."""

from urllib.parse import unquote_plus

import pytest

from klaviyo_assets_tests.crash_hooks import run_at_crash_point
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import NOON

ID_SCAN = {"sweep_ids": True}
PROFILES = "/api/profiles"


def test_an_id_scan_marks_what_vanished(home: Home) -> None:
    """Deleted profiles are marked with when they were missed; rows, mark and records stay."""
    first = home.sync("profiles")
    gone = {
        home.account.mutate(profile=each, delete=True) for each in sorted(home.ids("profiles"))[:3]
    }
    home.account.advance_clock(minutes=10)
    noticed = home.account.now
    before = home.query("SELECT * EXCLUDE (deleted_at) FROM klaviyo.profiles ORDER BY id")
    run = home.sync("profiles", config=ID_SCAN)
    assert run.success, run.failures
    assert home.deletion_times("profiles") == dict.fromkeys(gone, noticed)
    assert home.query("SELECT * EXCLUDE (deleted_at) FROM klaviyo.profiles ORDER BY id") == before
    assert run.cursor("profiles") == first.cursor("profiles")
    assert run.metadata_number("profiles", "deleted") == 3
    assert run.metadata_number("profiles", "rows_written") == 0
    assert run.metadata_number("profiles", "records_read") == 87
    assert run.materializations["profiles"]["dagster/row_count"] == len(before)
    # A later sync goes on from its mark as if nothing had been.
    home.account.clear_journal()
    assert home.sync("profiles").success
    assert home.account.shown_record_counts(PROFILES).total() < 10


def test_an_id_scan_asks_for_ids_alone(open_home: StartHome) -> None:
    """A request brings a hundred ids at the full rate: no consents, no predictions, no names."""
    home = open_home(profiles=350, events=0)
    home.sync("profiles")
    home.account.clear_journal()
    assert home.sync("profiles", config=ID_SCAN).success
    requested = [unquote_plus(each) for each in home.account.queries(PROFILES)]
    assert 4 <= len(requested) <= 8
    for each in requested:
        assert "sort=created" in each
        assert "page[size]=100" in each
        assert "fields[profile]=created" in each
        assert "additional-fields" not in each
    assert set(home.account.shown_record_counts(PROFILES)) == home.account.true_ids("profiles")


def test_the_weekly_job_is_an_id_scan(home: Home) -> None:
    """The schedule orders an id scan; so does the job when it is launched as it is."""
    home.sync("profiles")
    first, second = sorted(home.ids("profiles"))[:2]
    home.account.mutate(profile=first, delete=True)
    home.account.advance_clock(minutes=10)
    assert home.run_schedule("klaviyo_deleted_profiles", home.account.now).success
    assert set(home.deletion_times("profiles")) == {first}
    home.account.mutate(profile=second, delete=True)
    defs = home.load_definitions()
    run = home.execute(
        lambda instance: defs.resolve_job_def("klaviyo_deleted_profiles").execute_in_process(
            instance=instance, raise_on_error=False
        )
    )
    assert run.success
    assert set(home.deletion_times("profiles")) == {first, second}


def test_a_second_id_scan_changes_nothing(home: Home) -> None:
    """Marks stay as they were, and where nothing changed no file is written."""
    home.sync("profiles")
    gone = home.account.mutate(profile=min(home.ids("profiles")), delete=True)
    home.sync("profiles", config=ID_SCAN)
    marks, files = home.deletion_times("profiles"), home.data_files()
    home.account.advance_clock(hours=1)
    run = home.sync("profiles", config=ID_SCAN)
    assert run.metadata_number("profiles", "deleted") == 0
    assert home.deletion_times("profiles") == marks
    assert set(marks) == {gone}
    table = {path: each for path, each in files.items() if "lake/profiles" in path}
    assert {
        path: each for path, each in home.data_files().items() if "lake/profiles" in path
    } == table


def test_a_profile_that_comes_back_loses_its_mark(home: Home) -> None:
    """An id scan that sees a profile again lifts its mark, though the profile did not change."""
    home.sync("profiles")
    gone = home.account.mutate(profile=min(home.ids("profiles")), delete=True)
    home.sync("profiles", config=ID_SCAN)
    assert set(home.deletion_times("profiles")) == {gone}
    home.account.restore("profile", gone)
    home.account.advance_clock(minutes=1)
    assert home.sync("profiles", config=ID_SCAN).success
    assert home.deletion_times("profiles") == {}
    assert sorted(home.ids("profiles")) == sorted(home.account.true_ids("profiles"))


def test_what_changes_during_the_id_scan_is_not_called_deleted(open_home: StartHome) -> None:
    """Of profiles changed, created or deleted during an id scan only the deleted are marked."""
    home = open_home(profiles=350, events=0)
    home.sync("profiles")
    by_age = [each for (each,) in home.query("SELECT id FROM klaviyo.profiles ORDER BY created")]
    gone = by_age[-1]
    changes = [
        *({"profile": each, "set": {"last_name": "Moved"}} for each in by_age[100:340:7]),
        {"create": "profile", "set": {"email": "new@example.com"}},
        {"profile": gone, "delete": True},
    ]
    home.account.advance_clock(hours=1)
    match = {"path": PROFILES, "nth": 1}
    with home.account.inject_fault("mutate", match=match, mutations=changes):
        assert home.sync("profiles", config=ID_SCAN).success
    assert set(home.deletion_times("profiles")) == {gone}
    home.sync("profiles")
    assert set(home.deletion_times("profiles")) == {gone}
    assert sorted(home.live_ids("profiles")) == sorted(home.account.true_ids("profiles"))


def test_a_sync_during_the_id_scan_hinders_neither(home: Home) -> None:
    """What a sync stores while ids are read stays as it stored it; the id scan marks the rest."""
    home.sync("profiles")
    first, second, third = sorted(home.ids("profiles"))[:3]
    home.account.advance_clock(hours=1)
    home.account.mutate(profile=first, delete=True)
    created: list[str] = []

    def sync_changes() -> None:
        created.append(home.account.mutate(create="profile", set={"email": "new@example.com"}))
        home.account.mutate(profile=second, set={"last_name": "Meanwhile"})
        home.account.mutate(profile=third, set={"last_name": "Meanwhile"})
        home.account.advance_clock(minutes=1)
        assert home.sync("profiles").success
        home.account.mutate(profile=third, delete=True)

    with run_at_crash_point("before moving a file", sync_changes, count=1):
        run = home.sync("profiles", config=ID_SCAN)
    assert run.success, run.failures
    assert set(home.deletion_times("profiles")) == {first}
    assert created[0] in home.live_ids("profiles")
    rows = home.query(f"SELECT last_name FROM klaviyo.profiles WHERE id = '{second}'")
    assert rows == [("Meanwhile",)]
    last = home.sync("profiles", config=ID_SCAN)
    assert last.success
    assert set(home.deletion_times("profiles")) == {first, third}


@pytest.mark.usefixtures("fast_retries")
def test_an_id_scan_that_fails_marks_nothing(open_home: StartHome) -> None:
    """A page that never comes leaves the table as it was."""
    home = open_home(profiles=350, events=0)
    home.sync("profiles")
    home.account.mutate(profile=min(home.ids("profiles")), delete=True)
    with home.account.inject_fault("error", match={"path": PROFILES, "from": 3}, status=500):
        run = home.sync("profiles", config=ID_SCAN)
    assert "profiles" in run.failures
    assert home.deletion_times("profiles") == {}


def test_an_id_scan_with_an_unreadable_id_marks_nothing_and_says_so(home: Home) -> None:
    """An id that cannot be read may be any of the missing ones."""
    home.sync("profiles")
    home.account.mutate(profile=min(home.ids("profiles")), delete=True)
    with home.account.inject_fault("null_id", match={"path": PROFILES}):
        run = home.sync("profiles", config=ID_SCAN)
    assert run.success
    assert home.deletion_times("profiles") == {}
    assert "no missing row was marked as deleted" in run.warnings


NONSENSE: dict[str, tuple[str, dict[str, object], str]] = {
    "a stream that is read whole": ("lists", {}, "this stream has no id scan"),
    "a view": ("events_detailed", {}, "this stream has no id scan"),
    "a fan-out": ("campaigns_detailed", {}, "this stream has no id scan"),
    "with a mode": ("profiles", {"sync_mode": "full_refresh_overwrite"}, "use it without"),
    "with a history": ("profiles", {"sync_mode": "incremental_append"}, "use it without"),
    "with a window": ("profiles", {"start": f"{NOON:%Y-%m-%d}"}, "use it without"),
    "never read": ("profiles", {}, "materialize klaviyo/profiles first"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_an_id_scan_that_makes_no_sense_is_refused(home: Home, case: str) -> None:
    """An id scan with contradictory settings fails before its first request."""
    stream, config, sentence = NONSENSE[case]
    run = home.sync(stream, config=config | ID_SCAN)
    assert sentence in run.failures[stream]
    assert home.account.request_counts()[PROFILES] == 0
