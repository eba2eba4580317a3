"""Records that Klaviyo no longer has: their rows stay, and `deleted_at` says since when.

What belongs here: which stored rows a complete read did not bring, and what becomes of them. What
does not: whether a read was complete (`sync`), and the commit (`writing`).

    stored row                     not brought                      brought
    ────────────────────────────────────────────────────────────────────────────────
    its cursor lies before `since` leaves: it was not looked for    the new row
    `deleted_at` is NULL           stays, `deleted_at` becomes `at` the new row
    `deleted_at` is a moment       stays as it is                   the new row, NULL again

Keys are compared file by file, so that memory holds those of two files, whatever the table holds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.errors import CorruptFileError
from klaviyo_assets.lake.layout import DELETED_AT, SYNCED_AT
from klaviyo_assets.lake.parquet import DataFile, Writer, columns_of, row_groups
from klaviyo_assets.lake.rewrite import Rewriter
from klaviyo_assets.lake.vectors import Mask, flags, mask, moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed:
    """What a complete read says of the stored rows that it did not bring.

    `at` (UTC) is when they were missed; None where something that came could not be read, and any
    of them may be that: they stay as they are. `since` (UTC) is where the read began, by the
    cursor; None: at the beginning. `hidden` columns become NULL in the rows that stay: they are
    older than a setting of privacy.
    """

    at: datetime | None
    since: datetime | None = None
    hidden: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """Files of the staging folder with the rows that stay; `marked` of them are newly so.

    `living` counts the stored rows that had no mark before, and that were looked for.
    `lost` counts the stored rows that are damaged, by file or because key, cursor or `synced_at`
    was taken out: a replacement rebuilds a table all the same, but which of those rows would have
    stayed nobody can tell.
    """

    files: tuple[DataFile, ...] = ()
    marked: int = 0
    lost: int = 0
    living: int = 0

    def __add__(self, other: "Gone") -> "Gone":
        """Return the numbers and files of both."""
        return Gone(
            files=self.files + other.files,
            marked=self.marked + other.marked,
            lost=self.lost + other.lost,
            living=self.living + other.living,
        )


def gone(
    rewriter: Rewriter, stored: Sequence[DataFile], fresh: Sequence[DataFile], noticed: Noticed
) -> Gone:
    """Write the stored rows whose key is in no fresh file, marked, to files to add.

    `fresh` lie in the staging folder: what a replacement brought, each key once.

    Raises:
        OSError: the disk refused.
    """
    writer = Writer(rewriter.staging, rewriter.table, "")
    found = Gone()
    for file in stored:
        path = rewriter.folder / file.path
        try:
            stay, counts = _staying(path, rewriter, fresh, noticed)
            if stay.any():
                for rows in filtered(path, stay, rewriter):
                    writer.write(without_values(marked_at(rows, noticed.at), noticed.hidden))
        except CorruptFileError:
            counts = Gone(lost=file.rows)
        found += counts
    return found + Gone(files=tuple(writer.close()))


def _staying(
    path: Path, rewriter: Rewriter, fresh: Sequence[DataFile], noticed: Noticed
) -> tuple[Mask, Gone]:
    """Return which rows of a stored file stay, and the numbers of those that do not or are marked.

    Without key, cursor or `synced_at` a row can be neither told apart nor dated.
    """
    judged_by = tuple(dict.fromkeys((*rewriter.table.needed, DELETED_AT)))
    keys = columns_of(path, rewriter.columns(judged_by), rewriter.table.name)
    stay = _unbrought(keys, rewriter, fresh)
    is_whole = whole(keys, rewriter.table.needed)
    broken = int((stay & ~is_whole).sum())
    stay &= is_whole
    living = mask(pc.is_null(keys[DELETED_AT]))
    if noticed.since is not None and rewriter.table.cursor is not None:
        looked_for = mask(pc.greater_equal(keys[rewriter.table.cursor], moment(noticed.since)))
        stay &= looked_for
        living = living & looked_for
    marked = 0 if noticed.at is None else int((stay & living).sum())
    return stay, Gone(marked=marked, lost=broken, living=int(living.sum()))


def whole(rows: pa.Table, columns: Sequence[str]) -> Mask:
    """Return which rows have a value in each of the columns."""
    return np.logical_and.reduce([mask(pc.is_valid(rows[each])) for each in columns])


def _unbrought(keys: pa.Table, rewriter: Rewriter, fresh: Sequence[DataFile]) -> Mask:
    """Return which rows have a key that no fresh file has."""
    (key,) = rewriter.table.key
    missing = np.ones(keys.num_rows, dtype=np.bool_)
    for file in fresh:
        path = rewriter.staging / file.path
        brought = columns_of(path, rewriter.columns((key,)), rewriter.table.name)[key]
        missing &= ~mask(pc.is_in(keys[key], value_set=brought.combine_chunks()))
    return missing


def filtered(path: Path, stay: Mask, rewriter: Rewriter) -> Iterator[pa.Table]:
    """Yield the rows of a stored file for which `stay` is true, group by group."""
    start = 0
    for rows in row_groups(path, rewriter.schema, rewriter.table.name):
        kept = stay[start : start + rows.num_rows]
        start += rows.num_rows
        if kept.any():
            yield rows.filter(flags(kept))


def marked_at(rows: pa.Table, at: datetime | None) -> pa.Table:
    """Return the rows with `deleted_at` where they had none; None leaves them as they are.

    Never before they were last read: others may have read them while this was.
    """
    if at is None:
        return rows
    place = rows.schema.get_field_index(DELETED_AT)
    read = rows[SYNCED_AT]
    missed: Any = pc.if_else(pc.greater(read, moment(at)), read, moment(at))
    column: Any = pc.coalesce(rows[DELETED_AT], missed)
    return rows.set_column(place, DELETED_AT, column)


def without_values(rows: pa.Table, names: frozenset[str]) -> pa.Table:
    """Return the rows with NULL in these columns."""
    for place, name in enumerate(rows.schema.names):
        if name in names:
            # The stubs know `nulls` of single types alone.
            nulls = cast("Any", pa.nulls(rows.num_rows, cast("Any", rows.schema.types[place])))
            rows = rows.set_column(place, name, nulls)
    return rows
