"""What jobs, schedules and sensors share: their guarantees, their assets, and whether they are on.

Assets are selected by a tag and not by key, so that selections still hold where a user has renamed
assets. A schedule or sensor is on by its switch in the UI, or, while nobody used that, by the
setting KLAVIYO_AUTOMATION.
"""

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.scheduler.instigation import InstigatorStatus

from klaviyo_assets.defs.metadata import STREAM_TAG, asset_key
from klaviyo_assets.errors import SettingError
from klaviyo_assets.settings import AUTOMATION_RECOMMENDED, Settings
from klaviyo_assets.streams import STREAMS


@dataclass(frozen=True, slots=True)
class AutomationGuarantee:
    """What is guaranteed while all of `automations` are on; `subject` begins a sentence."""

    subject: str
    automations: tuple[str, ...]


LATE_EVENTS_SCHEDULE_NAME = "klaviyo_late_events"
OVERVIEW_SCHEDULE_NAME = "klaviyo_marketing_overview"

AUTOMATION_GUARANTEES = (
    AutomationGuarantee("what is new in every collection, hourly", ("klaviyo_collections",)),
    AutomationGuarantee("events that arrive late", (LATE_EVENTS_SCHEDULE_NAME,)),
    AutomationGuarantee(
        "the check that every event is stored and every key is unique, daily",
        ("klaviyo_checks",),
    ),
    AutomationGuarantee(
        "the repair of days on which that check found events missing", ("klaviyo_events_healing",)
    ),
    AutomationGuarantee("suppressions that were lifted, weekly", ("klaviyo_lifted_suppressions",)),
    AutomationGuarantee("profiles that were deleted, weekly", ("klaviyo_deleted_profiles",)),
    AutomationGuarantee("profile counts of lists, daily", ("klaviyo_slow_details",)),
    AutomationGuarantee("report days that are missing or still move", ("klaviyo_reports_drain",)),
    AutomationGuarantee("the check that reports are up to date", ("klaviyo_reports_newest_days",)),
    AutomationGuarantee("new metrics as partitions of reports", ("klaviyo_conversion_metrics",)),
    AutomationGuarantee("the page of the marketing overview, hourly", (OVERVIEW_SCHEDULE_NAME,)),
)
"""All guarantees. Where the backfill sensor is off, the daily schedules of reports replace it."""

ALWAYS_ON_AUTOMATIONS = ("klaviyo_conversion_metrics",)
"""Automations that are on from the start whatever the setting: they send no requests."""

SUBSTITUTE_AUTOMATIONS = {
    "klaviyo_reports_drain": (
        "klaviyo_campaign_values_reports",
        "klaviyo_flow_series_reports",
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


_ASSET_NAME_PATTERN = re.compile(r"(?<![\w/])klaviyo/([a-z_]+)\b")
"""How messages of rooms that do not know Dagster name an asset: by its default key."""


def select_assets(*streams: str) -> dg.AssetSelection:
    """Return the assets of streams, whatever their keys, with their checks."""
    selection = dg.AssetSelection.tag(STREAM_TAG, streams[0])
    for stream in streams[1:]:
        selection |= dg.AssetSelection.tag(STREAM_TAG, stream)
    return selection


class ChecksByName(dg.AssetSelection):
    """Selects the checks of our assets that have one of the given names, and no asset."""

    def __init__(self, *names: str) -> None:
        self._names = frozenset(names)

    def resolve_inner(
        self,
        asset_graph: BaseAssetGraph[Any],  # noqa: ARG002 - the signature is Dagster's
        allow_missing: bool,  # noqa: ARG002, FBT001 - the signature is Dagster's
    ) -> AbstractSet[dg.AssetKey]:
        """Return no asset."""
        return set()

    def resolve_checks_inner(
        self,
        asset_graph: BaseAssetGraph[Any],
        allow_missing: bool,  # noqa: ARG002, FBT001 - the signature is Dagster's
    ) -> AbstractSet[dg.AssetCheckKey]:
        """Return the checks of those names in a code location."""
        our_assets = {node.key for node in asset_graph.asset_nodes if STREAM_TAG in node.tags}
        return {
            key
            for key in asset_graph.asset_check_keys
            if key.asset_key in our_assets and key.name in self._names
        }


def replace_asset_names(context: dg.AssetExecutionContext, text: str) -> str:
    """Return the text with each asset's default key replaced by the key that it has here.

    An asset that is not part of the run's job is left with its default key.
    """
    if not any(each.group(1) in STREAMS for each in _ASSET_NAME_PATTERN.finditer(text)):
        return text
    nodes = context.job_def.asset_layer.asset_graph.asset_nodes
    keys = {node.tags[STREAM_TAG]: node.key for node in nodes if STREAM_TAG in node.tags}

    def replace_name(match: re.Match[str]) -> str:
        key = keys.get(match.group(1))
        return match.group() if key is None else key.to_user_string()

    return _ASSET_NAME_PATTERN.sub(replace_name, text)


def find_asset_key(
    context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext, stream: str
) -> dg.AssetKey:
    """Return the key that a stream's asset has in the code location of a tick.

    A test may evaluate the tick without a code location; then it is the default key.
    """
    try:
        repository = context.repository_def
    except dg.DagsterInvariantViolationError:
        repository = None
    if repository is None:
        return asset_key(stream)
    (key,) = select_assets(stream).resolve(repository.asset_graph)
    return key


def default_schedule_status(settings: Settings) -> dg.DefaultScheduleStatus:
    """Return whether the schedules behind the README's promises run from the start."""
    is_on = settings.automation == AUTOMATION_RECOMMENDED
    return dg.DefaultScheduleStatus.RUNNING if is_on else dg.DefaultScheduleStatus.STOPPED


def default_sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    """Return whether the sensors behind the README's promises run from the start."""
    is_on = settings.automation == AUTOMATION_RECOMMENDED
    return dg.DefaultSensorStatus.RUNNING if is_on else dg.DefaultSensorStatus.STOPPED


def is_switched_on(
    instance: dg.DagsterInstance, name: str, settings: Settings, *, run: dg.DagsterRun | None = None
) -> bool:
    """Return whether a schedule or sensor is on now.

    Its switch in the UI decides if somebody has used it, otherwise the setting does. Two code
    locations may each have one of that name; with a `run`, only that of the run's location counts.
    """
    switched = _read_switches(instance, run).get(name)
    return settings.automation == AUTOMATION_RECOMMENDED if switched is None else switched


def find_switched_on(settings: Settings) -> set[str]:
    """Return the names of the schedules and sensors that are on in the current DAGSTER_HOME.

    Raises:
        SettingError: DAGSTER_HOME is not set, or cannot be read.
    """
    try:
        with dg.DagsterInstance.get() as instance:
            switches = _read_switches(instance, None)
    except dg.DagsterError as error:
        raise SettingError(f"the switches in DAGSTER_HOME cannot be read: {error}") from error
    defaults = default_automations(settings)
    return {each for each in all_automations() if switches.get(each, each in defaults)}


def _read_switches(instance: dg.DagsterInstance, run: dg.DagsterRun | None) -> dict[str, bool]:
    """Return whether each schedule and sensor is on that somebody has switched in the UI.

    Nothing where Dagster has no storage for it. With a `run`, only those of its code location.
    """
    if instance.schedule_storage is None:
        return {}
    origin = run.remote_job_origin if run is not None else None
    selector = origin.repository_origin.get_selector_id() if origin is not None else None
    switches: dict[str, bool] = {}
    for each in instance.all_instigator_state(repository_selector_id=selector):
        if each.status is not InstigatorStatus.DECLARED_IN_CODE:
            is_on = each.status is InstigatorStatus.RUNNING
            switches[each.name] = switches.get(each.name, False) or is_on
    return switches
