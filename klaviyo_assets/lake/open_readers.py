"""Open readers: which replaced databases somebody still has open, and the files that they name.

What belongs here: a hold on each database that was published, and the question whether a process
has it open. What does not: deleting files (`upkeep`). A connection that stays open, as that of a BI
tool or a notebook does, goes on with the database that it opened: with views that name the files of
one version. Those files stay as long as the connection does, and not an hour longer than anybody
else's: to keep every version for a day would keep 24 copies of a table that each hourly sync
rewrites, and to keep the versions that are open keeps one for each.

    lake/_readers/<name>.duckdb     the published database itself, as a second name of its file
                  <name>.json       the files that its views name, by table

DuckDB locks the file that it has open, whatever its release and language, so that a lock of ours is
refused. Where locks do not reach, as between two machines, a reader is not seen, and has the grace
alone; where a file can have no second name, as on FAT, too.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from klaviyo_assets.lake.current import Current
from klaviyo_assets.lake.disk import make_folder
from klaviyo_assets.lake.layout import DATABASE, READERS, table_folder


def follow_database(root: Path, built: Path, found: Mapping[str, Current]) -> None:
    """Hold on to a database that is about to be published, and note the files that it names.

    What it replaces counts as replaced from now on.
    """
    folder = root / "lake" / READERS
    make_folder(folder)
    for note in folder.glob("*.json"):
        if is_same_file(note.with_suffix(".duckdb"), root / DATABASE):
            os.utime(note)
    note = folder / f"{uuid4().hex}.json"
    note.write_text(json.dumps(files_by_table(root, found)), encoding="utf-8")
    try:
        note.with_suffix(".duckdb").hardlink_to(built)
    except OSError:
        note.unlink()


def files_by_table(root: Path, found: Mapping[str, Current]) -> dict[str, list[str]]:
    """Return the files of each table, relative to its folder."""
    return {
        name: [str(path.relative_to(table_folder(root, name))) for path in one.shown.paths]
        for name, one in found.items()
    }


def files_in_use(root: Path, *, before: datetime) -> dict[str, set[str]]:
    """Return the files by table that open databases name; forget those nobody has open any more.

    One that was replaced after `before` is not forgotten: somebody may be about to open it.
    """
    files: dict[str, set[str]] = {}
    for note in (root / "lake" / READERS).glob("*.json"):
        held = note.with_suffix(".duckdb")
        with suppress(FileNotFoundError):
            if is_same_file(held, root / DATABASE):
                continue
            if is_open(held):
                for name, paths in json.loads(note.read_bytes()).items():
                    files.setdefault(name, set()).update(paths)
            elif note.stat().st_mtime <= before.timestamp():
                held.unlink(missing_ok=True)
                note.unlink(missing_ok=True)
    return files


def is_older_open(root: Path) -> bool:
    """Tell whether a program has a database open that another one was published after."""
    held = (root / "lake" / READERS).glob("*.duckdb")
    return any(is_open(each) for each in held if not is_same_file(each, root / DATABASE))


def is_same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths name one file; False where one names none."""
    with suppress(FileNotFoundError):
        return one.samefile(other)
    return False


def is_open(database: Path) -> bool:
    """Tell whether a process has a database open; False where there is none.

    To close a file lifts every lock that this process has on it, so one that this very process has
    open must not be opened again.
    """
    if not database.exists():
        return False
    if is_open_here(database):
        return True
    number = os.open(database, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        # This file system knows no locks, DuckDB's neither.
        return False
    finally:
        os.close(number)
    return False


def is_open_here(database: Path) -> bool:
    """Tell whether this process has a file open."""
    known = database.stat()
    for number in Path("/dev/fd").iterdir():
        with suppress(OSError):
            if os.path.samestat(os.fstat(int(number.name)), known):
                return True
    return False
