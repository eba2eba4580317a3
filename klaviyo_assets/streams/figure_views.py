"""Why a number differs: what report, aggregates and events say of a campaign and a day.

Klaviyo gives three answers to one question, and each is right about something else:

    report       everything that a message earned, on the day the message was sent, until the report
                 was fetched ("calculated by the date the message was sent", reporting overview)
    aggregates   events by their own day, as Klaviyo counts them (metric aggregates guide)
    events       the rows of `events`, by their own day in the account's zone

A cause is named only where it is proven: the events are counted in every way of `_WAYS` that could
explain a difference, and combinations of up to three; the simplest way that gives exactly the other
number is its cause. What no way gives is "not explained".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from klaviyo_assets.model.column import Column
from klaviyo_assets.model.view import View, ViewTable
from klaviyo_assets.streams.events import EVENT_VIEW_COLUMNS, event_property

REPORT, AGGREGATES = "report", "aggregates"

_WAYS = {
    "by_send_day": "the report counts by the day of sending",
    "by_message": "people are counted once for each message",
    "no_machines": "machine opens are left out",
    "until_fetch": "it was fetched before later events",
    "every_credit": "orders credited beside another message count too",
    "in_window": "orders more than 5 days after the message are left out",
    "less_refunds": "refunds and cancelled orders are taken off",
}
"""Ways of counting events, the likeliest first, each with the cause that it proves."""

_LONGEST_WINDOW = "INTERVAL 5 DAY"
"""Klaviyo's default attribution window of emails and SMS; an account can change it, and reports are
then made anew, while events keep the credit that they were read with."""

_MAX_COMBINED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figure:
    """A figure: its statistic of the report and measure of the aggregates, and how it is counted.

    `base`: the kind of events. `measure`: `events`, `people` or `value`. `ways`: those of `_WAYS`
    that can make it another number.
    """

    name: str
    base: str
    measure: str
    ways: tuple[str, ...]


_SENT, _PEOPLE = ("by_send_day", "until_fetch"), ("by_send_day", "by_message", "until_fetch")
_CREDIT = ("every_credit", "in_window")
_FIGURES = (
    _Figure(name="opens", base="opens", measure="events", ways=(*_SENT, "no_machines")),
    _Figure(name="opens_unique", base="opens", measure="people", ways=(*_PEOPLE, "no_machines")),
    _Figure(name="clicks", base="clicks", measure="events", ways=_SENT),
    _Figure(name="clicks_unique", base="clicks", measure="people", ways=_PEOPLE),
    _Figure(name="conversions", base="conversions", measure="events", ways=(*_SENT, *_CREDIT)),
    _Figure(
        name="conversion_uniques",
        base="conversions",
        measure="people",
        ways=(*_PEOPLE, *_CREDIT),
    ),
    _Figure(
        name="conversion_value",
        base="conversions",
        measure="value",
        ways=(*_SENT, *_CREDIT, "less_refunds"),
    ),
)


def _combined_ways(figure: _Figure, source: str) -> Iterator[tuple[str, ...]]:
    """Yield the ways to count a figure, the simplest first; aggregates go by the events' day."""
    possible = [
        way for way in _WAYS if way in figure.ways and (source == REPORT or way != "by_send_day")
    ]
    for size in range(_MAX_COMBINED + 1):
        yield from combinations(possible, size)


def _way_rows() -> Iterator[str]:
    """Yield the rows of the table `ways`, as SQL."""
    for figure in _FIGURES:
        for source in (REPORT, AGGREGATES):
            for rank, ways in enumerate(_combined_ways(figure, source)):
                cause = "; ".join(_WAYS[way] for way in ways) or "agree"
                flags = ", ".join(str(way in ways).lower() for way in _WAYS)
                yield (
                    f"('{source}', '{figure.name}', '{figure.base}', '{figure.measure}', {rank}, "
                    f"'{cause}', {flags})"
                )


def _list_figures(*, is_conversion: bool) -> str:
    """Return the SQL of one row of a report for each figure that goes by conversions, or not."""
    names = (each.name for each in _FIGURES if (each.base == "conversions") is is_conversion)
    rows = ", ".join(f"{{'figure': '{name}', 'value': {name}}}" for name in names)
    return f"unnest([{rows}], recursive := true)"


_VALUE, _, _IS_MACHINE_OPEN = (each.sql for each in EVENT_VIEW_COLUMNS)
_ORDER_ID = f"coalesce({event_property('OrderId')}, {event_property('$event_id')})"
_KIND_OF_METRIC = (
    "CASE WHEN regexp_matches(name, '^Opened (Email|Push|WhatsApp)') THEN 'opens' "
    "WHEN regexp_matches(name, '^Clicked (Email|SMS|Text Message|Push|WhatsApp)') THEN 'clicks' "
    "WHEN regexp_matches(name, '^Received (Email|SMS|Text Message|Push|WhatsApp)') THEN 'receipts' "
    "WHEN name IN ('Refunded Order', 'Cancelled Order') THEN 'refunds' END"
)
"""By name, since ids differ by account; SMS was renamed to Text Message in July 2026."""

_KEY = "campaign_id, date, figure, conversion_metric_id"
"""What a row is about; the metric is empty where the figure has none, because NULLs do not join."""


def _day(time: str) -> str:
    """Return the SQL of a time's day in the account's zone; in UTC where that is not known."""
    zone = "coalesce((SELECT name FROM zone), 'UTC')"
    return f"CAST(timezone({zone}, {time}) AS DATE)"


_TABLES = (
    ViewTable(
        name="campaign_values_reports",
        columns={
            "date": "date",
            "conversion_metric_id": "string",
            "campaign_id": "string",
            "campaign_message_id": "string",
            "send_channel": "string",
            "recipients": "number",
            **{each.name: "number" for each in _FIGURES},
            "is_final": "boolean",
            "fetched_at": "timestamp",
        },
    ),
    ViewTable(
        name="events",
        columns={
            "id": "string",
            "datetime": "timestamp",
            "event_properties": "json",
            "metric_id": "string",
            "profile_id": "string",
            "attributions": "json",
        },
    ),
    ViewTable(name="metrics", columns={"id": "string", "name": "string", "integration": "json"}),
    ViewTable(
        name="metric_aggregates",
        columns={
            "date": "date",
            "metric_id": "string",
            "dimension": "string",
            "dimension_value": "string",
            "count": "number",
            "sum_value": "number",
            "unique": "number",
            "fetched_at": "timestamp",
        },
        is_required=False,
    ),
    ViewTable(name="accounts", columns={"timezone": "string"}, is_required=False),
    ViewTable(name="campaigns", columns={"id": "string", "name": "string"}, is_required=False),
    ViewTable(name="custom_metrics", columns={"id": "string", "name": "string"}, is_required=False),
)

_EVENTS_SQL = f"""
zone AS (
    SELECT max(timezone) AS name FROM accounts
    WHERE timezone IN (SELECT name FROM pg_timezone_names())
),
messages AS (
    SELECT DISTINCT campaign_id, campaign_message_id AS message_id FROM campaign_values_reports
),
kinds AS (
    SELECT id AS metric_id, {_KIND_OF_METRIC} AS kind FROM metrics
    WHERE kind = 'refunds' OR json_extract_string(integration, '$.name') = 'Klaviyo'
    UNION
    SELECT DISTINCT conversion_metric_id, 'conversions' FROM campaign_values_reports
),
facts AS MATERIALIZED (
    SELECT e.id, e.datetime, e.profile_id, e.metric_id, k.kind,
        CASE WHEN k.kind IN ('opens', 'clicks', 'receipts')
            THEN {event_property("$message")} END AS message_id,
        CASE WHEN k.kind = 'opens' THEN {_IS_MACHINE_OPEN} END AS is_machine,
        CASE WHEN k.kind IN ('conversions', 'refunds') THEN {_VALUE} END AS value,
        CASE WHEN k.kind IN ('conversions', 'refunds') THEN {_ORDER_ID} END AS order_id,
        CASE WHEN k.kind = 'conversions' THEN e.attributions END AS attributions
    FROM events AS e JOIN kinds AS k USING (metric_id)
    WHERE k.kind IS NOT NULL
),
receipts AS (
    SELECT message_id, profile_id, min({_day("datetime")}) AS day
    FROM facts WHERE kind = 'receipts' AND message_id IS NOT NULL GROUP BY ALL
),
only_days AS (
    SELECT campaign_message_id AS message_id, min(date) AS day
    FROM campaign_values_reports WHERE recipients > 0
    GROUP BY ALL HAVING count(DISTINCT date) = 1
),
engagement AS (
    SELECT m.campaign_id, f.message_id, '' AS conversion_metric_id, f.metric_id, f.kind AS base,
        1 AS position, f.datetime, f.profile_id, f.is_machine, NULL::DOUBLE AS value,
        true AS is_in_window
    FROM facts AS f JOIN messages AS m USING (message_id)
    WHERE f.kind IN ('opens', 'clicks')
),
credits AS (
    SELECT id, datetime, profile_id, metric_id, value, order_id,
        unnest(json_extract(attributions, '$[*].relationships')) AS related,
        generate_subscripts(json_extract(attributions, '$[*].relationships'), 1) AS position
    FROM facts WHERE kind = 'conversions' AND attributions IS NOT NULL
),
credited AS (
    SELECT m.campaign_id, m.message_id, c.metric_id, c.position, c.datetime, c.profile_id, c.value,
        c.order_id,
        coalesce(c.datetime <= earning.datetime + {_LONGEST_WINDOW}, true) AS is_in_window
    FROM credits AS c
    JOIN messages AS m
        ON m.message_id = json_extract_string(c.related, '$."campaign-message".data.id')
    LEFT JOIN (SELECT DISTINCT id, datetime FROM facts) AS earning
        ON earning.id = json_extract_string(c.related, '$."attributed-event".data.id')
),
occurred AS (
    SELECT *, datetime AS placed_at FROM engagement
    UNION ALL
    SELECT campaign_id, message_id, metric_id, metric_id, 'conversions', position, datetime,
        profile_id, NULL, value, is_in_window, datetime
    FROM credited
    UNION ALL
    SELECT c.campaign_id, c.message_id, c.metric_id, c.metric_id, 'refunds', c.position,
        r.datetime, c.profile_id, NULL, -r.value, c.is_in_window, c.datetime
    FROM credited AS c
    JOIN facts AS r ON r.kind = 'refunds' AND r.order_id = c.order_id AND r.metric_id <> c.metric_id
),
dated AS (
    SELECT o.*, {_day("o.placed_at")} AS event_day,
        CAST(timezone('UTC', o.placed_at) AS DATE) AS utc_day, coalesce(d.day, r.day) AS send_day
    FROM occurred AS o
    LEFT JOIN only_days AS d ON d.message_id = o.message_id
    LEFT JOIN receipts AS r ON r.message_id = o.message_id AND r.profile_id = o.profile_id
),
placed AS (
    SELECT *, 'event' AS day_of, event_day AS date FROM dated
    UNION ALL SELECT *, 'send', send_day FROM dated WHERE send_day IS NOT NULL
    UNION ALL SELECT *, 'utc', utc_day FROM dated
)"""
"""Every open, click and credited order of a campaign that a report knows, by each of its days. A
refund is a row of its order, with the order's days and its own time."""

_OTHERS_SQL = f"""
figures(figure, base, measure) AS (
    VALUES {", ".join(f"('{each.name}', '{each.base}', '{each.measure}')" for each in _FIGURES)}
),
newest AS (
    SELECT * FROM campaign_values_reports QUALIFY row_number() OVER (
        PARTITION BY date, campaign_id, campaign_message_id, send_channel
        ORDER BY fetched_at DESC, conversion_metric_id) = 1
),
figures_of_reports AS (
    SELECT campaign_id, date, '' AS conversion_metric_id, fetched_at, is_final,
        {_list_figures(is_conversion=False)}
    FROM newest
    UNION ALL
    SELECT campaign_id, date, conversion_metric_id, fetched_at, is_final,
        {_list_figures(is_conversion=True)}
    FROM campaign_values_reports
),
reported AS (
    SELECT {_KEY}, sum(value) AS value, min(fetched_at) AS fetched_at,
        bool_and(is_final) AS is_final
    FROM figures_of_reports GROUP BY ALL
),
measured AS (
    SELECT k.kind AS base, CASE k.kind WHEN 'conversions' THEN a.metric_id ELSE '' END
        AS conversion_metric_id, CASE k.kind WHEN 'conversions' THEN '$attributed_message'
        ELSE '$message' END AS by_message, a.*
    FROM metric_aggregates AS a JOIN kinds AS k USING (metric_id)
    WHERE k.kind IN ('opens', 'clicks', 'conversions')
),
measured_days AS (
    SELECT base, conversion_metric_id, date, sum(count) AS total, min(fetched_at) AS fetched_at
    FROM measured
    WHERE dimension = 'total' AND (base, metric_id) IN
        (SELECT (base, metric_id) FROM measured WHERE dimension = by_message)
    GROUP BY ALL
),
unmeasured AS (
    SELECT DISTINCT campaign_id, date, conversion_metric_id, base FROM placed
    WHERE day_of = 'event' AND (metric_id, date) NOT IN
        (SELECT (metric_id, date) FROM measured WHERE dimension = 'total')
),
aggregated AS (
    SELECT m.campaign_id, a.date, f.figure, a.conversion_metric_id, sum(CASE f.measure
        WHEN 'events' THEN a.count WHEN 'people' THEN a."unique" ELSE a.sum_value END) AS value
    FROM measured AS a
    JOIN messages AS m ON a.dimension = a.by_message AND m.message_id = a.dimension_value
    JOIN figures AS f USING (base)
    GROUP BY ALL
),
keys AS (
    SELECT {_KEY} FROM reported
    UNION SELECT {_KEY} FROM aggregated
    UNION SELECT {_KEY} FROM placed JOIN figures USING (base) WHERE day_of = 'event'
),
others AS (
    SELECT {_KEY}, '{REPORT}' AS source, r.value, r.fetched_at, r.is_final, NULL::DOUBLE AS total
    FROM keys LEFT JOIN reported AS r USING ({_KEY})
    UNION ALL
    SELECT {_KEY}, '{AGGREGATES}', CASE WHEN d.total IS NOT NULL AND u.base IS NULL
        THEN coalesce(a.value, 0) END, d.fetched_at, NULL, d.total
    FROM keys
    JOIN figures AS f USING (figure)
    LEFT JOIN measured_days AS d USING (base, date, conversion_metric_id)
    LEFT JOIN unmeasured AS u USING (campaign_id, date, conversion_metric_id, base)
    LEFT JOIN aggregated AS a USING ({_KEY})
)"""
"""What report and aggregates say of a campaign, a day and a figure; NULL: nothing stored."""

_PEOPLE_SQL = (
    "count(DISTINCT CASE WHEN w.by_message THEN p.message_id || ' ' || p.profile_id "
    "ELSE p.profile_id END)"
)
_COUNTED_SQL = f"""
ways(source, figure, base, measure, rank, cause, {", ".join(_WAYS)}) AS (
    VALUES {", ".join(_way_rows())}
),
counted AS (
    SELECT p.campaign_id, p.date, w.figure, p.conversion_metric_id, w.source, w.rank,
        CASE w.measure WHEN 'events' THEN count(*) WHEN 'people' THEN {_PEOPLE_SQL}
        ELSE coalesce(sum(p.value), 0) END AS value
    FROM placed AS p
    JOIN ways AS w ON (p.base = w.base OR p.base = 'refunds' AND w.less_refunds)
        AND p.day_of = CASE WHEN w.by_send_day THEN 'send' ELSE 'event' END
    JOIN others AS o ON o.campaign_id = p.campaign_id AND o.date = p.date AND o.figure = w.figure
        AND o.conversion_metric_id = p.conversion_metric_id AND o.source = w.source
    WHERE (p.position = 1 OR w.every_credit) AND (p.is_in_window OR NOT w.in_window)
        AND (p.is_machine IS NOT TRUE OR NOT w.no_machines)
        AND (p.datetime < o.fetched_at OR NOT w.until_fetch)
    GROUP BY p.campaign_id, p.date, w.figure, p.conversion_metric_id, w.source, w.rank, w.measure
),
explained AS (
    SELECT {_KEY}, source, any_value(o.value) AS value, any_value(o.fetched_at) AS fetched_at,
        any_value(o.is_final) AS is_final, any_value(o.total) AS total,
        coalesce(any_value(c.value) FILTER (w.rank = 0), 0) AS by_event_day,
        coalesce(any_value(c.value) FILTER (w.rank = 1), 0) AS by_send_day,
        arg_min(w.cause, w.rank) FILTER (
            round(coalesce(c.value, 0), 2) = round(coalesce(o.value, 0), 2)
            AND (o.value IS NOT NULL OR w.rank < 2)) AS cause
    FROM others AS o
    JOIN ways AS w USING (figure, source)
    LEFT JOIN counted AS c USING ({_KEY}, source, rank)
    GROUP BY {_KEY}, source
),
held AS (
    SELECT kind AS base, CASE kind WHEN 'conversions' THEN metric_id ELSE '' END
        AS conversion_metric_id, {_day("datetime")} AS date, count(*) AS events,
        count(message_id) AS named
    FROM facts GROUP BY ALL
),
held_in_all AS (
    SELECT base, conversion_metric_id, sum(named) AS named FROM held GROUP BY ALL
),
of_utc_days AS (
    SELECT p.campaign_id, p.date, f.figure, p.conversion_metric_id,
        CASE f.measure WHEN 'events' THEN count(*) WHEN 'people' THEN count(DISTINCT p.profile_id)
        ELSE coalesce(sum(p.value), 0) END AS value
    FROM placed AS p JOIN figures AS f USING (base)
    WHERE p.day_of = 'utc' AND p.position = 1
    GROUP BY p.campaign_id, p.date, f.figure, p.conversion_metric_id, f.measure
),
machines AS (
    SELECT campaign_id, date, 'opens' AS figure, conversion_metric_id, count(*) AS opens
    FROM placed WHERE day_of = 'event' AND is_machine GROUP BY ALL
)"""

CAMPAIGN_DAY_FIGURES = View(
    name="campaign_day_figures",
    description="One row per campaign, day, figure and, for conversions, metric: what the report, "
    "the aggregates and the events say, and why they differ.",
    tables=_TABLES,
    columns=(
        Column("campaign_id", "The campaign."),
        Column("campaign_name", "Its name, as `campaigns` has it now."),
        Column("date", "The day in the account's zone; in UTC if accounts is not stored.", "date"),
        Column("figure", f"What is counted: {', '.join(each.name for each in _FIGURES)}."),
        Column("conversion_metric_id", "The metric of conversions; NULL for opens and clicks."),
        Column("conversion_metric_name", "Its name, as `metrics` or `custom_metrics` has it now."),
        Column(
            "report",
            "The report's figure, by the day of sending; NULL: no row is stored.",
            "number",
        ),
        Column(
            "aggregates",
            "The metric aggregates' figure, by the events' day; NULL: not stored by message.",
            "number",
        ),
        Column("events", "The figure counted from events, by their day.", "number"),
        Column("events_by_send_day", "The same by the day their message was sent.", "number"),
        Column("events_by_utc_day", "The same by the events' day in UTC.", "number"),
        Column("machine_opens", "Opens among events that a machine made.", "number"),
        Column("difference", "Report less events.", "number"),
        Column(
            "cause",
            "Why they differ: what makes them exactly equal; agree, or not explained.",
        ),
        Column("aggregates_difference", "Aggregates less events.", "number"),
        Column("aggregates_cause", "Why these differ, likewise."),
        Column("is_final", "Whether the report's row was final when it was fetched.", "boolean"),
        Column("report_fetched_at", "When Klaviyo computed the report's row.", "timestamp"),
        Column("aggregates_fetched_at", "When Klaviyo computed the aggregates.", "timestamp"),
    ),
    sql=f""",{_EVENTS_SQL},{_OTHERS_SQL},{_COUNTED_SQL}
SELECT r.campaign_id, c.name AS campaign_name, r.date, r.figure,
    nullif(r.conversion_metric_id, '') AS conversion_metric_id, m.name AS conversion_metric_name,
    r.value AS report, a.value AS aggregates, CAST(r.by_event_day AS DOUBLE) AS events,
    CAST(r.by_send_day AS DOUBLE) AS events_by_send_day,
    CAST(coalesce(u.value, 0) AS DOUBLE) AS events_by_utc_day,
    CAST(CASE WHEN r.figure = 'opens' THEN coalesce(x.opens, 0) END AS DOUBLE) AS machine_opens,
    coalesce(r.value, 0) - r.by_event_day AS difference,
    CASE WHEN r.cause IS NOT NULL THEN r.cause
        WHEN r.value IS NULL THEN 'no report of this day is stored'
        WHEN r.conversion_metric_id IN (SELECT id FROM custom_metrics)
            THEN 'a custom metric has no events of its own'
        WHEN h.base IS NULL THEN 'no event of this metric is stored'
        WHEN h.named = 0 AND f.base <> 'conversions' THEN 'events do not name their message'
        WHEN r.date < (SELECT min(date) FROM held) THEN 'events of this day are not stored'
        WHEN (SELECT name FROM zone) IS NULL
            THEN 'not explained; events are by the day in UTC, for accounts is not stored'
        ELSE 'not explained' END AS cause,
    a.value - r.by_event_day AS aggregates_difference,
    CASE WHEN a.value IS NULL THEN 'no aggregates by message are stored'
        WHEN a.cause IS NOT NULL THEN a.cause
        WHEN a.value > r.by_event_day AND a.total > coalesce(d.events, 0)
            THEN 'Klaviyo counts events of this day that are not stored'
        ELSE 'not explained' END AS aggregates_cause,
    r.is_final, r.fetched_at AS report_fetched_at, a.fetched_at AS aggregates_fetched_at
FROM (SELECT * FROM explained WHERE source = '{REPORT}') AS r
JOIN (SELECT * FROM explained WHERE source = '{AGGREGATES}') AS a USING ({_KEY})
JOIN figures AS f USING (figure)
LEFT JOIN of_utc_days AS u USING ({_KEY})
LEFT JOIN machines AS x USING ({_KEY})
LEFT JOIN held AS d USING (base, conversion_metric_id, date)
LEFT JOIN held_in_all AS h USING (base, conversion_metric_id)
LEFT JOIN (SELECT id, any_value(name) AS name FROM campaigns GROUP BY id) AS c
    ON c.id = r.campaign_id
LEFT JOIN (
    SELECT id, any_value(name) AS name
    FROM (SELECT id, name FROM metrics UNION ALL SELECT id, name FROM custom_metrics) GROUP BY id
) AS m ON m.id = r.conversion_metric_id""",
)
