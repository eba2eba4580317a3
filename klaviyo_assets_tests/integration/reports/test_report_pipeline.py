"""From a report request to rows in the lake, against the sandbox: the truth, and counted."""

import json
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.messages import Response
from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.api.requests import next_report_request, report_request
from klaviyo_assets.decode.reports import (
    ReportPage,
    ReportRow,
    ReportTableRow,
    parse_report_page,
    report_schema,
    rows_to_batch,
)
from klaviyo_assets.errors import IneligibleMetricError, QuotaError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import build_table
from klaviyo_assets.lake.write.report_partitions import PartitionFetch
from klaviyo_assets.model.report import DateRange, ReportEndpoint, ReportPartition
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.sandbox import AccountConfig, Sandbox, serve
from klaviyo_assets.sandbox.account.config import DEFAULT_KEY
from klaviyo_assets.settings import DEFAULT_REVISION
from klaviyo_assets.streams.reports import CAMPAIGN_VALUES_REPORTS, FLOW_SERIES_REPORTS, STATISTICS

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SCALE = 100_000.0

# Both hold a day of 23 or 25 hours, in one hemisphere or the other.
OVER_A_CHANGE_OF_CLOCKS = DateRange(date(2026, 9, 14), date(2026, 11, 12))

Row = dict[str, Any]


def account(**numbers: str | int) -> AccountConfig:
    """Return a small account that stands still."""
    settings: dict[str, object] = {"timezone": "America/New_York", "report_page": 7, **numbers}
    return AccountConfig(
        events=500,
        profiles=60,
        campaigns=60,
        now=NOW,
        frozen=True,
        rate_limit_scale=SCALE,
        timezone=str(settings["timezone"]),
        report_page=int(str(settings["report_page"])),
    )


@pytest.fixture
def sandbox() -> Generator[Sandbox]:
    """Give an account whose reports come in many pages."""
    with serve(account()) as running:
        yield running


@contextmanager
def client_of(sandbox: Sandbox, folder: Path) -> Generator[KlaviyoClient]:
    """Give a client with the sandbox's limits, whose ledger lies in a folder."""
    with (
        closing(RateLimiter(folder, "a", scale=SCALE)) as ledger,
        closing(
            KlaviyoClient(
                base_url=sandbox.url,
                api_key=DEFAULT_KEY,
                revision=DEFAULT_REVISION,
                rate_limiter=ledger,
            )
        ) as client,
    ):
        yield client


def revenue(sandbox: Sandbox) -> str:
    """Return the metric that is mapped as revenue."""
    return sandbox.store.metrics.id_of(5)


def rows_of(
    client: KlaviyoClient,
    stream: Stream,
    days: DateRange,
    *,
    metric_id: str,
    message_ids: tuple[str, ...] = (),
) -> list[ReportRow]:
    """Return the rows of a report, all pages followed."""
    source = stream.source
    assert isinstance(source, ReportEndpoint)

    def read(answer: Response) -> ReportPage:
        return parse_report_page(answer.body, source)

    request = report_request(
        source,
        stream=stream,
        metric_id=metric_id,
        days=days,
        message_ids=message_ids,
    )
    rows: list[ReportRow] = []
    seen: set[str] = set()
    following = request
    while following is not None:
        page = client.fetch(following, read, stream=stream.name)
        rows.extend(page.rows)
        following = next_report_request(
            following,
            link=page.next_link,
            page_cursor=page.page_cursor,
            base_url=client.base_url,
            seen_targets=seen,
        )
    return rows


def truth(sandbox: Sandbox, name: str, days: DateRange) -> list[Row]:
    """Return the true rows of a report by day."""
    query = f"metric={revenue(sandbox)}&start={days.first}&end={days.last}"
    # Loopback, and http: the sandbox says where it is.
    with urlopen(f"{sandbox.url}/__truth/reports/{name}?{query}") as answer:  # noqa: S310
        return json.loads(answer.read())["rows"]


def stored(lake: Lake, stream: Stream, rows: list[ReportTableRow], days: DateRange) -> list[Row]:
    """Store the rows of some days; return what the lake holds, in the form of the truth."""
    metric_id = rows[0].partition.metric_id
    lake.replace_report_partitions(
        build_table(stream, report_schema(stream)),
        account="a",
        partitions={
            ReportPartition(metric_id, day): PartitionFetch(NOW, is_final=False) for day in days
        },
        batch=rows_to_batch(stream, rows),
        build_state=lambda _: {},
    )
    keys = [name for name in stream.key if name != "conversion_metric_id"]
    found = lake.query_relation(stream.name).select(*keys, *STATISTICS).fetchall()
    named = [dict(zip((*keys, *STATISTICS), row, strict=True)) for row in found]
    return [row | {"date": str(row["date"])} for row in named]


def in_order(rows: list[Row]) -> list[str]:
    """Return rows as texts that can be compared, whole numbers alike in both forms."""
    texts = (
        {name: float(value) if isinstance(value, int) else value for name, value in row.items()}
        for row in rows
    )
    return sorted(json.dumps(row, sort_keys=True) for row in texts)


@pytest.mark.parametrize(
    "zone", ["America/Los_Angeles", "Europe/Copenhagen", "Australia/Lord_Howe"]
)
def test_a_series_is_stored_as_the_truth_has_it(tmp_path: Path, zone: str) -> None:
    """Sixty days over a change of clocks, in many pages: every row on its own day."""
    days = OVER_A_CHANGE_OF_CLOCKS
    with serve(account(timezone=zone)) as server, client_of(server, tmp_path) as client:
        metric_id = revenue(server)
        rows = [
            ReportTableRow(
                partition=ReportPartition(metric_id, row.day),
                row=row,
                is_final=False,
                fetched_at=NOW,
            )
            for row in rows_of(client, FLOW_SERIES_REPORTS, days, metric_id=metric_id)
            if row.day is not None
        ]
        lake = Lake(tmp_path / "data", clock=lambda: NOW)
        found = stored(lake, FLOW_SERIES_REPORTS, rows, days)
        # The truth has no row for a day without a send, the series one of zeros.
        sent = [row for row in found if row["recipients"]]
        assert in_order(sent) == in_order(truth(server, "flow_series", days))
        numbers = [row[name] for row in found if row not in sent for name in STATISTICS]
        assert numbers
        assert not any(numbers)
        assert len({row["date"] for row in found}) == 60
        requests = client.stats.requests
        assert requests > 1
        [budget] = FLOW_SERIES_REPORTS.rate_limit_buckets()
        assert client.rate_limiter.daily_quota(budget).used == requests


def test_values_of_single_days_are_the_truth(sandbox: Sandbox, tmp_path: Path) -> None:
    """A request for one day brings that day's rows, all statistics as they are."""
    days = DateRange(date(2026, 10, 4), date(2026, 11, 5))
    with client_of(sandbox, tmp_path) as client:
        metric_id = revenue(sandbox)
        rows = [
            ReportTableRow(
                partition=ReportPartition(metric_id, day), row=row, is_final=False, fetched_at=NOW
            )
            for day in days
            for row in rows_of(
                client, CAMPAIGN_VALUES_REPORTS, DateRange(day, day), metric_id=metric_id
            )
        ]
    lake = Lake(tmp_path / "data", clock=lambda: NOW)
    found = stored(lake, CAMPAIGN_VALUES_REPORTS, rows, days)
    wanted = truth(sandbox, "campaign_values", days)
    assert in_order(found) == in_order(wanted)
    assert len(wanted) > 3


def test_an_answer_about_some_messages(sandbox: Sandbox, tmp_path: Path) -> None:
    """The filter is understood: it brings these messages, and no others."""
    days = DateRange(date(2026, 5, 1), date(2026, 11, 5))
    with client_of(sandbox, tmp_path) as client:
        everything = rows_of(client, CAMPAIGN_VALUES_REPORTS, days, metric_id=revenue(sandbox))
        ids = [row.groupings["campaign_message_id"] or "" for row in everything][:100]
        some = rows_of(
            client,
            CAMPAIGN_VALUES_REPORTS,
            days,
            metric_id=revenue(sandbox),
            message_ids=(*ids[1:3], 'no"such\\one'),
        )
    assert len(everything) > 3
    assert [row.groupings["campaign_message_id"] for row in some] == ids[1:3]


def test_a_metric_that_reports_do_not_take(sandbox: Sandbox, tmp_path: Path) -> None:
    """A refused metric has an error of its own, after one request."""
    with client_of(sandbox, tmp_path) as client:
        with pytest.raises(IneligibleMetricError):
            rows_of(client, CAMPAIGN_VALUES_REPORTS, OVER_A_CHANGE_OF_CLOCKS, metric_id="NoSuch")
        assert client.stats.requests == 1


def test_a_day_that_others_have_spent(sandbox: Sandbox, tmp_path: Path) -> None:
    """A 429 for the day fails at once; later clients send nothing before it ends."""
    day = DateRange(date(2026, 11, 5), date(2026, 11, 5))
    metric_id = revenue(sandbox)
    [budget] = FLOW_SERIES_REPORTS.rate_limit_buckets()
    with client_of(sandbox, tmp_path) as client:
        rows_of(client, FLOW_SERIES_REPORTS, day, metric_id=metric_id)
        for windows in sandbox.service.rate_limiter.counters.values():
            span = 86_400
            windows.limits = [
                (seconds, 1 if seconds == span else limit) for seconds, limit in windows.limits
            ]
        before = datetime.now(UTC)
        with pytest.raises(QuotaError, match="run it after") as caught:
            rows_of(client, FLOW_SERIES_REPORTS, day, metric_id=metric_id)
        after = datetime.now(UTC)
    first_number = sandbox.journal.number
    with client_of(sandbox, tmp_path) as later:
        with pytest.raises(QuotaError, match="Klaviyo says"):
            rows_of(later, FLOW_SERIES_REPORTS, day, metric_id=metric_id)
        quota = later.rate_limiter.daily_quota(budget)
    assert sandbox.journal.number == first_number
    assert quota.remaining == 0
    assert quota.blocked_until is not None
    wait = caught.value.retry_after_seconds
    assert wait is not None
    # However long the requests took; the wait is in whole seconds.
    assert before <= quota.blocked_until - timedelta(seconds=wait - 2)
    assert quota.blocked_until - timedelta(seconds=wait + 2) <= after
