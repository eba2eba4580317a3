"""Setting a table aside: the way out where it can neither be read nor written.

What belongs here: moving the whole folder of a table, its files included, to
`lake/_damaged/<table>-<time>`. What does not: finding the damage (`check`), and reading the stream
again (`sync`). Nothing is deleted: a later hand may still find in it what Klaviyo no longer shows.
"""

from datetime import datetime
from pathlib import Path

from klaviyo_assets.errors import LakeConflictError, MissingTableError
from klaviyo_assets.lake.disk import clear_dead, make_folder, told
from klaviyo_assets.lake.layout import DAMAGED, STAGING, table_folder


def set_aside(root: Path, name: str, *, now: datetime) -> Path:
    """Move a table out of the lake; return where it lies from now on.

    Raises:
        MissingTableError: there is no table of that name.
        LakeConflictError: a run is writing it; it stays where it is.
        StorageError: the disk refused.
    """
    folder = table_folder(root, name)
    if not folder.exists():
        raise MissingTableError(f"there is no table {name} in {root}", stream=name)
    target = root / "lake" / DAMAGED / f"{name}-{now:%Y%m%dT%H%M%S.%f}Z"
    with told(folder, name):
        if clear_dead(folder / STAGING):
            raise LakeConflictError(
                "a run is writing this table; let it end, or end it, then try again", stream=name
            )
        make_folder(target.parent)
        folder.rename(target)
    return target
