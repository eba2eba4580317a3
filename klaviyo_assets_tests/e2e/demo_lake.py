"""The lake that docs/queries.md asks: a sandbox of a fixed time, so that its figures never change.

The sandbox makes reports and events apart. For one campaign the events are added that its report
counts, so that the two can be compared: opens and clicks on the day of sending and on those after.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    add_metrics,
    report_metrics,
    run_partitions,
)
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
FIRST_DAY, LAST_DAY = date(2026, 9, 1), date(2026, 11, 29)
STREAMS = (
    "accounts",
    "metrics",
    "events",
    "events_detailed",
    "event_attributions",
    "profiles",
    "campaign_messages",
    "campaigns",
    "flows",
    "lists",
    "list_members",
)
AGGREGATED = ("Opened Email", "Clicked Email")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedMessage:
    """The message that the last question is about, and what its report counts."""

    message: str
    campaign: str
    day: date
    opens: int
    opens_unique: int
    clicks: int
    clicks_unique: int


@contextmanager
def open_demo_lake(root: Path, dagster_template: Path) -> Generator[Home]:
    """Build the lake below `root`, with its account served as long as the block lasts."""
    with open_sandbox_account(
        now=NOW,
        timezone="Europe/Copenhagen",
        days=120,
        events=5000,
        profiles=600,
        lists=6,
        segments=4,
        campaigns=40,
        flows=8,
    ) as account:
        home = Home(
            account=account,
            root=root,
            dagster_template=dagster_template,
            settings={
                "KLAVIYO_STREAMS": "default,list_members,metric_aggregates",
                "KLAVIYO_REPORT_START_DATE": FIRST_DAY.isoformat(),
            },
        )
        assert home.sync(*STREAMS).success
        metric = report_metrics(home)[0]
        add_metrics(home, [metric])
        for report in (CAMPAIGN_REPORT, FLOW_REPORT):
            assert run_partitions(home, report, (metric, FIRST_DAY, metric, LAST_DAY)).run.success
        message = find_reported_message(home)
        ids = metric_ids(home)
        account.add_events(*missing_events(home, message, ids))
        earliest = datetime.combine(message.day, datetime.min.time(), UTC) - timedelta(days=1)
        assert home.sync("events", config={"start": earliest.isoformat()}).success
        for name in AGGREGATED:
            rectangle = (ids[name], FIRST_DAY, ids[name], LAST_DAY)
            assert run_partitions(home, "metric_aggregates", rectangle).run.success
        yield home


def metric_ids(home: Home) -> dict[str, str]:
    """Return the ids of Klaviyo's own metrics, by name."""
    rows = home.query(
        "SELECT name, id FROM metrics WHERE json_extract_string(integration, '$.name') = 'Klaviyo'"
    )
    return dict(rows)


def find_reported_message(home: Home) -> ReportedMessage:
    """Return the newest message of an email campaign that went out on one day, with its report."""
    (row,) = home.query(
        "SELECT campaign_message_id, any_value(campaign_name), min(date), max(opens), "
        "max(opens_unique), max(clicks), max(clicks_unique) FROM campaign_values_reports "
        f"WHERE send_channel = 'email' AND date <= DATE '{LAST_DAY - timedelta(days=5)}' "
        "AND campaign_name IS NOT NULL GROUP BY campaign_message_id "
        "HAVING count(DISTINCT date) FILTER (recipients > 0) = 1 ORDER BY min(date) DESC LIMIT 1"
    )
    message, campaign, day, *numbers = row
    opens, opens_unique, clicks, clicks_unique = map(int, numbers)
    return ReportedMessage(
        message=message,
        campaign=campaign,
        day=day,
        opens=opens,
        opens_unique=opens_unique,
        clicks=clicks,
        clicks_unique=clicks_unique,
    )


def missing_events(
    home: Home, message: ReportedMessage, ids: dict[str, str]
) -> Iterator[dict[str, object]]:
    """Yield the opens and clicks that the report counts and the account has no event of."""
    people = sorted(home.ids("profiles"))
    for name, events, unique in (
        ("Opened Email", message.opens, message.opens_unique),
        ("Clicked Email", message.clicks, message.clicks_unique),
    ):
        known = home.query(
            "SELECT profile_id FROM events_detailed "
            f"WHERE metric_name = '{name}' AND profile_id IS NOT NULL AND "
            f"json_extract_string(event_properties, '$.\"$message\"') = '{message.message}'"
        )
        done = {person for (person,) in known}
        new = [each for each in people if each not in done][: unique - len(done)]
        count = events - len(known)
        sent = datetime.combine(message.day, datetime.min.time(), UTC) + timedelta(hours=9)
        for number in range(count):
            # A third on the day of sending, the others on the three days after it.
            later = timedelta(days=number % 6 // 2, hours=number % 5)
            yield {
                "datetime": (sent + later).isoformat(),
                "metric": ids[name],
                "profile": new[number % len(new)],
                "properties": {"$message": message.message, "machine_open": number % 4 == 0},
            }
