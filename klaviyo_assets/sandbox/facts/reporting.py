"""Facts of the section Reporting and of metric aggregates: operations, statistics, groupings."""

from dataclasses import dataclass
from typing import Final

from klaviyo_assets.sandbox.facts.operation import REPORT, Operation, S

RATES: Final = (
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
STATISTICS: Final = (
    *RATES,
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
INTERVAL_DAYS: Final = {"hourly": 7, "daily": 60, "weekly": 364, "monthly": 364}
LISTED: Final = ("tag_id", "tag_name")
_SHARED: Final = ("send_channel", "text_message_format", "variation", "variation_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """What one report may be asked: groupings, the ones that must be among them, filters."""

    group_by: tuple[str, ...]
    required: tuple[str, ...]
    filters: tuple[str, ...]
    is_series: bool = False

    @property
    def default(self) -> tuple[str, ...]:
        """The groupings when none are asked for."""
        return (*self.required, "send_channel")


_CAMPAIGN: Final = ("campaign_id", "campaign_message_id")
_FLOW: Final = ("flow_id", "flow_message_id")
_FLOW_NAMES: Final = ("flow_name", "flow_message_name")
_FLOW_GROUPS: Final = (*_FLOW, *_FLOW_NAMES, *_SHARED, *LISTED)

REPORTS: Final[dict[str, ReportFacts]] = {
    "campaign-values-report": ReportFacts(
        group_by=(*_CAMPAIGN, "campaign_message_name", "group", "group_name", *_SHARED, *LISTED),
        required=_CAMPAIGN,
        filters=(*_CAMPAIGN, "campaign_message_name", *_SHARED, *LISTED),
    ),
    "flow-values-report": ReportFacts(group_by=_FLOW_GROUPS, required=_FLOW, filters=_FLOW_GROUPS),
    "flow-series-report": ReportFacts(
        group_by=_FLOW_GROUPS, required=_FLOW, filters=_FLOW_GROUPS, is_series=True
    ),
}

MEASUREMENTS: Final = ("count", "sum_value", "unique")
AGGREGATE_INTERVALS: Final = ("hour", "day", "week", "month")
DIMENSIONS: Final = frozenset(
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

REPORTING: tuple[Operation, ...] = (
    Operation(
        name="query_campaign_values",
        path="/api/campaign-values-reports",
        method="POST",
        role="report",
        kind="campaign-values-report",
        tier=REPORT,
        scopes=("campaigns:read",),
        fields={"campaign-values-report": frozenset({"id", "results"})},
    ),
    Operation(
        name="query_flow_values",
        path="/api/flow-values-reports",
        method="POST",
        role="report",
        kind="flow-values-report",
        tier=REPORT,
        scopes=("flows:read",),
        fields={"flow-values-report": frozenset({"id", "results"})},
    ),
    Operation(
        name="query_flow_series",
        path="/api/flow-series-reports",
        method="POST",
        role="report",
        kind="flow-series-report",
        tier=REPORT,
        scopes=("flows:read",),
        fields={"flow-series-report": frozenset({"id", "results", "date_times"})},
    ),
    Operation(
        name="query_metric_aggregates",
        path="/api/metric-aggregates",
        method="POST",
        role="report",
        kind="metric-aggregate",
        tier=S,
        scopes=("metrics:read",),
        fields={"metric-aggregate": frozenset({"id", "data", "dates"})},
    ),
)
