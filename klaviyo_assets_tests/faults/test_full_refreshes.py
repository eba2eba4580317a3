"""F75: a full refresh that lasts longer than the gap between increments."""

import signal
from collections.abc import Mapping

import pytest

from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.processes import ChildProcess, fork_sync
from klaviyo_assets_tests.faults.assertions import (
    assert_complete,
    assert_cursors_agree,
    read_committed_cursor,
    stored_ids,
)

PROFILES, EVENTS = "/api/profiles", "/api/events"

WHOLE = {"sync_mode": "full_refresh_overwrite"}

pytestmark = pytest.mark.usefixtures("fast_retries")


def match_third_request(path: str) -> Mapping[str, object]:
    """Return what matches the third request of a path from now on."""
    return {"path": path, "from": 3, "to": 3}


def wait_for_the_held_one(home: Home, child: ChildProcess, path: str) -> None:
    """Wait until nothing of a path is requested but the page that is held."""
    before, now = 0, home.account.request_counts()[path]
    while now < 3 or now > before:
        assert not child.has_ended(within=0.7)
        before, now = now, home.account.request_counts()[path]


def test_f75_a_refresh_keeps_what_increments_stored_meanwhile(open_home: StartHome) -> None:
    """Increments commit during a refresh: it commits once, read once, with the rows of both.

    Of a profile that both have, the newer version stays; what was gone before or went meanwhile is
    marked; the mark is the increments'. It is read twice by no one.
    """
    home = open_home(profiles=3_000)
    account = home.account
    assert home.sync("profiles").success
    whole = account.request_counts()[PROFILES]
    gone, changed, later = sorted(account.true_ids("profiles"))[:3]
    account.mutate(profile=gone, delete=True)
    account.advance_clock(hours=1)
    account.clear_journal()
    with account.hold_response(match_third_request(PROFILES)) as send:
        refresh = fork_sync(home, "profiles", config=WHOLE)
        wait_for_the_held_one(home, refresh, PROFILES)
        account.advance_clock(hours=1)
        made = [account.mutate(create="profile", set={"email": "one@example.com"})]
        account.mutate(profile=changed, set={"last_name": "Changed"})
        passing = account.mutate(create="profile", set={"email": "passing@example.com"})
        assert home.sync("profiles").success
        account.mutate(profile=passing, delete=True)
        account.advance_clock(hours=1)
        made.append(account.mutate(create="profile", set={"email": "two@example.com"}))
        account.mutate(profile=later, set={"last_name": "Later"})
        assert home.sync("profiles").success
        mark = read_committed_cursor(home, "profiles")
        assert not refresh.has_ended(within=0)
        send()
        assert refresh.has_ended(within=300)
    assert refresh.exit_code == 0
    assert account.request_counts()[PROFILES] < whole * 3 / 2, "it was read again"
    assert sorted(home.live_ids("profiles")) == sorted(account.true_ids("profiles"))
    assert set(home.deletion_times("profiles")) == {gone, passing}
    assert len(home.ids("profiles")) == len(set(home.ids("profiles")))
    assert set(made) <= set(home.live_ids("profiles"))
    names = dict(home.query("SELECT id, last_name FROM klaviyo.profiles"))
    assert (names[changed], names[later]) == ("Changed", "Later")
    assert_cursors_agree(home, "profiles")
    assert mark is not None
    assert read_committed_cursor(home, "profiles") == mark
    # Nor does the next run find anything amiss.
    account.advance_clock(hours=1)
    account.clear_journal()
    assert home.sync("profiles").success
    assert account.request_counts()[PROFILES] < 10
    assert sorted(home.live_ids("profiles")) == sorted(account.true_ids("profiles"))


def test_f75_so_does_one_of_events(open_home: StartHome) -> None:
    """In a table by day deleted rows leave and new ones stay, each once."""
    home = open_home(events=4_000, future_events=0, gzip=False)
    account = home.account
    assert home.sync("events").success
    whole = account.request_counts()[EVENTS]
    account.advance_clock(hours=1)
    account.clear_journal()
    with account.hold_response(match_third_request(EVENTS)) as send:
        refresh = fork_sync(home, "events", config=WHOLE)
        wait_for_the_held_one(home, refresh, EVENTS)
        for _ in range(2):
            account.advance_clock(hours=1)
            account.add_events({"count": 20})
            account.advance_clock(minutes=10)
            assert home.sync("events").success
        assert not refresh.has_ended(within=0)
        send()
        assert refresh.has_ended(within=300)
    assert refresh.exit_code == 0
    assert account.request_counts()[EVENTS] < whole * 2
    assert_cursors_agree(home, "events")
    assert stored_ids(home, "events") == sorted(account.true_ids("events"))


@pytest.mark.parametrize(
    "moment",
    [
        KillAt("after staging rebased rows"),
        KillAt("before a table commit", max_file_bytes=100),
    ],
    ids=["what others stored is staged", "in its commit"],
)
def test_f75_a_kill_of_such_a_refresh_hinders_nobody(open_home: StartHome, moment: KillAt) -> None:
    """After the kill the table is as the increments left it; increments and refreshes go on."""
    home = open_home(profiles=1_000)
    account = home.account
    assert home.sync("profiles").success
    account.advance_clock(hours=1)
    account.clear_journal()
    with account.hold_response(match_third_request(PROFILES)) as send:
        refresh = fork_sync(home, "profiles", kill_at=moment, config=WHOLE)
        wait_for_the_held_one(home, refresh, PROFILES)
        account.advance_clock(hours=1)
        account.mutate(create="profile", set={"email": "one@example.com"})
        assert home.sync("profiles").success
        mark = read_committed_cursor(home, "profiles")
        send()
        assert refresh.has_ended(within=300)
    assert refresh.exit_code in {-signal.SIGKILL, -signal.SIGXFSZ}
    assert read_committed_cursor(home, "profiles") == mark
    assert_complete(home, "profiles")
    account.advance_clock(hours=1)
    for config in (None, WHOLE):
        account.mutate(create="profile", set={"email": f"{len(config or ())}@example.com"})
        assert home.sync("profiles", config=config).success
        assert_complete(home, "profiles")
