"""Parquet files: written with bounded memory, described by their statistics, read by columns.

What belongs here: one file. What does not: which files make up a table (`delta`) and which rows
stay (`merge`). Measured with rows of 1.8 kB: zstd level 1 in row groups of 50,000 rows, level 3
costs half as much again; statistics and dictionaries for the short columns alone, because those
of free-form JSON cost time and help nobody.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from klaviyo_assets.lake.disk import reading
from klaviyo_assets.lake.layout import (
    FILE_BYTES,
    ROW_GROUP_BYTES,
    ROW_GROUP_ROWS,
    Table,
)

SHORT_BYTES = 64
"""A text column is short, and worth a dictionary, up to this average length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One data file: `path` below the table's folder, `day` as in its partition, size in bytes.

    `low` and `high` are the least and greatest value of key and cursor columns, where known.
    """

    path: str
    day: str | None
    size: int
    rows: int
    low: dict[str, object] = field(default_factory=dict)
    high: dict[str, object] = field(default_factory=dict)


def slices(rows: pa.Table) -> Iterator[pa.Table]:
    """Yield the rows in pieces that each fit a row group, in rows and in bytes."""
    most = ROW_GROUP_ROWS
    if rows.nbytes > ROW_GROUP_BYTES:
        most = min(most, max(1, rows.num_rows * ROW_GROUP_BYTES // rows.nbytes))
    for start in range(0, rows.num_rows, most):
        yield rows.slice(start, most)


def worth_dictionary(rows: pa.Table, key: Sequence[str]) -> list[str]:
    """Return the columns whose values are short and may repeat; a key's never do."""
    return [
        name
        for name, column in zip(rows.schema.names, rows.columns, strict=True)
        if name not in key and column.nbytes <= SHORT_BYTES * max(1, rows.num_rows)
    ]


class Spans:
    """The least and greatest values of some columns, over all rows seen."""

    def __init__(self, columns: Sequence[str]) -> None:
        """Start with no row."""
        self.columns = tuple(columns)
        self.low: dict[str, object] = {}
        self.high: dict[str, object] = {}

    def see(self, rows: pa.Table) -> None:
        """Widen the spans by the rows."""
        for name in self.columns:
            found = pc.min_max(rows[name])
            least, greatest = found["min"].as_py(), found["max"].as_py()
            if least is not None:
                self.low[name] = min(self.low.get(name, least), least)
                self.high[name] = max(self.high.get(name, greatest), greatest)


class Writer:
    """Writes the rows of one partition to files of bounded size in `folder`, by row groups.

    At most one row group is held in memory. The files are whole after `close`.
    """

    def __init__(self, folder: Path, table: Table, day: str | None) -> None:
        """Open nothing yet."""
        self.folder, self.table, self.day = folder, table, day
        self.done: list[DataFile] = []
        self.waiting: list[pa.Table] = []
        self.waiting_rows = 0
        self.waiting_bytes = 0
        self.file: pa.NativeFile | None = None
        self.writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table) -> None:
        """Take the rows; write what makes up whole row groups.

        Raises:
            OSError: the disk refused.
        """
        if not rows.num_rows:
            return
        self.waiting.append(rows)
        self.waiting_rows += rows.num_rows
        self.waiting_bytes += rows.nbytes
        if self.waiting_rows >= ROW_GROUP_ROWS or self.waiting_bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the waiting rows as row groups, and end the file when it is large enough."""
        if not self.waiting:
            return
        rows = pa.concat_tables(self.waiting)
        self.waiting, self.waiting_rows, self.waiting_bytes = [], 0, 0
        for piece in slices(rows):
            if self.writer is None:
                self.begin(piece)
            self.writer.write_table(piece, row_group_size=piece.num_rows)
            self.spans.see(piece)
            self.rows += piece.num_rows
            if self.file.tell() >= FILE_BYTES:
                self.end()

    def begin(self, first: pa.Table) -> None:
        """Open the next file; its encodings are chosen by its first rows."""
        columns = self.table.needed
        self.name = f"part-{uuid4().hex}.parquet"
        self.spans, self.rows = Spans(columns), 0
        self.file = pa.OSFile(str(self.folder / self.name), "wb")
        self.writer = pq.ParquetWriter(
            self.file,
            first.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=worth_dictionary(first, self.table.key) or False,
            write_statistics=list(columns),
            write_page_checksum=True,
        )

    def end(self) -> None:
        """Close the file and note what it holds."""
        if self.writer is None or self.file is None:
            return
        self.writer.close()
        self.file.close()
        size = (self.folder / self.name).stat().st_size
        self.done.append(
            DataFile(
                path=self.name,
                day=self.day,
                size=size,
                rows=self.rows,
                low=self.spans.low,
                high=self.spans.high,
            )
        )
        self.writer = self.file = None

    def close(self) -> list[DataFile]:
        """Write what waits, close the file, and return all files written, oldest first."""
        self.flush()
        self.end()
        return self.done


def columns_of(path: Path, columns: Sequence[str], stream: str) -> pa.Table:
    """Return some columns of a whole file.

    Raises:
        CorruptFileError: the file is missing or damaged.
    """
    with reading(path, stream), pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(columns=list(columns))


def row_groups(path: Path, schema: pa.Schema, stream: str) -> Iterator[pa.Table]:
    """Yield a file's rows group by group, in the columns of `schema`; missing ones are NULL.

    Raises:
        CorruptFileError: the file is missing or damaged.
    """
    with reading(path, stream), pq.ParquetFile(path, page_checksum_verification=True) as file:
        for number in range(file.num_row_groups):
            yield conformed(file.read_row_group(number), schema)


def conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows in exactly the columns of `schema`: cast where they differ, NULL if absent."""
    columns = [
        rows[column.name].cast(column.type)
        if column.name in rows.schema.names
        else pa.nulls(rows.num_rows, column.type)
        for column in schema
    ]
    return pa.table(columns, schema=schema)
