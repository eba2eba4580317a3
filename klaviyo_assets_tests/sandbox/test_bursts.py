"""Records in bursts lie where the account says, and those to come appear as the clock moves on."""

from collections import Counter
from datetime import UTC, datetime
from typing import cast

from klaviyo_assets.sandbox import AccountConfig, serve
from klaviyo_assets.sandbox.account.config import BURST_PRESETS, Burst
from klaviyo_assets.sandbox.admin import list_true_records

NOON = datetime(2026, 9, 30, 12, tzinfo=UTC)
AT_NOON = int(NOON.timestamp())


def seconds_of(account: AccountConfig, collection: str, *, later: float = 0) -> Counter[int]:
    """How many records of a collection each second has, so long after the first moment."""
    with serve(account) as sandbox:
        sandbox.clock.advance(later)
        now = sandbox.clock.now()
        sandbox.store.profiles.advance_to(int(now))
        found = list_true_records(sandbox.store, collection, now=now, parameters={})
    records = cast("dict[str, list[tuple[str, str]]]", found)["records"]
    return Counter(int(datetime.fromisoformat(moment).timestamp()) for _, moment in records)


def test_profiles_come_in_bursts_and_no_others() -> None:
    """Three in one second, two an hour later, which are there once the hour has passed."""
    bursts = (Burst(records=3, start=-60), Burst(records=2, start=3_600, seconds=10))
    account = AccountConfig(profile_bursts=bursts, events=0, now=NOON, frozen=True)
    assert seconds_of(account, "profiles") == {AT_NOON - 60: 3}
    later = {AT_NOON - 60: 3, AT_NOON + 3_600: 1, AT_NOON + 3_605: 1}
    assert seconds_of(account, "profiles", later=86_400) == later


def test_events_come_in_bursts_and_no_others() -> None:
    """A send of five hundred within ten minutes, and later ones when their time has come."""
    old = -30 * 86_400
    bursts = (Burst(records=500, start=old, seconds=600), Burst(records=40, start=3_600))
    account = AccountConfig(event_bursts=bursts, future_events=0, now=NOON, frozen=True)
    found = seconds_of(account, "events")
    assert (min(found), max(found)) == (AT_NOON + old, AT_NOON + old + 598)
    assert sum(found.values()) == 500
    assert sum(seconds_of(account, "events", later=30 * 86_400).values()) == 540


def test_the_offered_mixtures_are_what_they_are_called() -> None:
    """Imports of 500 a night, sends of 2,500 a week, a decade of nothing, one crowded second."""
    assert {burst.records for burst in BURST_PRESETS["imports"].profiles} == {500}
    assert {burst.seconds for burst in BURST_PRESETS["sends"].events} == {600}
    first, second = BURST_PRESETS["decade"].events
    assert second.start - first.start > 9 * 365 * 86_400
    assert max(burst.records for burst in BURST_PRESETS["second"].profiles) == 3_000
