"""Rows of some profiles leave one table, in one commit.

What belongs here: finding the rows, and the commit without them. What does not: what else of a
person there is, and getting rid of the retired files (`erase`).
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.errors import LakeConflictError, LakeError
from klaviyo_assets.lake.delta import Change
from klaviyo_assets.lake.disk import told
from klaviyo_assets.lake.erasures import ErasureReceipt
from klaviyo_assets.lake.layout import Table, table_folder
from klaviyo_assets.lake.log import Snapshot, snapshot
from klaviyo_assets.lake.parquet import DataFile, columns_of
from klaviyo_assets.lake.rewrite import Part
from klaviyo_assets.lake.writing import TableWriter

TRIES = 5
"""How often a table is begun anew when a run commits to it first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleTable:
    """A table with rows about profiles, and the column with the profile's id.

    `addresses` are the columns whose values tell a person's records where the id cannot be read:
    what Klaviyo tells profiles apart by, so that no two of them share one. The number that somebody
    consented to WhatsApp with can be a household's.
    """

    table: Table
    column: str
    addresses: tuple[str, ...] = ("email", "phone_number")


def without_rows(
    root: Path,
    place: PeopleTable,
    ids: Sequence[str],
    *,
    receipt: ErasureReceipt,
    clock: Callable[[], datetime],
) -> None:
    """Commit a table without the rows of some profiles, from whatever version it is at.

    Raises:
        LakeConflictError: others committed first, again and again.
        CorruptFileError, StorageError: as for `erase`.
    """
    name = place.table.name
    folder = table_folder(root, name)
    for tries_left in reversed(range(TRIES)):
        start = snapshot(folder, name)
        stay = {} if start is None else staying(folder, name, start, place.column, ids)
        if start is None or not stay:
            return
        rows = sum(mask.false_count for mask in stay.values())
        receipt.table(name, rows=rows, version=start.version + 1)
        try:
            commit_without(folder, place.table, start, stay, clock=clock)
        except LakeConflictError:
            if not tries_left:
                raise
        else:
            return


def staying(
    folder: Path, name: str, start: Snapshot, column: str, ids: Sequence[str]
) -> dict[str, pa.BooleanArray]:
    """Return which rows stay, as booleans, of each file that holds rows of the profiles."""
    schema = pa.schema([(column, pa.string())])
    stay: dict[str, pa.BooleanArray] = {}
    for file in start.files:
        if not might_hold(file, column, ids):
            continue
        values = columns_of(folder / file.path, schema, name)[column].combine_chunks()
        gone = cast("Any", pc.is_in(values, value_set=pa.array(ids)))
        if gone.true_count:
            stay[file.path] = pc.invert(gone)
    return stay


def might_hold(file: DataFile, column: str, ids: Sequence[str]) -> bool:
    """Tell whether a file's statistics leave room for one of the ids."""
    if column not in file.low or column not in file.high:
        return True
    return any(file.low[column] <= each <= file.high[column] for each in ids)


def commit_without(
    folder: Path,
    table: Table,
    start: Snapshot,
    stay: Mapping[str, pa.BooleanArray],
    *,
    clock: Callable[[], datetime],
) -> None:
    """Rewrite the files that lose rows, and commit with the state that is there.

    Raises:
        LakeError: another program wrote the table.
        LakeConflictError: another writer committed since `start`.
    """
    if start.mark is None:
        raise LakeError("another program wrote this table; erase the rows there", stream=table.name)
    # In the columns that are stored: an erasure is no reason to add those of a later release.
    as_stored = dataclasses.replace(table, schema=start.schema)
    with closing(
        TableWriter(as_stored, folder, start, account=start.mark.account, clock=clock)
    ) as writer:
        partitions: dict[str, list[Part]] = defaultdict(list)
        for file in start.files:
            if file.path in stay:
                part = Part(file, folder, is_staged=False, stay=stay[file.path])
                partitions[file.partition].append(part)
        with told(folder, table.name):
            outcomes = [writer.rewriter.settled(parts, 0) for parts in partitions.values()]
        change = Change(
            added=[file for one in outcomes for file in one.added],
            removed=[file for one in outcomes for file in one.removed],
            at=clock(),
        )
        writer.write(change, start.mark.state, 0)
