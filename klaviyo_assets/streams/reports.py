"""Reports: how messages performed, by conversion metric and day; what forms and segments count.

Section "Reporting". Of flows, forms and segments the series are by day and the totals by month: of
a day a total would say what the series says, at a request a day instead of one for sixty. Of a
month it says how many people there were, and rates of them, which no sum of days can.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import date

from klaviyo_assets.model.column import Column
from klaviyo_assets.model.report import (
    VARIATION_GROUPING,
    Quotient,
    ReportEndpoint,
    ReportPeriod,
)
from klaviyo_assets.model.stream import TIER_REPORT, Stream, ViewColumn
from klaviyo_assets.model.view import View, ViewTable

STATISTICS: dict[str, str] = {
    "average_order_value": "Conversion value a conversion.",
    "bounce_rate": "Bounced of recipients, 0 to 1.",
    "bounced": "Messages that bounced.",
    "bounced_or_failed": "Messages that bounced or failed.",
    "bounced_or_failed_rate": "Bounced or failed of recipients, 0 to 1.",
    "click_rate": "Unique clicks of delivered, 0 to 1.",
    "click_to_open_rate": "Unique clicks of unique opens, 0 to 1.",
    "clicks": "Clicks, repeated ones included.",
    "clicks_unique": "People who clicked.",
    "conversion_rate": "People who converted of delivered, 0 to 1.",
    "conversion_uniques": "People who converted.",
    "conversion_value": "Value of the conversions, in the account's currency.",
    "conversions": "Conversions credited to the message.",
    "delivered": "Messages delivered.",
    "delivery_rate": "Delivered of recipients, 0 to 1.",
    "failed": "Messages that failed.",
    "failed_rate": "Failed of recipients, 0 to 1.",
    "message_segment_count_sum": "Segments that text messages were split into.",
    "open_rate": "Unique opens of delivered, 0 to 1.",
    "opens": "Opens, repeated ones included.",
    "opens_unique": "People who opened.",
    "recipients": "People the message was sent to.",
    "revenue_per_recipient": "Conversion value a recipient.",
    "spam_complaint_rate": "Spam complaints of delivered, 0 to 1.",
    "spam_complaints": "People who complained of spam.",
    "text_message_credit_usage_amount": "Credits that text messages used.",
    "text_message_roi": "Conversion value of text messages by their cost.",
    "text_message_spend": "Cost of text messages.",
    "unsubscribe_rate": "People who unsubscribed of delivered, 0 to 1.",
    "unsubscribe_uniques": "People who unsubscribed.",
    "unsubscribes": "Unsubscriptions.",
}
"""Every statistic that campaign and flow reports offer, with what it counts."""

RATES: dict[str, Quotient] = {
    "average_order_value": Quotient("conversion_value", "conversions"),
    "bounce_rate": Quotient("bounced", "recipients"),
    "bounced_or_failed_rate": Quotient("bounced_or_failed", "recipients"),
    "click_rate": Quotient("clicks_unique", "delivered"),
    "click_to_open_rate": Quotient("clicks_unique", "opens_unique"),
    "conversion_rate": Quotient("conversion_uniques", "delivered"),
    "delivery_rate": Quotient("delivered", "recipients"),
    "failed_rate": Quotient("failed", "recipients"),
    "open_rate": Quotient("opens_unique", "delivered"),
    "revenue_per_recipient": Quotient("conversion_value", "recipients"),
    "spam_complaint_rate": Quotient("spam_complaints", "delivered"),
    "text_message_roi": Quotient("conversion_value", "text_message_spend"),
    "unsubscribe_rate": Quotient("unsubscribe_uniques", "delivered"),
}
"""The statistics that are rates and cannot be added up, each with what it divides."""

FORM_RATES = {"submit_rate": Quotient("submits", "viewed_form")}

UNIQUE_STATISTICS = frozenset(
    {"clicks_unique", "conversion_uniques", "opens_unique", "unsubscribe_uniques"}
)
"""The statistics that count people: who is counted on two days is one person over both."""


def statistic_columns(
    statistics: Mapping[str, str], not_additive: Collection[str], period: ReportPeriod = "day"
) -> tuple[Column, ...]:
    """Return the columns of statistics; each says whether its days or months may be added up."""
    adds_up = f"{period.capitalize()}s add up."
    return tuple(
        Column(
            name,
            f"{about} {'Not to be added up.' if name in not_additive else adds_up}",
            "number",
            is_additive=name not in not_additive,
        )
        for name, about in statistics.items()
    )


FETCH_COLUMNS = (
    Column(
        "is_final",
        "Whether the attribution window had passed when the row was fetched.",
        "boolean",
    ),
    Column("fetched_at", "When Klaviyo computed the row, UTC.", "timestamp"),
)


def date_column(period: ReportPeriod, meaning: str = "") -> Column:
    """Return the column of the day, or of the month by its first day."""
    text = "The day" if period == "day" else "The first day of the month"
    return Column("date", f"{text}{meaning}, in the account's time zone.", "date")


def report_columns(
    subject: str, names: tuple[str, ...], period: ReportPeriod = "day"
) -> tuple[Column, ...]:
    """Return the columns of a report about `subject`; `names` are the groupings that are names."""
    return (
        date_column(period, " the messages were sent" if period == "day" else " they were sent in"),
        Column("conversion_metric_id", "The metric whose events count as conversions."),
        Column(f"{subject}_id", f"The {subject}."),
        Column(f"{subject}_message_id", f"The message of the {subject}."),
        *(
            [Column(VARIATION_GROUPING, "The variation of the message; empty where it has none.")]
            if "variation_name" in names
            else []
        ),
        Column("send_channel", "email, sms, push-notification or whatsapp."),
        *(
            Column(name, f"The {name.removesuffix('_name').replace('_', ' ')}'s name at the time.")
            for name in names
        ),
        *statistic_columns(STATISTICS, {*RATES, *UNIQUE_STATISTICS}, period),
        *FETCH_COLUMNS,
    )


def name_column(name: str, table: str, id_column: str, meaning: str) -> ViewColumn:
    """Return the column of the name that a record has now; NULL where its table is not stored."""
    return ViewColumn(
        column=Column(name, f"{meaning}, as `{table}` has it now."),
        sql="name",
        table=table,
        joined_on=id_column,
    )


CONVERSION_METRIC_NAME = replace(
    name_column(
        "conversion_metric_name", "metrics", "conversion_metric_id", "The conversion metric's name"
    ),
    # A conversion metric may be a custom one, and `metrics` has none of those.
    other_table="custom_metrics",
)
FORM_NAME = name_column("form_name", "forms", "form_id", "The form's name")
SEGMENT_NAME = name_column("segment_name", "segments", "segment_id", "The segment's name")


def report_key_columns(subject: str, *finer: str) -> tuple[str, ...]:
    """Return the key columns of a report about `subject`; `finer` groupings tell more apart."""
    ids = (f"{subject}_id", f"{subject}_message_id", *finer)
    return ("date", "conversion_metric_id", *ids, "send_channel")


def month_totals(subject: str, group_by: tuple[str, ...]) -> ReportEndpoint:
    """Return the endpoint of totals of a message's statistics, requested month by month."""
    return ReportEndpoint(
        path=f"/api/{subject}-values-reports",
        type=f"{subject}-values-report",
        subject=subject,
        interval=None,
        period="month",
        max_days=365,
        group_by=group_by,
        statistics=tuple(STATISTICS),
        rates=RATES,
    )


CAMPAIGN_GROUPINGS = (
    "campaign_id",
    "campaign_message_id",
    "send_channel",
    "campaign_message_name",
)
VARIATION_GROUPINGS = (VARIATION_GROUPING, "variation_name")
CAMPAIGN_VIEW_COLUMNS = (
    CONVERSION_METRIC_NAME,
    name_column("campaign_name", "campaigns", "campaign_id", "The campaign's name"),
)

CAMPAIGN_VALUES_REPORTS = Stream(
    name="campaign_values_reports",
    description="One row per day, conversion metric, campaign message and channel.",
    section="Reporting",
    source=ReportEndpoint(
        path="/api/campaign-values-reports",
        type="campaign-values-report",
        subject="campaign",
        interval=None,
        max_days=365,
        group_by=CAMPAIGN_GROUPINGS,
        statistics=tuple(STATISTICS),
        rates=RATES,
    ),
    key=report_key_columns("campaign"),
    partitioning="metric and month",
    tier=TIER_REPORT,
    scopes=("campaigns:read",),
    columns=report_columns("campaign", ("campaign_message_name",)),
    view_columns=CAMPAIGN_VIEW_COLUMNS,
)

CAMPAIGN_VARIATION_REPORTS = replace(
    CAMPAIGN_VALUES_REPORTS,
    name="campaign_variation_reports",
    description="One row per month, conversion metric, campaign message, variation and channel.",
    source=month_totals("campaign", (*CAMPAIGN_GROUPINGS, *VARIATION_GROUPINGS)),
    key=report_key_columns("campaign", VARIATION_GROUPING),
    columns=report_columns("campaign", ("campaign_message_name", "variation_name"), "month"),
    is_opt_in=True,
)

FLOW_GROUPINGS = ("flow_id", "flow_message_id", "send_channel", "flow_name", "flow_message_name")

FLOW_SERIES_REPORTS = Stream(
    name="flow_series_reports",
    description="One row per day, conversion metric, flow message and channel.",
    section="Reporting",
    source=ReportEndpoint(
        path="/api/flow-series-reports",
        type="flow-series-report",
        subject="flow",
        interval="daily",
        max_days=60,
        group_by=FLOW_GROUPINGS,
        statistics=tuple(STATISTICS),
        rates=RATES,
    ),
    key=report_key_columns("flow"),
    partitioning="metric and month",
    tier=TIER_REPORT,
    scopes=("flows:read",),
    columns=report_columns("flow", ("flow_name", "flow_message_name")),
    view_columns=(CONVERSION_METRIC_NAME,),
)

FLOW_VALUES_REPORTS = replace(
    FLOW_SERIES_REPORTS,
    name="flow_values_reports",
    description="One row per month, conversion metric, flow message and channel: who opened, "
    "clicked or ordered on several days counts once, in rates too.",
    source=month_totals("flow", FLOW_GROUPINGS),
    columns=report_columns("flow", ("flow_name", "flow_message_name"), "month"),
    is_opt_in=True,
)

FLOW_VARIATION_REPORTS = replace(
    FLOW_VALUES_REPORTS,
    name="flow_variation_reports",
    description="One row per month, conversion metric, flow message, variation and channel.",
    source=month_totals("flow", (*FLOW_GROUPINGS, *VARIATION_GROUPINGS)),
    key=report_key_columns("flow", VARIATION_GROUPING),
    columns=report_columns("flow", ("flow_name", "flow_message_name", "variation_name"), "month"),
)

FORM_STATISTICS: dict[str, str] = {
    "closed_form": "Times the form was closed.",
    "closed_form_uniques": "People who closed the form.",
    "qualified_form": "Times a visitor was one whom the form is meant for.",
    "qualified_form_uniques": "People whom the form is meant for.",
    "submit_rate": "Submits of views, 0 to 1.",
    "submits": "Times the form was submitted.",
    "submitted_form_step": "Times a step of the form was submitted.",
    "submitted_form_step_uniques": "People who submitted a step.",
    "viewed_form": "Times the form was seen.",
    "viewed_form_step": "Times a step of the form was seen.",
    "viewed_form_step_uniques": "People who saw a step.",
    "viewed_form_uniques": "People who saw the form.",
}
"""Every statistic that form reports offer, with what it counts."""

FORM_UNIQUES = frozenset(name for name in FORM_STATISTICS if name.endswith("_uniques"))

SEGMENT_STATISTICS: dict[str, str] = {
    "members_added": "Profiles that joined the segment.",
    "members_removed": "Profiles that left the segment.",
    "net_members_changed": "Joined less left.",
    "total_members": "Members at the end.",
}
"""Every statistic that segment reports offer, with what it counts."""


def form_columns(period: ReportPeriod) -> tuple[Column, ...]:
    """Return the columns of a report about forms."""
    return (
        date_column(period),
        Column("form_id", "The form."),
        Column("form_version_id", "The version of the form."),
        *statistic_columns(FORM_STATISTICS, {"submit_rate", *FORM_UNIQUES}, period),
        *FETCH_COLUMNS,
    )


def segment_columns(period: ReportPeriod) -> tuple[Column, ...]:
    """Return the columns of a report about segments."""
    return (
        date_column(period),
        Column("segment_id", "The segment."),
        *statistic_columns(SEGMENT_STATISTICS, {"total_members"}, period),
        *FETCH_COLUMNS,
    )


FORM_SERIES_REPORTS = Stream(
    name="form_series_reports",
    description="One row per day and version of a form.",
    section="Reporting",
    source=ReportEndpoint(
        path="/api/form-series-reports",
        type="form-series-report",
        subject="form",
        interval="daily",
        max_days=60,
        group_by=("form_id", "form_version_id"),
        statistics=tuple(FORM_STATISTICS),
        rates=FORM_RATES,
        metric=None,
    ),
    key=("date", "form_id", "form_version_id"),
    partitioning="month",
    tier=TIER_REPORT,
    scopes=("forms:read",),
    columns=form_columns("day"),
    view_columns=(FORM_NAME,),
    is_opt_in=True,
)

FORM_VALUES_REPORTS = replace(
    FORM_SERIES_REPORTS,
    name="form_values_reports",
    description="One row per month and version of a form: who saw or submitted it on several days "
    "counts once.",
    source=replace(
        month_totals("form", ("form_id", "form_version_id")),
        statistics=tuple(FORM_STATISTICS),
        rates=FORM_RATES,
        metric=None,
    ),
    columns=form_columns("month"),
)

SEGMENT_SERIES_REPORTS = Stream(
    name="segment_series_reports",
    description="One row per day and segment.",
    section="Reporting",
    source=ReportEndpoint(
        path="/api/segment-series-reports",
        type="segment-series-report",
        subject="segment",
        interval="daily",
        max_days=60,
        group_by=(),
        statistics=tuple(SEGMENT_STATISTICS),
        metric=None,
        first_day=date(2023, 6, 1),
    ),
    key=("date", "segment_id"),
    partitioning="month",
    tier=TIER_REPORT,
    scopes=("segments:read",),
    columns=segment_columns("day"),
    view_columns=(SEGMENT_NAME,),
    is_opt_in=True,
)

SEGMENT_VALUES_REPORTS = replace(
    SEGMENT_SERIES_REPORTS,
    name="segment_values_reports",
    description="One row per month and segment, as Klaviyo counts the month.",
    source=replace(
        month_totals("segment", ()),
        statistics=tuple(SEGMENT_STATISTICS),
        rates={},
        metric=None,
        first_day=date(2023, 6, 1),
    ),
    columns=segment_columns("month"),
)


def tag_view(subject: str, report: Stream) -> View:
    """Return the view of a daily report by the tags that a campaign or flow has now.

    It has the statistics that add up; rates and people of several messages do not.
    """
    sums = {each.name: each for each in report.columns if each.is_additive}
    totals = ", ".join(f"sum(r.{name}) AS {name}" for name in sums)
    return View(
        name=f"{subject}_reports_by_tag",
        description=f"One row per day, conversion metric, tag and channel: what {subject}s with it "
        f"add up to. A {subject} with two tags counts for both, one without tags for none.",
        tables=(
            ViewTable(
                name=report.name,
                columns={
                    **dict.fromkeys((f"{subject}_id", "conversion_metric_id"), "string"),
                    "date": "date",
                    "send_channel": "string",
                    "is_final": "boolean",
                    **dict.fromkeys(sums, "number"),
                },
            ),
            ViewTable(name=f"{subject}s", columns={"id": "string", "tag_ids": "ids"}),
            ViewTable(name="tags", columns={"id": "string", "name": "string"}, is_required=False),
        ),
        columns=(
            *(each for each in report.columns if each.name in {"date", "conversion_metric_id"}),
            Column("tag_id", f"A tag that the {subject} has now."),
            Column("tag_name", "Its name, as `tags` has it now."),
            *(each for each in report.columns if each.name == "send_channel"),
            *sums.values(),
            Column(
                "is_final", "Whether all of its rows were final when they were fetched.", "boolean"
            ),
        ),
        sql=f"""
SELECT r.date, r.conversion_metric_id, l.tag_id, any_value(t.name) AS tag_name, r.send_channel,
    {totals}, bool_and(r.is_final) AS is_final
FROM {report.name} AS r
JOIN (SELECT DISTINCT id, unnest(tag_ids) AS tag_id FROM {subject}s) AS l ON l.id = r.{subject}_id
LEFT JOIN (SELECT id, any_value(name) AS name FROM tags GROUP BY id) AS t ON t.id = l.tag_id
GROUP BY r.date, r.conversion_metric_id, l.tag_id, r.send_channel""",  # noqa: S608 - no input
    )


CAMPAIGN_REPORTS_BY_TAG = tag_view("campaign", CAMPAIGN_VALUES_REPORTS)
FLOW_REPORTS_BY_TAG = tag_view("flow", FLOW_SERIES_REPORTS)
