"""Facts of the section Reporting and of metric aggregates: operations, statistics, groupings."""

from dataclasses import dataclass
from typing import Final

from klaviyo_assets.sandbox.facts.schema import PUBLISHED_REPORT, PUBLISHED_S, Operation

PUBLISHED_RATES: Final = (
    "bounce_rate",
    "bounced_or_failed_rate",
    "click_rate",
    "click_to_open_rate",
    "conversion_rate",
    "delivery_rate",
    "failed_rate",
    "open_rate",
    "spam_complaint_rate",
    "unsubscribe_rate",
)
PUBLISHED_STATISTICS: Final = (
    *PUBLISHED_RATES,
    "average_order_value",
    "bounced",
    "bounced_or_failed",
    "clicks",
    "clicks_unique",
    "conversion_uniques",
    "conversion_value",
    "conversions",
    "delivered",
    "failed",
    "message_segment_count_sum",
    "opens",
    "opens_unique",
    "recipients",
    "revenue_per_recipient",
    "spam_complaints",
    "text_message_credit_usage_amount",
    "text_message_roi",
    "text_message_spend",
    "unsubscribe_uniques",
    "unsubscribes",
)
SEND_CHANNELS: Final = ("email", "sms", "push-notification", "whatsapp")
TIMEFRAME_KEYS: Final = (
    "last_12_months",
    "last_30_days",
    "last_365_days",
    "last_3_months",
    "last_7_days",
    "last_90_days",
    "last_month",
    "last_week",
    "last_year",
    "this_month",
    "this_week",
    "this_year",
    "today",
    "yesterday",
)
INTERVAL_MAX_DAYS: Final = {"hourly": 7, "daily": 60, "weekly": 364, "monthly": 364}
TAG_GROUPINGS: Final = ("tag_id", "tag_name")
_SHARED_GROUPINGS: Final = ("send_channel", "text_message_format", "variation", "variation_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """What a report request may hold: groupings, the ones that must be among them, filters."""

    group_by: tuple[str, ...]
    required_groupings: tuple[str, ...]
    filters: tuple[str, ...]
    is_series: bool = False

    @property
    def default_groupings(self) -> tuple[str, ...]:
        """The groupings of a request that names none."""
        return (*self.required_groupings, "send_channel")


_CAMPAIGN_GROUPINGS: Final = ("campaign_id", "campaign_message_id")
_FLOW_GROUPINGS: Final = ("flow_id", "flow_message_id")
_FLOW_NAME_GROUPINGS: Final = ("flow_name", "flow_message_name")
_ALL_FLOW_GROUPINGS: Final = (
    *_FLOW_GROUPINGS,
    *_FLOW_NAME_GROUPINGS,
    *_SHARED_GROUPINGS,
    *TAG_GROUPINGS,
)

REPORT_FACTS: Final[dict[str, ReportFacts]] = {
    "campaign-values-report": ReportFacts(
        group_by=(
            *_CAMPAIGN_GROUPINGS,
            "campaign_message_name",
            "group",
            "group_name",
            *_SHARED_GROUPINGS,
            *TAG_GROUPINGS,
        ),
        required_groupings=_CAMPAIGN_GROUPINGS,
        filters=(*_CAMPAIGN_GROUPINGS, "campaign_message_name", *_SHARED_GROUPINGS, *TAG_GROUPINGS),
    ),
    "flow-values-report": ReportFacts(
        group_by=_ALL_FLOW_GROUPINGS,
        required_groupings=_FLOW_GROUPINGS,
        filters=_ALL_FLOW_GROUPINGS,
    ),
    "flow-series-report": ReportFacts(
        group_by=_ALL_FLOW_GROUPINGS,
        required_groupings=_FLOW_GROUPINGS,
        filters=_ALL_FLOW_GROUPINGS,
        is_series=True,
    ),
}

AGGREGATE_MEASUREMENTS: Final = ("count", "sum_value", "unique")
AGGREGATE_INTERVALS: Final = ("hour", "day", "week", "month")
AGGREGATE_DIMENSIONS: Final = frozenset(
    {
        *(
            "$attributed_channel",
            "$attributed_flow",
            "$attributed_message",
            "$attributed_variation",
        ),
        *("$campaign_channel", "$flow", "$flow_channel", "$message", "$message_send_cohort"),
        *("$usage_amount", "$value_currency", "$variation", "$variation_send_cohort", "Bot Click"),
        *("Bounce Type", "Campaign Name", "Client Canonical", "Client Name", "Client Type"),
        *("Email Domain", "Failure Source", "Failure Type", "From Number", "From Phone Region"),
        *("Inbox Provider", "List", "Message Format", "Message Name", "Message Type", "Method"),
        *("Segment Count", "Subject", "To Number", "To Phone Region", "URL", "form_id"),
    }
)

REPORTING_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="query_campaign_values",
        path="/api/campaign-values-reports",
        method="POST",
        role="report",
        kind="campaign-values-report",
        tier=PUBLISHED_REPORT,
        scopes=("campaigns:read",),
        fieldsets={"campaign-values-report": frozenset({"id", "results"})},
    ),
    Operation(
        name="query_flow_values",
        path="/api/flow-values-reports",
        method="POST",
        role="report",
        kind="flow-values-report",
        tier=PUBLISHED_REPORT,
        scopes=("flows:read",),
        fieldsets={"flow-values-report": frozenset({"id", "results"})},
    ),
    Operation(
        name="query_flow_series",
        path="/api/flow-series-reports",
        method="POST",
        role="report",
        kind="flow-series-report",
        tier=PUBLISHED_REPORT,
        scopes=("flows:read",),
        fieldsets={"flow-series-report": frozenset({"id", "results", "date_times"})},
    ),
    Operation(
        name="query_metric_aggregates",
        path="/api/metric-aggregates",
        method="POST",
        role="report",
        kind="metric-aggregate",
        tier=PUBLISHED_S,
        scopes=("metrics:read",),
        fieldsets={"metric-aggregate": frozenset({"id", "data", "dates"})},
    ),
)
