"""Modes of the lake's folders and files: who else on this machine may read them."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from klaviyo_assets.lake.delta.log import DELTA_LOG_FOLDER
from klaviyo_assets.lake.layout import table_folder

FILE_MODE_MASK = 0o666
MODE_MASK = 0o777


def apply_folder_mode(root: Path, names: Iterable[str], mode: int) -> None:
    """Give the data folder, `lake/` and the folders and files of some tables this mode.

    Of the data folder itself, which may hold more than the lake, nothing is taken away.

    Raises:
        OSError: it is another user's.
    """
    for name in names:
        apply_table_mode(table_folder(root, name), mode)
    set_mode(root / "lake", mode)
    set_mode(root, mode | read_mode(root))


def apply_table_mode(folder: Path, mode: int) -> None:
    """Give a table's folders and files a mode; what readers have no use for is left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if name == DELTA_LOG_FOLDER or not name.startswith("_")
        ]
        set_mode(Path(place), mode)
        for name in files:
            set_mode(Path(place, name), mode & FILE_MODE_MASK)


def set_mode(path: Path, mode: int) -> None:
    """Set the mode of a file or folder where it has another; a group that is passed on stays so."""
    known = path.stat().st_mode
    if known & MODE_MASK != mode:
        path.chmod(stat.S_IMODE(known) & ~MODE_MASK | mode)


def read_mode(path: Path) -> int:
    """Return what owner, group and others may do with a file or folder."""
    return path.stat().st_mode & MODE_MASK
