"""Checks that run with every materialization: they look at the log and at metadata, never at rows.

What belongs here: what is looked at, how bad it is, and what to do about it. What does not: checks
that read whole tables (`deep_checks`) or ask Klaviyo (`completeness`).

They are part of the asset's own step, and few: a check costs 20 ms in Dagster's event log, a step
60 ms more, and the hourly job has a dozen streams of which most have nothing new.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from klaviyo_assets.defs.metadata import asset_key
from klaviyo_assets.defs.verdicts import check_key, failed, passed, warned
from klaviyo_assets.model.stream import Collection, Detail, Stream
from klaviyo_assets.sync.plan import CURSOR_IN_FUTURE
from klaviyo_assets.tables.schema import SYNCED_AT, arrow_schema
from klaviyo_assets.wording import quantity

COLUMNS = "columns_as_declared"
ROWS = "row_count_holds"
CURSOR = "cursor_not_in_future"

ABOUT = {
    COLUMNS: "The table has the declared columns, and the last sync met no field without one.",
    ROWS: "The table has not lost half of its rows since the last materialization; a read that "
    "drops or marks more than KLAVIYO_SHRINK_LIMIT is refused before it is stored.",
    CURSOR: "The high-water mark is no later than this machine's clock.",
}

BLOCKING = frozenset({COLUMNS})
"""What is made of a table without its keys would be wrong; the rest is no reason to stop."""

FEW_ROWS, LEAST_LEFT = 20, 0.5
"""Smaller tables may halve in a day's work."""

NOTICES_SHOWN = 5


def checks_of(stream: Stream) -> tuple[str, ...]:
    """Return the names of the checks that go with each materialization of a stream."""
    match stream.source:
        case Collection():
            return (COLUMNS, ROWS, *([CURSOR] if stream.cursor is not None else []))
        case Detail():
            return (COLUMNS,)
        case _:
            return ()


def specs_of(stream: Stream) -> list[dg.AssetCheckSpec]:
    """Return the declarations of those checks."""
    key = asset_key(stream.name)
    return [
        dg.AssetCheckSpec(name, asset=key, description=ABOUT[name], blocking=name in BLOCKING)
        for name in checks_of(stream)
    ]


def freshness_of(stream: Stream) -> dg.FreshnessPolicy:
    """Return how old a stream may become: what is synced hourly, and what daily."""
    is_hourly = not isinstance(stream.source, Detail) or stream.source.version is not None
    warn, fail = (timedelta(hours=3), timedelta(hours=26)) if is_hourly else DAILY
    return dg.FreshnessPolicy.time_window(fail_window=fail, warn_window=warn)


DAILY = (timedelta(hours=26), timedelta(hours=74))
"""From when on a stream that is read daily is late, and from when on it is stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What the checks of one materialization look at.

    `rows` are those now, `rows_before` those of the materialization before; `columns` are the
    stored ones, None where nothing is stored. `is_confirmed`: run config let the table shrink.
    """

    now: datetime
    rows: int
    rows_before: int | None
    is_confirmed: bool
    mark: datetime | None
    columns: Sequence[str] | None
    notices: Sequence[str]


def results(stream: Stream, looked: Looked) -> Iterator[dg.AssetCheckResult]:
    """Yield the result of each check that goes with a materialization."""
    for name in checks_of(stream):
        match name:
            case "columns_as_declared":
                yield as_declared(stream, looked.columns, looked.notices)
            case "row_count_holds":
                before = None if looked.is_confirmed else looked.rows_before
                yield row_count_holds(stream, looked.rows, before)
            case _:
                yield not_in_future(stream, looked.mark, looked.now)


def not_checked(stream: Stream) -> Iterator[dg.AssetCheckResult]:
    """Yield a warning for each check of a stream that the key may not read."""
    for name in checks_of(stream):
        yield warned(
            check_key(stream.name, name),
            f"Not checked: nothing was materialized, because Klaviyo refuses the stream to this "
            f"key or account; the run's warning has its words. Make a key with "
            f"{' and '.join(stream.scopes)}, or leave the asset out.",
        )


def as_declared(
    stream: Stream, columns: Sequence[str] | None, notices: Sequence[str]
) -> dg.AssetCheckResult:
    """Judge the stored columns, and fields that Klaviyo sent and no column holds."""
    changed = columns_changed(stream, columns) if columns is not None else None
    if changed is not None:
        return changed
    if notices:
        more = len(notices) - NOTICES_SHOWN
        shown = "; ".join(notices[:NOTICES_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        return warned(
            check_key(stream.name, COLUMNS),
            f"Klaviyo sent what no column is declared for: {shown}. Nothing is lost: read it from "
            "extra, and add a Column to the stream to have one of its own.",
            {"klaviyo/notices": dg.MetadataValue.json(list(notices))},
        )
    return passed(check_key(stream.name, COLUMNS), "The columns are those declared, and no others.")


def columns_changed(stream: Stream, columns: Sequence[str]) -> dg.AssetCheckResult | None:
    """Judge stored columns that are not those declared; None where they are."""
    declared = list(arrow_schema(stream).names)
    missing = [name for name in declared if name not in columns]
    foreign = sorted(set(columns).difference(declared))
    if {*stream.key, SYNCED_AT}.intersection(missing):
        return failed(
            check_key(stream.name, COLUMNS),
            f"The table lacks {', '.join(missing)}: another program changed it. Materialize the "
            "asset once with sync_mode full_refresh_overwrite.",
        )
    if missing or foreign:
        told = [f"{', '.join(missing)} is missing, and comes with the next rows"] if missing else []
        told += [f"{', '.join(foreign)} is not declared, and stays NULL"] if foreign else []
        return warned(
            check_key(stream.name, COLUMNS),
            f"Of the columns {'; '.join(told)}. Another release, or another program, changed the "
            "table; materialize the asset once with sync_mode full_refresh_overwrite to have "
            "exactly the declared ones.",
        )
    return None


def row_count_holds(stream: Stream, now: int, before: int | None) -> dg.AssetCheckResult:
    """Judge the rows of now beside those of the materialization before."""
    numbers = {"klaviyo/rows": now, **({"klaviyo/rows_before": before} if before else {})}
    if before is None or before < FEW_ROWS or now >= before * LEAST_LEFT:
        return passed(
            check_key(stream.name, ROWS),
            f"{quantity(now, 'row')}, {before or 0:,} before.",
            numbers,
        )
    return failed(
        check_key(stream.name, ROWS),
        f"{quantity(now, 'row')}, and {before:,} at the materialization before, and no "
        "confirm_shrink in the run config. If it was no full refresh with other settings and "
        "nobody deleted records at Klaviyo, look at the run's warnings and materialize again; the "
        "version before is in the lake for an hour.",
        numbers,
    )


def not_in_future(stream: Stream, mark: datetime | None, now: datetime) -> dg.AssetCheckResult:
    """Judge the mark by this machine's clock."""
    if mark is None or mark <= now + CURSOR_IN_FUTURE:
        shown = mark.isoformat() if mark is not None else "not there yet"
        return passed(check_key(stream.name, CURSOR), f"The mark is {shown}.")
    return failed(
        check_key(stream.name, CURSOR),
        f"The mark is {mark.isoformat()} and this machine's clock says {now.isoformat()}: what "
        "happens until then would not be read. Set the clock right; the next sync then goes on "
        "from now by itself.",
    )
