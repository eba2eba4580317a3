"""Twelve questions of an analyst, in SQL, and the page that shows them with their answers.

`python -m klaviyo_assets_tests.e2e.analyst_questions` writes docs/queries.md anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent, fill
from typing import Any

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.demo_lake import open_demo_lake
from klaviyo_assets_tests.e2e.home import Home, create_dagster_home

PAGE = ROOT / "docs" / "queries.md"

Answer = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Names of columns, and rows as text."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its SQL, and what to know about the answer.

    `tables`: the stored tables that it reads, where it reads nothing but those: then every reader
    of Delta tables can answer it.
    """

    title: str
    sql: str
    note: str
    tables: tuple[str, ...] = ()


_ORDERS = "metric_name = 'Placed Order' AND metric_integration_name = 'Shopify'"

QUESTIONS = (
    Question(
        "Whom can we reach, on which channel, and why not the others?",
        """
        SELECT channel, can_receive, split_part(reason, ':', 1) AS reason, count(*) AS profiles
        FROM can_receive
        GROUP BY ALL
        ORDER BY channel, can_receive DESC, profiles DESC, reason;
        """,
        "`can_receive` has a row a profile and channel; the [reasons](query.md#views-for-analysts)"
        " are Klaviyo's, cut here before the colon.",
    ),
    Question(
        "What do we sell, month by month?",
        f"""
        SELECT CAST(date_trunc('month', date) AS DATE) AS month, count(*) AS orders,
            round(sum(value), 2) AS revenue, round(avg(value), 2) AS average_order,
            count(DISTINCT profile_id) AS buyers
        FROM events_detailed
        WHERE {_ORDERS}
        GROUP BY ALL
        ORDER BY month;
        """,
        "`date` is the day in the account's zone. A metric's name is no key: two integrations have "
        "a Placed Order.",
    ),
    Question(
        "Which campaigns of this quarter earned the most?",
        """
        SELECT c.name AS campaign, CAST(r.recipients AS INTEGER) AS recipients,
            round(r.open_rate, 3) AS open_rate, round(r.click_rate, 3) AS click_rate,
            round(r.conversion_value, 2) AS revenue,
            round(r.revenue_per_recipient, 3) AS revenue_per_recipient
        FROM campaign_rates AS r JOIN campaigns AS c ON c.id = r.campaign_id
        WHERE r.period = 'quarter' AND r.level = 'campaign' AND r.date = '2026-10-01'
        ORDER BY revenue DESC, campaign
        LIMIT 5;
        """,
        "`campaign_rates` makes each rate anew from sums; always choose one `period` and one "
        "`level`. With several conversion metrics, choose one of those too.",
    ),
    Question(
        "Which flows reach the most people, and are they opened?",
        """
        SELECT f.name AS flow, CAST(r.recipients AS INTEGER) AS recipients,
            round(r.delivery_rate, 3) AS delivery_rate, round(r.open_rate, 3) AS open_rate,
            round(r.click_to_open_rate, 3) AS click_to_open_rate
        FROM flow_rates AS r JOIN flows AS f ON f.id = r.flow_id
        WHERE r.period = 'quarter' AND r.level = 'flow' AND r.date = '2026-10-01'
        ORDER BY recipients DESC, flow
        LIMIT 5;
        """,
        "The days of a flow report are those of sending.",
    ),
    Question(
        "Are open and click rates rising or falling?",
        """
        SELECT date AS week, CAST(recipients AS INTEGER) AS recipients,
            round(open_rate, 3) AS open_rate, round(click_rate, 4) AS click_rate,
            round(unsubscribe_rate, 4) AS unsubscribe_rate
        FROM campaign_rates
        WHERE period = 'week' AND level = 'total'
        ORDER BY week DESC
        LIMIT 6;
        """,
        "Weeks begin on Monday. The last one still moves: opens go on for weeks, and `is_final` of "
        "the report says of which days nothing more is expected.",
    ),
    Question(
        "How much revenue do messages bring?",
        f"""
        SELECT CASE WHEN attributed_campaign_id IS NOT NULL THEN 'campaign'
                WHEN attributed_flow_id IS NOT NULL THEN 'flow'
                ELSE 'no message' END AS credited_to,
            count(*) AS orders, round(sum(value), 2) AS revenue,
            round(100 * sum(value) / sum(sum(value)) OVER (), 1) AS percent
        FROM events_detailed
        WHERE {_ORDERS}
        GROUP BY ALL
        ORDER BY revenue DESC;
        """,
        "By the first attribution of each order, on the day of the order; reports put the same "
        "revenue on the day of sending.",
    ),
    Question(
        "Who are the best customers, and can we write to them?",
        """
        SELECT id, first_name, country, CAST(orders AS INTEGER) AS orders, revenue,
            can_receive_email
        FROM profiles_core
        WHERE revenue IS NOT NULL
        ORDER BY revenue DESC, id
        LIMIT 5;
        """,
        "`profiles_core` has twenty columns of the profiles that exist. `orders` and `revenue` are "
        "Klaviyo's predictive analytics.",
    ),
    Question(
        "How long after a message do people order?",
        """
        SELECT CASE WHEN a.campaign_id IS NOT NULL THEN 'campaign' ELSE 'flow' END AS credited_to,
            m.name AS earned_by, count(*) AS orders,
            round(median(epoch(a.event_datetime - a.attributed_event_datetime)) / 3600, 1)
                AS median_hours
        FROM event_attributions AS a JOIN metrics AS m ON m.id = a.attributed_event_metric_id
        GROUP BY ALL
        ORDER BY credited_to, earned_by;
        """,
        "`event_attributions` has a row for each credit; the open, click or receipt that earned it "
        "is an event too.",
    ),
    Question(
        "How many members of each list can get an email?",
        """
        SELECT coalesce(l.name, l.id) AS list, count(*) AS members,
            count(*) FILTER (c.can_receive) AS can_receive,
            count(*) FILTER (c.reason LIKE 'suppressed%') AS suppressed,
            count(*) FILTER (c.reason = 'unsubscribed') AS unsubscribed
        FROM list_members AS m
        JOIN lists AS l ON l.id = m.list_id
        JOIN can_receive AS c ON c.profile_id = m.profile_id AND c.channel = 'email'
        WHERE m.left_at IS NULL
            AND NOT list_contains(coalesce(c.suppressed_list_ids, []), m.list_id)
        GROUP BY ALL
        ORDER BY members DESC, list;
        """,
        "Being on a list is no consent. `list_members` is a stream of `KLAVIYO_STREAMS`; who is "
        "suppressed for one list alone is left out here.",
    ),
    Question(
        "Do buyers come back?",
        """
        WITH orders AS (
            SELECT e.profile_id, date_trunc('month', e.datetime) AS month,
                row_number() OVER (PARTITION BY e.profile_id ORDER BY e.datetime, e.id) AS number
            FROM events AS e JOIN metrics AS m ON m.id = e.metric_id
            WHERE m.name = 'Placed Order' AND e.profile_id IS NOT NULL
        )
        SELECT CAST(month AS DATE) AS month, count(*) FILTER (number = 1) AS first_orders,
            count(*) FILTER (number > 1) AS repeat_orders,
            round(100 * count(*) FILTER (number > 1) / count(*), 1) AS percent_repeat
        FROM orders
        GROUP BY ALL
        ORDER BY month;
        """,
        "Months of the session's zone: `SET TimeZone = 'UTC'` here. Only stored tables are read, "
        "so any Delta reader can answer this.",
        tables=("events", "metrics"),
    ),
    Question(
        "Which products sell best?",
        """
        SELECT json_extract_string(line, '$.ProductName') AS product,
            CAST(sum(TRY_CAST(json_extract_string(line, '$.Quantity') AS INTEGER)) AS INTEGER)
                AS sold,
            round(sum(TRY_CAST(json_extract_string(line, '$.RowTotal') AS DOUBLE)), 2) AS revenue
        FROM (
            SELECT unnest(json_extract(e.event_properties, '$."$extra".line_items[*]')) AS line
            FROM events AS e JOIN metrics AS m ON m.id = e.metric_id
            WHERE m.name = 'Placed Order'
        )
        GROUP BY ALL
        ORDER BY revenue DESC, product
        LIMIT 5;
        """,
        "Properties are JSON text, as each integration sends them: numbers may come as texts, "
        "which `TRY_CAST` reads.",
        tables=("events", "metrics"),
    ),
    Question(
        "Why does my number differ from Klaviyo's report?",
        """
        SELECT campaign_name, date, figure, report, aggregates, events, events_by_send_day,
            machine_opens, cause, aggregates_cause
        FROM campaign_day_figures
        WHERE campaign_name = '{campaign}' AND date = '{day}'
            AND figure IN ('opens', 'opens_unique', 'clicks', 'clicks_unique')
        ORDER BY figure;
        """,
        "Three answers side by side and the cause, where counting otherwise gives exactly the "
        "other number: [all causes](query.md#why-my-number-differs). `aggregates` needs the "
        "stream `metric_aggregates`. The sandbox makes up reports and events apart; this "
        "campaign was given the opens and clicks that its report counts.",
    ),
)

_INTRODUCTION = """\
# Twelve questions

Each with its SQL for `klaviyo.duckdb` and the answer of a demo lake: the sandbox, smaller than that
of `make demo` and with its clock at 2026-11-30, because its figures follow the clock. A test asks
all of them again: DuckDB {library} and 2.0, DuckDB's command line {cli}, pandas and Polars; and a
Delta reader those that read stored tables alone.

```sh
duckdb -readonly demo/data/klaviyo.duckdb          # pip install duckdb-cli; then paste a query
klaviyo-assets sql "FROM can_receive LIMIT 5"      # the same without a client
```

```python
import duckdb

database = duckdb.connect("demo/data/klaviyo.duckdb", read_only=True)
database.execute("SET TimeZone = 'UTC'")
frame = database.sql("FROM profiles_core").df()  # pandas; .pl() for Polars
```

The lake's tables are Delta tables, for readers without DuckDB: their columns are in
[the dictionary](dictionary.md); computed columns and views are not there.

```python
import polars
from deltalake import DeltaTable

metrics = DeltaTable("demo/data/lake/metrics").to_pandas()
orders = metrics.loc[metrics["name"] == "Placed Order", "id"].tolist()
events = polars.read_delta("demo/data/lake/events")
print(
    events.filter(polars.col("metric_id").is_in(orders))
    .group_by(polars.col("attributed_campaign_id").is_not_null().alias("is_of_campaign"))
    .len()
    .sort("is_of_campaign")
)
```
"""


def question_sql(question: Question, home: Home) -> str:
    """Return the SQL of a question about this lake."""
    sql = dedent(question.sql).strip()
    if "{campaign}" not in sql:
        return sql
    (row,) = home.query(
        "SELECT campaign_name, date FROM campaign_day_figures WHERE figure = 'opens' "
        "AND aggregates > 0 ORDER BY events DESC, date LIMIT 1"
    )
    return sql.format(campaign=row[0], day=row[1])


def format_cell(value: Any) -> str:  # noqa: ANN401 - any value of a column
    """Return a value as the command line prints it, whole numbers without a fraction."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float() if value != value:  # noqa: PLR0124 - NaN, as pandas has NULL
            return ""
        case float() if value.is_integer():
            return str(int(value))
        case datetime():
            return value.date().isoformat()
        case date():
            return value.isoformat()
        case _:
            return str(value)


def format_rows(rows: Sequence[Sequence[object]]) -> list[tuple[str, ...]]:
    """Return rows with every value as text."""
    return [tuple(map(format_cell, row)) for row in rows]


def queries_page(answers: Mapping[Question, tuple[str, Answer]], *, library: str, cli: str) -> str:
    """Return the text of docs/queries.md: each question's SQL and its answer."""
    lines = [_INTRODUCTION.format(library=library, cli=cli).rstrip("\n")]
    for number, (question, (sql, (names, rows))) in enumerate(answers.items(), start=1):
        lines += ["", f"## {number}. {question.title}", "", "```sql", sql, "```", ""]
        lines += [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines += ["", fill(question.note, 128, break_on_hyphens=False)]
    command = "python -m klaviyo_assets_tests.e2e.analyst_questions"
    return "\n".join([*lines, "", f"Generated by `{command}`.", ""])


def answer_questions(home: Home) -> dict[Question, tuple[str, Answer]]:
    """Return each question's SQL about a lake, and the answer of this process's DuckDB."""
    found: dict[Question, tuple[str, Answer]] = {}
    for question in QUESTIONS:
        sql = question_sql(question, home)
        described = home.query(f"DESCRIBE {sql}")
        found[question] = (sql, (tuple(row[0] for row in described), format_rows(home.query(sql))))
    return found


def main() -> None:
    """Write the page anew."""
    from klaviyo_assets_tests.duckdb_releases import (  # noqa: PLC0415 - imports pytest
        CLI_RELEASE,
        LIBRARY_RELEASES,
    )

    with TemporaryDirectory() as folder:
        blank = Path(folder, "blank")
        blank.mkdir()
        template = create_dagster_home(blank, ROOT / "deploy" / "dagster.yaml")
        with open_demo_lake(Path(folder), template) as home:
            page = queries_page(
                answer_questions(home), library=LIBRARY_RELEASES[0], cli=CLI_RELEASE
            )
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
