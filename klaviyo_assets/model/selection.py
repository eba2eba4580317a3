"""Which streams are assets: what KLAVIYO_STREAMS names, and what those are made from."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.stream import Children, Detail, Join, Stream, Unnest
from klaviyo_assets.settings import Settings, variable_name

DEFAULT_GROUP, ALL_GROUP = "default", "all"
"""Names for the streams that are on without the setting, and for every stream."""


def upstream_streams(stream: Stream) -> tuple[str, ...]:
    """Return the streams whose tables this one is made from, or needs to be read."""
    match stream.source:
        case Join(left=left, right=right):
            return (left, right)
        case Detail(parent=parent) | Children(parent=parent) | Unnest(parent=parent):
            return (parent,)
        case ReportEndpoint(subject=subject):
            return ("metrics", f"{subject}s")
        case _:
            return ()


def section_group(stream: Stream) -> str:
    """Return the name of a stream's group: its section of Klaviyo's API reference."""
    return stream.section.lower().replace(" ", "_")


def selected_streams(settings: Settings, streams: Mapping[str, Stream]) -> frozenset[str]:
    """Return the names of the streams that are assets, those that they need included.

    Entries that name nothing are left out; `selection_errors` tells of them.
    """
    names = settings.streams or (DEFAULT_GROUP,)
    found = set[str]()
    waiting = [each for name in names for each in _members(name, streams)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += upstream_streams(streams[name])
    return frozenset(found)


def selection_errors(settings: Settings, streams: Mapping[str, Stream]) -> list[SettingError]:
    """Return an error for each entry of KLAVIYO_STREAMS that is neither a stream nor a group."""
    groups = {DEFAULT_GROUP, ALL_GROUP, *map(section_group, streams.values())}
    return [
        SettingError(
            f"{variable_name('streams')}={entry!r} cannot be used: there is no such stream or "
            f"group.{_nearest(entry, groups | streams.keys())} Groups are "
            f"{', '.join(sorted(groups))}."
        )
        for entry in settings.streams
        if not _members(entry, streams)
    ]


def _members(name: str, streams: Mapping[str, Stream]) -> list[str]:
    """Return the streams that an entry means; a group goes before a stream of its name."""
    if name == ALL_GROUP:
        return list(streams)
    if name == DEFAULT_GROUP:
        return [each.name for each in streams.values() if not each.is_opt_in]
    if name in streams:
        return [name]
    return [each.name for each in streams.values() if section_group(each) == name]


def _nearest(entry: str, known: Collection[str]) -> str:
    found = get_close_matches(entry, known, n=3)
    return f" Did you mean {' or '.join(found)}?" if found else ""
