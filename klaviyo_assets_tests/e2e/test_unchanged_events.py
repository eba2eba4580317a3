"""An event that comes back unchanged keeps its `synced_at`; the checks see it all the same."""

from datetime import datetime, timedelta

import pytest

from klaviyo_assets_tests.e2e.check_runs import run_completeness_check
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home


def read_times(home: Home) -> dict[str, datetime]:
    """Return when each stored event was read."""
    return dict(home.query("SELECT id, synced_at FROM klaviyo.events"))


@pytest.mark.parametrize("road", ["lookback", "schedule"])
def test_only_what_is_new_or_changed_gets_a_new_time(open_home: StartHome, road: str) -> None:
    """A week is read again: of its events those of a deleted person have changed, one is late."""
    home = open_home(future_events=0)
    assert home.sync("metrics", "events").success
    before = read_times(home)
    week = home.account.now - timedelta(days=6)
    ((person,),) = home.query(
        "SELECT any_value(profile_id ORDER BY id) FROM klaviyo.events "
        f"WHERE profile_id IS NOT NULL AND datetime > TIMESTAMPTZ '{week.isoformat()}'"
    )
    theirs = home.query(
        f"SELECT id FROM klaviyo.events WHERE profile_id = '{person}' "
        f"AND datetime > TIMESTAMPTZ '{week.isoformat()}'"
    )
    of_person = {
        str(key)
        for (key,) in home.query(f"SELECT id FROM klaviyo.events WHERE profile_id = '{person}'")
    }
    home.account.mutate(profile=person, delete=True)
    late = home.account.add_events({"datetime": week.isoformat()})
    home.account.advance_clock(hours=7)
    if road == "lookback":
        run = home.sync("events", lookback_days="7", late_events_days="7")
    else:
        run = home.run_schedule("klaviyo_late_events", home.account.now, late_events_days="7")
    assert run.success
    after = read_times(home)
    changed = {key for key in before if after[key] != before[key]}
    new = after.keys() - before.keys()
    # The week begins a day earlier than what surely belongs to it.
    assert {str(key) for (key,) in theirs} <= changed
    assert changed <= of_person
    assert late <= new
    assert set(after) == home.account.true_ids("events")
    assert run.metadata_number("events", "rows_written") == len(changed) + len(new)
    assert run.metadata_number("events", "records_read") > len(changed) + len(new)
    assert run_completeness_check(home).colour == "green"
