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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from klaviyo_assets.lake.layout import Table, compacted
from klaviyo_assets.lake.merge import SETTLED, kept, losers, matching, numbered
from klaviyo_assets.lake.parquet import DataFile, Writer, columns_of, row_groups


@dataclass(frozen=True, slots=True)
class Staged:
    """A file of the staging folder. `is_clean`: no key is in it twice."""

    file: DataFile
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

    `folder` is the table's, `staging` the session's.
    """

    table: Table
    schema: pa.Schema
    folder: Path
    staging: Path

    def partition(self, stored: Sequence[DataFile], staged: Sequence[Staged]) -> Outcome:
        """Return what to add and remove so that no key is there twice in the partition.

        Writes to the staging folder; reads stored files only where a key could be there already.

        Raises:
            CorruptFileError: a stored file that has to be read is missing or damaged.
            OSError: the disk refused.
        """
        near: list[DataFile] = []
        far: list[DataFile] = []
        for file in stored:
            (near if self.meets(file, staged) else far).append(file)
        parts = [
            *(Part(file, self.folder, is_staged=False) for file in near),
            *(Part(one.file, self.staging, is_staged=True) for one in staged),
        ]
        if near or len(staged) > 1 or not all(one.is_clean for one in staged):
            parts = self.judged(parts)
        came_in = sum(part.rows for part in parts if part.is_staged)
        parts.extend(Part(file, self.folder, is_staged=False) for file in far)
        return self.settled(parts, came_in)

    def meets(self, file: DataFile, staged: Iterable[Staged]) -> bool:
        """Tell whether the key ranges of a stored file and a staged one overlap, or are unknown."""
        first = self.table.key[0]
        if first not in file.low:
            return True
        return any(
            file.low[first] <= one.file.high[first] and one.file.low[first] <= file.high[first]
            for one in staged
        )

    def judged(self, parts: Sequence[Part]) -> list[Part]:
        """Return the parts with the rows that stay, by the table's rule."""
        came_in = [
            numbered(self.keys_of(part), at) for at, part in enumerate(parts) if part.is_staged
        ]
        keys = pa.concat_tables(came_in)
        known = [
            matching(numbered(self.keys_of(part), at, settled=True), keys, self.table.key)
            for at, part in enumerate(parts)
            if not part.is_staged
        ]
        lost = losers(pa.concat_tables([*known, keys]), self.table.key, self.order)
        return [
            Part(part.file, part.folder, part.is_staged, kept(lost, at, part.file.rows))
            for at, part in enumerate(parts)
        ]

    def unique(self, stored: Sequence[DataFile], repeated: pa.Table) -> list[Outcome]:
        """Return what to add and remove so that no key is there twice in the whole table.

        `repeated` are the keys that are: one can lie in two partitions, which `partition` never
        sees. The row that stays follows the table's rule.
        """
        parts = [Part(file, self.folder, is_staged=False) for file in stored]
        rows = [
            matching(numbered(self.keys_of(part), at), repeated, self.table.key)
            for at, part in enumerate(parts)
        ]
        lost = losers(pa.concat_tables(rows), self.table.key, self.table.versions)
        partitions: dict[str, list[Part]] = defaultdict(list)
        for at, part in enumerate(parts):
            stay = kept(lost, at, part.file.rows)
            if stay is not None:
                judged = Part(part.file, part.folder, is_staged=False, stay=stay)
                partitions[part.file.partition].append(judged)
        return [self.settled(judged, 0) for judged in partitions.values()]

    def keys_of(self, part: Part) -> pa.Table:
        """Return the key and version columns of all rows of a part."""
        table = self.table
        names = dict.fromkeys((*table.key, *table.versions))
        kinds = dict(zip(table.schema.names, table.schema.types, strict=True))
        schema = pa.schema([(name, kinds[name]) for name in names])
        return columns_of(part.folder / part.file.path, schema, table.name)

    @property
    def order(self) -> tuple[str, ...]:
        """Return the columns by which rows of one key are compared, the greatest stays."""
        versions = self.table.versions
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
