"""The promises that need a schedule or sensor, and which of them keep each.

What belongs here: the names, in the order of worth. What does not: whether one is on
(`defs.switches`), what it does (`defs.automation`, the sensors).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from klaviyo_assets.settings import RECOMMENDED, Settings


@dataclass(frozen=True, slots=True)
class Promise:
    """What is kept while all of some schedules and sensors are on, as a sentence's subject."""

    about: str
    kept_by: tuple[str, ...]


LATE_EVENTS = "klaviyo_daily_late_events"

PROMISES = (
    Promise("what is new in every collection, hourly", ("klaviyo_hourly",)),
    Promise("events that arrive late", (LATE_EVENTS,)),
    Promise(
        "the proof that every event is there and every key once, daily", ("klaviyo_daily_checks",)
    ),
    Promise("days that the proof found short, read again", ("klaviyo_events_healing",)),
    Promise("suppressions that were lifted, weekly", ("klaviyo_weekly_exclusions",)),
    Promise("profiles that were deleted, weekly", ("klaviyo_weekly_deleted_profiles",)),
    Promise("profile counts of lists, daily", ("klaviyo_daily_details",)),
    Promise("report days that are missing or still move", ("klaviyo_reports_drain",)),
    Promise("whether reports are kept up", ("klaviyo_reports_newest_days",)),
    Promise("new metrics as partitions of reports", ("klaviyo_conversion_metrics",)),
)
"""All of them; the daily schedules of reports stand in for the draining sensor where it is off."""

ALWAYS_ON = ("klaviyo_conversion_metrics",)
"""Those that run from the start whatever the setting: they cost nothing."""

STAND_INS = {
    "klaviyo_reports_drain": (
        "klaviyo_daily_campaign_values_reports",
        "klaviyo_daily_flow_series_reports",
    )
}


def promises_not_kept(settings: Settings, switched_on: Iterable[str]) -> list[Promise]:
    """Return the promises that nothing keeps, given the names of schedules and sensors on.

    A lookback reads late events as well, and a late-events schedule of no day reads none.
    """
    on = set(switched_on)
    on |= {name for name, others in STAND_INS.items() if on.issuperset(others)}
    if settings.lookback_days:
        on.add(LATE_EVENTS)
    elif not settings.late_events_days:
        on.discard(LATE_EVENTS)
    return [each for each in PROMISES if not on.issuperset(each.kept_by)]


def on_by_setting(settings: Settings) -> tuple[str, ...]:
    """Return the names of those that are on where nobody has used a switch."""
    return automated() if settings.automation == RECOMMENDED else ALWAYS_ON


def automated() -> tuple[str, ...]:
    """Return the names of all schedules and sensors that promises are kept by, once each."""
    names = (name for each in PROMISES for name in each.kept_by)
    others = (name for each in STAND_INS.values() for name in each)
    return tuple(dict.fromkeys([*names, *others]))
