"""Checks of a table's rows: every key once, and nothing NULL where nothing may be.

What belongs here: what is judged of one stream's key. What does not: checks that are part of a
stream's own step (`checks`), the comparison with Klaviyo (`completeness`).

They run whenever they are asked: with whatever a person materializes, and daily in their own job.
The jobs that sync leave them out, because a step and two events cost a tenth of a second each hour
and stream. NULLs are counted by the statistics in the log; keys are compared by reading their
columns alone, 0.16 s of CPU a million.
"""

from collections.abc import Iterator

import dagster as dg

from klaviyo_assets.defs.failures import as_failures
from klaviyo_assets.defs.metadata import asset_key
from klaviyo_assets.defs.resources import LakeResource
from klaviyo_assets.defs.verdicts import check_key, failed, passed, warned
from klaviyo_assets.errors import MissingTableError
from klaviyo_assets.lake import Lake, keys_there_twice, null_counts
from klaviyo_assets.model.stream import Join, Stream
from klaviyo_assets.tables.schema import SYNCED_AT
from klaviyo_assets.wording import quantity

UNIQUE = "key_is_unique"
NOT_NULL = "key_and_cursor_not_null"


def deep_checks_of(stream: Stream) -> tuple[str, ...]:
    """Return the names of the checks of a stream's rows; a view stores none of its own."""
    return (UNIQUE,) if isinstance(stream.source, Join) else (UNIQUE, NOT_NULL)


def deep_checks(stream: Stream) -> dg.AssetChecksDefinition:
    """Return the checks of a stream's rows, in one step."""
    key = ", ".join(stream.key)
    about = {
        UNIQUE: f"Every key ({key}) is there once.",
        NOT_NULL: f"No row lacks {', '.join(needed_of(stream))}.",
    }
    specs = [
        dg.AssetCheckSpec(name, asset=asset_key(stream.name), description=about[name])
        for name in deep_checks_of(stream)
    ]

    @dg.multi_asset_check(specs=specs, name=f"klaviyo__{stream.name}_rows", can_subset=True)
    def rows(
        context: dg.AssetCheckExecutionContext, lake: LakeResource
    ) -> Iterator[dg.AssetCheckResult]:
        store = lake.lake()
        with as_failures(stream.name):
            for each in sorted(context.selected_asset_check_keys, key=lambda one: one.name):
                yield (unique if each.name == UNIQUE else not_null)(stream, store)

    return rows


def tables_of(stream: Stream) -> tuple[str, ...]:
    """Return the stored tables that a stream's relation is made of."""
    if isinstance(stream.source, Join):
        return (stream.source.left, stream.source.right)
    return (stream.name,)


def needed_of(stream: Stream) -> tuple[str, ...]:
    """Return the columns that are never NULL."""
    cursor = (stream.cursor.column,) if stream.cursor is not None else ()
    return tuple(dict.fromkeys((*stream.key, *cursor, SYNCED_AT)))


def unique(stream: Stream, lake: Lake) -> dg.AssetCheckResult:
    """Judge whether every key is there once, by reading the key of every row.

    A view has a key twice where its own rows do, or where the table that it looks up has.
    """
    key = check_key(stream.name, UNIQUE)
    try:
        twice = sum(keys_there_twice(lake.root, table) for table in tables_of(stream))
    except MissingTableError:
        return never_read(key)
    if not twice:
        return passed(key, "Every key is there once.", {"klaviyo/keys_there_twice": 0})
    return failed(
        key,
        f"{quantity(twice, 'key is', plural='keys are')} there more than once. Materialize the "
        "asset once with sync_mode full_refresh_overwrite; of a report, put the table away with "
        f"`klaviyo-assets set-aside {stream.name}` and fetch its partitions again.",
        {"klaviyo/keys_there_twice": twice},
    )


def not_null(stream: Stream, lake: Lake) -> dg.AssetCheckResult:
    """Judge NULLs where none may be, by the statistics in the log."""
    key = check_key(stream.name, NOT_NULL)
    nulls = null_counts(lake.root, stream.name)
    if nulls is None:
        return never_read(key)
    needed = needed_of(stream)
    bad = {name: nulls[name] for name in needed if nulls.get(name)}
    if not bad:
        return passed(key, f"None of {', '.join(needed)} is NULL.")
    told = ", ".join(
        f"{quantity(count, f'row lacks {name}', plural=f'rows lack {name}')}"
        for name, count in bad.items()
    )
    return failed(
        key,
        f"{told}. klaviyo_assets writes no such row: another program did. Materialize the asset "
        "once with sync_mode full_refresh_overwrite.",
        {f"klaviyo/null_{name}": count for name, count in bad.items()},
    )


def never_read(key: dg.AssetCheckKey) -> dg.AssetCheckResult:
    """Return the warning for a table that is not there yet."""
    asset = key.asset_key.to_user_string()
    return warned(key, f"Not checked: {asset} was never read. Materialize it first.")
