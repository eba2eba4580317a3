"""F75: a full refresh that lasts longer than the gap between increments."""

import signal
from collections.abc import Mapping

import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.lives import Life, forked
from klaviyo_assets_tests.faults.deaths import Moment, dying
from klaviyo_assets_tests.faults.judge import committed_mark, judge, judge_marks, stored_ids

PROFILES, EVENTS = "/api/profiles", "/api/events"

WHOLE = {"sync_mode": "full_refresh_overwrite"}

HELD = 7.0
"""Seconds that one page of the refresh takes: two increments begin and end meanwhile."""

pytestmark = pytest.mark.usefixtures("impatient")


def held(path: str) -> Mapping[str, object]:
    """Return what matches the third request of a path from now on."""
    return {"path": path, "from": 3, "to": 3}


def wait_for_the_held_one(home: Home, life: Life, path: str) -> None:
    """Wait until nothing of a path is asked for but the page that is held."""
    before, now = 0, home.shop.asked()[path]
    while now < 3 or now > before:
        assert not life.ended(within=0.7)
        before, now = now, home.shop.asked()[path]


def test_f75_a_refresh_keeps_what_increments_stored_meanwhile(start: StartHome) -> None:
    """Two hourly increments commit while it reads: it is stored once, with the rows of both.

    Of a profile that both have, the newer version stays; what was gone before or went meanwhile is
    marked; the mark is the increments'. It is read twice by no one.
    """
    home = start(profiles=3_000)
    shop = home.shop
    assert home.sync("profiles").success
    whole = shop.asked()[PROFILES]
    gone, changed, later = sorted(shop.truth("profiles"))[:3]
    shop.mutate(profile=gone, delete=True)
    shop.move(hours=1)
    shop.forget()
    with shop.faulty("latency", match=held(PROFILES), seconds=HELD):
        refresh = forked(home, "profiles", config=WHOLE)
        wait_for_the_held_one(home, refresh, PROFILES)
        shop.move(hours=1)
        made = [shop.mutate(create="profile", set={"email": "one@example.com"})]
        shop.mutate(profile=changed, set={"last_name": "Changed"})
        passing = shop.mutate(create="profile", set={"email": "passing@example.com"})
        assert home.sync("profiles").success
        shop.mutate(profile=passing, delete=True)
        shop.move(hours=1)
        made.append(shop.mutate(create="profile", set={"email": "two@example.com"}))
        shop.mutate(profile=later, set={"last_name": "Later"})
        assert home.sync("profiles").success
        mark = committed_mark(home, "profiles")
        assert not refresh.ended(within=0)
        assert refresh.ended(within=60)
    assert refresh.code == 0
    assert shop.asked()[PROFILES] < whole * 3 / 2, "it was read again"
    assert sorted(home.living("profiles")) == sorted(shop.truth("profiles"))
    assert set(home.deleted("profiles")) == {gone, passing}
    assert len(home.ids("profiles")) == len(set(home.ids("profiles")))
    assert set(made) <= set(home.living("profiles"))
    names = dict(home.query("SELECT id, last_name FROM klaviyo.profiles"))
    assert (names[changed], names[later]) == ("Changed", "Later")
    judge_marks(home, "profiles")
    assert mark is not None
    assert committed_mark(home, "profiles") == mark
    # Nor does the next run find anything amiss.
    shop.move(hours=1)
    shop.forget()
    assert home.sync("profiles").success
    assert shop.asked()[PROFILES] < 10
    assert sorted(home.living("profiles")) == sorted(shop.truth("profiles"))


def test_f75_so_does_one_of_events(start: StartHome) -> None:
    """A table by day, which marks nothing: what is gone leaves, what is new stays, each once."""
    home = start(events=6_000, future_events=0, gzip=False)
    shop = home.shop
    assert home.sync("events").success
    whole = shop.asked()[EVENTS]
    shop.move(hours=1)
    shop.forget()
    with shop.faulty("latency", match=held(EVENTS), seconds=HELD):
        refresh = forked(home, "events", config=WHOLE)
        wait_for_the_held_one(home, refresh, EVENTS)
        for _ in range(2):
            shop.move(hours=1)
            shop.write_events({"count": 20})
            shop.move(minutes=10)
            assert home.sync("events").success
        assert not refresh.ended(within=0)
        assert refresh.ended(within=60)
    assert refresh.code == 0
    assert shop.asked()[EVENTS] < whole * 2
    judge_marks(home, "events")
    assert stored_ids(home, "events") == sorted(shop.truth("events"))


@pytest.mark.parametrize(
    "moment",
    [
        Moment(owner="klaviyo_assets.lake.writing:TableWriter", name="take_over", when="after"),
        Moment(owner="klaviyo_assets.lake.delta", name="write_commit", when="inside"),
    ],
    ids=["what others stored is staged", "in its commit"],
)
def test_f75_a_kill_of_such_a_refresh_hinders_nobody(start: StartHome, moment: Moment) -> None:
    """The table is as the increments left it, the next one waits for nothing, nor a new refresh."""
    home = start(profiles=1_000)
    shop = home.shop
    assert home.sync("profiles").success
    shop.move(hours=1)
    shop.forget()
    with shop.faulty("latency", match=held(PROFILES), seconds=HELD / 2):
        refresh = dying(home, "profiles", at=moment, config=WHOLE)
        wait_for_the_held_one(home, refresh, PROFILES)
        shop.move(hours=1)
        shop.mutate(create="profile", set={"email": "one@example.com"})
        assert home.sync("profiles").success
        mark = committed_mark(home, "profiles")
        assert refresh.ended(within=60)
    assert refresh.code in {-signal.SIGKILL, -signal.SIGXFSZ}
    assert committed_mark(home, "profiles") == mark
    judge(home, "profiles")
    shop.move(hours=1)
    for config in (None, WHOLE):
        shop.mutate(create="profile", set={"email": f"{len(config or ())}@example.com"})
        assert home.sync("profiles", config=config).success
        judge(home, "profiles")
