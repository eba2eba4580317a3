"""Fetching report cells: what is wanted, asked for with the fewest requests, stored as it comes."""

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
from klaviyo_assets.lake.layout import LakeTable, build_table
from klaviyo_assets.lake.write.report_partitions import PartitionFetch
from klaviyo_assets.lake.write.session import CommitReceipt
from klaviyo_assets.model.report import DateRange, ReportPartition
from klaviyo_assets.reports.calendar import ZONE_ERAS_KEY, is_day_complete, zone_eras_to_json
from klaviyo_assets.reports.context import (
    SEND_DAYS_KEY,
    ReportContext,
    StoredSendFacts,
    build_planner_inputs,
    load_send_facts,
)
from klaviyo_assets.reports.failed_requests import (
    FailedMetric,
    FailedRequestStore,
    RefusedMetric,
    RefusedMetricStore,
    is_wasted_request,
)
from klaviyo_assets.reports.planner import FinishedDays, PartitionRequest, resolve_days
from klaviyo_assets.reports.send_schedule import send_days_from_json
from klaviyo_assets.reports.source import ReportSource, RequestBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDays:
    """Cells of one metric that are now in the lake.

    `row_counts` has the number of rows by day. `requests` is what their time frame has cost so far,
    `sharing_days` for how many days wanted. `receipt` is that of their commit.
    """

    metric_id: str
    row_counts: Mapping[date, int]
    final_days: frozenset[date]
    fetched_at: datetime
    requests: int
    sharing_days: int
    receipt: CommitReceipt


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedReport:
    """A metric whose report is not answered, or not so that it can be used.

    `days` are those wanted of it that are not stored, `failed_metric` its requests that failed of
    late.
    """

    metric_id: str
    days: frozenset[date]
    error: KlaviyoAssetsError
    failed_metric: FailedMetric | None


FetchOutcome = StoredDays | RefusedMetric | FailedReport
"""What becomes of a metric: each is told as it happens, and the next metric's turn comes."""


class ReportFetch:
    """A fetch of some metrics' days, in the order given. Lazy: `run` asks and stores.

    `remaining_days` has the days that are not stored yet, by metric; those of metrics that were
    refused, or whose answer was broken, are not in it.
    """

    def __init__(
        self, requests: Sequence[PartitionRequest], *, context: ReportContext, budget: RequestBudget
    ) -> None:
        """Take the wishes; nothing is asked or read yet."""
        self.remaining_days = {request.metric_id: set(request.days) for request in requests}
        self.budget = budget
        self._requests = requests
        self._context = context
        self._table: LakeTable = build_table(context.stream, report_schema(context.stream))

    def run(
        self, bounds: DateRange, *, should_retry_refused: bool = False
    ) -> Iterator[FetchOutcome]:
        """Yield what has been stored, commit by commit, and the metrics that come to nothing.

        Of refused metrics, and of those that failed too often within a day, nothing is asked again
        unless `should_retry_refused`. A metric that fails is left; the others go on.

        Raises:
            QuotaError: the day's requests, or those of the run, are spent; what was yielded stands.
            KlaviyoAssetsError: as the client and the lake say; what was yielded stands.
        """
        context, should_retry = self._context, should_retry_refused
        send_facts = load_send_facts(context.stream, context.report, context.lake)
        inputs = build_planner_inputs(context.report, bounds, send_facts, context.calendar)
        refusals = RefusedMetricStore(context, self._table, should_retry_refused=should_retry)
        failures = FailedRequestStore(context, should_retry_failed=should_retry)
        for request in self._requests:
            source = ReportSource(
                context,
                request.metric_id,
                self.budget,
                refused_metrics=refusals,
                failures=failures,
                send_facts=send_facts,
            )
            try:
                # Closed at once, whatever ends the loop: others wait for what it holds.
                with closing(resolve_days(request, inputs, source)) as walked:
                    for finished_days in walked:
                        yield from self._store_days(request, finished_days, send_facts)
            except IneligibleMetricError:
                yield refusals.build_outcome(request.metric_id, self._abandon_days(request, bounds))
            except QuotaError:
                self._commit_send_days(send_facts)
                if any(self.remaining_days.values()):
                    raise
                # What is not placed now is for sibling runs, which will be told themselves.
                return
            except KlaviyoAssetsError as error:
                if not is_metric_error(error):
                    raise
                self._commit_send_days(send_facts)
                days = self._abandon_days(request, bounds)
                failed = source.record_unusable(error)
                yield FailedReport(
                    metric_id=request.metric_id, days=days, error=error, failed_metric=failed
                )

    def _abandon_days(self, request: PartitionRequest, bounds: DateRange) -> frozenset[date]:
        """Take the days out of what is left that were asked for in vain, and return them."""
        days = frozenset(day for day in self.remaining_days[request.metric_id] if day in bounds)
        self.remaining_days[request.metric_id] -= days
        return days

    def _store_days(
        self, request: PartitionRequest, finished_days: FinishedDays, send_facts: StoredSendFacts
    ) -> Iterator[StoredDays]:
        context, at = self._context, finished_days.fetched_at
        for note in finished_days.warnings:
            context.warn(note)
        # Klaviyo's own clock has the last word on which days are over.
        days = [day for day in finished_days.rows if is_day_complete(day, at, context.calendar)]
        if not days:
            self._commit_send_days(send_facts)
            return
        partitions = {
            ReportPartition(request.metric_id, day): PartitionFetch(
                at, context.calendar.is_final(day, at)
            )
            for day in days
        }
        rows = [
            ReportTableRow(
                partition=partition,
                row=each.row,
                is_final=fetched.is_final,
                fetched_at=each.fetched_at,
            )
            for partition, fetched in partitions.items()
            for each in finished_days.rows[partition.day]
        ]
        receipt = self._commit(partitions, rows_to_batch(context.stream, rows), send_facts)
        self.remaining_days[request.metric_id].difference_update(days)
        yield StoredDays(
            metric_id=request.metric_id,
            row_counts={day: len(finished_days.rows[day]) for day in days},
            final_days=frozenset(
                cell.day for cell, fetched in partitions.items() if fetched.is_final
            ),
            fetched_at=at,
            requests=finished_days.requests,
            sharing_days=finished_days.sharing_days,
            receipt=receipt,
        )

    def _commit(
        self,
        partitions: Mapping[ReportPartition, PartitionFetch],
        batch: pa.RecordBatch,
        send_facts: StoredSendFacts,
    ) -> CommitReceipt:
        def state_of(known: TableState | None) -> Mapping[str, object]:
            send_days = send_days_from_json(
                known.state.get(SEND_DAYS_KEY) if known is not None else None
            )
            send_days.merge(send_facts.send_days)
            zones = zone_eras_to_json(
                known.state if known is not None else {}, self._context.calendar
            )
            return {SEND_DAYS_KEY: send_days.to_json(), ZONE_ERAS_KEY: zones}

        receipt = self._context.lake.replace_report_partitions(
            self._table,
            account=self._context.account,
            partitions=partitions,
            batch=batch,
            build_state=state_of,
        )
        reach_crash_point("after storing partitions")
        return receipt

    def _commit_send_days(self, send_facts: StoredSendFacts) -> None:
        """Keep what was learned since the last commit: it was paid for."""
        if send_facts.send_days.message_keys():
            self._commit({}, rows_to_batch(self._context.stream, ()), send_facts)


def is_metric_error(error: KlaviyoAssetsError) -> bool:
    """Tell whether an error says something of one metric's report alone, so that others go on.

    Not what holds for every request: a limit that is spent, a network that is gone, an account
    that is refused, a revision that has ended.
    """
    if isinstance(error, RevisionRetiredError | AccessDeniedError):
        return False
    return isinstance(error, ContractError | ReportFailedError) or is_wasted_request(error)
