"""Which streams are assets, and which schedules and sensors are on, as the settings say.

Assets are what KLAVIYO_STREAMS names and what that is made from.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.stream import (
    Children,
    Detail,
    Join,
    Stream,
    Unnest,
    ViewSource,
    streams_at_revision,
)
from klaviyo_assets.settings import AUTOMATION_RECOMMENDED, Settings, variable_name

DEFAULT_GROUP, ALL_GROUP = "default", "all"
"""Names for the streams that are on without the setting, and for every stream."""


def upstream_streams(stream: Stream) -> tuple[str, ...]:
    """Return the streams whose tables this one is made from, or needs to be read."""
    return (*stream.read_first, *_source_streams(stream))


def _source_streams(stream: Stream) -> tuple[str, ...]:
    match stream.source:
        case Join(left=left, right=right):
            return (left, right)
        case Detail(parent=parent) | Children(parent=parent) | Unnest(parent=parent):
            return (parent,)
        case ReportEndpoint(subject=subject) as report:
            metrics = ["metrics"] if report.has_metric else []
            return tuple(dict.fromkeys([*metrics, f"{subject}s"]))
        case _:
            return ()


def section_group(stream: Stream) -> str:
    """Return the name of a stream's section of Klaviyo's API reference, as a setting has it."""
    return stream.section.lower().replace(" ", "_")


AUDIENCE_GROUP, MESSAGING_GROUP = "audience", "messaging"
EVENTS_GROUP, REPORTS_GROUP = "events", "reports"

GROUP_BY_SECTION: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            ("Profiles", "Lists", "Segments", "Forms", "Custom Objects"), AUDIENCE_GROUP
        ),
        **dict.fromkeys(("Events", "Metrics", "Reviews", "Webhooks"), EVENTS_GROUP),
    }
)
"""The asset group of each section; the sections that are not listed are `messaging`."""


def asset_group(stream: Stream) -> str:
    """Return the group of a stream's asset: audience, messaging, events or reports."""
    if isinstance(stream.source, ReportEndpoint):
        return REPORTS_GROUP
    return GROUP_BY_SECTION.get(stream.section, MESSAGING_GROUP)


def unoffered_stream(stream: Stream, streams: Mapping[str, Stream], revision: str) -> Stream | None:
    """Return what keeps a stream from being read at a revision: itself, or one that it needs."""
    if not stream.is_offered_at(revision):
        return stream
    needed = (
        unoffered_stream(streams[each], streams, revision) for each in upstream_streams(stream)
    )
    return next((each for each in needed if each is not None), None)


def offered_streams(streams: Mapping[str, Stream], revision: str) -> dict[str, Stream]:
    """Return the streams that a revision of Klaviyo's API offers, by name, as it shows them."""
    shown = streams_at_revision(streams, revision)
    return {
        name: each
        for name, each in shown.items()
        if unoffered_stream(each, shown, revision) is None
    }


def selected_streams(settings: Settings, streams: Mapping[str, Stream]) -> frozenset[str]:
    """Return the names of the streams that are assets, those that they need included.

    Streams that the revision does not offer are left out, and entries that name nothing;
    `selection_errors` reports them.
    """
    names = settings.streams or (DEFAULT_GROUP,)
    found = set[str]()
    offered = offered_streams(streams, settings.revision)
    waiting = [each for name in names for each in _members(name, offered)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += upstream_streams(offered[name])
    return frozenset(found)


def shown_streams(settings: Settings, streams: Mapping[str, Stream]) -> dict[str, Stream]:
    """Return the streams that klaviyo.duckdb shows where their tables are stored, by name.

    All are, but for views that are no assets without KLAVIYO_STREAMS and that it does not name.
    """
    selected = selected_streams(settings, streams)
    return {
        name: each
        for name, each in streams_at_revision(streams, settings.revision).items()
        if name in selected or not (each.is_opt_in and isinstance(each.source, ViewSource))
    }


def selection_errors(settings: Settings, streams: Mapping[str, Stream]) -> list[SettingError]:
    """Return an error for each entry of KLAVIYO_STREAMS that names nothing to read.

    It is neither a stream nor a group, or the revision offers none of the streams that it means. An
    entry of KLAVIYO_HISTORY is an asset of which changed rows can be kept.
    """
    offered = offered_streams(streams, settings.revision)
    unknown = [each for each in settings.streams if not _members(each, streams)]
    unoffered = [
        (entry, members)
        for entry in settings.streams
        if (members := _members(entry, streams)) and not _members(entry, offered)
    ]
    return [
        *_history_errors(settings, streams),
        *_unknown_errors(unknown, streams),
        *(
            _unoffered_error(entry, streams[members[0]], streams, settings.revision)
            for entry, members in unoffered
        ),
    ]


def keeps_changes(stream: Stream, settings: Settings) -> bool:
    """Return whether each changed row of a stream is kept, by KLAVIYO_HISTORY."""
    return bool(stream.history_columns) and not {stream.name, DEFAULT_GROUP}.isdisjoint(
        settings.history
    )


def _history_errors(settings: Settings, streams: Mapping[str, Stream]) -> Iterator[SettingError]:
    possible = {name for name, each in streams.items() if each.history_columns}
    chosen = selected_streams(settings, streams)
    for entry in settings.history:
        if entry not in {DEFAULT_GROUP, *possible}:
            reason = (
                "changed rows are kept of "
                f"{', '.join(sorted(possible))}, and default means each of them"
            )
        elif entry != DEFAULT_GROUP and entry not in chosen:
            reason = f"{entry} is no asset: name it in {variable_name('streams')} too"
        else:
            continue
        yield SettingError(f"{variable_name('history')}={entry!r} cannot be used: {reason}.")


def _unoffered_error(
    entry: str, stream: Stream, streams: Mapping[str, Stream], revision: str
) -> SettingError:
    lacking = unoffered_stream(stream, streams, revision) or stream
    needs = f" needs {lacking.name}, which" if lacking is not stream else ""
    when = f"since {lacking.since}" if lacking.since else f"up to {lacking.until}"
    return SettingError(
        f"{variable_name('streams')}={entry!r} cannot be used at "
        f"{variable_name('revision')}={revision}: {stream.name}{needs} can be read only at "
        f"revisions {when}."
    )


def _unknown_errors(unknown: Collection[str], streams: Mapping[str, Stream]) -> list[SettingError]:
    groups = {
        DEFAULT_GROUP,
        ALL_GROUP,
        *map(section_group, streams.values()),
        *map(asset_group, streams.values()),
    }
    return [
        SettingError(
            f"{variable_name('streams')}={entry!r} cannot be used: there is no such stream or "
            f"group.{_nearest(entry, groups | streams.keys())} Groups are "
            f"{', '.join(sorted(groups))}."
        )
        for entry in unknown
    ]


def _members(name: str, streams: Mapping[str, Stream]) -> list[str]:
    """Return the streams that an entry means; a stream goes before the group of its name."""
    if name == ALL_GROUP:
        return list(streams)
    if name == DEFAULT_GROUP:
        return [each.name for each in streams.values() if not each.is_opt_in]
    if name in streams:
        return [name]
    return [
        each.name for each in streams.values() if name in {section_group(each), asset_group(each)}
    ]


def _nearest(entry: str, known: Collection[str]) -> str:
    found = get_close_matches(entry, known, n=3)
    return f" Did you mean {' or '.join(found)}?" if found else ""


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
    AutomationGuarantee("report days that are missing or not final", ("klaviyo_reports_drain",)),
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
