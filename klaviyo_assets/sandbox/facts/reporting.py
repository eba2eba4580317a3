"""Facts of the section Reporting and of metric aggregates: operations, statistics, groupings."""

from dataclasses import dataclass, replace
from datetime import date
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
FORM_STATISTICS: Final = (
    "closed_form",
    "closed_form_uniques",
    "qualified_form",
    "qualified_form_uniques",
    "submit_rate",
    "submits",
    "submitted_form_step",
    "submitted_form_step_uniques",
    "viewed_form",
    "viewed_form_step",
    "viewed_form_step_uniques",
    "viewed_form_uniques",
)
SEGMENT_STATISTICS: Final = (
    "members_added",
    "members_removed",
    "net_members_changed",
    "total_members",
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
    """What a report request may hold: groupings, the ones that must be among them, filters.

    Without `group_by` the attribute is refused, and the required groupings are the rows'.
    `list_operator` compares a field with a list. `first_day`: no data before it.
    """

    group_by: tuple[str, ...]
    required_groupings: tuple[str, ...]
    filters: tuple[str, ...]
    is_series: bool = False
    statistics: tuple[str, ...] = PUBLISHED_STATISTICS
    list_operator: str = "contains-any"
    has_conversion_metric: bool = True
    first_day: date | None = None

    @property
    def default_groupings(self) -> tuple[str, ...]:
        """The groupings of a request that names none."""
        channel = ("send_channel",) if "send_channel" in self.group_by else ()
        return (*self.required_groupings, *channel)

    def as_series(self) -> "ReportFacts":
        """The same for the series of the values report."""
        return replace(self, is_series=True)


_CAMPAIGN_GROUPINGS: Final = ("campaign_id", "campaign_message_id")
_FLOW_GROUPINGS: Final = ("flow_id", "flow_message_id")
_FLOW_NAME_GROUPINGS: Final = ("flow_name", "flow_message_name")
_ALL_FLOW_GROUPINGS: Final = (
    *_FLOW_GROUPINGS,
    *_FLOW_NAME_GROUPINGS,
    *_SHARED_GROUPINGS,
    *TAG_GROUPINGS,
)

_FLOW_FACTS: Final = ReportFacts(
    group_by=_ALL_FLOW_GROUPINGS,
    required_groupings=_FLOW_GROUPINGS,
    filters=_ALL_FLOW_GROUPINGS,
)
_FORM_FACTS: Final = ReportFacts(
    group_by=("form_id", "form_version_id"),
    required_groupings=("form_id",),
    filters=("form_id", "form_version_id"),
    statistics=FORM_STATISTICS,
    list_operator="any",
    has_conversion_metric=False,
)
_SEGMENT_FACTS: Final = ReportFacts(
    group_by=(),
    required_groupings=("segment_id",),
    filters=("segment_id",),
    statistics=SEGMENT_STATISTICS,
    list_operator="any",
    has_conversion_metric=False,
    first_day=date(2023, 6, 1),
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
    "flow-values-report": _FLOW_FACTS,
    "flow-series-report": _FLOW_FACTS.as_series(),
    "form-values-report": _FORM_FACTS,
    "form-series-report": _FORM_FACTS.as_series(),
    "segment-values-report": _SEGMENT_FACTS,
    "segment-series-report": _SEGMENT_FACTS.as_series(),
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


def _report_operation(subject: str, shape: str) -> Operation:
    kind = f"{subject}-{shape}-report"
    dates = {"date_times"} if shape == "series" else set[str]()
    return Operation(
        name=f"query_{subject}_{shape}",
        path=f"/api/{kind}s",
        method="POST",
        role="report",
        kind=kind,
        tier=PUBLISHED_REPORT,
        scopes=(f"{subject}s:read",),
        fieldsets={kind: frozenset({"id", "results"} | dates)},
    )


REPORTING_OPERATIONS: tuple[Operation, ...] = (
    *(_report_operation(*kind.split("-")[:2]) for kind in REPORT_FACTS),
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
