"""Says what the schedules and sensors guarantee, and which guarantees are not met now."""

from collections.abc import Iterable
from dataclasses import dataclass

from klaviyo_assets.settings import AUTOMATION_RECOMMENDED, Settings


@dataclass(frozen=True, slots=True)
class AutomationGuarantee:
    """What is guaranteed while all of `automations` are on; `subject` begins a sentence."""

    subject: str
    automations: tuple[str, ...]


LATE_EVENTS_SCHEDULE_NAME = "klaviyo_daily_late_events"

AUTOMATION_GUARANTEES = (
    AutomationGuarantee("what is new in every collection, hourly", ("klaviyo_hourly",)),
    AutomationGuarantee("events that arrive late", (LATE_EVENTS_SCHEDULE_NAME,)),
    AutomationGuarantee(
        "the check that every event is stored and every key is unique, daily",
        ("klaviyo_daily_checks",),
    ),
    AutomationGuarantee(
        "the repair of days on which that check found events missing", ("klaviyo_events_healing",)
    ),
    AutomationGuarantee("suppressions that were lifted, weekly", ("klaviyo_weekly_exclusions",)),
    AutomationGuarantee("profiles that were deleted, weekly", ("klaviyo_weekly_deleted_profiles",)),
    AutomationGuarantee("profile counts of lists, daily", ("klaviyo_daily_details",)),
    AutomationGuarantee("report days that are missing or still move", ("klaviyo_reports_drain",)),
    AutomationGuarantee("the check that reports are up to date", ("klaviyo_reports_newest_days",)),
    AutomationGuarantee("new metrics as partitions of reports", ("klaviyo_conversion_metrics",)),
)
"""All guarantees. Where the backfill sensor is off, the daily schedules of reports replace it."""

ALWAYS_ON_AUTOMATIONS = ("klaviyo_conversion_metrics",)
"""Automations that are on from the start whatever the setting: they send no requests."""

SUBSTITUTE_AUTOMATIONS = {
    "klaviyo_reports_drain": (
        "klaviyo_daily_campaign_values_reports",
        "klaviyo_daily_flow_series_reports",
    )
}


def unmet_guarantees(
    settings: Settings, running_automations: Iterable[str]
) -> list[AutomationGuarantee]:
    """Return the guarantees that are not met, given the names of the schedules and sensors on.

    A lookback also reads late events; the late-events schedule reads none if its days are 0.
    """
    on = set(running_automations)
    on |= {name for name, others in SUBSTITUTE_AUTOMATIONS.items() if on.issuperset(others)}
    if settings.lookback_days:
        on.add(LATE_EVENTS_SCHEDULE_NAME)
    elif not settings.late_events_days:
        on.discard(LATE_EVENTS_SCHEDULE_NAME)
    return [each for each in AUTOMATION_GUARANTEES if not on.issuperset(each.automations)]


def default_automations(settings: Settings) -> tuple[str, ...]:
    """Return the names of the automations that are on unless someone switched them in the UI."""
    return (
        all_automations()
        if settings.automation == AUTOMATION_RECOMMENDED
        else ALWAYS_ON_AUTOMATIONS
    )


def all_automations() -> tuple[str, ...]:
    """Return the names of all schedules and sensors that guarantees need, each once."""
    names = (name for each in AUTOMATION_GUARANTEES for name in each.automations)
    others = (name for each in SUBSTITUTE_AUTOMATIONS.values() for name in each)
    return tuple(dict.fromkeys([*names, *others]))
