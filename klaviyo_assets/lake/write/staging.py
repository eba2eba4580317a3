"""Writes incoming rows to the staging folder by partition; moves finished files to the table."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from itertools import accumulate
from pathlib import Path, PurePath
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from klaviyo_assets.arrow_buffers import integers_to_numpy
from klaviyo_assets.errors import ContractError
from klaviyo_assets.lake.disk import FILE_MODE_MASK, create_folder, fsync_files, read_mode, set_mode
from klaviyo_assets.lake.layout import DAY_PARTITION, LakeTable
from klaviyo_assets.lake.parquet import DataFile, PartitionFileWriter
from klaviyo_assets.lake.write.merge import (
    StagedFiles,
    add_row_positions,
    find_superseded_rows,
    mask_remaining_rows,
)
from klaviyo_assets.seams import reach_crash_point

MAX_OPEN_FILES = 32
"""Partitions whose files stay open between two calls of `write_batches`.

Windows are read in parallel, sixteen when this was measured, so the rows of one call belong to
about thirty days. With one open file, 200,000 events of 36 days made 200 files, and most of them
were merged again at once.
"""

SelectRows: TypeAlias = Callable[[str, Sequence[pa.RecordBatch]], Sequence[pa.RecordBatch]]

SMALL_BATCH_ROWS = 500
"""Average rows per batch below which the batches are copied into one."""


def deduplicate_batches(
    table: LakeTable, batches: Sequence[pa.RecordBatch]
) -> Sequence[pa.RecordBatch]:
    """Return the batches without the rows that another row of them supersedes."""
    columns = list(dict.fromkeys((*table.key, *table.version_columns)))
    rows = pa.Table.from_batches([batch.select(columns) for batch in batches])
    superseded = find_superseded_rows(add_row_positions(rows, 0), table.key, table.version_columns)
    mask = mask_remaining_rows(superseded, 0, rows.num_rows)
    if mask is None:
        return batches
    starts = accumulate((batch.num_rows for batch in batches), initial=0)
    return [
        batch.filter(mask.slice(start, batch.num_rows))
        for start, batch in zip(starts, batches, strict=False)
    ]


def split_by_day(
    batches: Sequence[pa.RecordBatch], cursor: str
) -> list[tuple[str, pa.RecordBatch]]:
    """Return the rows by the UTC day of their cursor, as `day=YYYY-MM-DD` and a batch.

    A day comes more than once: from each batch that has rows of it.
    """
    moments = pa.Table.from_batches([batch.select([cursor]) for batch in batches])[cursor]
    # All batches at once: while readers decode, each call into Arrow waits for the GIL.
    days = (
        integers_to_numpy(moments.cast(pa.int64())).view("datetime64[us]").astype("datetime64[D]")
    )
    changes = (np.flatnonzero(days[1:] != days[:-1]) + 1).tolist()
    pieces: list[tuple[str, pa.RecordBatch]] = []
    end = 0
    for batch in batches:
        start, end = end, end + batch.num_rows
        cuts = [start, *changes[bisect_right(changes, start) : bisect_left(changes, end)], end]
        found: list[date] = days[cuts[:-1]].tolist() if batch.num_rows else []
        if found == sorted(found):
            pieces += [
                (f"{DAY_PARTITION}={day.isoformat()}", batch.slice(low - start, high - low))
                for day, low, high in zip(found, cuts, cuts[1:], strict=False)
            ]
        else:
            order = np.argsort(days[start:end], kind="stable")
            pieces += split_by_day([batch.take(order)], cursor)
    return pieces


class StagingWriter:
    """The staged files of one table in one session."""

    def __init__(self, table: LakeTable, folder: Path, select_rows: SelectRows) -> None:
        """Write nothing yet; `folder` is the session's staging folder.

        `select_rows` takes a partition's first rows since the last commit, and returns those to
        write.
        """
        self.table, self.folder, self.select_rows = table, folder, select_rows
        self.files: dict[str, list[DataFile]] = defaultdict(list)
        self.write_counts: Counter[str] = Counter()
        """Calls of `write_partition` for one commit: within one call, each key is there once."""
        self.open_writers: dict[str, PartitionFileWriter] = {}
        """By partition, the least recently written first."""

    def write_batches(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Write the rows to files of their partitions, without rows superseded among these.

        Raises:
            ContractError: a row without key or cursor.
            OSError: the disk refused.
        """
        reach_crash_point("before staging rows")
        self.refuse_nulls(batches)
        batches_by_partition: dict[str, list[pa.RecordBatch]] = defaultdict(list)
        for partition, rows in self.split_by_partition(deduplicate_batches(self.table, batches)):
            batches_by_partition[partition].append(rows)
        # Sorted: the next rows most likely belong to the newest day, whose writer must stay open.
        for partition in sorted(batches_by_partition):
            rows = batches_by_partition.pop(partition)
            if partition not in self.write_counts:
                rows = self.select_rows(partition, rows)
            if rows:
                self.write_partition(partition, rows)
        for writer in self.open_writers.values():
            writer.flush()

    def refuse_nulls(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Refuse rows without key, cursor or `synced_at`."""
        columns = self.table.required_columns
        for batch in batches:
            for column in columns:
                missing = batch[column].null_count
                if missing:
                    raise ContractError(f"{missing} rows without {column}", stream=self.table.name)

    def split_by_partition(
        self, batches: Sequence[pa.RecordBatch]
    ) -> list[tuple[str, pa.RecordBatch]]:
        """Return each partition that rows belong to, with those rows."""
        if self.table.partitioning == DAY_PARTITION and self.table.cursor is not None:
            return split_by_day(batches, self.table.cursor)
        return [("", batch) for batch in batches]

    def write_partition(self, partition: str, batches: Sequence[pa.RecordBatch]) -> None:
        """Write the rows of one partition, to its open file where there is one."""
        writer = self.open_writers.pop(partition, None)
        if writer is None:
            if len(self.open_writers) >= MAX_OPEN_FILES:
                self.close_partition(next(iter(self.open_writers)))
            writer = PartitionFileWriter(self.folder, self.table, partition)
        self.open_writers[partition] = writer
        rows = pa.Table.from_batches(batches)
        self.write_counts[partition] += 1
        # Small batches, which unordered rows make, cost Arrow milliseconds in every later step.
        writer.write(
            rows.combine_chunks() if rows.num_rows < SMALL_BATCH_ROWS * len(batches) else rows
        )

    def close(self) -> None:
        """Close the open files; later rows start new ones."""
        for partition in sorted(self.open_writers):
            self.close_partition(partition)

    def close_partition(self, partition: str) -> None:
        """Close the open file of a partition."""
        self.files[partition].extend(self.open_writers.pop(partition).close())

    def abandon(self) -> None:
        """Close the open files without using them."""
        for writer in self.open_writers.values():
            # A disk that refused the rows may refuse the footer too; the file is dropped anyway.
            with suppress(OSError, pa.ArrowException, RuntimeError):
                writer.finish_file()
        self.open_writers = {}

    def finish_files(self) -> dict[str, StagedFiles]:
        """Close the open files and return all by partition; the next rows start new ones."""
        self.close()
        done = {
            partition: StagedFiles(files, has_unique_keys=self.write_counts[partition] == 1)
            for partition, files in self.files.items()
        }
        self.files, self.write_counts = defaultdict(list), Counter()
        return done


def move_into_table(
    files: Sequence[DataFile], staging: Path, folder: Path, *, modified_at: float
) -> list[DataFile]:
    """Move staged files to the paths that a commit will name; return them with those paths.

    They are synced to disk before they are moved, so that after a power cut no commit names half a
    file. Their modification time becomes `modified_at` (seconds since 1970), so that their grace
    starts now. They get the read permissions of the table's folder.

    Raises:
        OSError: the disk refused; files already moved are in no commit, and `vacuum` removes them.
    """
    mode = read_mode(folder)
    fsync_files(
        [staging / file.path for file in files], modified_at=modified_at, mode=mode & FILE_MODE_MASK
    )
    moved: list[DataFile] = []
    for file in files:
        path, place = str(PurePath(file.partition, file.path)), folder
        for part in PurePath(file.partition).parts:
            place /= part
            if not place.exists():
                create_folder(place)
                set_mode(place, mode)
        reach_crash_point("before moving a file")
        (staging / file.path).replace(folder / path)
        moved.append(replace(file, path=path))
    reach_crash_point("after moving files")
    return moved
