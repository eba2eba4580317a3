"""How a table stands: what may be NULL nowhere, and what may be there once alone.

What belongs here: reading the log's statistics, and finding keys that are there twice, which reads
one column of everything. What does not: what is to be thought of it (`defs/deep_checks.py`).
"""

from collections.abc import Mapping
from pathlib import Path

from klaviyo_assets.errors import MissingTableError
from klaviyo_assets.lake.check import repeated_keys
from klaviyo_assets.lake.disk import told
from klaviyo_assets.lake.layout import table_folder
from klaviyo_assets.lake.listing import add_actions
from klaviyo_assets.lake.log import snapshot

_NULLS = "null_count."


def null_counts(root: Path, name: str) -> Mapping[str, int] | None:
    """Return how many NULLs the log tells of, by column; None where the table was never read.

    Raises:
        CorruptFileError: the log cannot be read.
    """
    found = snapshot(table_folder(root, name), name)
    if found is None:
        return None
    told_of = add_actions(found.table)
    return {
        column.removeprefix(_NULLS): sum(each or 0 for each in told_of[column].to_pylist())
        for column in told_of.schema.names
        if column.startswith(_NULLS)
    }


def keys_there_twice(root: Path, name: str) -> int:
    """Return how many keys a stored table has more than once.

    Raises:
        MissingTableError: it was never read.
        CorruptFileError: a file or the log cannot be read.
        StorageError: the disk is full: what does not fit into memory goes there.
    """
    folder = table_folder(root, name)
    found = snapshot(folder, name)
    if found is None or found.mark is None:
        raise MissingTableError(f"the table {name} was never read", stream=name)
    with told(folder, name):
        return repeated_keys(root, name, found, found.mark.key).num_rows
