"""The questions of the marketing overview, in SQL over `klaviyo.duckdb`; nothing else asks it.

The page and the tests read them here. A question is one SELECT whose
`$names` are the fields of a `Scope`: the period, the zone, the metric that counts as revenue. Days
are days of the account's zone, and `$until` is exclusive. No answer has a row about a person.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    import duckdb

PERIOD_DAYS = 90
"""How many complete days the overview looks back."""

MIN_PEOPLE = 5
"""A domain with fewer people than this is added to `other`: it could name one of them."""

PLACED_ORDER = "Placed Order"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One SELECT: what it answers, what it reads, and what to switch on where that is missing.

    `needs` has the columns by relation; `switch_on` is a whole sentence for people.
    """

    name: str
    title: str
    needs: Mapping[str, tuple[str, ...]]
    switch_on: str
    sql: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What all questions are asked about, and what the answers are in.

    `first_day` and `last_day` are days of `zone`, both inclusive; `since` and `until` are the same
    period as instants in UTC, `until` exclusive, and `long_since` is twice as far back.
    `first_month` begins the last twelve months. `revenue_metric` is None where the account has no
    metric that could be it, `currency` where neither the account nor its orders name one.
    """

    account: str
    zone: str
    currency: str | None
    revenue_metric: str | None
    revenue_metric_name: str
    first_day: date
    last_day: date
    since: datetime
    until: datetime
    long_since: datetime
    first_month: date
    min_people: int = MIN_PEOPLE


EVENTS_OFF = "Switch on the stream <code>events</code> in <code>KLAVIYO_STREAMS</code>, then sync."
REPORTS_OFF = (
    "Fetch the reports: switch on the sensor <code>klaviyo_reports_drain</code> in Dagster, or "
    "launch a backfill from the pages of <code>klaviyo/campaign_values_reports</code> and "
    "<code>klaviyo/flow_series_reports</code>."
)

_ORDER_COLUMNS = ("datetime", "metric_id", "value", "value_currency")
_CREDITED_COLUMNS = (*_ORDER_COLUMNS, "attributed_campaign_id", "attributed_flow_id")

REVENUE_BY_DAY = Question(
    name="revenue_by_day",
    title="Where does the revenue come from?",
    needs={"events": _CREDITED_COLUMNS},
    switch_on=EVENTS_OFF,
    sql="""\
SELECT
    CAST(datetime AT TIME ZONE $zone AS DATE) AS day,
    CASE
        WHEN attributed_campaign_id IS NOT NULL THEN 'campaign'
        WHEN attributed_flow_id IS NOT NULL THEN 'flow'
        ELSE 'neither'
    END AS source,
    count(*) AS orders,
    coalesce(sum(value), 0) AS revenue
FROM events
WHERE metric_id = $revenue_metric AND datetime >= $since AND datetime < $until
    AND coalesce(value_currency, $currency) IS NOT DISTINCT FROM $currency
GROUP BY ALL
ORDER BY ALL""",
)

REVENUE_BEFORE = Question(
    name="revenue_before",
    title="What was it in the period before?",
    needs={"events": _ORDER_COLUMNS},
    switch_on=EVENTS_OFF,
    sql="""\
SELECT
    count(*) AS orders,
    coalesce(sum(value), 0) AS revenue,
    (SELECT min(datetime) FROM events) < $long_since AS is_complete
FROM events
WHERE metric_id = $revenue_metric AND datetime >= $long_since AND datetime < $since
    AND coalesce(value_currency, $currency) IS NOT DISTINCT FROM $currency""",
)

OTHER_CURRENCIES = Question(
    name="other_currencies",
    title="Which orders are in another currency, and so not added up?",
    needs={"events": _ORDER_COLUMNS},
    switch_on=EVENTS_OFF,
    sql="""\
SELECT value_currency AS currency, count(*) AS orders, coalesce(sum(value), 0) AS revenue
FROM events
WHERE metric_id = $revenue_metric AND datetime >= $since AND datetime < $until
    AND value_currency IS DISTINCT FROM $currency AND value_currency IS NOT NULL
GROUP BY ALL
ORDER BY orders DESC, currency""",
)

_TOP = """\
SELECT
    coalesce(max(SUBJECTs.name), 'SUBJECT ' || attributed_SUBJECT_id) AS name,
    count(*) AS orders,
    coalesce(sum(value), 0) AS revenue
FROM events LEFT JOIN SUBJECTs ON SUBJECTs.id = attributed_SUBJECT_id
WHERE metric_id = $revenue_metric AND datetime >= $since AND datetime < $until
    AND coalesce(value_currency, $currency) IS NOT DISTINCT FROM $currency
    AND ONLY
GROUP BY attributed_SUBJECT_id
ORDER BY revenue DESC, name
LIMIT 8"""

TOP_CAMPAIGNS = Question(
    name="top_campaigns",
    title="Which campaigns sold the most?",
    needs={"events": _CREDITED_COLUMNS, "campaigns": ("id", "name")},
    switch_on="Switch on the streams <code>events</code> and <code>campaigns</code>, then sync.",
    sql=_TOP.replace("ONLY", "attributed_campaign_id IS NOT NULL").replace("SUBJECT", "campaign"),
)

TOP_FLOWS = Question(
    name="top_flows",
    title="Which flows sold the most?",
    needs={"events": _CREDITED_COLUMNS, "flows": ("id", "name")},
    switch_on="Switch on the streams <code>events</code> and <code>flows</code>, then sync.",
    sql=_TOP.replace(
        "ONLY", "attributed_campaign_id IS NULL AND attributed_flow_id IS NOT NULL"
    ).replace("SUBJECT", "flow"),
)

_FUNNEL = """\
SELECT
    CAST(date_trunc('month', date) AS DATE) AS month,
    min(date) AS first_day,
    max(date) AS last_day,
    sum(recipients) AS sent,
    sum(opens_unique) AS opened,
    sum(clicks_unique) AS clicked,
    sum(conversion_uniques) AS ordered
FROM REPORT
WHERE conversion_metric_id = $revenue_metric AND send_channel = 'email'
    AND date >= $first_month AND date <= $last_day
GROUP BY ALL
ORDER BY month"""

_FUNNEL_COLUMNS = (
    "date",
    "conversion_metric_id",
    "send_channel",
    "recipients",
    "opens_unique",
    "clicks_unique",
    "conversion_uniques",
)

CAMPAIGN_FUNNEL = Question(
    name="campaign_funnel",
    title="How far do campaigns by email get?",
    needs={"campaign_values_reports": _FUNNEL_COLUMNS},
    switch_on=REPORTS_OFF,
    sql=_FUNNEL.replace("REPORT", "campaign_values_reports"),
)

FLOW_FUNNEL = Question(
    name="flow_funnel",
    title="How far do flows by email get?",
    needs={"flow_series_reports": _FUNNEL_COLUMNS},
    switch_on=REPORTS_OFF,
    sql=_FUNNEL.replace("REPORT", "flow_series_reports"),
)

LIST_GROWTH = Question(
    name="list_growth",
    title="Are the lists growing?",
    needs={
        "list_members": ("list_id", "joined_group_at", "left_at"),
        "lists": ("id", "name", "deleted_at"),
    },
    switch_on=(
        "Growth over time needs the stream <code>list_members</code>: add it to "
        "<code>KLAVIYO_STREAMS</code>, then sync. From now on, and without a request more, "
        "<code>KLAVIYO_HISTORY=lists_detailed</code> keeps the sizes of each day."
    ),
    sql="""\
WITH weeks AS (
    SELECT CAST($last_day AS DATE) - CAST(7 * number AS INTEGER) AS day FROM range(26) AS r(number)
), changes AS (
    SELECT list_id, CAST(joined_group_at AT TIME ZONE $zone AS DATE) AS day, 1 AS change
    FROM list_members
    UNION ALL
    SELECT list_id, CAST(left_at AT TIME ZONE $zone AS DATE), -1
    FROM list_members WHERE left_at IS NOT NULL
), daily AS (
    SELECT list_id, day, sum(change) AS change FROM changes GROUP BY ALL
), sizes AS (
    SELECT list_id, coalesce(max(name), 'list ' || list_id) AS name
    FROM list_members JOIN lists ON lists.id = list_id
    WHERE left_at IS NULL AND deleted_at IS NULL
    GROUP BY list_id
    ORDER BY count(*) DESC, list_id
    LIMIT 5
), largest AS (
    SELECT list_id, name || CASE WHEN count(*) OVER (PARTITION BY name) > 1
        THEN ' (' || list_id || ')' ELSE '' END AS name
    FROM sizes
)
SELECT
    name,
    weeks.day,
    coalesce(CAST(sum(change) FILTER (daily.day <= weeks.day) AS BIGINT), 0) AS members
FROM largest JOIN daily USING (list_id) CROSS JOIN weeks
GROUP BY list_id, name, weeks.day
ORDER BY name, list_id, weeks.day""",
)

LIST_HISTORY = Question(
    name="list_history",
    title=LIST_GROWTH.title,
    needs={
        "lists_detailed_history": ("id", "profile_count", "valid_from", "valid_to"),
        "lists": ("id", "name"),
    },
    switch_on=LIST_GROWTH.switch_on,
    sql="""\
WITH weeks AS (
    SELECT CAST($last_day AS DATE) - CAST(7 * number AS INTEGER) AS day FROM range(26) AS r(number)
), versions AS (
    SELECT
        id,
        profile_count,
        CAST(valid_from AT TIME ZONE $zone AS DATE) AS first_day,
        CAST(valid_to AT TIME ZONE $zone AS DATE) AS until_day
    FROM lists_detailed_history
), sizes AS (
    SELECT id FROM versions WHERE until_day IS NULL AND profile_count > 0
    ORDER BY profile_count DESC, id
    LIMIT 5
), largest AS (
    SELECT id, coalesce(name, 'list ' || id) || CASE WHEN count(*) OVER (PARTITION BY name) > 1
        THEN ' (' || id || ')' ELSE '' END AS name
    FROM sizes LEFT JOIN lists USING (id)
)
SELECT name, weeks.day, coalesce(max(profile_count), 0) AS members
FROM largest CROSS JOIN weeks LEFT JOIN versions ON versions.id = largest.id
    AND first_day <= weeks.day AND (until_day > weeks.day OR until_day IS NULL)
WHERE weeks.day >= (SELECT min(first_day) FROM versions)
GROUP BY largest.id, name, weeks.day
ORDER BY name, largest.id, weeks.day""",
)

LIST_SIZES = Question(
    name="list_sizes",
    title="How large are the lists?",
    needs={"lists_detailed": ("id", "name", "profile_count", "deleted_at")},
    switch_on=(
        "Sizes need the stream <code>lists_detailed</code>: run the job "
        "<code>klaviyo_slow_details</code>."
    ),
    sql="""\
SELECT coalesce(name, 'list ' || id) AS name, profile_count AS members
FROM lists_detailed
WHERE deleted_at IS NULL AND profile_count IS NOT NULL
ORDER BY members DESC, name
LIMIT 8""",
)

_CONSENT = """\
SELECT
    'LABEL' AS channel,
    coalesce(subscriptions_CHANNEL_marketing_consent, 'NOT_KNOWN') AS consent,
    count(*) AS people
FROM profiles WHERE deleted_at IS NULL GROUP BY ALL"""
_CHANNELS = {"Email": "email", "SMS": "sms", "Push": "mobile_push", "WhatsApp": "whatsapp"}

CONSENT_BY_CHANNEL = Question(
    name="consent_by_channel",
    title="Whom may you write to?",
    needs={
        "profiles": (
            "deleted_at",
            *(f"subscriptions_{each}_marketing_consent" for each in _CHANNELS.values()),
        )
    },
    switch_on=(
        "Switch on the stream <code>profiles</code>, and leave its columns of consent out of "
        "<code>KLAVIYO_EXCLUDE_COLUMNS</code>."
    ),
    sql="\nUNION ALL\n".join(
        _CONSENT.replace("LABEL", label).replace("CHANNEL", channel)
        for label, channel in _CHANNELS.items()
    ),
)

_MAIL_COLUMNS = ("datetime", "metric_id", "profile_id")

DELIVERABILITY = Question(
    name="deliverability_by_domain",
    title="Does the email arrive?",
    needs={
        "events": (*_MAIL_COLUMNS, "event_properties", "is_machine_open"),
        "metrics": ("id", "name"),
    },
    switch_on="Switch on the streams <code>events</code> and <code>metrics</code>, then sync.",
    sql="""\
WITH mail AS (
    SELECT
        -- What stands before an @ is dropped, should a sender's system put a whole address there.
        lower(regexp_extract(
            coalesce(event_properties ->> '$."Email Domain"', 'not known'), '[^@]*$'
        )) AS domain,
        profile_id,
        metrics.name AS metric,
        -- Apple's and Google's machines open mail that nobody has looked at.
        metrics.name = 'Opened Email' AND is_machine_open IS NOT TRUE AS is_open
    FROM events JOIN metrics ON metrics.id = metric_id
    WHERE datetime >= $since AND datetime < $until AND metrics.name IN
        ('Received Email', 'Opened Email', 'Bounced Email', 'Marked Email as Spam')
), folded AS (
    SELECT
        domain,
        CASE
            WHEN count(DISTINCT profile_id) < $min_people THEN 'other'
            WHEN row_number() OVER (ORDER BY count(*) DESC, domain) > 10 THEN 'other'
            ELSE domain
        END AS shown
    FROM mail GROUP BY domain
)
SELECT
    shown AS domain,
    count(DISTINCT profile_id) AS people,
    count(*) FILTER (metric = 'Received Email') AS delivered,
    count(*) FILTER (metric = 'Bounced Email') AS bounced,
    count(*) FILTER (metric = 'Marked Email as Spam') AS spam,
    count(DISTINCT profile_id) FILTER (metric = 'Received Email') AS people_reached,
    count(DISTINCT profile_id) FILTER (is_open) AS people_who_opened
FROM mail JOIN folded USING (domain)
GROUP BY shown
ORDER BY shown = 'other', delivered DESC, domain""",
)

ENGAGEMENT = Question(
    name="engagement",
    title="How many have stopped reading?",
    needs={"events": (*_MAIL_COLUMNS, "is_machine_open"), "metrics": ("id", "name")},
    switch_on="Switch on the streams <code>events</code> and <code>metrics</code>, then sync.",
    sql="""\
WITH reached AS (
    SELECT DISTINCT profile_id
    FROM events JOIN metrics ON metrics.id = metric_id
    WHERE metrics.name = 'Received Email' AND datetime >= $since AND datetime < $until
        AND profile_id IS NOT NULL
), engaged AS (
    SELECT profile_id, max(datetime) AS last_at
    FROM events JOIN metrics ON metrics.id = metric_id
    WHERE datetime >= $long_since AND datetime < $until AND (
        metrics.name = 'Clicked Email'
        OR (metrics.name = 'Opened Email' AND is_machine_open IS NOT TRUE)
    )
    GROUP BY profile_id
)
SELECT
    CASE
        WHEN last_at >= $until - INTERVAL 30 DAY THEN 'within 30 days'
        WHEN last_at >= $since THEN '31 to 90 days ago'
        WHEN last_at >= $long_since THEN '91 to 180 days ago'
        ELSE 'longer ago, or never'
    END AS last_engaged,
    count(*) AS people
FROM reached LEFT JOIN engaged USING (profile_id)
GROUP BY ALL
ORDER BY min(coalesce(last_at, TIMESTAMPTZ '1970-01-01 00:00:00+00')) DESC""",
)

COHORTS = Question(
    name="cohorts",
    title="Do customers come back?",
    needs={"events": ("datetime", "metric_id", "profile_id")},
    switch_on=EVENTS_OFF,
    sql="""\
WITH orders AS (
    SELECT DISTINCT
        profile_id, CAST(date_trunc('month', datetime AT TIME ZONE $zone) AS DATE) AS month
    FROM events
    WHERE metric_id = $revenue_metric AND datetime < $until AND profile_id IS NOT NULL
), firsts AS (
    SELECT profile_id, min(month) AS cohort FROM orders GROUP BY profile_id
)
SELECT cohort, datediff('month', cohort, month) AS months_later, count(*) AS customers
FROM orders JOIN firsts USING (profile_id)
WHERE cohort >= $first_month
GROUP BY ALL
ORDER BY ALL""",
)

PLAN_USAGE = Question(
    name="plan_usage",
    title="How much of the plan is used?",
    needs={
        "billing_usage": ("id", "usage_used", "usage_max", "unit", "period_start", "period_end")
    },
    switch_on=(
        "What Klaviyo's plan allows needs the stream <code>billing_usage</code> (API revision "
        "2026-10-15 or later): add it to <code>KLAVIYO_STREAMS</code>, then sync."
    ),
    sql="""\
SELECT
    replace(id, '_', ' ') AS kind,
    usage_used AS used,
    usage_max AS allowed,
    unit,
    CAST(period_start AT TIME ZONE $zone AS DATE) AS first_day,
    CAST(period_end AT TIME ZONE $zone AS DATE) AS until_day
FROM billing_usage
WHERE deleted_at IS NULL
ORDER BY used / allowed DESC NULLS LAST, kind""",
)

NEWEST_EVENT = Question(
    name="newest_event",
    title="When did the last event come in?",
    needs={"events": ("synced_at",)},
    switch_on=EVENTS_OFF,
    sql="SELECT max(synced_at) AS read_at FROM events",
)

QUESTIONS: Mapping[str, Question] = {
    each.name: each
    for each in (
        REVENUE_BY_DAY,
        REVENUE_BEFORE,
        OTHER_CURRENCIES,
        TOP_CAMPAIGNS,
        TOP_FLOWS,
        CAMPAIGN_FUNNEL,
        FLOW_FUNNEL,
        LIST_GROWTH,
        LIST_HISTORY,
        LIST_SIZES,
        CONSENT_BY_CHANNEL,
        DELIVERABILITY,
        ENGAGEMENT,
        COHORTS,
        PLAN_USAGE,
        NEWEST_EVENT,
    )
}
"""All questions by name, in the order of the page."""

Row = Mapping[str, object]
"""A row of an answer, by column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingData:
    """Why a question cannot be answered: what to switch on, as a sentence for people."""

    sentence: str


class OverviewReader:
    """Asks the questions of one connection to `klaviyo.duckdb`, which the caller opens and closes.

    Raises, in every method:
        duckdb.Error: a file of the lake cannot be read.
    """

    def __init__(self, connection: "duckdb.DuckDBPyConnection") -> None:
        self._connection = connection
        found = connection.execute(
            "SELECT table_name, list(column_name) FROM duckdb_columns() "
            "WHERE NOT internal GROUP BY ALL"
        ).fetchall()
        self.columns: Mapping[str, frozenset[str]] = {
            str(name): frozenset(columns) for name, columns in found
        }

    def has(self, question: Question) -> bool:
        """Return whether every relation and column is there that a question reads."""
        return all(
            self.columns.get(name, frozenset[str]()).issuperset(columns)
            for name, columns in question.needs.items()
        )

    def ask(self, question: Question, scope: Scope) -> Sequence[Row] | MissingData:
        """Return the rows of an answer, or what is missing for one."""
        if not self.has(question):
            return MissingData(sentence=question.switch_on)
        return self._select(question.sql, query_parameters(question.sql, scope))

    def read_scope(self, now: datetime) -> Scope:
        """Return what to ask about: the account's zone and currency, the last complete 90 days.

        Where `accounts` is not stored, days are of UTC. `now` has a zone.
        """
        account = self._first("accounts", "SELECT * FROM accounts LIMIT 1")
        zone = str(account.get("timezone") or "UTC")
        last_day = now.astimezone(ZoneInfo(zone)).date() - timedelta(days=1)
        first_day = last_day - timedelta(days=PERIOD_DAYS - 1)
        metric = self._revenue_metric()
        metric_id = metric.get("id")
        scope = Scope(
            account=str(account.get("contact_information_organization_name") or ""),
            zone=zone,
            currency=None,
            revenue_metric=None if metric_id is None else str(metric_id),
            revenue_metric_name=str(metric.get("name") or PLACED_ORDER),
            first_day=first_day,
            last_day=last_day,
            since=_day_start(first_day, zone),
            until=_day_start(last_day + timedelta(days=1), zone),
            long_since=_day_start(first_day - timedelta(days=PERIOD_DAYS), zone),
            first_month=_months_before(last_day, 11),
        )
        currency = account.get("preferred_currency") or self._commonest_currency(scope)
        return replace(scope, currency=None if currency is None else str(currency))

    def _commonest_currency(self, scope: Scope) -> object:
        if not self.has(OTHER_CURRENCIES):
            return None
        sql = OTHER_CURRENCIES.sql
        rows = self._select(sql, query_parameters(sql, scope))
        return rows[0]["currency"] if rows else None

    def _revenue_metric(self) -> Row:
        """Return the metric that the account maps to revenue, else a shop's Placed Order."""
        mapped = self._first(
            "mapped_metrics",
            "SELECT metric_id AS id FROM mapped_metrics WHERE id = 'revenue' "
            "AND metric_id IS NOT NULL AND deleted_at IS NULL",
        )
        return self._first(
            "metrics",
            "SELECT id, name FROM metrics WHERE id = $mapped OR name = $name ORDER BY "
            "id IS NOT DISTINCT FROM $mapped DESC, "
            "coalesce(integration ->> '$.category' ILIKE '%ecommerce%', false) DESC, id",
            {"mapped": mapped.get("id"), "name": PLACED_ORDER},
        )

    def _first(
        self, relation: str, sql: str, parameters: Mapping[str, object] | None = None
    ) -> Row:
        """Return the first row of a query; nothing where the relation is not stored."""
        rows = self._select(sql, parameters or {}) if relation in self.columns else []
        return rows[0] if rows else {}

    def _select(self, sql: str, parameters: Mapping[str, object]) -> list[Row]:
        found = self._connection.execute(sql, dict(parameters))
        names = [each[0] for each in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def query_parameters(sql: str, scope: Scope) -> dict[str, object]:
    """Return the parameters that a question's SQL names: DuckDB refuses those that it does not."""
    used = set(re.findall(r"\$([a-z_]+)", sql))
    return {name: value for name, value in asdict(scope).items() if name in used}


def _day_start(day: date, zone: str) -> datetime:
    """Return the instant at which a day of a zone begins, in UTC."""
    return datetime.combine(day, time(), ZoneInfo(zone)).astimezone(UTC)


def _months_before(day: date, months: int) -> date:
    """Return the first day of the month that lies so many months before a day's."""
    number = day.year * 12 + day.month - 1 - months
    return date(number // 12, number % 12 + 1, 1)
