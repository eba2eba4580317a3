"""Parquet files: written with bounded memory, described by their statistics, read by columns.

What belongs here: one file. What does not: which files make up a table (`delta`) and which rows
stay (`merge`). Measured with rows of 1.8 kB: zstd level 1 in row groups of 50,000 rows, level 3
costs half as much again; statistics and dictionaries for the short columns alone, because those
of free-form JSON cost time and help nobody.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
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
from klaviyo_assets.lake.vectors import moment_of

SHORT_BYTES = 64
"""A text column is short, and worth a dictionary, up to this average length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One data file: `path` below the table's folder, size in bytes.

    `partition` is the folder of its partition below the table's, empty in a table without any.
    `low` and `high` are the least and greatest value of key and cursor columns, where known.
    """

    path: str
    partition: str
    size: int
    rows: int
    low: Mapping[str, Any] = field(default_factory=dict[str, Any])
    high: Mapping[str, Any] = field(default_factory=dict[str, Any])


def slices(rows: pa.Table, size: int) -> Iterator[pa.Table]:
    """Yield rows of `size` bytes in pieces that each fit a row group, in rows and in bytes."""
    most = ROW_GROUP_ROWS
    if size > ROW_GROUP_BYTES:
        most = min(most, max(1, rows.num_rows * ROW_GROUP_BYTES // size))
    for start in range(0, rows.num_rows, most):
        yield rows.slice(start, most)


class Encodings:
    """Which columns of a table are written with a dictionary: chosen once, by the first rows.

    Chosen anew for each of forty files, this cost 0.06 of the two seconds of 200,000 events.
    """

    def __init__(self, table: Table) -> None:
        """Choose nothing yet."""
        self.key = table.key
        self.chosen: list[str] | None = None

    def dictionaries(self, rows: pa.Table) -> list[str]:
        """Return the columns that get a dictionary; `rows` are those about to be written."""
        if self.chosen is None:
            columns = zip(rows.schema.names, rows.columns, strict=True)
            self.chosen = [name for name, column in columns if self.worth(name, column)]
        return self.chosen

    def worth(self, name: str, column: "pa.ChunkedArray[Any]") -> bool:
        """Tell whether a column's values are short and come twice on average; a key's never do.

        Of values that do not repeat, a dictionary costs time and makes the file larger; one without
        any value costs as much time as a full one.
        """
        values = len(column) - column.null_count
        # Lists have another name in the file, and are few.
        if name in self.key or not values or pa.types.is_nested(column.type):
            return False
        if column.nbytes > SHORT_BYTES * len(column):
            return False
        return 2 * pc.count_distinct(column).as_py() <= values


def span_of(footer: pq.FileMetaData, column: int) -> tuple[Any, Any] | None:
    """Return the least and greatest value of a column; None where the footer does not tell.

    It does not for text above 4 kB.
    """
    groups = range(footer.num_row_groups)
    found = [footer.row_group(group).column(column).statistics for group in groups]
    known: list[Any] = [each for each in found if each is not None and each.has_min_max]
    if len(known) < len(found):
        return None
    if known and known[0].logical_type.type == "TIMESTAMP":
        # Arrow looks for pandas before it makes a moment with a time zone.
        least, greatest = min(each.min_raw for each in known), max(each.max_raw for each in known)
        return moment_of(least), moment_of(greatest)
    return min(each.min for each in known), max(each.max for each in known)


class OpenFile:
    """One file being written.

    What it holds at least and at most is read from its footer: to ask Arrow for that column by
    column, while readers decode, meant to wait for the interpreter three times a row group.
    """

    def __init__(
        self, folder: Path, table: Table, first: pa.Table, *, encodings: Encodings
    ) -> None:
        """Create the file for such rows as the first are."""
        self.path = folder / f"part-{uuid4().hex}.parquet"
        # Their places in the footer, too: no column, not even a list, has more than one leaf.
        self.columns = {name: first.schema.names.index(name) for name in table.needed}
        self.sink = pa.OSFile(str(self.path), "wb")
        self.footers: list[pq.FileMetaData] = []
        self.writer = pq.ParquetWriter(
            self.sink,
            first.schema,
            compression="zstd",
            compression_level=1,
            # The stubs know a choice for all columns alone.
            use_dictionary=cast("bool", encodings.dictionaries(first) or False),
            write_statistics=list(self.columns),
            write_page_checksum=True,
            metadata_collector=self.footers,
        )

    def write(self, rows: pa.Table) -> int:
        """Write the rows as one row group; return the size of the file so far, in bytes."""
        self.writer.write_table(rows, row_group_size=rows.num_rows)
        return self.sink.tell()

    def close(self, partition: str) -> DataFile:
        """Write the footer and return what the file holds."""
        try:
            self.writer.close()
            size = self.sink.tell()
        finally:
            self.sink.close()
        footer = self.footers[0]
        spans = {name: span_of(footer, at) for name, at in self.columns.items()}
        return DataFile(
            path=self.path.name,
            partition=partition,
            size=size,
            rows=footer.num_rows,
            low={name: span[0] for name, span in spans.items() if span is not None},
            high={name: span[1] for name, span in spans.items() if span is not None},
        )


class Writer:
    """Writes the rows of one partition to files of bounded size in `folder`, by row groups.

    At most one row group is held in memory. The files are whole after `close`.
    """

    def __init__(
        self, folder: Path, table: Table, partition: str, encodings: Encodings | None = None
    ) -> None:
        """Open nothing yet."""
        self.encodings = encodings if encodings is not None else Encodings(table)
        self.folder, self.table, self.partition = folder, table, partition
        self.done: list[DataFile] = []
        self.waiting: list[pa.Table] = []
        self.waiting_rows = 0
        self.waiting_bytes = 0
        self.file: OpenFile | None = None

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
        rows, size = pa.concat_tables(self.waiting), self.waiting_bytes
        self.waiting, self.waiting_rows, self.waiting_bytes = [], 0, 0
        for piece in slices(rows, size):
            if self.file is None:
                self.file = OpenFile(self.folder, self.table, piece, encodings=self.encodings)
            if self.file.write(piece) >= FILE_BYTES:
                self.end()

    def end(self) -> None:
        """End the file that is open."""
        if self.file is not None:
            file, self.file = self.file, None
            self.done.append(file.close(self.partition))

    def close(self) -> list[DataFile]:
        """Write what waits, end the file, and return all files written, the oldest first."""
        self.flush()
        self.end()
        return self.done


def columns_of(path: Path, schema: pa.Schema, stream: str) -> pa.Table:
    """Return the columns of `schema` of a whole file, in its types: other engines choose others.

    Raises:
        CorruptFileError: the file is missing or damaged.
    """
    with reading(path, stream), pq.ParquetFile(path, page_checksum_verification=True) as file:
        return conformed(file.read(columns=schema.names), schema)


def row_groups(path: Path, schema: pa.Schema, stream: str) -> Iterator[pa.Table]:
    """Yield a file's rows group by group, in the columns of `schema`; missing ones are NULL.

    Raises:
        CorruptFileError: the file is missing or damaged.
    """
    with reading(path, stream), pq.ParquetFile(path, page_checksum_verification=True) as file:
        for number in range(file.num_row_groups):
            yield conformed(file.read_row_group(number), schema)


def conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows in exactly the columns of `schema`: cast if they differ, NULL if absent."""
    there = rows.schema.names
    columns: list[Any] = [
        rows[name].cast(kind) if name in there else pa.nulls(rows.num_rows, cast("Any", kind))
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.table(columns, schema=schema)
