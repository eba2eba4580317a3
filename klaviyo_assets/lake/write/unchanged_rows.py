"""Finds the rows of a read that are stored already, so that these keep their `synced_at`.

Two rows are equal where their key and all columns but `synced_at` are, NULL and NULL included. The
stored one stays, and a file whose rows all came back unchanged is not written again:

    rows about to be staged    compared with the few row groups that can hold them; equal ones are
                               never written
    rows staged already        compared by the merge, with the stored rows that they would replace

The first way costs less than writing the rows. The second is for large reads: there, the rows of
one day are staged in many parts, and reading the day's file for each would cost more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.arrow_buffers import (
    IntegerArray,
    RowMask,
    boolean_mask,
    build_boolean_array,
    build_integer_array,
    integers_to_numpy,
)
from klaviyo_assets.errors import CorruptFileError
from klaviyo_assets.lake.layout import SYNCED_AT_COLUMN, LakeTable
from klaviyo_assets.lake.parquet import (
    conform_rows,
    find_row_groups,
    read_columns,
    read_row_groups,
)

MAX_READ_SHARE = 4
"""How many stored rows may be read for each row about to be staged. To write a row takes about
twice the CPU time of reading one."""

MAX_COMPARED_BYTES = 4 * 2**20
"""Size of staged files up to which all columns are compared at once: 30 MiB of events in memory."""


@dataclass(frozen=True, slots=True)
class RowPairs:
    """Stored rows, each with the staged row of the same key that would replace it.

    `files` has the stored row's file, `rows` its position in there, and `staged_rows` the staged
    row's position in all staged files, one after another.
    """

    files: IntegerArray
    rows: IntegerArray
    staged_rows: IntegerArray


@dataclass(frozen=True, slots=True)
class RowComparison:
    """Compares rows of a table; `schema` is the table's now, older files may lack columns of it."""

    table: LakeTable
    schema: pa.Schema

    def drop_unchanged_rows(
        self, stored: Sequence[Path], batches: Sequence[pa.RecordBatch]
    ) -> Sequence[pa.RecordBatch]:
        """Return the rows of one partition without those that its stored files hold unchanged.

        All are returned where too much would have to be read, and where a file is damaged.
        """
        rows = pa.Table.from_batches(batches)
        matches = np.zeros(rows.num_rows, dtype=np.int64)
        is_equal = np.zeros(rows.num_rows, dtype=np.bool_)
        try:
            for path, numbers in self._find_row_groups(stored, batches).items():
                for at, equal in self._match_rows(path, numbers, rows):
                    matches[at] += 1
                    is_equal[at] |= equal
        except CorruptFileError:
            return batches
        # Another program can have stored a key twice: the merge has to see it.
        is_unchanged = is_equal & (matches == 1)
        if not is_unchanged.any():
            return batches
        return rows.filter(build_boolean_array(~is_unchanged)).to_batches()

    def _find_row_groups(
        self, stored: Sequence[Path], batches: Sequence[pa.RecordBatch]
    ) -> Mapping[Path, Sequence[int]]:
        """Return the row groups that can hold the rows; none where they have too many rows."""
        moments = [
            integers_to_numpy(batch[self.table.cursor or ""].cast(pa.int64())) for batch in batches
        ]
        spans = [(int(each.min()), int(each.max())) for each in moments if len(each)]
        column, name = self.table.cursor or "", self.table.name
        found = {path: find_row_groups(path, column, spans, name) for path in stored}
        count = sum(sum(groups.values()) for groups in found.values())
        if count > MAX_READ_SHARE * sum(batch.num_rows for batch in batches):
            return {}
        return {path: [*groups] for path, groups in found.items()}

    def _match_rows(
        self, path: Path, numbers: Sequence[int], rows: pa.Table
    ) -> Iterator[tuple[IntegerArray, RowMask]]:
        """Yield positions of `rows` whose keys a row group has, and which are equal there."""
        (key,) = self.table.key
        wanted = rows[key].combine_chunks()
        schema = self._select_schema([key, *self.compared_columns])
        compared = conform_rows(rows, schema)
        for number in numbers:
            (keys,) = read_row_groups(path, self._select_schema([key]), self.table.name, [number])
            places = pc.index_in(keys[key], value_set=wanted)
            stored_at = np.flatnonzero(boolean_mask(pc.is_valid(places)))
            if not len(stored_at):
                continue
            at = integers_to_numpy(places.drop_null())
            (group,) = read_row_groups(path, schema, self.table.name, [number])
            yield at, mask_equal_rows(take_rows(group, stored_at), take_rows(compared, at))

    def compare_staged_rows(
        self, stored: Mapping[int, Path], staged: Sequence[Path], pairs: RowPairs
    ) -> RowMask:
        """Return which pairs are equal; `stored` are the files by their number in the pairs.

        Large files are compared a column at a time, to bound the memory.

        Raises:
            CorruptFileError: a file is missing or damaged.
        """
        is_equal = np.ones(len(pairs.rows), dtype=np.bool_)
        names = self.compared_columns
        is_large = sum(path.stat().st_size for path in staged) > MAX_COMPARED_BYTES
        step = 1 if is_large else len(names)
        for start in range(0, len(names), step):
            schema = self._select_schema(names[start : start + step])
            brought = pa.concat_tables(
                [read_columns(path, schema, self.table.name) for path in staged]
            )
            for file in np.unique(pairs.files[is_equal]).tolist():
                chosen = np.flatnonzero(is_equal & (pairs.files == file))
                chosen = chosen[np.argsort(pairs.rows[chosen])]
                first = 0
                for group in read_row_groups(stored[file], schema, self.table.name):
                    ends = np.searchsorted(pairs.rows[chosen], (first, first + group.num_rows))
                    own = chosen[ends[0] : ends[1]]
                    is_equal[own] = mask_equal_rows(
                        take_rows(group, pairs.rows[own] - first),
                        take_rows(brought, pairs.staged_rows[own]),
                    )
                    first += group.num_rows
        return is_equal

    @property
    def compared_columns(self) -> list[str]:
        """Return the columns that tell whether a row of a known key has changed."""
        other = {*self.table.key, SYNCED_AT_COLUMN}
        return [name for name in self.schema.names if name not in other]

    def _select_schema(self, names: Sequence[str]) -> pa.Schema:
        kinds = dict(zip(self.schema.names, self.schema.types, strict=True))
        return pa.schema([(name, kinds[name]) for name in names])


def take_rows(rows: pa.Table, positions: IntegerArray) -> pa.Table:
    """Return the rows at these positions, without a copy where they follow each other."""
    count = len(positions)
    if (
        count
        and positions[-1] - positions[0] == count - 1
        and bool((np.diff(positions) == 1).all())
    ):
        return rows.slice(int(positions[0]), count)
    return rows.take(build_integer_array(positions.astype(np.int64)))


def mask_equal_rows(some: pa.Table, others: pa.Table) -> RowMask:
    """Return which rows of two tables of the same columns are equal, place by place."""
    mask = np.ones(some.num_rows, dtype=np.bool_)
    for one, other in zip(some.columns, others.columns, strict=True):
        mask &= mask_equal_values(one, other)
    return mask


def mask_equal_values(some: "pa.ChunkedArray[Any]", others: "pa.ChunkedArray[Any]") -> RowMask:
    """Return which values are equal: NULL to NULL, numbers bit by bit, text byte by byte."""
    if len(some) == some.null_count == others.null_count:
        return np.ones(len(some), dtype=np.bool_)
    if pa.types.is_nested(some.type):
        pairs = zip(some.to_pylist(), others.to_pylist(), strict=True)
        return np.fromiter((one == other for one, other in pairs), np.bool_, len(some))
    if pa.types.is_floating(some.type):
        # NaN equals NaN, and 0.0 is not -0.0.
        some, others = (
            pa.chunked_array([each.view(pa.int64()) for each in column.chunks], pa.int64())
            for column in (some, others)
        )
    compared = pc.equal(some, others)
    if not compared.null_count:
        return boolean_mask(compared)
    # Not `fill_null`, which makes its scalar by way of pandas.
    no = build_boolean_array(np.zeros(1, dtype=np.bool_))[0]
    filled: Any = pc.coalesce(compared, no)
    both_null = boolean_mask(pc.is_null(some)) & boolean_mask(pc.is_null(others))
    return boolean_mask(filled) | both_null
