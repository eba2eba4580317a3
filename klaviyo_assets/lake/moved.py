"""Keys that came back in another partition: which of them a commit has to look at.

What belongs here: finding them. What does not: which row stays (`merge`), the files (`rewrite`).
A merge looks only into the partitions that rows came in for; an event that comes back with another
day lies in a second one as well. A key can be everywhere, and ids tell nothing of their time, so
their column is read, once a run:

    few rows, all else known to be unique     their keys, looked for in the files of the others
    many rows, or nobody looked before        all keys, by their hashes, on disk where need be

Measured, seconds of CPU for an hourly run of 1,000 and of 10,000 new events, and at the end of a
first load:

     1 million events    0.03    0.10    0.25
    10 million events    0.9     1.0     1.9

A run that brings no new key looks nowhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.errors import CorruptFileError
from klaviyo_assets.lake.disk import disk_errors
from klaviyo_assets.lake.layout import SPILL
from klaviyo_assets.lake.merge import matching, repeats
from klaviyo_assets.lake.parquet import DataFile, columns_of
from klaviyo_assets.lake.repeats import MEMORY, has_equal_hashes, repeated
from klaviyo_assets.lake.rewrite import Part, Rewriter, Staged

FEW = 40_000
"""Staged rows up to which their keys are looked for, file by file."""

MEMORY_BESIDE_A_SYNC = "128MB"
"""What DuckDB may hold at the end of a sync; 10 million keys take 2.1 s instead of 2.0 with 256 MB,
and the process grows by 152 MiB instead of 264, by 50 for a million."""


def repeated_keys_of(rewriter: Rewriter, parts: Sequence[Part]) -> pa.Table:
    """Return the keys that are in the files more than once, however many there are.

    Raises:
        duckdb.Error: the disk is full.
    """
    try:
        return _repeated_in(rewriter, parts, memory=MEMORY_BESIDE_A_SYNC)
    except disk_errors():
        # A file is damaged, or the memory was too little after all.
        return _repeated_in(rewriter, sound_parts(rewriter, parts), memory=MEMORY)


def _repeated_in(rewriter: Rewriter, parts: Sequence[Part], *, memory: str) -> pa.Table:
    key = rewriter.columns(rewriter.table.key)
    paths = [part.folder / part.file.path for part in parts]
    spill = rewriter.staging / SPILL
    if not has_equal_hashes(paths, key, spill=spill, memory=memory):
        return pa.Table.from_batches([], schema=key)
    return repeated(paths, key, spill=spill)


def sound_parts(rewriter: Rewriter, parts: Sequence[Part]) -> list[Part]:
    """Return the files whose keys can be read.

    A damaged file of some day is no reason for the commits of all others to fail: `verify` names
    it, and what it holds nobody can tell.
    """
    return [part for part in parts if keys_in(rewriter, part.folder, part.file) is not None]


def keys_in(rewriter: Rewriter, folder: Path, file: DataFile) -> pa.Table | None:
    """Return the keys of a file, None where it is damaged."""
    try:
        return columns_of(
            folder / file.path, rewriter.columns(rewriter.table.key), rewriter.table.name
        )
    except CorruptFileError:
        return None


def are_few(staged: Mapping[str, Staged]) -> bool:
    """Tell whether it is cheaper to look for the keys of the staged rows alone."""
    return sum(file.rows for each in staged.values() for file in each.files) <= FEW


def moved_keys(
    rewriter: Rewriter, stored: Sequence[DataFile], staged: Mapping[str, Staged]
) -> pa.Table:
    """Return the staged keys that lie in another partition as well, stored or staged.

    No stored key is there twice. Some may be among them that have lost already.
    """
    (name,) = rewriter.table.key
    schema = rewriter.columns((name,))
    came = {
        partition: [
            columns_of(rewriter.staging / file.path, schema, rewriter.table.name)
            for file in each.files
        ]
        for partition, each in staged.items()
    }
    parts = [one for each in came.values() for one in each]
    everything = pa.concat_tables([pa.Table.from_batches([], schema=schema), *parts])
    twice = repeats(everything, rewriter.table.key)
    found = [pa.Table.from_batches([], schema=schema) if twice is None else twice]
    wanted = everything[name].combine_chunks()
    for file in stored if len(wanted) else ():
        keys = keys_in(rewriter, rewriter.folder, file)
        if keys is None:
            continue
        there = keys.filter(pc.is_in(keys[name], value_set=wanted))
        if there.num_rows and file.partition in came:
            own = pa.concat_tables(came[file.partition])[name].combine_chunks()
            there = there.filter(pc.invert(pc.is_in(there[name], value_set=own)))
        found.append(there)
    return pa.concat_tables(found)


def staged_among(
    rewriter: Rewriter, staged: Mapping[str, Staged], keys: pa.Table
) -> dict[str, pa.Table]:
    """Return which of some keys came in with the staged rows, by partition."""
    name, key = rewriter.table.name, rewriter.table.key
    schema = rewriter.columns(key)
    return {
        partition: pa.concat_tables(
            [
                pa.Table.from_batches([], schema=schema),
                *(
                    matching(columns_of(rewriter.staging / file.path, schema, name), keys, key)
                    for file in each.files
                ),
            ]
        )
        for partition, each in staged.items()
    }
