"""Why streams that are read by parent request every parent, and which need only those that changed.

Reading the children of changed parents alone is exact where a change of a child moves a time of its
parent. Klaviyo's reference says so of no pair, so a stream is here with what is known instead.
"""

from collections.abc import Iterable

from klaviyo_assets.model.stream import Children, Detail, Stream
from klaviyo_assets_tests.benchmarks.report import markdown_table

WHY_ALL_PARENTS = {
    "coupon_codes": "a coupon has no time of change, and assigning a code is no change of it",
    "flow_actions": "`updated` of a flow is not said to move with its steps",
    "flow_messages": "`updated` of a step is not said to move with its messages",
    "form_versions": "`updated_at` of a form is not said to move with its versions",
    "list_members": "Klaviyo says that `updated` of a list does not move with its members",
    "lists_detailed": "Klaviyo says that `updated` of a list does not move with its members",
    "metric_properties": "`updated` of a metric is not said to move with properties of its events",
    "object_records": "`updated_at` of an object type is not said to move with its records",
    "segment_members": "`updated` of a segment is not said to move with its members",
    "segments_detailed": "`updated` of a segment is not said to move with its members",
}
"""The streams that request every parent in each sync, and why no parent may be left out."""

CHANGED_PARENTS = {
    "campaigns_detailed": "an estimate that somebody requested anew beside the same `updated_at`",
    "flow_definitions": "a definition that changed beside the same `updated`",
    "form_definitions": "a definition that changed beside the same `updated_at`",
}
"""The streams that request only parents that changed, and what a full refresh alone can find."""


EVERY_TEXT = """\
## By parent

To read the children of changed parents alone is exact only where a change of a child moves a time
of its parent. Klaviyo says so of no pair, so these request every parent in each sync (of members,
only who joined since the last one):"""

CHANGED_TEXT = """\
These request a record where its own time moved, for what its list does not show. A change beside
the same time is found by a full refresh alone (`sync_mode: full_refresh_overwrite`):"""


def fan_outs(streams: Iterable[Stream]) -> tuple[set[str], set[str]]:
    """Return the streams that request every parent in each sync, and those changed parents only."""
    by_parent = [each for each in streams if isinstance(each.source, Children | Detail)]
    every = {each.name for each in by_parent if each.is_read_by_parent}
    return every, {each.name for each in by_parent} - every


def fan_out_tables() -> str:
    """Return the part of docs/requests.md about streams that are read by parent."""
    every = markdown_table(("stream", "why every parent"), sorted(WHY_ALL_PARENTS.items()))
    changed = markdown_table(
        ("stream", "what a full refresh alone finds"),
        sorted(CHANGED_PARENTS.items()),
    )
    return f"{EVERY_TEXT}\n\n{every}\n\n{CHANGED_TEXT}\n\n{changed}"
