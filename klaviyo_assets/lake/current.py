"""The tables as they are now: versions, columns and files.

What belongs here: what can be known of a table without reading its log twice. What does not: the
log (`log`), and what a writer carries from commit to commit (`writing`). A run publishes once a
stream, and each time looks at every table: a dozen times sixteen logs in the hourly job, of which
all but one are as they were.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.layout import table_folder
from klaviyo_assets.lake.log import commit_path, newest_version, snapshot
from klaviyo_assets.lake.sql import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """A table at its newest version."""

    version: int
    shown: Shown


Seen = tuple[int, int, int, int]
"""The newest commit of a log: version, and its file's number, size and time. Commits stay as they
are once they are written; a table that was put away and begun anew has others."""

_known: dict[Path, tuple[Seen, Current]] = {}
"""By folder, what was read last."""


def current(root: Path, name: str) -> Current | None:
    """Return a table as it is now; None where there is none.

    Raises:
        CorruptFileError: the log cannot be read.
        LakeVersionError: a later version, or another engine's feature, that we do not read.
    """
    folder = table_folder(root, name)
    seen = _newest(folder)
    before = _known.get(folder)
    if seen is not None and before is not None and before[0] == seen:
        return before[1]
    found = snapshot(folder, name)
    if found is None:
        return None
    shown = Shown(schema=found.schema, paths=tuple(folder / file.path for file in found.files))
    now = Current(version=found.version, shown=shown)
    if seen is not None:
        _known[folder] = seen, now
    return now


def stored_columns(root: Path, name: str) -> list[str] | None:
    """Return the names of a table's columns as they are now; None where there is no table.

    Raises:
        CorruptFileError, LakeVersionError: as for `current`.
    """
    found = current(root, name)
    return None if found is None else found.shown.schema.names


def stored_tables(root: Path) -> Iterator[str]:
    """Yield the names of the tables in the lake, histories included, in order."""
    for folder in sorted((root / "lake").glob("*/_delta_log")):
        name = folder.parent.name
        with suppress(LakeError):
            table_folder(root, name)
            yield name


def tables_now(root: Path) -> tuple[dict[str, Current], list[LakeError]]:
    """Return all readable tables, and an error for each of the others."""
    found: dict[str, Current] = {}
    problems: list[LakeError] = []
    for name in stored_tables(root):
        try:
            one = current(root, name)
        except LakeError as problem:
            problems.append(problem)
        else:
            if one is not None:
                found[name] = one
    return found, problems


def _newest(folder: Path) -> Seen | None:
    """Return the newest commit; None where there is none, or where it went away meanwhile."""
    version = newest_version(folder)
    if version is None:
        return None
    with suppress(FileNotFoundError):
        file = commit_path(folder, version).stat()
        return version, file.st_ino, file.st_size, file.st_mtime_ns
    return None
