"""A replacement that others overtook: what they committed while it was read stays in the table.

What belongs here: whether it may go on from a newer version, and which rows of that stay. What does
not: doing it (`writing`), and since when what is missing is gone (`sync`). A full refresh reads for
hours and increments commit every hour; were it refused for them, it would never be stored.

    row of the newest version          brought                        not brought
    ─────────────────────────────────────────────────────────────────────────────────────────
    read since `since`                 the newer of the two stays     stays: it may be new
    read before                        the new row                    as without others: it leaves,
                                                                      or is marked as deleted

Nobody waits for anybody: it holds between hosts, and a kill leaves nothing to clean up. What takes
keys away (another replacement, an erasure, another program) cannot be told from what was read here
before; then the later one is refused, as ever.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.lake.gone import filtered, whole, without_values
from klaviyo_assets.lake.layout import SYNCED_AT
from klaviyo_assets.lake.log import marks
from klaviyo_assets.lake.parquet import DataFile, columns_of
from klaviyo_assets.lake.rewrite import Rewriter
from klaviyo_assets.lake.vectors import mask, moment

State = Mapping[str, object]

TRIES = 5
"""How often a replacement goes on from a newer version: each time another may come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebase:
    """How a replacement goes on from a version that others committed while it was read.

    Rows whose `synced_at` is `since` (UTC) or later stay beside its own, with NULL in the columns
    `hidden`, which are older than a setting of privacy. `state_of` takes the state of the newest
    version and returns the one to commit.
    """

    since: datetime
    state_of: Callable[[State], State]
    hidden: frozenset[str] = frozenset()


def keeps_all_keys(folder: Path, stream: str, *, after: int, upto: int) -> bool:
    """Tell whether no commit later than `after` up to `upto` took a key away, as far as is known.

    Raises:
        CorruptFileError: a commit cannot be read.
    """
    found = marks(folder, stream, after=after, upto=upto)
    return all(mark is not None and mark.keeps_keys for mark in found)


def rows_read_since(
    rewriter: Rewriter, files: Sequence[DataFile], wanted: Rebase
) -> Iterator[Sequence[pa.RecordBatch]]:
    """Yield the rows of stored files that were read since then, in the table's own columns.

    Raises:
        CorruptFileError: a file is missing or damaged.
    """
    needed = rewriter.columns(rewriter.table.needed)
    names = rewriter.table.schema.names
    for file in files:
        path = rewriter.folder / file.path
        read = columns_of(path, needed, rewriter.table.name)
        # What another program took a needed value from can be neither told apart nor dated.
        stay = whole(read, needed.names)
        moments = cast("pa.ChunkedArray[Any]", pc.coalesce(read[SYNCED_AT], moment(wanted.since)))
        stay &= mask(pc.greater_equal(moments, moment(wanted.since)))
        if stay.any():
            for rows in filtered(path, stay, rewriter):
                yield without_values(rows.select(names), wanted.hidden).to_batches()
