"""Rows on their way into a table: split by day, written to the staging folder, then placed.

What belongs here: files that no commit names yet. What does not: which of their rows stay
(`rewrite`). Rows that come in the order of the cursor, some windows side by side, make few files:
the writers of the latest days stay open from one stage to the next.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from itertools import accumulate
from pathlib import Path, PurePath

import numpy as np
import pyarrow as pa

from klaviyo_assets.errors import ContractError
from klaviyo_assets.lake.disk import force_to_disk, make_folder
from klaviyo_assets.lake.layout import DAY, Table
from klaviyo_assets.lake.merge import kept, losers, numbered
from klaviyo_assets.lake.parquet import DataFile, Encodings, Writer
from klaviyo_assets.lake.permissions import FILE_BITS, mode_of, set_mode
from klaviyo_assets.lake.rewrite import Staged
from klaviyo_assets.lake.staged_keys import StagedKeys
from klaviyo_assets.lake.vectors import whole_numbers

OPEN_FILES = 32
"""Partitions whose files stay open from one stage to the next.

Windows read side by side, sixteen when this was measured, bring pages of some thirty days at a
time. With one file open, 200,000 events of 36 days became 200 files, most of which were merged
again at once.
"""

CRUMB = 500
"""Rows a batch, on average, below which batches are copied into one."""


def newest(table: Table, batches: Sequence[pa.RecordBatch]) -> Sequence[pa.RecordBatch]:
    """Return the batches without the rows that another row among them beats."""
    columns = list(dict.fromkeys((*table.key, *table.versions)))
    rows = pa.Table.from_batches([batch.select(columns) for batch in batches])
    lost = losers(numbered(rows, 0), table.key, table.versions)
    stay = kept(lost, 0, rows.num_rows)
    if stay is None:
        return batches
    starts = accumulate((batch.num_rows for batch in batches), initial=0)
    return [
        batch.filter(stay.slice(start, batch.num_rows))
        for start, batch in zip(starts, batches, strict=False)
    ]


def by_day(batches: Sequence[pa.RecordBatch], cursor: str) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield the rows of each UTC day of the cursor, as `day=YYYY-MM-DD` and rows.

    A day comes again where rows are in no order, and from another batch.
    """
    moments = pa.Table.from_batches([batch.select([cursor]) for batch in batches])[cursor]
    # All batches at once: while readers decode, each call of Arrow's waits for the interpreter.
    days = whole_numbers(moments.cast(pa.int64())).view("datetime64[us]").astype("datetime64[D]")
    changes = (np.flatnonzero(days[1:] != days[:-1]) + 1).tolist()
    end = 0
    for batch in batches:
        start, end = end, end + batch.num_rows
        cuts = [start, *changes[bisect_right(changes, start) : bisect_left(changes, end)], end]
        found: list[date] = days[cuts[:-1]].tolist() if batch.num_rows else []
        if found == sorted(found):
            for day, low, high in zip(found, cuts, cuts[1:], strict=False):
                yield f"{DAY}={day.isoformat()}", batch.slice(low - start, high - low)
        else:
            order = np.argsort(days[start:end], kind="stable")
            yield from by_day([batch.take(order)], cursor)


class Stage:
    """The staged files of one table in one session."""

    def __init__(self, table: Table, folder: Path) -> None:
        """Write nothing yet; `folder` is the session's staging folder."""
        self.table, self.folder = table, folder
        self.encodings, self.keys = Encodings(table), StagedKeys(table.key)
        self.files: dict[str, list[DataFile]] = defaultdict(list)
        self.open: dict[str, Writer] = {}
        """By partition, the one written to longest ago first."""

    def take(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Write the rows to files of their partitions, each key once among these rows.

        Raises:
            ContractError: a row without key or cursor.
            OSError: the disk refused.
        """
        for batch in batches:
            self.refuse_nulls(batch)
        parts: dict[str, list[pa.RecordBatch]] = defaultdict(list)
        for partition, rows in self.partitions(newest(self.table, batches)):
            parts[partition].append(rows)
        # Oldest day last would close the writer that the next rows most likely belong to.
        for partition in sorted(parts):
            self.write(partition, parts.pop(partition))
        for writer in self.open.values():
            writer.flush()

    def refuse_nulls(self, batch: pa.RecordBatch) -> None:
        """Refuse rows without key, cursor or `synced_at`."""
        for column in self.table.needed:
            missing = batch[column].null_count
            if missing:
                raise ContractError(f"{missing} rows without {column}", stream=self.table.name)

    def partitions(self, batches: Sequence[pa.RecordBatch]) -> Iterable[tuple[str, pa.RecordBatch]]:
        """Yield rows with the partition that they belong to."""
        if self.table.partitioning == DAY and self.table.cursor is not None:
            return by_day(batches, self.table.cursor)
        return [("", batch) for batch in batches]

    def write(self, partition: str, batches: Sequence[pa.RecordBatch]) -> None:
        """Write the rows of one partition, going on with its file where that is open."""
        writer = self.open.pop(partition, None)
        if writer is None:
            if len(self.open) >= OPEN_FILES:
                self.close_one(next(iter(self.open)))
            writer = Writer(self.folder, self.table, partition, self.encodings)
        self.open[partition] = writer
        rows = pa.Table.from_batches(batches)
        self.keys.note(partition, rows)
        # Crumbs, from rows in no order, cost Arrow milliseconds at every step from here on.
        writer.write(rows.combine_chunks() if rows.num_rows < CRUMB * len(batches) else rows)

    def close(self) -> None:
        """Close the open files; rows that come later make others."""
        for partition in sorted(self.open):
            self.close_one(partition)

    def close_one(self, partition: str) -> None:
        """Close the open file of a partition."""
        self.files[partition].extend(self.open.pop(partition).close())

    def abandon(self) -> None:
        """Let go of the open files, whole or not."""
        for writer in self.open.values():
            # The disk that refused the rows may refuse the footer as well: then there is none.
            with suppress(OSError, pa.ArrowException, RuntimeError):
                writer.end()
        self.open = {}

    def finished(self) -> dict[str, Staged]:
        """Close what is open and return the files by partition; the next rows start anew."""
        self.close()
        done = {
            partition: Staged(files, is_clean=self.keys.are_unique(partition))
            for partition, files in self.files.items()
        }
        self.encodings, self.keys = Encodings(self.table), StagedKeys(self.table.key)
        self.files = defaultdict(list)
        return done


def placed(files: Sequence[DataFile], staging: Path, folder: Path, *, at: float) -> list[DataFile]:
    """Move staged files to where a commit will name them; return them with those paths.

    Their bytes are on the disk before their names, so that a power cut leaves no commit that names
    half a file. Their modification time becomes `at` (seconds since 1970): they count as just seen.
    Who may read the table's folder may read them.

    Raises:
        OSError: the disk refused; the moved ones are in no commit, and upkeep removes them.
    """
    mode = mode_of(folder)
    force_to_disk([staging / file.path for file in files], at=at, mode=mode & FILE_BITS)
    moved: list[DataFile] = []
    for file in files:
        path, place = str(PurePath(file.partition, file.path)), folder
        for part in PurePath(file.partition).parts:
            place /= part
            if not place.exists():
                make_folder(place)
                set_mode(place, mode)
        (staging / file.path).replace(folder / path)
        moved.append(replace(file, path=path))
    return moved
