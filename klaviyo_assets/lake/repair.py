"""Repairing a table in which keys are there more than once.

What belongs here: keys that lie in two partitions, which a merge never sees together: a record that
came back with another day. What does not: damaged files; a full refresh rebuilds those.
"""

from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

from klaviyo_assets.lake.check import repeated_keys
from klaviyo_assets.lake.layout import Table, table_folder
from klaviyo_assets.lake.log import snapshot
from klaviyo_assets.lake.writing import TableWriter


def repaired(root: Path, table: Table, *, account: str, clock: Callable[[], datetime]) -> int:
    """Delete the rows of `table` that lose against another of their key; return how many went.

    Raises:
        LakeConflictError: another writer committed meanwhile.
        CorruptFileError: a file is missing or damaged.
        StorageError: the disk refused; the table is as before.
    """
    folder = table_folder(root, table.name)
    start = snapshot(folder, table.name)
    if start is None:
        return 0
    repeated = repeated_keys(root, table.name, start, table.key)
    if not repeated.num_rows:
        return 0
    with closing(TableWriter(table, folder, start, account=account, clock=clock)) as writer:
        return start.rows - writer.repair(repeated).rows_total
