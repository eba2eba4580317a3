"""Why a number differs: each cause is planted alone and named; what nothing proves is not."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from klaviyo_assets.lake.read.computed import build_view_relation
from klaviyo_assets.lake.read.duckdb import TableFiles
from klaviyo_assets.lake.read.views import build_select
from klaviyo_assets.streams.figure_views import CAMPAIGN_DAY_FIGURES
from klaviyo_assets_tests.unit.lake.stored_tables import Row, query_view, store_table

ZONE = "America/Los_Angeles"
SENT = datetime(2026, 10, 12, 17, tzinfo=UTC)
"""Ten in the morning of the day in the account's zone."""

DAY, NEXT_DAY = date(2026, 10, 12), date(2026, 10, 13)
FETCHED = SENT + timedelta(days=20)

METRICS = {
    "RECEIVED": "Received Email",
    "OPENED": "Opened Email",
    "CLICKED": "Clicked Email",
    "CLICKED_TEXT": "Clicked Text Message",
    "ORDER": "Placed Order",
    "REFUND": "Refunded Order",
}


@dataclass(slots=True, kw_only=True)
class Shop:
    """The stored rows of an account with one campaign; the tables of `left_out` are not stored."""

    events: list[Row] = field(default_factory=list[Row])
    reports: list[Row] = field(default_factory=list[Row])
    aggregates: list[Row] = field(default_factory=list[Row])
    left_out: tuple[str, ...] = ()
    custom_metrics: list[Row] = field(default_factory=list[Row])

    def add(self, metric: str, person: str, at: datetime = SENT, **properties: object) -> Row:
        """Store an event of a person; return it."""
        row: Row = {
            "id": f"e{len(self.events)}",
            "datetime": at,
            "metric_id": metric,
            "profile_id": person,
            "event_properties": json.dumps(properties),
        }
        self.events.append(row)
        return row

    def add_message_event(
        self, metric: str, person: str, at: datetime = SENT, message: str = "M1", **more: object
    ) -> Row:
        """Store that a person received, opened or clicked the message."""
        return self.add(metric, person, at, **{"$message": message}, **more)

    def add_order(
        self, person: str, at: datetime, value: float, *earned_by: tuple[str, str, str]
    ) -> Row:
        """Store an order with an attribution a (campaign, message, event)."""
        row = self.add("ORDER", person, at, **{"$value": value, "OrderId": f"order of {person}"})
        row["attributions"] = json.dumps(
            [
                {
                    "relationships": {
                        "campaign": {"data": {"id": campaign}},
                        "campaign-message": {"data": {"id": message}},
                        "attributed-event": {"data": {"id": event}},
                    }
                }
                for campaign, message, event in earned_by
            ]
        )
        return row

    def report(self, day: date, **statistics: float) -> Row:
        """Store a row of the report; return it."""
        row: Row = {
            "date": day,
            "conversion_metric_id": "ORDER",
            "campaign_id": "C",
            "campaign_message_id": "M1",
            "send_channel": "email",
            "recipients": 3.0,
            "fetched_at": FETCHED,
            "is_final": True,
            **statistics,
        }
        self.reports.append(row)
        return row

    def aggregate(self, metric: str, count: float, *, total: float, **measures: float) -> None:
        """Store what Klaviyo counts of a metric on the day, by the message and in total."""
        dimension = "$attributed_message" if metric == "ORDER" else "$message"
        shared: Row = {"date": DAY, "metric_id": metric, "fetched_at": FETCHED, **measures}
        by_message = {"dimension": dimension, "dimension_value": "M1", "count": count}
        in_total = {"dimension": "total", "dimension_value": "", "count": total}
        self.aggregates += [{**shared, **by_message}, {**shared, **in_total}]

    def tables(self, folder: Path) -> dict[str, TableFiles]:
        """Return the stored tables."""
        klaviyo = json.dumps({"name": "Klaviyo"})
        rows: dict[str, list[Row]] = {
            "campaign_values_reports": self.reports,
            "events": self.events,
            "metrics": [
                {"id": each, "name": name, "integration": klaviyo} for each, name in METRICS.items()
            ],
            "metric_aggregates": self.aggregates,
            "accounts": [{"id": "A", "timezone": ZONE}],
            "campaigns": [{"id": "C", "name": "Autumn"}],
            "custom_metrics": self.custom_metrics,
        }
        return {
            name: store_table(folder, name, found)
            for name, found in rows.items()
            if name not in self.left_out
        }


@pytest.fixture
def shop() -> Shop:
    """Give an account in which a campaign of three recipients was opened, clicked and ordered from.

    All of it happened on the day of sending: two of them opened, one twice, and one clicked and
    ordered for 40.
    """
    shop = Shop()
    for person in ("ann", "bob", "cay"):
        shop.add_message_event("RECEIVED", person)
    hour = timedelta(hours=1)
    for person in ("ann", "bob", "ann"):
        shop.add_message_event("OPENED", person, SENT + hour, machine_open=False)
    click = shop.add_message_event("CLICKED", "ann", SENT + hour)
    shop.add_order("ann", SENT + 2 * hour, 40, ("C", "M1", str(click["id"])))
    shop.report(
        DAY,
        opens=3,
        opens_unique=2,
        clicks=1,
        clicks_unique=1,
        conversions=1,
        conversion_uniques=1,
        conversion_value=40,
    )
    shop.aggregate("OPENED", 3, total=3, unique=2)
    shop.aggregate("CLICKED", 1, total=1, unique=1)
    shop.aggregate("ORDER", 1, total=1, unique=1, sum_value=40)
    return shop


def figures(
    shop: Shop, folder: Path, columns: str = "report, aggregates, events, cause, aggregates_cause"
) -> dict[tuple[date, str], tuple[object, ...]]:
    """Return some columns by day and figure."""
    rows = query_view(
        CAMPAIGN_DAY_FIGURES,
        shop.tables(folder),
        f"SELECT date, figure, {columns} FROM it WHERE campaign_id = 'C'",
    )
    found = {(row[0], str(row[1])): row[2:] for row in rows if isinstance(row[0], date)}
    assert len(found) == len(rows), "a day has a figure twice"
    return found


def test_three_that_agree(shop: Shop, tmp_path: Path) -> None:
    """Side by side, on one day; the columns are the declared ones in their order."""
    assert figures(shop, tmp_path) == {
        (DAY, "opens"): (3, 3, 3, "agree", "agree"),
        (DAY, "opens_unique"): (2, 2, 2, "agree", "agree"),
        (DAY, "clicks"): (1, 1, 1, "agree", "agree"),
        (DAY, "clicks_unique"): (1, 1, 1, "agree", "agree"),
        (DAY, "conversions"): (1, 1, 1, "agree", "agree"),
        (DAY, "conversion_uniques"): (1, 1, 1, "agree", "agree"),
        (DAY, "conversion_value"): (40, 40, 40, "agree", "agree"),
    }
    described = query_view(CAMPAIGN_DAY_FIGURES, shop.tables(tmp_path), "DESCRIBE it")
    assert [name for name, *_ in described] == [each.name for each in CAMPAIGN_DAY_FIGURES.columns]
    kinds = {each.name: each.type for each in CAMPAIGN_DAY_FIGURES.columns}
    sql_types = {"number": "DOUBLE", "date": "DATE", "boolean": "BOOLEAN", "string": "VARCHAR"}
    sql_types["timestamp"] = "TIMESTAMP WITH TIME ZONE"
    assert {name: kind for name, kind, *_ in described} == {
        name: sql_types[kind] for name, kind in kinds.items()
    }


def open_a_day_later(shop: Shop) -> None:
    """Let somebody open on the day after the sending."""
    shop.add_message_event("OPENED", "cay", SENT + timedelta(days=1))
    shop.reports[0] |= {"opens": 4, "opens_unique": 3}


def open_by_machine(shop: Shop) -> None:
    """Let a machine open, which the report does not count."""
    shop.add_message_event("OPENED", "cay", SENT, machine_open=True)


def open_after_the_fetch(shop: Shop) -> None:
    """Let somebody open on the day, after the report of that day was fetched."""
    shop.reports[0]["fetched_at"] = SENT + timedelta(hours=3)
    shop.add_message_event("OPENED", "cay", SENT + timedelta(hours=4))


def open_two_messages(shop: Shop) -> None:
    """Let somebody open a second message of the campaign."""
    shop.report(DAY, opens=1, opens_unique=1)["campaign_message_id"] = "M2"
    shop.add_message_event("OPENED", "ann", SENT, "M2")


def credit_another_message_first(shop: Shop) -> None:
    """Let an order be credited to another campaign first, and to this one too."""
    shop.add_order("bob", SENT, 7, ("D", "N1", "e0"), ("C", "M1", "e1"))
    shop.reports[0] |= {"conversions": 2, "conversion_uniques": 2, "conversion_value": 47}


def order_late(shop: Shop) -> None:
    """Let an order come six days after the click, of an account that now credits five."""
    shop.add_order("bob", SENT + timedelta(days=6), 7, ("C", "M1", "e1"))


def refund(shop: Shop) -> None:
    """Let an order be refunded in part, weeks later."""
    shop.add(
        "REFUND", "ann", SENT + timedelta(days=15), **{"$value": 15, "OrderId": "order of ann"}
    )
    shop.reports[0]["conversion_value"] = 25


SEND_DAY = "the report counts by the day of sending"
WINDOW = "orders more than 5 days after the message are left out"
NO_MACHINES = "machine opens are left out"
BY_MESSAGE = "people are counted once for each message"
EVERY_CREDIT = "orders credited beside another message count too"
LESS_REFUNDS = "refunds and cancelled orders are taken off"


@pytest.mark.parametrize(
    ("plant", "place", "expected"),
    [
        (open_a_day_later, (DAY, "opens"), (4, 3, 1, SEND_DAY)),
        (open_a_day_later, (DAY, "opens_unique"), (3, 2, 1, SEND_DAY)),
        (open_a_day_later, (NEXT_DAY, "opens"), (None, 1, -1, SEND_DAY)),
        (open_by_machine, (DAY, "opens"), (3, 4, -1, NO_MACHINES)),
        (open_by_machine, (DAY, "opens_unique"), (2, 3, -1, NO_MACHINES)),
        (open_after_the_fetch, (DAY, "opens"), (3, 4, -1, "it was fetched before later events")),
        (open_two_messages, (DAY, "opens"), (4, 4, 0, "agree")),
        (open_two_messages, (DAY, "opens_unique"), (3, 2, 1, BY_MESSAGE)),
        (credit_another_message_first, (DAY, "conversions"), (2, 1, 1, EVERY_CREDIT)),
        (order_late, (DAY + timedelta(days=6), "conversions"), (None, 1, -1, SEND_DAY)),
        (order_late, (DAY, "conversion_value"), (40, 40, 0, "agree")),
        (refund, (DAY, "conversions"), (1, 1, 0, "agree")),
        (refund, (DAY, "conversion_value"), (25, 40, -15, LESS_REFUNDS)),
    ],
)
def test_a_planted_cause_is_named(
    shop: Shop,
    tmp_path: Path,
    plant: Callable[[Shop], None],
    place: tuple[date, str],
    expected: tuple[object, ...],
) -> None:
    """One cause at a time: the report's figure, the events', the difference, and why."""
    plant(shop)
    assert figures(shop, tmp_path, "report, events, difference, cause")[place] == expected


def test_two_causes_at_once_are_both_named(shop: Shop, tmp_path: Path) -> None:
    """An order that is credited six days later, by a report that counts by the day of sending."""
    order_late(shop)
    shop.add_order("cay", SENT + timedelta(days=1), 9, ("C", "M1", "e2"))
    shop.reports[0]["conversion_value"] = 49
    found = figures(shop, tmp_path, "report, events, events_by_send_day, cause")
    assert found[DAY, "conversion_value"] == (49, 40, 56, f"{SEND_DAY}; {WINDOW}")


def test_a_day_without_a_report_says_so(shop: Shop, tmp_path: Path) -> None:
    """Where a message was sent on a second day of which no report is stored."""
    shop.report(NEXT_DAY + timedelta(days=1))
    later = SENT + timedelta(days=1)
    shop.add_message_event("RECEIVED", "dan", later)
    shop.add_message_event("OPENED", "dan", later)
    found = figures(shop, tmp_path, "report, events, events_by_send_day, cause")
    assert found[NEXT_DAY, "opens"] == (None, 1, 1, "no report of this day is stored")
    assert found[DAY, "opens"][-1] == "agree"


def test_the_day_in_utc_is_another_one(shop: Shop, tmp_path: Path) -> None:
    """What happens in the evening of the account's zone is of the next day in UTC."""
    shop.add_message_event("OPENED", "cay", datetime(2026, 10, 13, 3, tzinfo=UTC))
    shop.reports[0]["opens"] = 4
    found = figures(shop, tmp_path, "report, events, events_by_utc_day, cause")
    assert found[DAY, "opens"] == (4, 4, 3, "agree")
    shop.left_out = ("accounts",)
    found = figures(shop, tmp_path, "report, events, cause")
    assert found[DAY, "opens"] == (4, 3, SEND_DAY)


def test_without_a_zone_what_is_not_explained_says_so(shop: Shop, tmp_path: Path) -> None:
    """Days of events are then those of UTC, which may be all there is to it."""
    shop.left_out = ("accounts",)
    shop.reports[0]["opens"] = 30
    found = figures(shop, tmp_path, "cause")
    unknown = "not explained; events are by the day in UTC, for accounts is not stored"
    assert found[DAY, "opens"] == (unknown,)


def test_machine_opens_are_counted_apart(shop: Shop, tmp_path: Path) -> None:
    """Beside the figure, so that whoever leaves them out finds their own number."""
    open_by_machine(shop)
    found = figures(shop, tmp_path, "events, machine_opens")
    assert found[DAY, "opens"] == (4, 1)
    assert found[DAY, "clicks"] == (1, None)


def test_what_nothing_proves_is_not_explained(shop: Shop, tmp_path: Path) -> None:
    """A number that no way of counting gives has no cause."""
    shop.reports[0]["opens"] = 30
    assert figures(shop, tmp_path, "difference, cause")[DAY, "opens"] == (27, "not explained")


def test_events_that_are_not_stored_are_the_cause(shop: Shop, tmp_path: Path) -> None:
    """What Klaviyo counts in total and the lake lacks is named beside the aggregates."""
    shop.aggregates = [each for each in shop.aggregates if each["metric_id"] != "OPENED"]
    shop.aggregate("OPENED", 5, total=5, unique=2)
    found = figures(shop, tmp_path, "aggregates_difference, aggregates_cause")
    lacking = "Klaviyo counts events of this day that are not stored"
    assert found[DAY, "opens"] == (2, lacking)
    assert found[DAY, "opens_unique"] == (0, "agree")
    shop.aggregates[-2]["count"], shop.aggregates[-1]["count"] = 2, 3
    found = figures(shop, tmp_path, "aggregates_difference, aggregates_cause")
    assert found[DAY, "opens"] == (-1, "not explained")


def test_aggregates_of_a_part_are_no_figure(shop: Shop, tmp_path: Path) -> None:
    """Where a campaign has clicks of two metrics and one is aggregated, nothing is compared."""
    shop.add_message_event("CLICKED_TEXT", "bob")
    found = figures(shop, tmp_path, "aggregates, events, aggregates_cause")
    assert found[DAY, "clicks"] == (None, 2, "no aggregates by message are stored")
    assert found[DAY, "opens"] == (3, 3, "agree")


def test_what_is_off_is_said(shop: Shop, tmp_path: Path) -> None:
    """Without aggregates or names of campaigns the rest is there; without events no view is."""
    shop.left_out = ("metric_aggregates", "campaigns", "custom_metrics")
    found = figures(shop, tmp_path, "campaign_name, aggregates, cause, aggregates_cause")
    unstored = "no aggregates by message are stored"
    assert found[DAY, "opens"] == (None, None, "agree", unstored)
    for name in ("campaign_values_reports", "events", "metrics"):
        tables = {key: each for key, each in shop.tables(tmp_path).items() if key != name}
        assert build_select(build_view_relation(CAMPAIGN_DAY_FIGURES), tables) is None


@pytest.mark.parametrize(
    ("change", "figure", "cause"),
    [
        # As KLAVIYO_EXCLUDE_COLUMNS leaves them.
        ({"event_properties": None}, "opens", "events do not name their message"),
        ({"metric_id": "OTHER"}, "opens", "no event of this metric is stored"),
        ({"datetime": FETCHED - timedelta(days=1)}, "opens", "events of this day are not stored"),
    ],
)
def test_events_that_cannot_be_counted_are_the_cause(
    shop: Shop, tmp_path: Path, change: Row, figure: str, cause: str
) -> None:
    """Settings that leave something out of the events are named, as far as the events show it."""
    shop.events = [{**each, **change} for each in shop.events]
    shop.report(NEXT_DAY)
    found = figures(shop, tmp_path, "events, cause")
    assert found[DAY, figure] == (0, cause)


def test_a_custom_metric_has_no_events(shop: Shop, tmp_path: Path) -> None:
    """Klaviyo computes it from those of others."""
    shop.reports[0]["conversion_metric_id"] = "custom"
    shop.custom_metrics = [{"id": "custom", "name": "Big Orders"}]
    found = figures(shop, tmp_path, "conversion_metric_name, report, events, cause")
    cause = "a custom metric has no events of its own"
    assert found[DAY, "conversions"] == ("Big Orders", 1, 0, cause)
    assert found[DAY, "opens"] == (None, 3, 3, "agree")


def test_opens_are_counted_once_for_all_conversion_metrics(shop: Shop, tmp_path: Path) -> None:
    """A report says them again for each metric; the row that was fetched last counts."""
    shop.reports.append(
        {**shop.reports[0], "conversion_metric_id": "REFUND", "fetched_at": FETCHED, "opens": 3}
    )
    stale = {**shop.reports[0], "conversion_metric_id": "A", "opens": 1}
    shop.reports.append({**stale, "fetched_at": FETCHED - timedelta(days=9)})
    rows = query_view(
        CAMPAIGN_DAY_FIGURES,
        shop.tables(tmp_path),
        "SELECT report, cause FROM it WHERE figure = 'opens'",
    )
    assert rows == [(3, "agree")]
