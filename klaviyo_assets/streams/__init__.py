"""Declares every stream as a value, in one module for each section of Klaviyo's API reference.

For a new section add a module here, and its streams to `COLLECTIONS` or `REPORTS`; a test fails if
a module or stream is missing.
"""

from collections.abc import Mapping
from types import MappingProxyType

from klaviyo_assets.model.stream import ProfileMergeRule, Stream
from klaviyo_assets.streams.accounts import ACCOUNTS
from klaviyo_assets.streams.campaigns import CAMPAIGNS, CAMPAIGNS_DETAILED
from klaviyo_assets.streams.events import EVENTS, EVENTS_DETAILED
from klaviyo_assets.streams.flows import FLOWS
from klaviyo_assets.streams.lists import LISTS, LISTS_DETAILED
from klaviyo_assets.streams.metrics import METRICS
from klaviyo_assets.streams.profiles import GLOBAL_EXCLUSIONS, PROFILE_MERGES, PROFILES
from klaviyo_assets.streams.reports import CAMPAIGN_VALUES_REPORTS, FLOW_SERIES_REPORTS
from klaviyo_assets.streams.segments import SEGMENTS
from klaviyo_assets.streams.templates import EMAIL_TEMPLATES

COLLECTIONS: tuple[Stream, ...] = (
    ACCOUNTS,
    CAMPAIGNS,
    CAMPAIGNS_DETAILED,
    EMAIL_TEMPLATES,
    EVENTS,
    EVENTS_DETAILED,
    FLOWS,
    GLOBAL_EXCLUSIONS,
    LISTS,
    LISTS_DETAILED,
    METRICS,
    PROFILES,
    SEGMENTS,
)
"""Every stream that is read from records, by name; a parent may come after its details."""

REPORTS: tuple[Stream, ...] = (CAMPAIGN_VALUES_REPORTS, FLOW_SERIES_REPORTS)
"""Every stream that Klaviyo computes on request, by conversion metric and day."""

MERGE_RULES: tuple[ProfileMergeRule, ...] = (PROFILE_MERGES,)
"""Every map of merged records; these need no requests."""

STREAMS: Mapping[str, Stream] = MappingProxyType(
    {stream.name: stream for stream in (*COLLECTIONS, *REPORTS)}
)
"""All streams by name."""
