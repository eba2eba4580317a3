"""Merges of profiles: where what is stored shows one, the map says who the survivor is."""

from datetime import timedelta

from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import NOON

ID_SCAN = {"sweep_ids": True}
APPEND = {"sync_mode": "incremental_append"}
MAP = "SELECT old_id, survivor_id, noticed_at, evidence FROM main.profile_merges"


def pair(home: Home, *, survivor_lacks: str) -> tuple[str, str]:
    """Return a stored profile with an identifier, and an other one without it."""
    column = survivor_lacks
    rows = home.query(f"SELECT id, {column} FROM klaviyo.profiles ORDER BY id")
    old = next(each for each, value in rows if value is not None)
    return old, next(each for each, value in rows if value is None)


def test_a_merge_shows_in_the_identifier_that_the_survivor_took_over(home: Home) -> None:
    """A vanished profile whose phone number is now another's was merged into that one."""
    home.sync("profiles")
    assert home.query(MAP) == []
    old, survivor = pair(home, survivor_lacks="phone_number")
    home.account.advance_clock(hours=1)
    home.account.mutate(profile=old, merge_into=survivor)
    home.account.advance_clock(hours=1)
    noticed = home.account.now
    home.sync("profiles")
    assert home.query(MAP) == []
    assert home.sync("profiles", config=ID_SCAN).success
    assert set(home.deletion_times("profiles")) == {old}
    ((found, into, at, evidence),) = home.query(MAP)
    assert (found, into, at) == (old, survivor, noticed)
    assert "phone_number" in evidence.split(", ")


def test_a_merge_shows_in_events_that_were_read_again(home: Home) -> None:
    """An event that was of the vanished profile when it was stored is now the survivor's."""
    home.sync("profiles")
    with_all = "email IS NOT NULL AND phone_number IS NOT NULL AND external_id IS NOT NULL"
    rows = home.query(f"SELECT id FROM klaviyo.profiles WHERE {with_all} ORDER BY id")
    (old,), (survivor,) = rows[:2]
    home.account.add_events({"datetime": (NOON - timedelta(hours=3)).isoformat(), "profile": old})
    home.sync("events", config=APPEND)
    home.account.mutate(profile=old, merge_into=survivor)
    home.account.advance_clock(hours=1)
    home.sync("profiles", config=ID_SCAN)
    assert home.query(MAP) == []
    home.sync("events", config={"start": f"{NOON - timedelta(days=30):%Y-%m-%d}"})
    ((found, into, _, evidence),) = home.query(MAP)
    assert (found, into, evidence) == (old, survivor, "events")


def test_a_deletion_is_no_merge(home: Home) -> None:
    """Neither a profile that was deleted nor one that signed up anew afterwards is in the map."""
    home.sync("profiles", "events")
    email, gone = home.query(
        "SELECT email, id FROM klaviyo.profiles WHERE email IS NOT NULL ORDER BY id"
    )[0]
    home.account.mutate(profile=gone, delete=True)
    home.account.advance_clock(hours=1)
    home.account.mutate(create="profile", set={"email": email})
    home.account.advance_clock(hours=1)
    home.sync("profiles")
    home.sync("profiles", config=ID_SCAN)
    assert set(home.deletion_times("profiles")) == {gone}
    assert home.query(f"SELECT count(*) FROM klaviyo.profiles WHERE email = '{email}'") == [(2,)]
    assert home.query(MAP) == []
