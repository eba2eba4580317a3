"""Fetches report partitions: metric by metric, storing each day as soon as it is complete."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa

from klaviyo_assets.crash_points import reach_crash_point
from klaviyo_assets.decode.reports import ReportTableRow, report_schema, rows_to_batch
from klaviyo_assets.errors import (
    AccessDeniedError,
    ContractError,
    IneligibleMetricError,
    KlaviyoAssetsError,
    QuotaError,
    ReportFailedError,
    RevisionRetiredError,
)
from klaviyo_assets.lake.delta.state import TableState
from klaviyo_assets.lake.layout import build_table
from klaviyo_assets.lake.write.report_partitions import PartitionFetch
from klaviyo_assets.lake.write.session import CommitReceipt
from klaviyo_assets.model.report import DateRange, ReportPartition
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.bisect import TimedRow
from klaviyo_assets.reports.calendar import ZONE_ERAS_KEY, zone_eras_to_json
from klaviyo_assets.reports.failed_requests import (
    FailedMetric,
    FailedRequestStore,
    RefusedMetric,
    RefusedMetricStore,
    ReportContext,
    is_wasted_request,
)
from klaviyo_assets.reports.planner import (
    FinishedDays,
    PartitionRequest,
    load_planner_inputs,
    resolve_days,
)
from klaviyo_assets.reports.send_schedule import SEND_DAYS_KEY, SendDays, send_days_from_json
from klaviyo_assets.reports.source import ReportSource, RequestBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDays:
    """Partitions of one metric that are now stored, in a table of `rows_total` rows.

    `row_counts`: the number of rows by day. `sums`: by day, the sum of each additive statistic over
    the rows, without those that are zero on every one of the days. `requests`: what their timeframe
    has cost so far, for `sharing_days` wanted days. `fetched_at`: when Klaviyo sent their total or
    series, UTC.
    """

    metric_id: str
    row_counts: Mapping[date, int]
    sums: Mapping[date, Mapping[str, float]]
    final_days: frozenset[date]
    fetched_at: datetime
    requests: int
    sharing_days: int
    rows_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedReport:
    """A metric whose report could not be fetched.

    `days`: its wanted days that are not stored. `failed_metric`: its requests that failed recently.
    """

    metric_id: str
    days: frozenset[date]
    error: KlaviyoAssetsError
    failed_metric: FailedMetric | None


FetchOutcome = StoredDays | RefusedMetric | FailedReport
"""What a fetch yields: stored days of a metric, or why a metric has none."""


class ReportFetch:
    """A fetch of the wanted days of some metrics, in the order given; `run` does all the I/O.

    `remaining_days` has the days that are not stored yet, by metric. The days of refused and
    failed metrics are not in it.
    """

    def __init__(
        self, requests: Sequence[PartitionRequest], *, context: ReportContext, budget: RequestBudget
    ) -> None:
        """Do no I/O."""
        self.remaining_days = {request.metric_id: set(request.days) for request in requests}
        self._budget = budget
        self._requests = requests
        self._context = context
        self._table = build_table(context.stream, report_schema(context.stream))
        self._send_days: SendDays | None = None

    def run(self, bounds: DateRange, *, should_retry: bool = False) -> Iterator[FetchOutcome]:
        """Yield what was stored, after each commit, and each metric that is refused or fails.

        Metrics that Klaviyo refused, or that failed too often within a day, are requested again
        only if `should_retry`. After a metric that fails, the others go on.

        Raises:
            QuotaError: the daily quota or the run's budget is spent; what was yielded is stored.
            KlaviyoAssetsError: as the client and the lake say; what was yielded is stored.
        """
        context = self._context
        inputs = load_planner_inputs(
            context.stream, context.lake, bounds=bounds, calendar=context.calendar
        )
        self._send_days = inputs.knowledge.send_days if inputs.knowledge is not None else None
        refusals = RefusedMetricStore(context, self._table, should_retry_refused=should_retry)
        failures = FailedRequestStore(context, should_retry_failed=should_retry)
        for request in self._requests:
            source = ReportSource(
                context,
                request.metric_id,
                self._budget,
                refused_metrics=refusals,
                failures=failures,
                send_days=self._send_days,
            )
            try:
                # Closed at once, whatever ends the loop, because other runs wait for its locks.
                with closing(resolve_days(request, inputs, source)) as resolved:
                    for finished_days in resolved:
                        yield from self._store_days(request, finished_days)
            except IneligibleMetricError:
                yield refusals.build_outcome(request.metric_id, self._abandon_days(request, bounds))
            except QuotaError:
                self._commit_send_days()
                if any(self.remaining_days.values()):
                    raise
                # All wanted days are stored. What was left to allocate is for sibling runs.
                return
            except KlaviyoAssetsError as error:
                if not is_metric_error(error):
                    raise
                self._commit_send_days()
                days, failed = self._abandon_days(request, bounds), source.record_unusable(error)
                yield FailedReport(
                    metric_id=request.metric_id, days=days, error=error, failed_metric=failed
                )

    def _abandon_days(self, request: PartitionRequest, bounds: DateRange) -> frozenset[date]:
        """Remove a metric's requestable days from the remaining ones, and return them."""
        requestable = self._context.report.partition_days(bounds)
        days = frozenset(self.remaining_days[request.metric_id]).intersection(requestable)
        self.remaining_days[request.metric_id] -= days
        return days

    def _store_days(
        self, request: PartitionRequest, finished_days: FinishedDays
    ) -> Iterator[StoredDays]:
        context, fetched_at = self._context, finished_days.fetched_at
        for warning in finished_days.warnings:
            context.warn(warning)
        # Klaviyo's clock at the time of the response decides which days are over.
        last_day = {day: context.report.days_of(day).last for day in finished_days.rows}
        days = [day for day, last in last_day.items() if context.calendar.is_over(last, fetched_at)]
        if not days:
            self._commit_send_days()
            return
        final = frozenset(
            day for day in days if context.calendar.is_final(last_day[day], fetched_at)
        )
        partitions = {
            ReportPartition(request.metric_id, day): PartitionFetch(fetched_at, day in final)
            for day in days
        }
        rows = table_rows(partitions, finished_days)
        receipt = self._commit(partitions, rows_to_batch(context.stream, rows))
        self.remaining_days[request.metric_id].difference_update(days)
        yield StoredDays(
            metric_id=request.metric_id,
            row_counts={day: len(finished_days.rows[day]) for day in days},
            sums=sum_statistics(context.stream, {day: finished_days.rows[day] for day in days}),
            final_days=final,
            fetched_at=fetched_at,
            requests=finished_days.requests,
            sharing_days=finished_days.sharing_days,
            rows_total=receipt.rows_total,
        )

    def _commit(
        self, partitions: Mapping[ReportPartition, PartitionFetch], batch: pa.RecordBatch
    ) -> CommitReceipt:
        receipt = self._context.lake.replace_report_partitions(
            self._table,
            account=self._context.account,
            partitions=partitions,
            batch=batch,
            build_state=self._build_state,
        )
        reach_crash_point("after storing partitions")
        return receipt

    def _build_state(self, known: TableState | None) -> Mapping[str, object]:
        """Return the zones of the table's days, and the send days; a series has none."""
        stored: Mapping[str, object] = known.state if known is not None else {}
        state: dict[str, object] = {
            ZONE_ERAS_KEY: zone_eras_to_json(stored, self._context.calendar)
        }
        if self._send_days is not None:
            send_days = send_days_from_json(stored.get(SEND_DAYS_KEY))
            send_days.merge(self._send_days)
            state[SEND_DAYS_KEY] = send_days.to_json()
        return state

    def _commit_send_days(self) -> None:
        """Store the send days found since the last commit, because they cost requests."""
        if self._send_days is not None and self._send_days.message_keys():
            self._commit({}, rows_to_batch(self._context.stream, ()))


def table_rows(
    partitions: Mapping[ReportPartition, PartitionFetch], finished_days: FinishedDays
) -> list[ReportTableRow]:
    """Return the rows of the partitions, whose days are among the finished ones."""
    return [
        ReportTableRow(
            partition=partition,
            row=each.row,
            is_final=fetched.is_final,
            fetched_at=each.fetched_at,
        )
        for partition, fetched in partitions.items()
        for each in finished_days.rows[partition.day]
    ]


def sum_statistics(
    stream: Stream, rows: Mapping[date, Sequence[TimedRow]]
) -> dict[date, dict[str, float]]:
    """Return the sums of additive statistics over the rows of each day that has rows.

    A statistic that is zero on all days is left out: what never happens is not worth a curve.
    """
    names = [each.name for each in stream.columns if each.is_additive]
    sums = {
        day: {name: sum(each.row.statistics.get(name) or 0.0 for each in found) for name in names}
        for day, found in rows.items()
        if found
    }
    told = {name for each in sums.values() for name, value in each.items() if value}
    return {
        day: {name: value for name, value in each.items() if name in told}
        for day, each in sums.items()
    }


def is_metric_error(error: KlaviyoAssetsError) -> bool:
    """Return whether an error concerns the report of one metric, so that the others go on.

    It does not if every request would fail: if the quota is spent, the network is down, the account
    is refused or the API revision is retired.
    """
    if isinstance(error, RevisionRetiredError | AccessDeniedError):
        return False
    return isinstance(error, ContractError | ReportFailedError) or is_wasted_request(error)
