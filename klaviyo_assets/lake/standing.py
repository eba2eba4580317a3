"""How a table stands, by what its log tells alone: quick enough to look after every sync.

What belongs here: reading the log's statistics, and finding keys that are there twice, which reads
one column of everything. What does not: what is to be thought of it (`defs/checks.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from klaviyo_assets.errors import MissingTableError
from klaviyo_assets.lake.check import repeated_keys
from klaviyo_assets.lake.contents import relation_now
from klaviyo_assets.lake.disk import told
from klaviyo_assets.lake.layout import table_folder
from klaviyo_assets.lake.listing import add_actions
from klaviyo_assets.lake.log import snapshot

_NULLS = "null_count."


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A table's rows and columns; `nulls` has what the log tells of columns' NULLs."""

    rows: int
    columns: tuple[str, ...]
    nulls: Mapping[str, int]


def standing(root: Path, name: str) -> Standing | None:
    """Return how a stored table stands; None where it was never read.

    Raises:
        CorruptFileError: the log cannot be read.
    """
    found = snapshot(table_folder(root, name), name)
    if found is None:
        return None
    told_of = add_actions(found.table)
    nulls = {
        column.removeprefix(_NULLS): sum(each or 0 for each in told_of[column].to_pylist())
        for column in told_of.schema.names
        if column.startswith(_NULLS)
    }
    return Standing(rows=found.rows, columns=tuple(found.schema.names), nulls=nulls)


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


def ids_there_twice(root: Path, name: str) -> int:
    """Return how many ids a relation made of several tables shows more than once.

    Raises:
        MissingTableError: a table it is made of was never read.
    """
    ids = relation_now(root, name, ()).select("id")
    with told(table_folder(root, name), name):
        repeats = ids.aggregate("id, count(*) AS times", "id").filter("times > 1")
        return len(repeats.fetchall())
