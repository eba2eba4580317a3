"""Asset checks of one table: those of a sync, of its rows, and of a report's newest days.

The checks of a materialization (columns, row count, cursor) are part of the asset's own step. They
are few: a check costs 20 ms in Dagster's event log, a step of its own 60 ms more, and the hourly
job has a dozen streams of which most have nothing new.

The checks of rows (unique keys, no NULLs) have a step of their own. They run when a person
materializes the asset, and daily in a job of their own. Sync jobs leave them out, because a step
and two events would cost a tenth of a second per stream and hour. NULLs are counted from the
statistics in the Delta log. Keys are compared by reading their columns alone, which takes 0.16 s
of CPU per million.

A report has no freshness policy of Dagster's, which looks at the last materialization of any
partition: a backfill of an old day would turn a report green that nobody has fetched for weeks.
Its check reads which days are stored from the newest commit of the lake; it reads no row and sends
no request. Since a check's result changes only when the check runs, but days pass without a run,
a sensor evaluates it as well, and reports a result to Dagster when it differs from the last one.

                   a week of days due              26 hours
    ──────[═══════════════════════════════════]──────────────┼──▶
          └─ red where one is missing for 74 hours           now
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache, partial

import dagster as dg

from klaviyo_assets.account.metrics import read_mapped_metric
from klaviyo_assets.decode.schema import SYNCED_AT_FIELD, arrow_schema
from klaviyo_assets.defs.automation import default_sensor_status, find_asset_key
from klaviyo_assets.defs.health import raise_as_failures
from klaviyo_assets.defs.metadata import asset_key
from klaviyo_assets.defs.report_runs import BACKFILL_SENSOR_NAME, days_by_metric, metrics_to_fetch
from klaviyo_assets.defs.resources import LakeResource
from klaviyo_assets.errors import (
    KlaviyoAssetsError,
    MissingTableError,
    SettingError,
    format_quantity,
)
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.health import (
    DAILY_FRESHNESS_WINDOWS,
    Color,
    RunOutcome,
    freshness_windows,
)
from klaviyo_assets.model.report import DateRange
from klaviyo_assets.model.selection import upstream_streams
from klaviyo_assets.model.stream import Children, Collection, Detail, Stream, ViewSource
from klaviyo_assets.reconcile.counts import (
    MAX_SIZE_DIFFERENCE,
    find_count_stream,
    read_group_sizes,
)
from klaviyo_assets.reports.calendar import last_complete_day, resolve_zone_offline
from klaviyo_assets.reports.failed_requests import read_failed_metrics
from klaviyo_assets.reports.planner import report_endpoint
from klaviyo_assets.seams import utc_now
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.sync.memory import trim_heap
from klaviyo_assets.sync.plan import FUTURE_CURSOR_TOLERANCE

CheckMetadataValue = str | int | float | bool | dg.JsonMetadataValue | dg.TableMetadataValue
CheckMetadata = Mapping[str, CheckMetadataValue]
"""The figures behind a check's result, as metadata."""


def check_key(stream: str, name: str) -> dg.AssetCheckKey:
    """Return the key of a stream's check."""
    return dg.AssetCheckKey(asset_key(stream), name)


def _build_check_result(
    key: dg.AssetCheckKey,
    description: str,
    metadata: CheckMetadata | None = None,
    *,
    severity: dg.AssetCheckSeverity | None,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=severity is None,
        severity=severity or dg.AssetCheckSeverity.ERROR,
        # Without the asset's key: a user may have renamed the asset, and Dagster knows its key.
        check_name=key.name,
        description=description,
        metadata=dict(metadata or {}),
    )


passed_result = partial(_build_check_result, severity=None)
"""Return a result that is green."""

warning_result = partial(_build_check_result, severity=dg.AssetCheckSeverity.WARN)
"""Return a result that is yellow: worth a look, but nothing is wrong with the rows."""

failed_result = partial(_build_check_result, severity=dg.AssetCheckSeverity.ERROR)
"""Return a result that is red."""

COLUMNS_CHECK = "columns_as_declared"
ROW_COUNT_CHECK = "row_count_holds"
CURSOR_CHECK = "cursor_not_in_future"

CHECK_DESCRIPTIONS = {
    COLUMNS_CHECK: (
        "The table has the declared columns, and the last sync met no field without one."
    ),
    ROW_COUNT_CHECK: (
        "The table has not lost half of its rows since the last materialization; a read that would "
        "drop rows, or mark them as deleted, beyond KLAVIYO_SHRINK_LIMIT is refused before it is "
        "stored."
    ),
    CURSOR_CHECK: "The high-water mark is no later than this machine's clock.",
}

BLOCKING_CHECKS = frozenset({COLUMNS_CHECK})
"""Downstream assets do not run if one of these fails: without its key columns, what they made of
the table would be wrong. No other check is a reason to stop."""

SMALL_TABLE_ROWS, MIN_REMAINING_SHARE = 20, 0.5
"""A table with fewer rows is not checked for shrinking: half of it may go in a day's work."""

MAX_SHOWN_NOTICES = 5


def materialization_check_names(stream: Stream) -> tuple[str, ...]:
    """Return the names of the checks of each materialization of a stream."""
    match stream.source:
        case Collection() | Children():
            return (
                COLUMNS_CHECK,
                ROW_COUNT_CHECK,
                *([CURSOR_CHECK] if stream.cursor is not None else []),
            )
        case Detail():
            return (COLUMNS_CHECK,)
        case _:
            return ()


def materialization_check_specs(stream: Stream) -> list[dg.AssetCheckSpec]:
    """Return the specs of the checks of each materialization of a stream."""
    key = asset_key(stream.name)
    return [
        dg.AssetCheckSpec(
            name, asset=key, description=CHECK_DESCRIPTIONS[name], blocking=name in BLOCKING_CHECKS
        )
        for name in materialization_check_names(stream)
    ]


def freshness_policy(stream: Stream) -> dg.FreshnessPolicy:
    """Return how old a stream may become. It depends on whether it is synced hourly or daily."""
    warn, fail = freshness_windows(stream)
    return dg.FreshnessPolicy.time_window(fail_window=fail, warn_window=warn)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckInputs:
    """What the checks of one materialization look at.

    `rows` is the row count now, `rows_before` that of the previous materialization.
    `is_confirmed`: the run config allowed the table to shrink. `stored_columns` is None if nothing
    is stored. `notices` name fields that Klaviyo sent and no column holds.
    """

    now: datetime
    rows: int
    rows_before: int | None
    is_confirmed: bool
    high_water_mark: datetime | None
    stored_columns: Sequence[str] | None
    notices: Sequence[str]


def evaluate_materialization_checks(
    stream: Stream, inputs: CheckInputs
) -> Iterator[dg.AssetCheckResult]:
    """Yield the result of each check of a materialization."""
    for name in materialization_check_names(stream):
        match name:
            case "columns_as_declared":
                yield check_columns(stream, inputs.stored_columns, inputs.notices)
            case "row_count_holds":
                rows_before = None if inputs.is_confirmed else inputs.rows_before
                yield check_row_count(stream, inputs.rows, rows_before)
            case _:
                yield check_cursor_not_in_future(stream, inputs.high_water_mark, inputs.now)


def warn_not_checked(stream: Stream) -> Iterator[dg.AssetCheckResult]:
    """Yield a "Not checked" warning for each check of a stream that the key may not read."""
    for name in materialization_check_names(stream):
        yield warning_result(
            check_key(stream.name, name),
            "Not checked: nothing was materialized, because Klaviyo refuses the stream to this key "
            "or account; the run's warning quotes it. Make a key with "
            f"{' and '.join(stream.scopes)}, or leave the asset out.",
        )


def check_columns(
    stream: Stream, columns: Sequence[str] | None, notices: Sequence[str]
) -> dg.AssetCheckResult:
    """Check that the stored columns are the declared ones, and that no field lacked a column."""
    difference = compare_columns(stream, columns) if columns is not None else None
    if difference is not None:
        return difference
    key = check_key(stream.name, COLUMNS_CHECK)
    if not notices:
        return passed_result(key, "The columns are those declared, and no others.")
    more = len(notices) - MAX_SHOWN_NOTICES
    shown = "; ".join(notices[:MAX_SHOWN_NOTICES]) + (f"; and {more} more" if more > 0 else "")
    return warning_result(
        key,
        f"Klaviyo sent what no column is declared for: {shown}. Nothing is lost: it is in extra; "
        "to have a column of its own, add a Column to the stream.",
        {"klaviyo/notices": dg.MetadataValue.json(list(notices))},
    )


def compare_columns(stream: Stream, columns: Sequence[str]) -> dg.AssetCheckResult | None:
    """Return the result for stored columns that differ from the declared ones, else None."""
    declared = list(arrow_schema(stream).names)
    missing = [name for name in declared if name not in columns]
    undeclared = sorted(set(columns).difference(declared))
    key = check_key(stream.name, COLUMNS_CHECK)
    if {*stream.key, SYNCED_AT_FIELD}.intersection(missing):
        return failed_result(
            key,
            f"The table lacks {', '.join(missing)}: another program changed it. Materialize the "
            "asset once with sync_mode full_refresh_overwrite.",
        )
    parts = [f"{', '.join(missing)} is missing, and comes with the next rows"] if missing else []
    if undeclared:
        parts.append(f"{', '.join(undeclared)} is not declared, and stays NULL")
    if not parts:
        return None
    return warning_result(
        key,
        f"Of the columns {'; '.join(parts)}. Another release, or another program, changed the "
        "table; materialize the asset once with sync_mode full_refresh_overwrite to have "
        "exactly the declared ones.",
    )


def check_row_count(stream: Stream, rows: int, rows_before: int | None) -> dg.AssetCheckResult:
    """Check that the table has at least half of the rows of the previous materialization."""
    key = check_key(stream.name, ROW_COUNT_CHECK)
    numbers = {"klaviyo/rows": rows}
    if rows_before:
        numbers["klaviyo/rows_before"] = rows_before
    before = rows_before or 0
    if before < SMALL_TABLE_ROWS or rows >= before * MIN_REMAINING_SHARE:
        return passed_result(key, f"{format_quantity(rows, 'row')}; before: {before:,}.", numbers)
    return failed_result(
        key,
        f"{format_quantity(rows, 'row')}; before: {before:,}, and no confirm_shrink in the run "
        "config. If it was no full refresh with other settings and nobody deleted records at "
        "Klaviyo, look at the run's warnings and materialize again; the version before is in the "
        "lake for an hour.",
        numbers,
    )


def check_cursor_not_in_future(
    stream: Stream, high_water_mark: datetime | None, now: datetime
) -> dg.AssetCheckResult:
    """Check that the high-water mark is not later than this machine's clock."""
    key = check_key(stream.name, CURSOR_CHECK)
    if high_water_mark is None or high_water_mark <= now + FUTURE_CURSOR_TOLERANCE:
        cursor = high_water_mark.isoformat() if high_water_mark is not None else "not known yet"
        return passed_result(key, f"The cursor is {cursor}.")
    return failed_result(
        key,
        f"The cursor is {high_water_mark.isoformat()}, and this machine's clock says "
        f"{now.isoformat()}: syncs would not read what happens in between. Set the clock right; "
        "the next sync then continues from the current time.",
    )


UNIQUE_KEY_CHECK = "key_is_unique"
NOT_NULL_CHECK = "key_and_cursor_not_null"
SIZES_CHECK = "sizes_agree"


def row_check_names(stream: Stream) -> tuple[str, ...]:
    """Return the names of the checks of a stream's rows.

    NULLs are counted from a table's statistics, and a view has none.
    """
    if isinstance(stream.source, ViewSource):
        return (UNIQUE_KEY_CHECK,)
    has_counts = stream.has_soft_deletes and find_count_stream(stream, STREAMS) is not None
    return (UNIQUE_KEY_CHECK, NOT_NULL_CHECK, *([SIZES_CHECK] if has_counts else []))


@cache
def build_row_checks(stream_name: str) -> dg.AssetChecksDefinition:
    """Return the checks of a stream's rows, in one step; they depend on no setting."""
    stream = STREAMS[stream_name]
    key = ", ".join(stream.key)
    descriptions = {
        UNIQUE_KEY_CHECK: f"Every key ({key}) is unique.",
        NOT_NULL_CHECK: f"No row lacks {', '.join(required_columns(stream))}.",
        SIZES_CHECK: "The rows that have not left are as many as Klaviyo counts.",
    }
    checks = {UNIQUE_KEY_CHECK: check_unique_key, NOT_NULL_CHECK: check_not_null}
    specs = [
        dg.AssetCheckSpec(name, asset=asset_key(stream.name), description=descriptions[name])
        for name in row_check_names(stream)
    ]

    @dg.multi_asset_check(specs=specs, name=f"klaviyo__{stream.name}_rows", can_subset=True)
    def check_rows(
        context: dg.AssetCheckExecutionContext, lake: LakeResource
    ) -> Iterator[dg.AssetCheckResult]:
        store = lake.lake()
        with raise_as_failures(stream.name):
            for name in sorted(key.name for key in context.selected_asset_check_keys):
                if name == SIZES_CHECK:
                    yield check_sizes(stream, store, lake.settings)
                else:
                    # A sync in this process has left memory behind that the search needs anew.
                    if lake.settings.tune_process:
                        trim_heap()
                    yield checks[name](stream, store)

    return check_rows


def required_columns(stream: Stream) -> tuple[str, ...]:
    """Return the columns that are never NULL."""
    cursor = (stream.cursor.column,) if stream.cursor is not None else ()
    return tuple(dict.fromkeys((*stream.key, *cursor, SYNCED_AT_FIELD)))


def check_unique_key(stream: Stream, lake: Lake) -> dg.AssetCheckResult:
    """Check that no two rows have the same key, by reading the key columns of every row.

    A view has duplicate keys if one of its tables has: a join has every pair of matching rows, and
    an array is unnested once for each row that has it.
    """
    key, is_view = check_key(stream.name, UNIQUE_KEY_CHECK), isinstance(stream.source, ViewSource)
    tables = upstream_streams(stream) if is_view else (stream.name,)
    try:
        duplicates = sum(map(lake.count_duplicate_keys, tables))
    except MissingTableError:
        return missing_table_warning(key)
    if not duplicates:
        return passed_result(key, "Every key is unique.", {"klaviyo/duplicate_keys": 0})
    return failed_result(
        key,
        f"{format_quantity(duplicates, 'key has', plural='keys have')} more than one row. "
        "Materialize the asset once with sync_mode full_refresh_overwrite; move a report's table "
        f"away with `klaviyo-assets set-aside {stream.name}` and fetch its partitions again.",
        {"klaviyo/duplicate_keys": duplicates},
    )


def check_not_null(stream: Stream, lake: Lake) -> dg.AssetCheckResult:
    """Check that required columns have no NULL, by the statistics in the Delta log."""
    key = check_key(stream.name, NOT_NULL_CHECK)
    null_counts = lake.read_null_counts(stream.name)
    if null_counts is None:
        return missing_table_warning(key)
    required = required_columns(stream)
    nulls = {name: null_counts[name] for name in required if null_counts.get(name)}
    if not nulls:
        return passed_result(key, f"None of {', '.join(required)} is NULL.")
    lacking = ", ".join(
        f"{format_quantity(count, f'row lacks {name}', plural=f'rows lack {name}')}"
        for name, count in nulls.items()
    )
    return failed_result(
        key,
        f"{lacking}. klaviyo_assets writes no such row: another program did. Materialize the asset "
        "once with sync_mode full_refresh_overwrite.",
        {f"klaviyo/null_{name}": count for name, count in nulls.items()},
    )


def check_sizes(stream: Stream, lake: Lake, settings: Settings) -> dg.AssetCheckResult:
    """Check that each list has about as many members as Klaviyo counts; a difference is yellow.

    Lists that KLAVIYO_MEMBERS_OF does not name are left out.
    """
    key, counts = check_key(stream.name, SIZES_CHECK), find_count_stream(stream, STREAMS)
    sizes = read_group_sizes(stream, counts, lake=lake, settings=settings)
    compared = [
        each for each in sizes if each.is_chosen and None not in (each.counted, each.stored)
    ]
    if not compared:
        source = "" if counts is None else f"; klaviyo/{counts.name} brings Klaviyo's counts"
        return warning_result(
            key, f"Not checked: no size is stored beside members to compare{source}."
        )
    different = [each for each in compared if each.is_different]
    numbers = {"klaviyo/compared": len(compared), "klaviyo/different": len(different)}
    if not different:
        return passed_result(key, f"{format_quantity(len(compared), 'size')} agree.", numbers)
    shown = "; ".join(
        f"{each.id}: {each.stored:,} rows, counted {each.counted:,}"
        for each in different[:MAX_SHOWN_NOTICES]
    )
    return warning_result(
        key,
        f"{format_quantity(len(different), 'size')} of {len(compared)} differ by more than 1 % and "
        f"{MAX_SIZE_DIFFERENCE}: {shown}. Who left is seen by the next full read only: materialize "
        "the asset with sync_mode full_refresh_overwrite, and the counts after it.",
        numbers,
    )


def missing_table_warning(key: dg.AssetCheckKey) -> dg.AssetCheckResult:
    """Return the result of a check whose table is not stored yet."""
    asset = key.asset_key.to_user_string()
    return warning_result(key, f"Not checked: {asset} was never read. Materialize it first.")


NEWEST_DAYS_CHECK = "newest_days_are_there"
NEWEST_DAYS_DESCRIPTION = (
    "The last seven days due, or the last month, are there, of each metric that the settings want "
    "and somebody fetched."
)

NEWEST_DAYS_SENSOR_NAME = "klaviyo_reports_newest_days"
NEWEST_DAYS_SENSOR_INTERVAL_SECONDS = 1800

NEWEST_DAYS_PERIOD = timedelta(days=7)


@cache
def build_newest_days_check(name: str) -> dg.AssetChecksDefinition:
    """Return the check that a report's newest days are stored."""
    stream = STREAMS[name]
    spec = dg.AssetCheckSpec(
        NEWEST_DAYS_CHECK, asset=asset_key(stream.name), description=NEWEST_DAYS_DESCRIPTION
    )

    @dg.multi_asset_check(specs=[spec], name=f"klaviyo__{stream.name}_newest")
    def check_report(
        context: dg.AssetCheckExecutionContext, lake: LakeResource
    ) -> Iterator[dg.AssetCheckResult]:
        with raise_as_failures(stream.name):
            result = check_newest_days(
                context.instance, stream, lake.lake(), lake.settings, utc_now()
            )
        yield result or missing_table_warning(check_key(stream.name, NEWEST_DAYS_CHECK))

    return check_report


def build_newest_days_sensor(settings: Settings, reports: Sequence[Stream]) -> dg.SensorDefinition:
    """Return the sensor that evaluates the check of each report that was ever fetched."""

    @dg.sensor(
        name=NEWEST_DAYS_SENSOR_NAME,
        description="Checks whether reports are up to date, as days go by; it launches nothing.",
        minimum_interval_seconds=NEWEST_DAYS_SENSOR_INTERVAL_SECONDS,
        default_status=default_sensor_status(settings),
        required_resource_keys={"lake"},
    )
    def evaluate_checks(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        lake: Lake = context.resources.lake.lake()
        last_results: dict[str, str] = json.loads(context.cursor or "{}")
        results = dict(last_results)
        changed: list[dg.AssetCheckEvaluation] = []
        for stream in reports:
            try:
                result = check_newest_days(context.instance, stream, lake, settings, utc_now())
            except KlaviyoAssetsError as error:
                context.log.warning("%s is not checked: %s", stream.name, error)
                continue
            if result is None:
                continue
            results[stream.name] = f"{result.passed} {result.severity.value} {result.description}"
            if results[stream.name] != last_results.get(stream.name):
                changed.append(_to_check_evaluation(find_asset_key(context, stream.name), result))
        if not changed:
            return dg.SkipReason("every result is as it was, or no report was fetched yet")
        return dg.SensorResult(asset_events=changed, cursor=json.dumps(results))

    return evaluate_checks


def check_newest_days(
    instance: dg.DagsterInstance, stream: Stream, lake: Lake, settings: Settings, now: datetime
) -> dg.AssetCheckResult | None:
    """Check that the newest days of a report are stored, for each metric that is fetched.

    None if no partition of the report was ever fetched.

    Raises:
        LakeError: the lake cannot be read.
    """
    stored_days = days_by_metric(lake.read_partition_states(stream.name))
    if not stored_days:
        return None
    key = check_key(stream.name, NEWEST_DAYS_CHECK)
    try:
        expected = find_expected_days(stream, settings, lake, now)
    except SettingError as error:
        return warning_result(key, f"Not checked: {error.message}")
    mapped = read_mapped_metric(lake, settings)
    metrics = metrics_to_fetch(instance, lake, settings, stream=stream, mapped_metric_id=mapped)
    checked = {each: stored_days[each] for each in metrics if each in stored_days}
    if not checked:
        return warning_result(
            key,
            "Not checked: of the metrics that KLAVIYO_CONVERSION_METRIC_IDS names, none was "
            f"fetched yet. Backfill them, or switch on {BACKFILL_SENSOR_NAME}.",
        )
    if expected is None:
        return passed_result(key, f"No {report_endpoint(stream).period} is due yet.")
    result = _build_newest_days_result(
        stream, *expected, stored_days=checked, never_fetched=len(metrics) - len(checked)
    )
    failed = [each for each in read_failed_metrics(lake, stream.name) if each in checked]
    if result.passed or not failed:
        return result
    count = format_quantity(len(failed), "metric")
    hint = f"Requests of {count} failed recently: klaviyo-assets status."
    return result._replace(description=f"{result.description} {hint}")


def judge_report(
    instance: dg.DagsterInstance, stream: Stream, lake: Lake, settings: Settings
) -> RunOutcome:
    """Return the end of a report's run that did not fail, with the verdict of its check.

    Raises:
        LakeError: the lake cannot be read.
    """
    now = utc_now()
    result = check_newest_days(instance, stream, lake, settings, now)
    color: Color = "green"
    if result is None or not result.passed:
        is_red = result is not None and result.severity == dg.AssetCheckSeverity.ERROR
        color = "red" if is_red else "yellow"
    return RunOutcome(
        outcome="ok",
        ended_at=now,
        stored_at=now,
        judged=color,
        detail=(result.description or "") if result is not None else "no day was fetched yet",
    )


def find_expected_days(
    stream: Stream, settings: Settings, lake: Lake, now: datetime
) -> tuple[DateRange, date] | None:
    """Return the days that should be stored at `now`, and the last overdue day; None if none is.

    Of a report by month it is the first day of the last month that is due. The daily schedule
    fetches a day four hours after its end, and has a day more to do so.

    Raises:
        SettingError: the account's zone is not known, or differs from that of the settings.
    """
    zone = resolve_zone_offline(settings, lake, now=now)
    late, stale = (last_complete_day(now - after, zone) for after in DAILY_FRESHNESS_WINDOWS)
    first = max(settings.first_report_day, late - NEWEST_DAYS_PERIOD + timedelta(days=1))
    if late < first:
        return None
    report = report_endpoint(stream)
    if report.period == "day":
        return DateRange(first, late), stale
    months = report.partition_days(DateRange(settings.first_report_day, late))
    return (DateRange(months[-1], months[-1]), stale) if months else None


def _build_newest_days_result(
    stream: Stream,
    expected_days: DateRange,
    last_overdue_day: date,
    *,
    stored_days: Mapping[str, AbstractSet[date]],
    never_fetched: int,
) -> dg.AssetCheckResult:
    key = check_key(stream.name, NEWEST_DAYS_CHECK)
    missing = {
        metric_id: days
        for metric_id, stored in stored_days.items()
        if (days := [day for day in expected_days if day not in stored])
    }
    metadata = {
        "klaviyo/newest_day_due": expected_days.last.isoformat(),
        "klaviyo/metrics_judged": len(stored_days),
        "klaviyo/metrics_never_fetched": never_fetched,
        "klaviyo/days_missing": sum(map(len, missing.values())),
    }
    report = report_endpoint(stream)
    metric_count = format_quantity(len(stored_days), "metric")
    if not missing:
        return passed_result(
            key,
            f"All {report.period}s from {expected_days.first} to {expected_days.last} are there"
            f"{f', of {metric_count}' if report.has_metric else ''}.",
            metadata,
        )
    days = sorted({day for each in missing.values() for day in each})
    is_overdue = report.days_of(days[0]).last <= last_overdue_day
    build_result = failed_result if is_overdue else warning_result
    return build_result(
        key,
        f"{report.period.capitalize()}s from {days[0]} to {days[-1]} are missing"
        f"{f', of {len(missing)} of {metric_count}' if report.has_metric else ''}. "
        "Backfill them from the asset's page, or switch on "
        f"the sensor {BACKFILL_SENSOR_NAME} or the schedule klaviyo_{stream.name}.",
        metadata,
    )


def _to_check_evaluation(key: dg.AssetKey, result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """Return a result as the event that reports it to Dagster without a run."""
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=NEWEST_DAYS_CHECK,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )
