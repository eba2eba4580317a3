"""Reads and writes Parquet files: those of tables, and those of records that no table can hold.

Memory is bounded, key columns have statistics, encodings are chosen. Our own writer exists for
speed: delta-rs takes two to four times as long for the same rows. Such records are quarantined:
stored as the bytes that Klaviyo sent, with the reason.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from klaviyo_assets.arrow_buffers import TIMESTAMP_UTC, datetime_from_microseconds
from klaviyo_assets.lake.disk import (
    create_folder,
    map_read_errors,
    map_storage_errors,
    remove_symlink,
)
from klaviyo_assets.lake.layout import (
    FILE_BYTES,
    QUARANTINE_FOLDER,
    ROW_GROUP_BYTES,
    ROW_GROUP_ROWS,
    LakeTable,
    quarantine_folder,
)
from klaviyo_assets.seams import reach_crash_point

MAX_DICTIONARY_VALUE_BYTES = 64
"""Mean length of a text column's values up to which a dictionary is worth its cost."""


NO_NULL_COUNTS: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One data file: its path below the table's folder, and its size in bytes.

    `partition` is the partition's folder below the table's, "" in a table without partitions.
    `min_values` and `max_values` hold the smallest and largest value of the key and cursor columns,
    where they are known, `null_counts` the NULLs of each column that is known to have any.
    """

    path: str
    partition: str
    size: int
    rows: int
    min_values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    max_values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    null_counts: Mapping[str, int] = field(default_factory=lambda: NO_NULL_COUNTS)


def split_into_row_groups(rows: pa.Table, size: int) -> Iterator[pa.Table]:
    """Yield the rows, which have `size` bytes, in slices that each fit in a row group."""
    most = ROW_GROUP_ROWS
    if size > ROW_GROUP_BYTES:
        most = min(most, max(1, rows.num_rows * ROW_GROUP_BYTES // size))
    for start in range(0, rows.num_rows, most):
        yield rows.slice(start, most)


def choose_dictionary_columns(rows: pa.Table, key: Collection[str]) -> list[str]:
    """Return the columns whose values are short and occur twice on average; a key's never do.

    For values that do not repeat, a dictionary costs time and makes the file larger. For a column
    without values it costs as much time as for a full one.
    """
    columns = zip(rows.schema.names, rows.columns, strict=True)
    return [name for name, each in columns if name not in key and is_worth_dictionary(each)]


def is_worth_dictionary(column: "pa.ChunkedArray[Any]") -> bool:
    """Return whether a column's values are short and occur twice on average."""
    values = len(column) - column.null_count
    # Lists have another name in the file, and few columns are lists.
    if not values or pa.types.is_nested(column.type):
        return False
    if column.nbytes > MAX_DICTIONARY_VALUE_BYTES * len(column):
        return False
    return 2 * pc.count_distinct(column).as_py() <= values


def read_column_range(footer: pq.FileMetaData, column: int) -> tuple[Any, Any] | None:
    """Return the smallest and largest value of a column; None where the footer has no statistics.

    It has none for text above 4 kB.
    """
    groups = range(footer.num_row_groups)
    found = [footer.row_group(group).column(column).statistics for group in groups]
    known: list[Any] = [each for each in found if each is not None and each.has_min_max]
    if len(known) < len(found):
        return None
    if known and known[0].logical_type.type == "TIMESTAMP":
        # Arrow tries to import pandas before it makes a time with a zone, which is slow.
        least, greatest = min(each.min_raw for each in known), max(each.max_raw for each in known)
        return datetime_from_microseconds(least), datetime_from_microseconds(greatest)
    return min(each.min for each in known), max(each.max for each in known)


class ParquetFileWriter:
    """One Parquet file that is being written.

    The smallest and largest values are read from its footer. To compute them column by column with
    Arrow meant to wait for the interpreter three times per row group, while readers decode.
    """

    def __init__(self, folder: Path, table: LakeTable, first: pa.Table) -> None:
        """Create the file, with the schema of the rows `first` and encodings chosen from them."""
        self.path = folder / f"part-{uuid4().hex}.parquet"
        # These are positions in the footer too: no column, not even a list, has more than one leaf.
        self.column_positions = {
            name: first.schema.names.index(name) for name in table.required_columns
        }
        self.sink = pa.OSFile(str(self.path), "wb")
        self.footers: list[pq.FileMetaData] = []
        self.writer = pq.ParquetWriter(
            self.sink,
            first.schema,
            compression="zstd",
            compression_level=1,
            # The stubs lack the form with a list of columns.
            use_dictionary=cast("bool", choose_dictionary_columns(first, table.key) or False),
            write_statistics=list(self.column_positions),
            write_page_checksum=True,
            metadata_collector=self.footers,
        )

    def write(self, rows: pa.Table) -> int:
        """Write the rows as one row group; return the size of the file so far, in bytes."""
        reach_crash_point("before writing a row group")
        self.writer.write_table(rows, row_group_size=rows.num_rows)
        reach_crash_point("after writing a row group")
        return self.sink.tell()

    def close(self, partition: str) -> DataFile:
        """Write the footer; return the file's size, number of rows and statistics."""
        try:
            self.writer.close()
            size = self.sink.tell()
        finally:
            self.sink.close()
        footer = self.footers[0]
        spans = {name: read_column_range(footer, at) for name, at in self.column_positions.items()}
        return DataFile(
            path=self.path.name,
            partition=partition,
            size=size,
            rows=footer.num_rows,
            min_values={name: span[0] for name, span in spans.items() if span is not None},
            max_values={name: span[1] for name, span in spans.items() if span is not None},
        )


class PartitionFileWriter:
    """Writes the rows of one partition to files of bounded size in `folder`, by row groups.

    It buffers at most one row group. The files are complete after `close`.
    """

    def __init__(self, folder: Path, table: LakeTable, partition: str) -> None:
        """Create no file yet."""
        self.folder, self.table, self.partition = folder, table, partition
        self.finished_files: list[DataFile] = []
        self.buffered_tables: list[pa.Table] = []
        self.buffered_rows = 0
        self.buffered_bytes = 0
        self.open_file: ParquetFileWriter | None = None

    def write(self, rows: pa.Table) -> None:
        """Take the rows; write the buffered ones when they fill a row group.

        Raises:
            OSError: an operation on the disk failed.
        """
        if not rows.num_rows:
            return
        self.buffered_tables.append(rows)
        self.buffered_rows += rows.num_rows
        self.buffered_bytes += rows.nbytes
        if self.buffered_rows >= ROW_GROUP_ROWS or self.buffered_bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows as row groups, and finish the file when it is large enough."""
        if not self.buffered_tables:
            return
        rows, size = pa.concat_tables(self.buffered_tables), self.buffered_bytes
        self.buffered_tables, self.buffered_rows, self.buffered_bytes = [], 0, 0
        for piece in split_into_row_groups(rows, size):
            if self.open_file is None:
                self.open_file = ParquetFileWriter(self.folder, self.table, piece)
            if self.open_file.write(piece) >= FILE_BYTES:
                self.finish_file()

    def finish_file(self) -> None:
        """Finish the open file, if there is one."""
        if self.open_file is not None:
            file, self.open_file = self.open_file, None
            self.finished_files.append(file.close(self.partition))

    def close(self) -> list[DataFile]:
        """Write the buffered rows and finish the file; return all files, the oldest first."""
        self.flush()
        self.finish_file()
        return self.finished_files


def read_columns(path: Path, schema: pa.Schema, stream: str) -> pa.Table:
    """Return the columns of `schema` of a whole file, cast to its types.

    Other engines may have written other types.

    Raises:
        CorruptFileError: the file is missing or damaged.
    """
    with (
        map_read_errors(path, stream),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        return conform_rows(file.read(columns=schema.names), schema)


def read_row_groups(
    path: Path, schema: pa.Schema, stream: str, numbers: Iterable[int] | None = None
) -> Iterator[pa.Table]:
    """Yield a file's rows by row group, in the columns of `schema`; missing columns are NULL.

    `numbers` are the row groups to read; None: all.

    Raises:
        CorruptFileError: the file is missing or damaged.
    """
    with (
        map_read_errors(path, stream),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        for number in range(file.num_row_groups) if numbers is None else numbers:
            yield conform_rows(file.read_row_group(number, columns=schema.names), schema)


def find_row_groups(
    path: Path, column: str, spans: Iterable[tuple[int, int]], stream: str
) -> dict[int, int]:
    """Return the row groups that can have a timestamp in one of the spans, with their rows.

    `spans` are first and last microsecond since 1970. A row group without statistics of ours can.

    Raises:
        CorruptFileError: the file is missing or damaged.
    """
    with map_read_errors(path, stream), pq.ParquetFile(path) as file:
        footer, schema = file.metadata, file.schema_arrow
        # Other engines may have written other units, or no such column.
        position = schema.get_field_index(column)
        is_ours = position >= 0 and schema.types[position].equals(TIMESTAMP_UTC)
        found: dict[int, int] = {}
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            ends = read_statistics(group, position, column) if is_ours else None
            if ends is None or any(first <= ends[1] and ends[0] <= last for first, last in spans):
                found[number] = group.num_rows
        return found


def read_statistics(
    group: pq.RowGroupMetaData, position: int, column: str
) -> tuple[int, int] | None:
    """Return the ends of a timestamp column in a row group, in microseconds; None: not known."""
    known = group.column(position)
    ends: Any = known.statistics
    if known.path_in_schema != column or ends is None or not ends.has_min_max:
        return None
    return ends.min_raw, ends.max_raw


def conform_rows(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows in exactly the columns of `schema`: cast if they differ, NULL if absent."""
    there = rows.schema.names
    columns: list[Any] = [
        rows[name].cast(kind) if name in there else pa.nulls(rows.num_rows, cast("Any", kind))
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.table(columns, schema=schema)


ID_ONLY_RECORD = re.compile(rb'\{("id":"[A-Za-z0-9_-]{1,64}")?\}')
"""What is stored of a record of a stream with privacy settings: its id, or nothing."""


def write_quarantine(root: Path, stream: str, records: Iterable[tuple[str, bytes]]) -> int:
    """Write (reason, bytes) pairs to one Parquet file; return their number.

    The file is named by a hash of its content, so the same records written twice are one file.

    Raises:
        StorageError: an operation on the disk failed.
    """
    pairs = list(records)
    if not pairs:
        return 0
    reach_crash_point("before writing the quarantine")
    digest = sha256()
    for reason, record in pairs:
        digest.update(b"%d %d " % (len(reason), len(record)) + reason.encode() + record)
    rows = pa.table(
        {
            "reason": pa.array([reason for reason, _ in pairs], pa.string()),
            "record": pa.array([record for _, record in pairs], pa.binary()),
        }
    )
    folder = quarantine_folder(root, stream)
    target = folder / f"{digest.hexdigest()}.parquet"
    with map_storage_errors(target, stream):
        create_folder(folder)
        part_file = target.with_suffix(".part")
        remove_symlink(part_file)
        pq.write_table(rows, part_file, compression="zstd")
        part_file.replace(target)
    return len(pairs)


def find_unredacted_quarantine(root: Path, stream: str) -> Path | None:
    """Return the quarantine folder of a stream if a record there holds more than an id.

    None if every record is only an id, as privacy settings leave it.

    Raises:
        CorruptFileError: a file cannot be read.
    """
    folder = quarantine_folder(root, stream)
    for path in sorted(folder.glob("*.parquet")):
        with map_read_errors(path, stream):
            records = pq.read_table(path, columns=["record"])["record"].to_pylist()
        if any(ID_ONLY_RECORD.fullmatch(each) is None for each in records if each is not None):
            return folder
    return None


def read_quarantined_rows(root: Path) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Yield each file in quarantine with its rows.

    Raises:
        CorruptFileError: one cannot be read.
    """
    for path in sorted((root / "lake" / QUARANTINE_FOLDER).glob("*/*.parquet")):
        with map_read_errors(path, path.parent.name):
            rows = pq.read_table(path).to_pylist()
        yield path, rows


def read_quarantined_profiles(root: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the id and the attributes of each record in quarantine that has an id."""
    for _, rows in read_quarantined_rows(root):
        for row in rows:
            with suppress(ValueError, RecursionError):
                record = cast("object", json.loads(row["record"]))
                if isinstance(record, dict):
                    members = cast("dict[str, object]", record)
                    id_, attributes = members.get("id"), members.get("attributes")
                    if isinstance(id_, str) and isinstance(attributes, dict):
                        yield id_, cast("dict[str, object]", attributes)
                    elif isinstance(id_, str):
                        yield id_, {}
