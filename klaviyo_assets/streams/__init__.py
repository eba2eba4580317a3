"""Declares every stream as a value, in one module for each section of Klaviyo's API reference.

For a new section add a module here, and its streams to `COLLECTIONS` or `REPORTS`; a test fails if
a module or stream is missing.
"""

from collections.abc import Mapping
from types import MappingProxyType

from klaviyo_assets.model.stream import ProfileMergeRule, Stream
from klaviyo_assets.model.view import View
from klaviyo_assets.settings import DEFAULT_REVISION
from klaviyo_assets.streams.accounts import ACCOUNTS
from klaviyo_assets.streams.brands import (
    BRAND_BUTTONS,
    BRAND_COLORS,
    BRAND_EMAIL_DEFAULTS,
    BRAND_LOGOS,
    BRAND_SOCIAL_GROUPS,
)
from klaviyo_assets.streams.campaigns import (
    CAMPAIGN_AUDIENCES,
    CAMPAIGN_MESSAGES,
    CAMPAIGN_VARIATIONS,
    CAMPAIGNS,
    CAMPAIGNS_DETAILED,
)
from klaviyo_assets.streams.catalogs import (
    CATALOG_CATEGORIES,
    CATALOG_ITEMS,
    CATALOG_VARIANTS,
)
from klaviyo_assets.streams.coupons import COUPON_CODES, COUPONS
from klaviyo_assets.streams.custom_objects import DATA_SOURCES, OBJECT_RECORDS, OBJECT_TYPES
from klaviyo_assets.streams.events import EVENT_ATTRIBUTIONS, EVENTS, EVENTS_DETAILED
from klaviyo_assets.streams.figure_views import CAMPAIGN_DAY_FIGURES
from klaviyo_assets.streams.flows import (
    FLOW_ACTIONS,
    FLOW_DEFINITIONS,
    FLOW_MESSAGES,
    FLOWS,
)
from klaviyo_assets.streams.forms import FORM_DEFINITIONS, FORM_VERSIONS, FORMS
from klaviyo_assets.streams.images import IMAGES
from klaviyo_assets.streams.lists import LIST_MEMBERS, LISTS, LISTS_DETAILED
from klaviyo_assets.streams.metrics import (
    CUSTOM_METRICS,
    MAPPED_METRICS,
    METRIC_AGGREGATES,
    METRIC_PROPERTIES,
    METRICS,
)
from klaviyo_assets.streams.profile_views import CAN_RECEIVE, PROFILES_CORE
from klaviyo_assets.streams.profiles import (
    GLOBAL_EXCLUSIONS,
    PROFILE_BULK_IMPORT_JOBS,
    PROFILE_MERGES,
    PROFILE_SUPPRESSION_BULK_CREATE_JOBS,
    PROFILE_SUPPRESSION_BULK_DELETE_JOBS,
    PROFILES,
    PUSH_TOKENS,
)
from klaviyo_assets.streams.reports import (
    CAMPAIGN_REPORTS_BY_TAG,
    CAMPAIGN_VALUES_REPORTS,
    CAMPAIGN_VARIATION_REPORTS,
    FLOW_REPORTS_BY_TAG,
    FLOW_SERIES_REPORTS,
    FLOW_VALUES_REPORTS,
    FLOW_VARIATION_REPORTS,
    FORM_SERIES_REPORTS,
    FORM_VALUES_REPORTS,
    SEGMENT_SERIES_REPORTS,
    SEGMENT_VALUES_REPORTS,
)
from klaviyo_assets.streams.reviews import REVIEWS
from klaviyo_assets.streams.segments import SEGMENT_MEMBERS, SEGMENTS, SEGMENTS_DETAILED
from klaviyo_assets.streams.sender_config import TEXT_MESSAGING_SENDERS
from klaviyo_assets.streams.tags import (
    CAMPAIGN_TAGS,
    FLOW_TAGS,
    LIST_TAGS,
    SEGMENT_TAGS,
    TAG_GROUPS,
    TAGS,
)
from klaviyo_assets.streams.templates import EMAIL_TEMPLATES, UNIVERSAL_CONTENT
from klaviyo_assets.streams.tracking_settings import TRACKING_SETTINGS
from klaviyo_assets.streams.translations import TRANSLATIONS
from klaviyo_assets.streams.usage import BILLING_USAGE
from klaviyo_assets.streams.web_feeds import WEB_FEEDS
from klaviyo_assets.streams.webhooks import WEBHOOK_TOPICS, WEBHOOKS

COLLECTIONS: tuple[Stream, ...] = (
    ACCOUNTS,
    BILLING_USAGE,
    BRAND_BUTTONS,
    BRAND_COLORS,
    BRAND_EMAIL_DEFAULTS,
    BRAND_LOGOS,
    BRAND_SOCIAL_GROUPS,
    CAMPAIGN_AUDIENCES,
    CAMPAIGN_MESSAGES,
    CAMPAIGN_TAGS,
    CAMPAIGN_VARIATIONS,
    CAMPAIGNS,
    CAMPAIGNS_DETAILED,
    CATALOG_CATEGORIES,
    CATALOG_ITEMS,
    CATALOG_VARIANTS,
    COUPON_CODES,
    COUPONS,
    CUSTOM_METRICS,
    DATA_SOURCES,
    EMAIL_TEMPLATES,
    EVENT_ATTRIBUTIONS,
    EVENTS,
    EVENTS_DETAILED,
    FLOW_ACTIONS,
    FLOW_DEFINITIONS,
    FLOW_MESSAGES,
    FLOW_TAGS,
    FLOWS,
    FORM_DEFINITIONS,
    FORM_VERSIONS,
    FORMS,
    GLOBAL_EXCLUSIONS,
    IMAGES,
    LIST_MEMBERS,
    LIST_TAGS,
    LISTS,
    LISTS_DETAILED,
    MAPPED_METRICS,
    METRIC_PROPERTIES,
    METRICS,
    OBJECT_RECORDS,
    OBJECT_TYPES,
    PROFILE_BULK_IMPORT_JOBS,
    PROFILE_SUPPRESSION_BULK_CREATE_JOBS,
    PROFILE_SUPPRESSION_BULK_DELETE_JOBS,
    PROFILES,
    PUSH_TOKENS,
    REVIEWS,
    SEGMENT_MEMBERS,
    SEGMENT_TAGS,
    SEGMENTS,
    SEGMENTS_DETAILED,
    TAG_GROUPS,
    TAGS,
    TEXT_MESSAGING_SENDERS,
    TRACKING_SETTINGS,
    TRANSLATIONS,
    UNIVERSAL_CONTENT,
    WEB_FEEDS,
    WEBHOOK_TOPICS,
    WEBHOOKS,
)
"""Every stream that is read from records, by name; a parent may come after its details."""

DEFAULT_COLLECTIONS: tuple[Stream, ...] = tuple(
    each for each in COLLECTIONS if not each.is_opt_in and each.is_offered_at(DEFAULT_REVISION)
)
"""Those that are assets where neither KLAVIYO_STREAMS nor KLAVIYO_REVISION is set."""

REPORTS: tuple[Stream, ...] = (
    CAMPAIGN_VALUES_REPORTS,
    CAMPAIGN_VARIATION_REPORTS,
    FLOW_SERIES_REPORTS,
    FLOW_VALUES_REPORTS,
    FLOW_VARIATION_REPORTS,
    FORM_SERIES_REPORTS,
    FORM_VALUES_REPORTS,
    METRIC_AGGREGATES,
    SEGMENT_SERIES_REPORTS,
    SEGMENT_VALUES_REPORTS,
)
"""Every stream that Klaviyo computes on request, by day or month, most by conversion metric too."""

DEFAULT_REPORTS: tuple[Stream, ...] = tuple(each for each in REPORTS if not each.is_opt_in)
"""Those that are assets where KLAVIYO_STREAMS is not set."""

MERGE_RULES: tuple[ProfileMergeRule, ...] = (PROFILE_MERGES,)
"""Every map of merged records; these need no requests."""

VIEWS: tuple[View, ...] = (
    PROFILES_CORE,
    CAN_RECEIVE,
    CAMPAIGN_DAY_FIGURES,
    CAMPAIGN_REPORTS_BY_TAG,
    FLOW_REPORTS_BY_TAG,
)
"""Every view that answers a question from several tables; these need no requests either."""

DERIVED_RELATIONS: tuple[ProfileMergeRule | View, ...] = (*MERGE_RULES, *VIEWS)
"""The relations of klaviyo.duckdb that are no streams: they are there where their tables are."""

STREAMS: Mapping[str, Stream] = MappingProxyType(
    {stream.name: stream for stream in (*COLLECTIONS, *REPORTS)}
)
"""All streams by name."""

DEFAULT_STREAMS: Mapping[str, Stream] = MappingProxyType(
    {each.name: each for each in (*DEFAULT_COLLECTIONS, *DEFAULT_REPORTS)}
)
"""Those that are assets where KLAVIYO_STREAMS is not set, by name."""
