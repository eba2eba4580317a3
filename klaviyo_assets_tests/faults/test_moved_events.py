"""F80: an event that comes back on another UTC day."""

import signal
from datetime import datetime, timedelta

import pytest

from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.processes import fork_sync
from klaviyo_assets_tests.e2e.sandbox_account import NOON
from klaviyo_assets_tests.faults.assertions import assert_complete, stored_ids

EVENTS = "/api/events"

COMMIT_BYTES = 2**19
"""Less than a page, so that each has a commit of its own."""

LONG_AGO = NOON - timedelta(days=7, hours=23)
"""Before all events of the account but for some minutes' worth."""

RECENT = NOON - timedelta(minutes=10)

pytestmark = pytest.mark.usefixtures("fast_retries")


def add_event(home: Home, at: datetime) -> str:
    """Have an event at a moment; return its id."""
    (event,) = home.account.add_events({"datetime": at.isoformat()})
    return event


def redating(event: str, at: datetime) -> dict[str, object]:
    """Return the change that gives the event another moment."""
    return {"redate_event": event, "datetime": at.isoformat()}


def moment(home: Home, event: str) -> list[datetime]:
    """Return the moments that the database has for an event."""
    sql = f"SELECT datetime FROM klaviyo.events WHERE id = '{event}'"
    return [at for (at,) in home.query(sql)]


@pytest.mark.parametrize("mode", ["incremental_deduped", "incremental_append"])
def test_f80_it_is_there_once_after_the_run_that_brings_it(open_home: StartHome, mode: str) -> None:
    """The hourly run that reads it anew takes the older row away; a history has both.

    So does a run that reads its first day again after it went back there.
    """
    home = open_home(future_events=0)
    event = add_event(home, LONG_AGO)
    config = {"sync_mode": mode}
    assert home.sync("events", config=config).success
    assert moment(home, event) == [LONG_AGO]
    home.account.advance_clock(hours=1)
    home.account.mutate(**redating(event, home.account.now - timedelta(minutes=30)))
    run = home.sync("events", config=config)
    assert run.success
    assert moment(home, event) == [home.account.now - timedelta(minutes=30)]
    assert_complete(home, "events")
    if mode == "incremental_append":
        assert home.ids("events_history").count(event) == 2
    home.account.mutate(**redating(event, LONG_AGO))
    again = {"start": LONG_AGO.isoformat(), "end": (LONG_AGO + timedelta(hours=1)).isoformat()}
    assert home.sync("events", config={**config, **again}).success
    assert moment(home, event) == [LONG_AGO]
    assert_complete(home, "events")


def test_f80_it_moves_while_a_first_sync_reads(open_home: StartHome) -> None:
    """Two commits of one run bring it, on two days: the run ends with the newer alone."""
    home = open_home(events=6_000, future_events=0, gzip=False)
    event = add_event(home, LONG_AGO)
    change = {"mutations": [redating(event, RECENT)]}
    with home.account.inject_fault("mutate", match={"path": EVENTS, "from": 2, "to": 2}, **change):
        child = fork_sync(home, "events", commit_bytes=COMMIT_BYTES)
        assert child.has_ended(within=300)
    assert child.exit_code == 0
    assert home.account.shown_record_counts(EVENTS)[event] == 2
    assert moment(home, event) == [RECENT]
    assert_complete(home, "events")


def test_f80_a_kill_between_the_two_is_repaired_by_the_next_run(open_home: StartHome) -> None:
    """A run that dies with both rows stored leaves word of it, and the next one looks."""
    home = open_home(events=6_000, future_events=0, gzip=False)
    event = add_event(home, LONG_AGO)
    change = {"mutations": [redating(event, RECENT)]}
    end = KillAt("before searching duplicate keys")
    with home.account.inject_fault("mutate", match={"path": EVENTS, "from": 2, "to": 2}, **change):
        child = fork_sync(home, "events", kill_at=end, commit_bytes=COMMIT_BYTES)
        assert child.has_ended(within=300)
    assert child.exit_code == -signal.SIGKILL
    assert stored_ids(home, "events").count(event) == 2
    assert home.sync("events").success
    assert stored_ids(home, "events").count(event) == 1
    assert moment(home, event) == [RECENT]
    assert_complete(home, "events")
