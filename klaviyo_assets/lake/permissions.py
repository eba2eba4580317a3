"""Modes of the lake's folders and files: who else on this machine may read them.

What belongs here: the setting `KLAVIYO_FOLDER_MODE` on the disk. A publisher applies it, because it
knows what is new: to a table's folders, and to its files without the right to enter (750: 640).
What readers have no use for (staged files, answers, quarantine, erasures; all names that begin with
`_` but the log's) stays with its owner. Without the setting no mode of what is there is touched.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from klaviyo_assets.lake.layout import table_folder
from klaviyo_assets.lake.log import LOG

FILE_BITS = 0o666
ALL_BITS = 0o777


def apply_folder_mode(root: Path, names: Iterable[str], mode: int) -> None:
    """Give the data folder, `lake/` and the folders and files of some tables this mode.

    Of the data folder itself, which may hold more than the lake, nothing is taken away.

    Raises:
        OSError: it is another user's.
    """
    for name in names:
        apply_to_table(table_folder(root, name), mode)
    set_mode(root / "lake", mode)
    set_mode(root, mode | mode_of(root))


def apply_to_table(folder: Path, mode: int) -> None:
    """Give a table's folders and files a mode; what readers have no use for is left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name == LOG or not name.startswith("_")]
        set_mode(Path(place), mode)
        for name in files:
            set_mode(Path(place, name), mode & FILE_BITS)


def set_mode(path: Path, mode: int) -> None:
    """Set the mode of a file or folder where it has another; a group that is passed on stays so."""
    known = path.stat().st_mode
    if known & ALL_BITS != mode:
        path.chmod(stat.S_IMODE(known) & ~ALL_BITS | mode)


def mode_of(path: Path) -> int:
    """Return what owner, group and others may do with a file or folder."""
    return path.stat().st_mode & ALL_BITS
