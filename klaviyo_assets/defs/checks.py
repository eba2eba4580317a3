"""Asset checks of one stream's table, of two kinds.

The checks of a materialization (columns, row count, cursor) are part of the asset's own step. They
are few: a check costs 20 ms in Dagster's event log, a step of its own 60 ms more, and the hourly
job has a dozen streams of which most have nothing new.

The checks of rows (unique keys, no NULLs) have a step of their own. They run when a person
materializes the asset, and daily in a job of their own. Sync jobs leave them out, because a step
and two events would cost a tenth of a second per stream and hour. NULLs are counted from the
statistics in the Delta log. Keys are compared by reading their columns alone, which takes 0.16 s
of CPU per million.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial

import dagster as dg

from klaviyo_assets.decode.schema import SYNCED_AT_FIELD, arrow_schema
from klaviyo_assets.defs.failures import raise_as_failures
from klaviyo_assets.defs.metadata import asset_key
from klaviyo_assets.defs.resources import LakeResource
from klaviyo_assets.errors import MissingTableError, format_quantity
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.freshness import freshness_windows
from klaviyo_assets.model.selection import upstream_streams
from klaviyo_assets.model.stream import Children, Collection, Detail, Stream, ViewSource
from klaviyo_assets.reconcile.counts import (
    MAX_SIZE_DIFFERENCE,
    find_count_stream,
    read_group_sizes,
)
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import STREAMS
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
