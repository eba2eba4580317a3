"""Which files a commit rewrites, and rewriting them.

What belongs here: one touched partition at a time, from staged and stored files to the files that
a commit adds and removes. What does not: the rule for rows (`merge`), staging (`staging`) and the
commit (`delta`). Files without a superseded row stay untouched, so a first sync only appends.

For each touched partition:

    stored files whose key range meets the staged ones ──┐  keys and versions alone
    staged files ────────────────────────────────────────┴─▶ losers ─▶ files with losers: rewritten
                                                                       too many small: merged
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.lake.layout import KEYS_IN_MEMORY, SPILL, SYNCED_AT, Table, compacted
from klaviyo_assets.lake.merge import SETTLED, kept, losers, matching, numbered
from klaviyo_assets.lake.parquet import DataFile, Writer, columns_of, row_groups
from klaviyo_assets.lake.repeats import repeated
from klaviyo_assets.lake.vectors import flags

CAME_IN = "__came_in"
NOTHING_CAME: Mapping[str, pa.Table] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Staged:
    """The files of a partition in the staging folder. `is_clean`: no key is in them twice."""

    files: Sequence[DataFile]
    is_clean: bool


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a partition in the course of a commit: where it lies and which rows stay."""

    file: DataFile
    folder: Path
    is_staged: bool
    stay: pa.BooleanArray | None = None
    """Booleans, one a row; None: all of them."""

    @property
    def rows(self) -> int:
        """Return how many rows stay."""
        return self.file.rows if self.stay is None else self.stay.true_count

    @property
    def size(self) -> int:
        """Return about how many bytes stay."""
        return self.file.size * self.rows // max(1, self.file.rows)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a partition: files in the staging folder to add, stored files to remove."""

    added: tuple[DataFile, ...]
    removed: tuple[DataFile, ...]
    rows: int
    """Rows that came in and stay."""


@dataclass(frozen=True, slots=True)
class Rewriter:
    """Works out the partitions of one commit. `schema` is the table's own, newer than some files.

    `folder` is the table's, `staging` the session's. `clock` names what tells the newer of two rows
    where the order in which they came in does not: it is by a clock, and clocks jump.
    """

    table: Table
    schema: pa.Schema
    folder: Path
    staging: Path
    clock: tuple[str, ...] = ()

    def partition(self, stored: Sequence[DataFile], staged: Staged) -> Outcome:
        """Return what to add and remove so that no key is there twice in the partition.

        Writes to the staging folder; reads stored files only where a key could be there already.

        Raises:
            CorruptFileError: a stored file that has to be read is missing or damaged.
            OSError: the disk refused.
        """
        near: list[DataFile] = []
        far: list[DataFile] = []
        for file in stored:
            (near if self.meets(file, staged.files) else far).append(file)
        parts = [
            *(Part(file, self.folder, is_staged=False) for file in near),
            *(Part(file, self.staging, is_staged=True) for file in staged.files),
        ]
        if near or not staged.is_clean:
            parts = self.judged(parts)
        came_in = sum(part.rows for part in parts if part.is_staged)
        parts.extend(Part(file, self.folder, is_staged=False) for file in far)
        return self.settled(parts, came_in)

    def meets(self, file: DataFile, staged: Iterable[DataFile]) -> bool:
        """Tell whether the key ranges of a stored file and a staged one overlap, or are unknown."""
        first = self.table.key[0]
        if first not in file.low or first not in file.high:
            return True
        return any(
            file.low[first] <= one.high[first] and one.low[first] <= file.high[first]
            for one in staged
        )

    def judged(self, parts: Sequence[Part]) -> list[Part]:
        """Return the parts with the rows that stay, by the table's rule."""
        if sum(part.file.rows for part in parts if part.is_staged) > KEYS_IN_MEMORY:
            paths = [part.folder / part.file.path for part in parts]
            keys = repeated(paths, self.columns(self.table.key), spill=self.staging / SPILL)
            return self.judged_among(parts, keys)
        came_in = [self.rows(part, at) for at, part in enumerate(parts) if part.is_staged]
        keys = pa.concat_tables(came_in)
        known = [
            matching(self.rows(part, at), keys, self.table.key)
            for at, part in enumerate(parts)
            if not part.is_staged
        ]
        return self.without_losers(parts, [*known, keys])

    def judged_among(self, parts: Sequence[Part], keys: pa.Table) -> list[Part]:
        """Return the parts with the rows that stay, where only rows of `keys` can lose."""
        rows = [
            matching(self.rows(part, at), keys, self.table.key) for at, part in enumerate(parts)
        ]
        return self.without_losers(parts, rows)

    def without_losers(self, parts: Sequence[Part], rows: Sequence[pa.Table]) -> list[Part]:
        """Return the parts without those of `rows` that another one beats."""
        lost = losers(pa.concat_tables(rows), self.table.key, self.order)
        return [replace(part, stay=kept(lost, at, part.file.rows)) for at, part in enumerate(parts)]

    def unique(
        self, parts: Sequence[Part], keys: pa.Table, came: Mapping[str, pa.Table] = NOTHING_CAME
    ) -> tuple[list[Outcome], frozenset[str]]:
        """Return what to add and remove so that none of `keys` is in the parts twice.

        A key can lie in two partitions, which `partition` never sees together. `came` are those of
        `keys` that came in with this commit, by partition: they are newer than the others. Among
        these files lie in no order, so the clock tells which row is the newer. The second value
        names the files that lose rows.
        """
        by_clock = replace(self, clock=(SYNCED_AT,))
        rows = [
            with_came(matching(by_clock.rows(part, at), keys, self.table.key), self.table.key, each)
            for at, part in enumerate(parts)
            for each in [came.get(part.file.partition)]
        ]
        lost = losers(pa.concat_tables(rows), self.table.key, (CAME_IN, *by_clock.order))
        partitions: dict[str, list[Part]] = defaultdict(list)
        for at, part in enumerate(parts):
            stay = kept(lost, at, part.file.rows)
            if stay is not None:
                partitions[part.file.partition].append(replace(part, stay=stay))
        touched = (part.file.path for judged in partitions.values() for part in judged)
        return [self.settled(judged, 0) for judged in partitions.values()], frozenset(touched)

    def rows(self, part: Part, at: int) -> pa.Table:
        """Return key, versions and place of all rows of the part at position `at`."""
        told_by = (*self.table.key, *self.table.versions, *self.clock)
        schema = self.columns(tuple(dict.fromkeys(told_by)))
        rows = columns_of(part.folder / part.file.path, schema, self.table.name)
        return numbered(rows, at, settled=not part.is_staged)

    def columns(self, names: Sequence[str]) -> pa.Schema:
        """Return some columns of the table with their types."""
        kinds = dict(zip(self.table.schema.names, self.table.schema.types, strict=True))
        return pa.schema([(name, kinds[name]) for name in names])

    @property
    def order(self) -> tuple[str, ...]:
        """Return the columns by which rows of one key are compared, the greatest stays."""
        versions = (*self.table.versions, *self.clock)
        return (SETTLED, *versions) if self.table.keeps == "every" else versions

    def settled(self, parts: Sequence[Part], came_in: int) -> Outcome:
        """Rewrite the parts that lose rows, merge small ones, and return what to add and remove."""
        left = [part for part in parts if part.rows]
        together = {id(left[at]) for at in compacted([part.size for part in left])}
        alone = [part for part in left if part.stay is not None and id(part) not in together]
        groups = [[part] for part in alone]
        if together:
            groups.append([part for part in left if id(part) in together])
        rewritten = {id(part) for group in groups for part in group}
        added = [file for group in groups for file in self.rewrite(group)]
        added += [part.file for part in left if part.is_staged and id(part) not in rewritten]
        removed = [
            part.file
            for part in parts
            if not part.is_staged and (id(part) in rewritten or not part.rows)
        ]
        return Outcome(tuple(added), tuple(removed), came_in)

    def rewrite(self, group: Sequence[Part]) -> list[DataFile]:
        """Write the rows that stay of some files into new ones of the staging folder."""
        writer = Writer(self.staging, self.table, group[0].file.partition)
        for part in group:
            start = 0
            for rows in row_groups(part.folder / part.file.path, self.schema, self.table.name):
                count = rows.num_rows
                stay = rows if part.stay is None else rows.filter(part.stay.slice(start, count))
                writer.write(stay)
                start += count
        return writer.close()


def with_came(rows: pa.Table, key: Sequence[str], came: pa.Table | None) -> pa.Table:
    """Return the rows with whether their key is among those that came in."""
    if came is None or not rows.num_rows:
        return rows.append_column(CAME_IN, flags(np.zeros(rows.num_rows, dtype=np.bool_)))
    (name,) = key
    is_new = pc.is_in(rows[name], value_set=came[name].combine_chunks())
    return rows.append_column(CAME_IN, is_new)
