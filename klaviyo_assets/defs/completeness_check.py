"""The asset check that the lake has as many events of every metric and day as Klaviyo counts.

There is one check for all metrics. Whether events are complete is one question with one answer in
the list of checks, and a day is read again for all metrics at once. The table in the result's
metadata says which metric lacks what.

If a person materializes the events asset, Dagster runs all of its checks. The comparison costs one
request per metric and year, so such a run compares nothing: it repeats the last result, and says
so.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import cast

import dagster as dg
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from pydantic import Field

from klaviyo_assets.defs.checks import (
    CheckMetadata,
    CheckMetadataValue,
    check_key,
    failed_result,
    passed_result,
    warning_result,
)
from klaviyo_assets.defs.health import raise_as_failures
from klaviyo_assets.defs.metadata import FIRST_SEEN_METADATA_KEY
from klaviyo_assets.defs.resources import KlaviyoResource, LakeResource
from klaviyo_assets.errors import (
    MissingTableError,
    RefusedStreamError,
    SettingError,
    format_quantity,
)
from klaviyo_assets.model.report import contiguous_ranges
from klaviyo_assets.model.window import parse_instant
from klaviyo_assets.reconcile.counts import (
    EVENTS_STREAM_NAME,
    CountDifference,
    LatenessCounts,
    ReconcileRequest,
    Reconciliation,
    merge_lateness_counts,
    missing_by_day,
    reconcile_counts,
    suggest_lookback_days,
    vanished_days,
)

COMPLETENESS_CHECK_KEY = check_key(EVENTS_STREAM_NAME, "complete")

SHORT_DAYS_METADATA_KEY = "klaviyo/short_days"
READ_AGAIN_METADATA_KEY = "klaviyo/read_again"
ASKED_AT_METADATA_KEY = "klaviyo/asked_at"
DAYS_METADATA_KEY = "klaviyo/days_asked"

MAX_DIFFERENCE_ROWS = 200
"""How many rows the table in a result's metadata has. All short days are listed beside it."""

MAX_NAMED_RANGES = 5


def build_completeness_result(
    outcome: Reconciliation, metadata: CheckMetadata
) -> dg.AssetCheckResult:
    """Return the check's result: red for missing events, yellow for events deleted at Klaviyo."""
    short, vanished = missing_by_day(outcome.differences), vanished_days(outcome.differences)
    vanished_events = sum(each.vanished for each in outcome.differences)
    vanished_text = (
        f"Klaviyo no longer has {format_quantity(vanished_events, 'stored event')} of "
        f"{describe_days(vanished)}: they were redacted, or merged away. They stay stored until a "
        "full refresh drops them."
    )
    if short:
        newest = contiguous_ranges(short)[-1]
        missing_text = (
            f"{describe_missing_events(short)}. The sensor "
            "klaviyo_events_healing reads exactly these days again; by hand, materialize "
            f"klaviyo/events with start {newest.first} and end {newest.last + timedelta(days=1)}."
        )
        text = f"{missing_text} {vanished_text}" if vanished else missing_text
        return failed_result(COMPLETENESS_CHECK_KEY, text, metadata)
    if vanished:
        return warning_result(COMPLETENESS_CHECK_KEY, vanished_text, metadata)
    return passed_result(
        COMPLETENESS_CHECK_KEY,
        f"All {format_quantity(outcome.stored_events, 'event')} of "
        f"{format_quantity(len(outcome.metric_names), 'metric')} from "
        f"{outcome.window.floor:%Y-%m-%d} to {outcome.window.ceiling:%Y-%m-%d %H:%M} UTC are "
        "stored, as Klaviyo counts them.",
        metadata,
    )


def describe_missing_events(short: Mapping[date, int]) -> str:
    """Return how many events of which days are missing: a sentence without its full stop."""
    days = describe_days(short)
    return format_quantity(
        sum(short.values()), f"event of {days} is missing", plural=f"events of {days} are missing"
    )


def describe_days(days: Collection[date]) -> str:
    """Return the days in words, consecutive ones as a range."""
    ranges = contiguous_ranges(days)
    texts = [
        f"{each.first}" if each.first == each.last else f"{each.first} to {each.last}"
        for each in ranges[:MAX_NAMED_RANGES]
    ]
    more = len(ranges) - MAX_NAMED_RANGES
    rest = format_quantity(more, "more range")
    return ", ".join(texts) + (f" and {rest}" if more > 0 else "")


def comparison_metadata(
    outcome: Reconciliation, request: ReconcileRequest
) -> dict[str, CheckMetadataValue]:
    """Return the figures behind the result, and what the next comparison needs.

    The next comparison needs to know which days were read again: if Klaviyo still counts fewer
    events on such a day, they were deleted there.
    """
    vanished = vanished_days(outcome.differences)
    reread = {
        f"{day}": at.isoformat() for day, at in request.reread_days.items() if day in vanished
    }
    short = {f"{day}": count for day, count in missing_by_day(outcome.differences).items()}
    metadata: dict[str, CheckMetadataValue] = {
        "klaviyo/events_stored": outcome.stored_events,
        "klaviyo/events_counted": outcome.counted_events,
        "klaviyo/missing": sum(each.missing for each in outcome.differences),
        "klaviyo/vanished": sum(each.vanished for each in outcome.differences),
        "klaviyo/metrics": len(outcome.metric_names),
        "klaviyo/events_without_metric": outcome.events_without_metric,
        DAYS_METADATA_KEY: request.days,
    }
    if outcome.differences:
        table = differences_table(outcome.differences, outcome.metric_names)
        metadata["klaviyo/differences"] = table
    for name, values in (
        (SHORT_DAYS_METADATA_KEY, short),
        (READ_AGAIN_METADATA_KEY, reread),
        # The metrics that Klaviyo refuses to count, each with its reason.
        ("klaviyo/metrics_not_counted", outcome.refused_metrics),
    ):
        if values:
            metadata[name] = dg.MetadataValue.json(dict(values))
    if outcome.first_responded_at is not None:
        metadata[ASKED_AT_METADATA_KEY] = outcome.first_responded_at.isoformat()
    return metadata


def differences_table(
    differences: Sequence[CountDifference], names: Mapping[str, str]
) -> dg.TableMetadataValue:
    """Return the days and metrics whose counts differ as a table, the newest day first."""
    records = [
        dg.TableRecord(
            {
                "day": f"{each.partition.day}",
                "metric": names.get(each.partition.metric_id) or each.partition.metric_id,
                "metric_id": each.partition.metric_id,
                "stored": each.stored,
                "at Klaviyo": each.counted,
                "missing": each.missing,
                "vanished": each.vanished,
            }
        )
        for each in reversed(differences)
    ]
    return dg.MetadataValue.table(records[:MAX_DIFFERENCE_ROWS])


MAX_SUMMED_SYNCS = 1000
"""How many materializations are summed up: six weeks of hourly ones."""


def lateness_metadata(
    instance: dg.DagsterInstance, events_key: dg.AssetKey, names: Mapping[str, str]
) -> dict[str, CheckMetadataValue]:
    """Return the delays of events by metric over the last syncs, and the lookback they suggest.

    The delays are the median, the 99th percentile and the maximum. `names` are the names of
    metrics by id.
    """
    records = instance.fetch_materializations(events_key, limit=MAX_SUMMED_SYNCS).records
    counts_by_sync = [
        value.value
        for each in records
        if each.asset_materialization is not None
        and (value := each.asset_materialization.metadata.get(FIRST_SEEN_METADATA_KEY)) is not None
    ]
    lateness = merge_lateness_counts(cast("list[Mapping[str, LatenessCounts]]", counts_by_sync))
    if not lateness:
        return {}
    rows = [
        dg.TableRecord(
            {
                "metric": names.get(metric) or metric,
                "events": each.event_count,
                "p50": format_duration(each.quantile(0.5)),
                "p99": format_duration(each.quantile(0.99)),
                "max": format_duration(timedelta(seconds=each.max_delay_seconds)),
                "before the cursor": sum(each.behind.values()),
            }
        )
        for metric, each in lateness.items()
    ]
    return {
        "klaviyo/lateness": dg.MetadataValue.table(rows),
        "klaviyo/suggested_lookback_days": suggest_lookback_days(list(lateness.values())),
    }


def format_duration(duration: timedelta) -> str:
    """Return a duration in the largest unit that fits: 2.4 d, 3.5 h, 7 min."""
    for unit, name in ((timedelta(days=1), "d"), (timedelta(hours=1), "h")):
        if duration >= unit:
            return f"{duration / unit:.1f} {name}"
    return f"{duration / timedelta(minutes=1):.0f} min"


REPEATED_RUN_METADATA_KEY = "klaviyo/repeated_from_run"
"""Metadata of a repeated result: the run that made the comparison."""

NOT_COMPARED_METADATA_KEY = "klaviyo/not_compared_yet"
"""Metadata of a result without any comparison, because there was none yet."""

CHECK_HISTORY_PAGE_SIZE = 20
"""How many results are read at a time, in search of one that is not repeated."""


DEFAULT_COMPARED_DAYS, DEFAULT_TOLERANCE_HOURS, DEFAULT_MAX_COUNT_REQUESTS = 35, 6, 1000


class CompletenessConfig(dg.Config):
    """Run config of the check. All options are optional.

    None has a Dagster default: the launchpad of the events asset would show it.
    """

    days: int | None = Field(
        default=None,
        ge=0,
        description=f"Days before the cursor that are compared; 0: everything stored. "
        f"{DEFAULT_COMPARED_DAYS} where it is left out.",
    )
    tolerance_hours: int | None = Field(
        default=None,
        ge=0,
        description="Newest hours that are not compared: Klaviyo's counts and our syncs are late. "
        f"{DEFAULT_TOLERANCE_HOURS} where it is left out.",
    )
    most_requests: int | None = Field(
        default=None,
        ge=1,
        description="A comparison that takes more requests is refused; it takes one per metric "
        f"and year. {DEFAULT_MAX_COUNT_REQUESTS} where it is left out.",
    )
    read_again: dict[str, str] = Field(
        default_factory=dict,
        description="Days that this run has read again, each with Klaviyo's time before that: "
        "stored events that Klaviyo has not sent since then no longer exist there.",
    )

    def build_reconcile_request(
        self, known_read_again: Mapping[date, datetime]
    ) -> ReconcileRequest:
        """Return what to compare.

        `known_read_again` are the days that the last comparison already knew as read again.

        Raises:
            SettingError: a day or an instant of `read_again` cannot be parsed.
        """
        hours = DEFAULT_TOLERANCE_HOURS if self.tolerance_hours is None else self.tolerance_hours
        return ReconcileRequest(
            days=DEFAULT_COMPARED_DAYS if self.days is None else self.days,
            tolerance=timedelta(hours=hours),
            max_requests=self.most_requests or DEFAULT_MAX_COUNT_REQUESTS,
            reread_days={**known_read_again, **parse_read_again(self.read_again)},
        )


COMPLETENESS_CHECK_SPEC = dg.AssetCheckSpec(
    COMPLETENESS_CHECK_KEY.name,
    asset=COMPLETENESS_CHECK_KEY.asset_key,
    description="As many events are stored of every metric and UTC day as Klaviyo counts.",
)


@cache
def build_completeness_check() -> dg.AssetChecksDefinition:
    """Return the check. It sends one request per metric and year, at most sixty a minute."""

    @dg.multi_asset_check(
        specs=[COMPLETENESS_CHECK_SPEC],
        name=f"klaviyo__{EVENTS_STREAM_NAME}_{COMPLETENESS_CHECK_KEY.name}",
        can_subset=True,
    )
    def check_completeness(
        context: dg.AssetCheckExecutionContext,
        config: CompletenessConfig,
        klaviyo: KlaviyoResource,
        lake: LakeResource,
    ) -> Iterator[dg.AssetCheckResult]:
        (check,) = context.selected_asset_check_keys
        # A repair run has `read_again`: it reads days again in order to compare them.
        if is_materializing_run(context, check.asset_key) and not config.read_again:
            yield repeat_last_result(fetch_last_comparison(context.instance, check))
            return
        with raise_as_failures(EVENTS_STREAM_NAME):
            request = config.build_reconcile_request(_load_read_again(context.instance, check))
            try:
                with klaviyo.connect(warn=context.log.warning) as connection:
                    outcome = reconcile_counts(
                        request,
                        client=connection.client,
                        lake=lake.lake(),
                        settings=connection.settings,
                        log=context.log.info,
                    )
            except (RefusedStreamError, MissingTableError) as error:
                yield warning_result(COMPLETENESS_CHECK_KEY, f"Not checked: {error.message}")
                return
            metadata = comparison_metadata(outcome, request) | lateness_metadata(
                context.instance, check.asset_key, outcome.metric_names
            )
            metadata["klaviyo/requests"] = connection.client.stats.requests
            yield build_completeness_result(outcome, metadata)

    return check_completeness


def is_materializing_run(context: dg.AssetCheckExecutionContext, key: dg.AssetKey) -> bool:
    """Return whether the run of a check materializes the asset as well."""
    return key in context.job_def.asset_layer.executable_asset_keys


def repeat_last_result(record: AssetCheckExecutionRecord | None) -> dg.AssetCheckResult:
    """Return the result of the last comparison again; a warning if there was none yet.

    Dagster knows only passed and failed, and its log calls a warning "failed". But a passed check
    is green, and green would say that every event is there, which nobody has checked.
    """
    evaluation = record.evaluation if record is not None else None
    if record is None or evaluation is None:
        return warning_result(
            COMPLETENESS_CHECK_KEY,
            "Not compared yet. Launch klaviyo_checks: that job asks Klaviyo for its counts.",
            {NOT_COMPARED_METADATA_KEY: True},
        )
    at = datetime.fromtimestamp(record.create_timestamp, tz=UTC)
    return dg.AssetCheckResult(
        passed=evaluation.passed,
        severity=evaluation.severity,
        check_name=COMPLETENESS_CHECK_KEY.name,
        description=f"As of {at:%Y-%m-%d %H:%M} UTC, when klaviyo_checks or a repair run last "
        f"asked Klaviyo for its counts; this run did not. {evaluation.description}",
        metadata={
            **evaluation.metadata,
            REPEATED_RUN_METADATA_KEY: dg.MetadataValue.dagster_run(record.run_id),
        },
    )


def fetch_last_comparison(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey
) -> AssetCheckExecutionRecord | None:
    """Return the check's last record that is a comparison of its own; None before the first."""
    completed = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
    cursor: int | None = None
    while records := instance.event_log_storage.get_asset_check_execution_history(
        check, limit=CHECK_HISTORY_PAGE_SIZE, cursor=cursor, status=completed
    ):
        for record in records:
            if (
                check_metadata_value(record, REPEATED_RUN_METADATA_KEY) is None
                and check_metadata_value(record, NOT_COMPARED_METADATA_KEY) is None
            ):
                return record
        cursor = records[-1].id
    return None


def check_metadata_value(record: AssetCheckExecutionRecord, name: str) -> object:
    """Return a value from the metadata of a check's record; None if it has none of that name."""
    evaluation = record.evaluation
    value = evaluation.metadata.get(name) if evaluation is not None else None
    return value.value if value is not None else None


def parse_read_again(texts: Mapping[str, str]) -> dict[date, datetime]:
    """Return instants by day from their ISO texts.

    Raises:
        SettingError: a text cannot be parsed.
    """
    try:
        instants = {date.fromisoformat(day): parse_instant(text) for day, text in texts.items()}
    except ValueError as error:
        raise SettingError(
            f"read_again cannot be used: {error}", stream=EVENTS_STREAM_NAME
        ) from None
    return {day: instant for day, instant in instants.items() if instant is not None}


def _load_read_again(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> dict[date, datetime]:
    """Return the days that the last comparison knew as read again."""
    record = fetch_last_comparison(instance, check)
    texts = check_metadata_value(record, READ_AGAIN_METADATA_KEY) if record is not None else None
    return parse_read_again(cast("Mapping[str, str]", texts)) if isinstance(texts, Mapping) else {}
