"""The merge: of rows with the same key the newest stays; only files that lose rows are rewritten.

All tables but reports and histories have a key of one column. It is compared by hashing that
column, because Arrow's group_by and join import pandas: 0.3 s and 30 MB at the first call.

For each touched partition:

    stored files whose key range overlaps ──┐ reads keys and version columns alone
    staged files ───────────────────────────┴─▶ superseded rows ─▶ files that lose rows: rewritten
                                                                   too many small files: merged

Then the last commit of a session looks for keys that lie in two partitions:

    few staged rows, stored keys known to be unique   search the staged keys in the stored files
    many staged rows, or uniqueness unknown           compare all keys by hash, on disk if need be

CPU seconds of that search, for an hourly run of 1,000 and of 10,000 new events, and at the end of a
first load:

     1 million events    0.03    0.10    0.25
    10 million events    0.9     1.0     1.9

A run without a new key searches nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.arrow_buffers import (
    RowMask,
    boolean_mask,
    build_boolean_array,
    build_integer_array,
    integers_to_numpy,
)
from klaviyo_assets.errors import CorruptFileError
from klaviyo_assets.lake.disk import storage_error_types
from klaviyo_assets.lake.layout import (
    MAX_KEYS_IN_MEMORY,
    SPILL_FOLDER,
    SYNCED_AT_COLUMN,
    LakeTable,
    select_files_to_compact,
)
from klaviyo_assets.lake.parquet import DataFile, PartitionFileWriter, read_columns, read_row_groups
from klaviyo_assets.lake.read.duckdb import (
    has_duplicate_hashes,
    query_duplicate_keys,
)
from klaviyo_assets.lake.write.unchanged_rows import RowComparison, RowPairs
from klaviyo_assets.seams import reach_crash_point

SOURCE_COLUMN = "__source"
ROW_COLUMN = "__row"
STORED_COLUMN = "__settled"
NEWER_SOURCE_COLUMN = "__newer_source"
NEWER_ROW_COLUMN = "__newer_row"
COUNT_ALL = "count_all"


def add_row_positions(rows: pa.Table, source: int, *, is_stored: bool = False) -> pa.Table:
    """Return the rows with their source, position and whether the table stores them already."""
    count = rows.num_rows
    return (
        rows.append_column(
            SOURCE_COLUMN, build_integer_array(np.full(count, source, dtype=np.int32))
        )
        .append_column(ROW_COLUMN, build_integer_array(np.arange(count, dtype=np.int64)))
        .append_column(STORED_COLUMN, build_boolean_array(np.full(count, is_stored)))
    )


def select_matching_rows(rows: pa.Table, keys: pa.Table, key: Sequence[str]) -> pa.Table:
    """Return the rows whose key is among `keys`, in no order."""
    if len(key) > 1:
        return rows.join(keys.select(list(key)), list(key), join_type="left semi")
    return rows.filter(pc.is_in(rows[key[0]], value_set=keys[key[0]].combine_chunks()))


def find_duplicate_keys(rows: pa.Table, key: Sequence[str]) -> pa.Table | None:
    """Return the keys that occur more than once; None where there is none."""
    if len(key) > 1:
        counts = rows.group_by(list(key)).aggregate([([], COUNT_ALL)])
        return counts.filter(pc.field(COUNT_ALL) > 1) if counts.num_rows < rows.num_rows else None
    column = rows[key[0]]
    if pc.count_distinct(column, mode="all").as_py() == rows.num_rows:
        return None
    counted = pa.Table.from_struct_array(pc.value_counts(column))
    is_repeated = build_boolean_array(integers_to_numpy(counted["counts"]) > 1)
    return counted.filter(is_repeated).select(["values"]).rename_columns(list(key))


def find_superseded_rows(rows: pa.Table, key: Sequence[str], versions: Sequence[str]) -> pa.Table:
    """Return source and row of each row superseded by one with the same key, and those of that one.

    The row with the greatest `versions` stays, compared from the first column on, NULL lowest.
    Between equal versions the later source wins, then the later row. The columns are
    `SOURCE_COLUMN`, `ROW_COLUMN`, `NEWER_SOURCE_COLUMN` and `NEWER_ROW_COLUMN`.
    """
    repeated = find_duplicate_keys(rows, key)
    if repeated is None:
        return add_newer_rows(rows.slice(0, 0), np.zeros(0, dtype=bool))
    candidates = select_matching_rows(rows, repeated, key)
    # The stubs lag behind pyarrow 25, which moved the place of NULL into the keys.
    order: Any = [
        (column, "ascending", "at_start") for column in (*key, *versions, SOURCE_COLUMN, ROW_COLUMN)
    ]
    ranked = candidates.take(pc.sort_indices(candidates, sort_keys=order))
    is_superseded = np.ones(len(ranked), dtype=bool)
    is_superseded[-1] = False
    for column in key:
        values = ranked[column]
        is_superseded[:-1] &= boolean_mask(
            pc.equal(values.slice(1), values.slice(0, len(ranked) - 1))
        )
    return add_newer_rows(ranked, is_superseded)


def add_newer_rows(ranked: pa.Table, is_superseded: RowMask) -> pa.Table:
    """Return the superseded rows of ranked ones, each with the first later row that stays."""
    remaining = np.flatnonzero(~is_superseded)
    newer = remaining[np.searchsorted(remaining, np.flatnonzero(is_superseded))]
    sources, rows = (integers_to_numpy(ranked[name]) for name in (SOURCE_COLUMN, ROW_COLUMN))
    found = ranked.filter(build_boolean_array(is_superseded)).select([SOURCE_COLUMN, ROW_COLUMN])
    return found.append_column(
        NEWER_SOURCE_COLUMN, build_integer_array(sources[newer])
    ).append_column(NEWER_ROW_COLUMN, build_integer_array(rows[newer]))


def mask_remaining_rows(superseded: pa.Table, source: int, count: int) -> pa.BooleanArray | None:
    """Return a boolean for each of the `count` rows of a source: whether it stays; None: all do."""
    rows = integers_to_numpy(superseded[ROW_COLUMN])[
        integers_to_numpy(superseded[SOURCE_COLUMN]) == source
    ]
    if not len(rows):
        return None
    mask = np.ones(count, dtype=bool)
    mask[rows] = False
    return build_boolean_array(mask)


INCOMING_COLUMN = "__came_in"
NO_INCOMING_KEYS: Mapping[str, pa.Table] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class StagedFiles:
    """A partition's files in the staging folder. `has_unique_keys`: each key is in them once."""

    files: Sequence[DataFile]
    has_unique_keys: bool


@dataclass(frozen=True, slots=True)
class MergeFile:
    """A file of a partition during a commit: where it lies, and which of its rows stay."""

    file: DataFile
    folder: Path
    is_staged: bool
    remaining_mask: pa.BooleanArray | None = None
    """A boolean per row; None: all rows stay."""

    @property
    def remaining_rows(self) -> int:
        """Return how many rows stay."""
        return self.file.rows if self.remaining_mask is None else self.remaining_mask.true_count

    @property
    def remaining_bytes(self) -> int:
        """Return about how many bytes the remaining rows take."""
        return self.file.size * self.remaining_rows // max(1, self.file.rows)


@dataclass(frozen=True, slots=True)
class PartitionChange:
    """The change of one partition: staged files to add, and stored files to remove."""

    added: tuple[DataFile, ...]
    removed: tuple[DataFile, ...]
    rows_added: int
    """New rows that were not superseded."""


@dataclass(frozen=True, slots=True)
class PartitionRewriter:
    """Merges and rewrites the files of each partition of one commit.

    `schema` is the table's now; older files may lack columns of it. `folder` is the table's folder,
    `staging` the session's. `clock_columns` are compared after the version columns, where the order
    of arrival does not tell which row is newer. They hold wall-clock times, and clocks jump, so
    they are empty wherever the order of arrival does tell. `keeps_unchanged_rows`: a stored row
    stays where the one that would supersede it is equal.
    """

    table: LakeTable
    schema: pa.Schema
    folder: Path
    staging: Path
    clock_columns: tuple[str, ...] = ()
    keeps_unchanged_rows: bool = False

    def merge_partition(self, stored: Sequence[DataFile], staged: StagedFiles) -> PartitionChange:
        """Return the files to add and remove so that each key is in the partition once.

        Writes to the staging folder; reads stored files only where their key ranges overlap.

        Raises:
            CorruptFileError: a stored file that has to be read is missing or damaged.
            OSError: the disk refused.
        """
        reach_crash_point("before merging a partition")
        overlapping: list[DataFile] = []
        disjoint: list[DataFile] = []
        for file in stored:
            (overlapping if self.can_share_keys(file, staged.files) else disjoint).append(file)
        parts = [
            *(MergeFile(file, self.folder, is_staged=False) for file in overlapping),
            *(MergeFile(file, self.staging, is_staged=True) for file in staged.files),
        ]
        if overlapping or not staged.has_unique_keys:
            parts = self.drop_superseded_rows(parts)
        rows_added = sum(part.remaining_rows for part in parts if part.is_staged)
        parts.extend(MergeFile(file, self.folder, is_staged=False) for file in disjoint)
        return self.rewrite_files(parts, rows_added)

    def can_share_keys(self, file: DataFile, staged: Iterable[DataFile]) -> bool:
        """Tell whether the key ranges of a stored and a staged file overlap, or are unknown."""
        first = self.table.key[0]
        if first not in file.min_values or first not in file.max_values:
            return True
        return any(
            file.min_values[first] <= one.max_values[first]
            and one.min_values[first] <= file.max_values[first]
            for one in staged
        )

    def drop_superseded_rows(self, files: Sequence[MergeFile]) -> list[MergeFile]:
        """Return the files without superseded rows, by the table's comparison columns."""
        if sum(part.file.rows for part in files if part.is_staged) > MAX_KEYS_IN_MEMORY:
            paths = [f"{part.folder}/{part.file.path}" for part in files]
            keys = query_duplicate_keys(
                paths, self.select_schema(self.table.key), spill=self.staging / SPILL_FOLDER
            )
            return self.drop_superseded_rows_among(files, keys)
        incoming = [
            self.read_comparison_rows(part, at) for at, part in enumerate(files) if part.is_staged
        ]
        keys = pa.concat_tables(incoming)
        known = [
            select_matching_rows(self.read_comparison_rows(part, at), keys, self.table.key)
            for at, part in enumerate(files)
            if not part.is_staged
        ]
        return self.apply_superseded(files, [*known, keys])

    def drop_superseded_rows_among(
        self, files: Sequence[MergeFile], keys: pa.Table
    ) -> list[MergeFile]:
        """Return the files without superseded rows, where only rows of `keys` can be superseded."""
        rows = [
            select_matching_rows(self.read_comparison_rows(part, at), keys, self.table.key)
            for at, part in enumerate(files)
        ]
        return self.apply_superseded(files, rows)

    def apply_superseded(
        self, files: Sequence[MergeFile], rows: Sequence[pa.Table]
    ) -> list[MergeFile]:
        """Return the files without those of `rows` that another of them supersedes.

        A history keeps every stored row: two syncs may have found different values of its history
        columns under one key.
        """
        superseded = find_superseded_rows(
            pa.concat_tables(rows), self.table.key, self.comparison_columns
        )
        if self.keeps_unchanged_rows and superseded.num_rows:
            superseded = self.keep_unchanged_rows(files, superseded)
        return [
            part
            if self.table.kept_versions == "every" and not part.is_staged
            else replace(part, remaining_mask=mask_remaining_rows(superseded, at, part.file.rows))
            for at, part in enumerate(files)
        ]

    def keep_unchanged_rows(self, files: Sequence[MergeFile], superseded: pa.Table) -> pa.Table:
        """Return which rows go where a staged row gives way to the stored one that it equals."""
        sources, rows, newer_sources, newer_rows = (
            integers_to_numpy(superseded[name]) for name in superseded.schema.names
        )
        is_staged = np.array([part.is_staged for part in files])
        at = np.flatnonzero(is_staged[newer_sources] & ~is_staged[sources])
        starts = np.cumsum([0, *(part.file.rows if part.is_staged else 0 for part in files)])
        # Of a key that another program stored twice, one row may stay.
        staged_rows, first = np.unique(
            starts[newer_sources[at]] + newer_rows[at], return_index=True
        )
        at = at[first]
        if not len(at):
            return superseded
        pairs = RowPairs(sources[at], rows[at], staged_rows)
        paths = [part.folder / part.file.path for part in files]
        try:
            is_equal = RowComparison(self.table, self.schema).compare_staged_rows(
                dict(enumerate(paths)),
                [path for path, part in zip(paths, files, strict=True) if part.is_staged],
                pairs,
            )
        except CorruptFileError:
            # Its keys could be read: such a file is replaced where all of its rows are.
            return superseded
        sources, rows, equal = sources.copy(), rows.copy(), at[is_equal]
        sources[equal], rows[equal] = newer_sources[equal], newer_rows[equal]
        arrays = [build_integer_array(sources), build_integer_array(rows)]
        return pa.Table.from_arrays(arrays, names=[SOURCE_COLUMN, ROW_COLUMN])

    def deduplicate_across_partitions(
        self,
        files: Sequence[MergeFile],
        keys: pa.Table,
        incoming: Mapping[str, pa.Table] = NO_INCOMING_KEYS,
    ) -> tuple[list[PartitionChange], frozenset[str]]:
        """Return the files to add and remove so that each of `keys` is in one of the files once.

        A key can lie in two partitions, which `merge_partition` never sees together. `incoming`
        names the keys that came with this commit, by partition: those rows are newer than all
        others. The other files have no order of arrival, so their `synced_at` decides which row is
        newer. The second value names the files that lose rows.
        """
        by_clock = replace(self, clock_columns=(SYNCED_AT_COLUMN,))
        rows = [
            add_incoming_column(
                select_matching_rows(by_clock.read_comparison_rows(part, at), keys, self.table.key),
                self.table.key,
                each,
            )
            for at, part in enumerate(files)
            for each in [incoming.get(part.file.partition)]
        ]
        superseded = find_superseded_rows(
            pa.concat_tables(rows), self.table.key, (INCOMING_COLUMN, *by_clock.comparison_columns)
        )
        partitions: dict[str, list[MergeFile]] = defaultdict(list)
        for at, part in enumerate(files):
            mask = mask_remaining_rows(superseded, at, part.file.rows)
            if mask is not None:
                partitions[part.file.partition].append(replace(part, remaining_mask=mask))
        touched = (part.file.path for group in partitions.values() for part in group)
        return [self.rewrite_files(judged, 0) for judged in partitions.values()], frozenset(touched)

    def read_comparison_rows(self, part: MergeFile, source: int) -> pa.Table:
        """Return key, version columns and position of all rows of a file, as number `source`."""
        names = (*self.table.key, *self.table.version_columns, *self.clock_columns)
        schema = self.select_schema(tuple(dict.fromkeys(names)))
        rows = read_columns(part.folder / part.file.path, schema, self.table.name)
        return add_row_positions(rows, source, is_stored=not part.is_staged)

    def select_schema(self, names: Sequence[str]) -> pa.Schema:
        """Return some columns of the table as a schema."""
        kinds = dict(zip(self.table.schema.names, self.table.schema.types, strict=True))
        return pa.schema([(name, kinds[name]) for name in names])

    @property
    def comparison_columns(self) -> tuple[str, ...]:
        """Return the columns by which rows of one key are compared: the greatest row stays."""
        versions = (*self.table.version_columns, *self.clock_columns)
        return (STORED_COLUMN, *versions) if self.table.kept_versions == "every" else versions

    def rewrite_files(self, files: Sequence[MergeFile], rows_added: int) -> PartitionChange:
        """Rewrite files that lose rows, merge small ones; return the files to add and remove."""
        reach_crash_point("before rewriting files")
        remaining = [part for part in files if part.remaining_rows]
        ids_to_compact = {
            id(remaining[at])
            for at in select_files_to_compact([part.remaining_bytes for part in remaining])
        }
        to_rewrite = [
            part
            for part in remaining
            if part.remaining_mask is not None and id(part) not in ids_to_compact
        ]
        groups = [[part] for part in to_rewrite]
        if ids_to_compact:
            groups.append([part for part in remaining if id(part) in ids_to_compact])
        rewritten = {id(part) for group in groups for part in group}
        added = [file for group in groups for file in self.write_merged_files(group)]
        added += [part.file for part in remaining if part.is_staged and id(part) not in rewritten]
        removed = [
            part.file
            for part in files
            if not part.is_staged and (id(part) in rewritten or not part.remaining_rows)
        ]
        return PartitionChange(tuple(added), tuple(removed), rows_added)

    def write_merged_files(self, group: Sequence[MergeFile]) -> list[DataFile]:
        """Write the remaining rows of some files to new files in the staging folder."""
        writer = PartitionFileWriter(self.staging, self.table, group[0].file.partition)
        for part in group:
            start = 0
            for rows in read_row_groups(part.folder / part.file.path, self.schema, self.table.name):
                count = rows.num_rows
                remaining_rows = (
                    rows
                    if part.remaining_mask is None
                    else rows.filter(part.remaining_mask.slice(start, count))
                )
                writer.write(remaining_rows)
                start += count
        return writer.close()


def add_incoming_column(rows: pa.Table, key: Sequence[str], incoming: pa.Table | None) -> pa.Table:
    """Return the rows with a column that tells whether their key is among `incoming`."""
    if incoming is None or not rows.num_rows:
        return rows.append_column(
            INCOMING_COLUMN, build_boolean_array(np.zeros(rows.num_rows, dtype=np.bool_))
        )
    (name,) = key
    is_new = pc.is_in(rows[name], value_set=incoming[name].combine_chunks())
    return rows.append_column(INCOMING_COLUMN, is_new)


MAX_KEYS_TO_LOOK_UP = 40_000
"""Staged rows up to which their keys are searched in the stored files, one file after another."""


def find_duplicate_keys_in_files(
    rewriter: PartitionRewriter, files: Sequence[MergeFile]
) -> pa.Table:
    """Return the keys that occur more than once in the files, for any number of keys.

    Raises:
        duckdb.Error: the disk is full.
    """
    try:
        return _query_duplicate_keys_in(rewriter, files)
    except storage_error_types():
        # A file is damaged.
        return _query_duplicate_keys_in(rewriter, select_readable_files(rewriter, files))


def _query_duplicate_keys_in(rewriter: PartitionRewriter, files: Sequence[MergeFile]) -> pa.Table:
    key = rewriter.select_schema(rewriter.table.key)
    paths = [f"{file.folder}/{file.file.path}" for file in files]
    spill = rewriter.staging / SPILL_FOLDER
    reach_crash_point("before searching duplicate keys")
    if not has_duplicate_hashes(paths, key, spill=spill):
        return pa.Table.from_batches([], schema=key)
    return query_duplicate_keys(paths, key, spill=spill)


def select_readable_files(
    rewriter: PartitionRewriter, files: Sequence[MergeFile]
) -> list[MergeFile]:
    """Return the files whose keys can be read.

    A damaged file must not make every commit fail. Its keys cannot be known, and `verify` names it.
    """
    return [file for file in files if read_file_keys(rewriter, file.folder, file.file) is not None]


def read_file_keys(rewriter: PartitionRewriter, folder: Path, file: DataFile) -> pa.Table | None:
    """Return the keys of a file; None where it is damaged."""
    try:
        return read_columns(
            folder / file.path, rewriter.select_schema(rewriter.table.key), rewriter.table.name
        )
    except CorruptFileError:
        return None


def has_few_rows(staged: Mapping[str, StagedFiles]) -> bool:
    """Tell whether searching the staged keys alone is cheaper than comparing all keys."""
    return sum(file.rows for each in staged.values() for file in each.files) <= MAX_KEYS_TO_LOOK_UP


def find_moved_keys(
    rewriter: PartitionRewriter, stored: Sequence[DataFile], staged: Mapping[str, StagedFiles]
) -> pa.Table:
    """Return the staged keys that another partition also holds, stored or staged.

    Expects stored keys to be unique. The result may include keys whose other row was superseded
    already.
    """
    (name,) = rewriter.table.key
    schema = rewriter.select_schema((name,))
    staged_keys = {
        partition: [
            read_columns(rewriter.staging / file.path, schema, rewriter.table.name)
            for file in each.files
        ]
        for partition, each in staged.items()
    }
    tables = [one for each in staged_keys.values() for one in each]
    all_staged = pa.concat_tables([pa.Table.from_batches([], schema=schema), *tables])
    duplicates = find_duplicate_keys(all_staged, rewriter.table.key)
    found = [pa.Table.from_batches([], schema=schema) if duplicates is None else duplicates]
    wanted = all_staged[name].combine_chunks()
    for file in stored if len(wanted) else ():
        keys = read_file_keys(rewriter, rewriter.folder, file)
        if keys is None:
            continue
        stored_matches = keys.filter(pc.is_in(keys[name], value_set=wanted))
        if stored_matches.num_rows and file.partition in staged_keys:
            own = pa.concat_tables(staged_keys[file.partition])[name].combine_chunks()
            stored_matches = stored_matches.filter(
                pc.invert(pc.is_in(stored_matches[name], value_set=own))
            )
        # Even an empty table takes 10 kB, and a lake has thousands of files.
        if stored_matches.num_rows:
            found.append(stored_matches)
    return pa.concat_tables(found)


def find_staged_keys(
    rewriter: PartitionRewriter, staged: Mapping[str, StagedFiles], keys: pa.Table
) -> dict[str, pa.Table]:
    """Return which of `keys` are among the staged rows, by partition."""
    name, key = rewriter.table.name, rewriter.table.key
    schema = rewriter.select_schema(key)
    return {
        partition: pa.concat_tables(
            [
                pa.Table.from_batches([], schema=schema),
                *(
                    select_matching_rows(
                        read_columns(rewriter.staging / file.path, schema, name), keys, key
                    )
                    for file in each.files
                ),
            ]
        )
        for partition, each in staged.items()
    }
