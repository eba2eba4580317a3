"""The sweep of ids: profiles that vanished are marked by a hundred ids a request."""

from collections.abc import Mapping
from unittest.mock import patch
from urllib.parse import unquote_plus

import pytest

from klaviyo_assets.lake import Noticed, Receipt, ShrinkGuard, Sweep
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.shop import NOON

SWEEP = {"sweep_ids": True}
PROFILES = "/api/profiles"


def test_a_sweep_marks_what_vanished(home: Home) -> None:
    """Deleted profiles are marked with when they were missed; rows, mark and records stay."""
    first = home.sync("profiles")
    gone = {
        home.shop.mutate(profile=each, delete=True) for each in sorted(home.ids("profiles"))[:3]
    }
    home.shop.move(minutes=10)
    noticed = home.shop.now
    before = home.query("SELECT * EXCLUDE (deleted_at) FROM klaviyo.profiles ORDER BY id")
    run = home.sync("profiles", config=SWEEP)
    assert run.success, run.failed
    assert home.deleted("profiles") == dict.fromkeys(gone, noticed)
    assert home.query("SELECT * EXCLUDE (deleted_at) FROM klaviyo.profiles ORDER BY id") == before
    assert run.cursor("profiles") == first.cursor("profiles")
    assert run.number("profiles", "deleted") == 3
    assert run.number("profiles", "rows_written") == 0
    assert run.number("profiles", "records_read") == 87
    assert run.materialized["profiles"]["dagster/row_count"] == len(before)
    # A later sync goes on from its mark as if nothing had been.
    home.shop.forget()
    assert home.sync("profiles").success
    assert home.shop.shown(PROFILES).total() < 10


def test_a_sweep_asks_for_ids_alone(start: StartHome) -> None:
    """A request brings a hundred ids at the full rate: no consents, no predictions, no names."""
    home = start(profiles=350, events=0)
    home.sync("profiles")
    home.shop.forget()
    assert home.sync("profiles", config=SWEEP).success
    asked = [unquote_plus(each) for each in home.shop.queries(PROFILES)]
    assert 4 <= len(asked) <= 8
    for each in asked:
        assert "sort=created" in each
        assert "page[size]=100" in each
        assert "fields[profile]=created" in each
        assert "additional-fields" not in each
    assert set(home.shop.shown(PROFILES)) == home.shop.truth("profiles")


def test_the_weekly_job_sweeps(home: Home) -> None:
    """The schedule orders a sweep; so does the job when it is launched as it is."""
    home.sync("profiles")
    first, second = sorted(home.ids("profiles"))[:2]
    home.shop.mutate(profile=first, delete=True)
    home.shop.move(minutes=10)
    assert home.scheduled("klaviyo_weekly_deleted_profiles", home.shop.now).success
    assert set(home.deleted("profiles")) == {first}
    home.shop.mutate(profile=second, delete=True)
    defs = home.code_location()
    run = home.run(
        lambda instance: defs.resolve_job_def("klaviyo_deleted_profiles").execute_in_process(
            instance=instance, raise_on_error=False
        )
    )
    assert run.success
    assert set(home.deleted("profiles")) == {first, second}


def test_a_second_sweep_changes_nothing(home: Home) -> None:
    """Marks stay as they were, and where nothing changed no file is written."""
    home.sync("profiles")
    gone = home.shop.mutate(profile=min(home.ids("profiles")), delete=True)
    home.sync("profiles", config=SWEEP)
    marks, files = home.deleted("profiles"), home.files()
    home.shop.move(hours=1)
    run = home.sync("profiles", config=SWEEP)
    assert run.number("profiles", "deleted") == 0
    assert home.deleted("profiles") == marks
    assert set(marks) == {gone}
    table = {path: each for path, each in files.items() if "lake/profiles" in path}
    assert {path: each for path, each in home.files().items() if "lake/profiles" in path} == table


def test_a_profile_that_comes_back_loses_its_mark(home: Home) -> None:
    """A sweep that sees a profile again lifts its mark, though the profile did not change."""
    home.sync("profiles")
    gone = home.shop.mutate(profile=min(home.ids("profiles")), delete=True)
    home.sync("profiles", config=SWEEP)
    assert set(home.deleted("profiles")) == {gone}
    home.shop.revive("profile", gone)
    home.shop.move(minutes=1)
    assert home.sync("profiles", config=SWEEP).success
    assert home.deleted("profiles") == {}
    assert sorted(home.ids("profiles")) == sorted(home.shop.truth("profiles"))


def test_what_changes_during_the_sweep_is_not_called_deleted(start: StartHome) -> None:
    """Profiles that change, come or go while ids are read: only who is gone is marked."""
    home = start(profiles=350, events=0)
    home.sync("profiles")
    by_age = [each for (each,) in home.query("SELECT id FROM klaviyo.profiles ORDER BY created")]
    gone = by_age[-1]
    changes = [
        *({"profile": each, "set": {"last_name": "Moved"}} for each in by_age[100:340:7]),
        {"create": "profile", "set": {"email": "new@example.com"}},
        {"profile": gone, "delete": True},
    ]
    home.shop.move(hours=1)
    match = {"path": PROFILES, "nth": 1}
    with home.shop.faulty("mutate", match=match, mutations=changes):
        assert home.sync("profiles", config=SWEEP).success
    assert set(home.deleted("profiles")) == {gone}
    home.sync("profiles")
    assert set(home.deleted("profiles")) == {gone}
    assert sorted(home.living("profiles")) == sorted(home.shop.truth("profiles"))


def test_a_sync_during_the_sweep_hinders_neither(home: Home) -> None:
    """What a sync stores while ids are read stays as it stored it; the sweep marks the rest."""
    home.sync("profiles")
    first, second, third = sorted(home.ids("profiles"))[:3]
    home.shop.move(hours=1)
    home.shop.mutate(profile=first, delete=True)
    commit = Sweep.commit
    turns: list[str] = []

    def commit_after_a_sync(
        sweep: Sweep,
        state: Mapping[str, object],
        noticed: Noticed | None = None,
        guard: ShrinkGuard | None = None,
    ) -> Receipt:
        if not turns:
            turns.append("sweep")
            new = home.shop.mutate(create="profile", set={"email": "new@example.com"})
            home.shop.mutate(profile=second, set={"last_name": "Meanwhile"})
            home.shop.mutate(profile=third, set={"last_name": "Meanwhile"})
            home.shop.move(minutes=1)
            assert home.sync("profiles").success
            home.shop.mutate(profile=third, delete=True)
            turns.append(new)
        return commit(sweep, state, noticed, guard)

    with patch.object(Sweep, "commit", commit_after_a_sync):
        run = home.sync("profiles", config=SWEEP)
    assert run.success, run.failed
    assert set(home.deleted("profiles")) == {first}
    assert turns[1] in home.living("profiles")
    rows = home.query(f"SELECT last_name FROM klaviyo.profiles WHERE id = '{second}'")
    assert rows == [("Meanwhile",)]
    last = home.sync("profiles", config=SWEEP)
    assert last.success
    assert set(home.deleted("profiles")) == {first, third}


@pytest.mark.usefixtures("impatient")
def test_a_sweep_that_fails_marks_nothing(start: StartHome) -> None:
    """A page that never comes leaves the table as it was."""
    home = start(profiles=350, events=0)
    home.sync("profiles")
    home.shop.mutate(profile=min(home.ids("profiles")), delete=True)
    with home.shop.faulty("error", match={"path": PROFILES, "from": 3}, status=500):
        run = home.sync("profiles", config=SWEEP)
    assert "profiles" in run.failed
    assert home.deleted("profiles") == {}


def test_a_sweep_with_an_unreadable_id_marks_nothing_and_says_so(home: Home) -> None:
    """An id that cannot be read may be any of the missing ones."""
    home.sync("profiles")
    home.shop.mutate(profile=min(home.ids("profiles")), delete=True)
    with home.shop.faulty("null_id", match={"path": PROFILES}):
        run = home.sync("profiles", config=SWEEP)
    assert run.success
    assert home.deleted("profiles") == {}
    assert "none that is missing was marked" in run.warnings


NONSENSE: dict[str, tuple[str, dict[str, object], str]] = {
    "a swept stream": ("lists", {}, "ids of this stream are not swept"),
    "a view": ("events_detailed", {}, "ids of this stream are not swept"),
    "a fan-out": ("campaigns_detailed", {}, "ids of this stream are not swept"),
    "with a mode": ("profiles", {"sync_mode": "full_refresh_overwrite"}, "give it alone"),
    "with a history": ("profiles", {"sync_mode": "incremental_append"}, "give it alone"),
    "with a window": ("profiles", {"start": f"{NOON:%Y-%m-%d}"}, "give it alone"),
    "never read": ("profiles", {}, "materialize klaviyo/profiles first"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_a_sweep_that_makes_no_sense_is_refused(home: Home, case: str) -> None:
    """An order for a sweep that cannot be carried out fails in a sentence and asks for no page."""
    stream, config, sentence = NONSENSE[case]
    run = home.sync(stream, config=config | SWEEP)
    assert sentence in run.failed[stream]
    assert home.shop.asked()[PROFILES] == 0
