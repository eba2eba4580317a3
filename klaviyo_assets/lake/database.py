"""klaviyo.duckdb: views over the files of the current versions, built beside and renamed over.

What belongs here: building and swapping. What does not: the SQL (`relations`), the tables
(`current`) and what is noted of a database (`published`). DuckDB locks a file for its one writer
and keeps writers out while somebody reads, so the database is never opened for writing in place. A
reader that holds the old file goes on with the old versions, whose files stay as long as it does
(`open_readers`).

Most commits of an hourly job bring a new mark and no rows: then the database stays as it is. The
others change a view or two of two dozen, and then the rest is copied: to create and describe all of
them takes 0.3 s of CPU, to change one 0.02 to 0.05.

A program that opens the database for writing puts a side file beside it, by the database's name
(`klaviyo.duckdb.wal`). Where that program was killed, or goes on after a swap, the side file stays,
and DuckDB reads it into the new database, which it has nothing to do with. So the swap removes it,
and a publisher that finds one builds anew.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.current import Current, tables_now
from klaviyo_assets.lake.disk import broken, exclusive, make_folder, told
from klaviyo_assets.lake.engine import CATALOG, database_at
from klaviyo_assets.lake.layout import DATABASE, table_folder
from klaviyo_assets.lake.log import removed_since
from klaviyo_assets.lake.open_readers import follow_database, is_open_here
from klaviyo_assets.lake.permissions import FILE_BITS, apply_folder_mode, set_mode
from klaviyo_assets.lake.published import (
    Published,
    digest_of,
    fingerprint,
    published,
    remember,
    side_files,
)
from klaviyo_assets.lake.relations import Relation, all_relations, create_relation, drop_view
from klaviyo_assets.lake.sql import create_lake_file

if TYPE_CHECKING:
    import duckdb

LOCK = ".klaviyo.duckdb.lock"
BESIDE = ".beside.duckdb"
WAIT_SECONDS = 60.0
"""How long a publisher waits for another; building takes well under a second."""


def publish(
    root: Path,
    relations: Sequence[Relation],
    *,
    lake_root: str | None = None,
    folder_mode: str = "",
) -> tuple[LakeError, ...]:
    """Show the whole lake as it is now; return what could not be shown, table by table.

    Every table has a view, and every one of `relations` whose tables were read. Two publishers at
    once wait for each other, and the later one sees what both have committed. `lake_root` is the
    lake's folder as readers have it mounted, "" for here and None for what it was; `folder_mode`
    the mode of its folders, octal, "" to leave those that are there as they are.

    Raises:
        StorageError: the folder cannot be written, or another publisher does not end.
    """
    with told(root, None):
        make_folder(root / "lake")
        with exclusive(root / LOCK, seconds=WAIT_SECONDS):
            found, problems = tables_now(root)
            before = published(root)
            place = before.lake_root if lake_root is None else lake_root
            views = statements(root, found, relations, place=place)
            digests = {name: digest_of([place, *view]) for name, view in views.items()}
            give_modes(root, found, before, folder_mode)
            intact = before.views if is_intact(root, found, before) else None
            if intact != digests:
                kept = kept_views(root, intact or {}, digests)
                failed = build(root, views, kept=kept, place=place)
                problems += failed
                retire(root, found, before)
                if folder_mode:
                    set_mode(root / BESIDE, int(folder_mode, 8) & FILE_BITS)
                follow_database(root, root / BESIDE, found)
                swap(root)
                for problem in failed:
                    digests.pop(str(problem.stream))
            now = Published(
                versions={name: one.version for name, one in found.items()},
                relations=tuple(relations),
                views=digests,
                file=fingerprint(root / DATABASE),
                lake_root=place,
                folder_mode=folder_mode,
            )
            remember(root, now)
    return tuple(problems)


def statements(
    root: Path, found: Mapping[str, Current], relations: Sequence[Relation], *, place: str
) -> dict[str, tuple[str, ...]]:
    """Return the statements that create and describe each view, by its name.

    `place` is the lake's folder as readers have it, "" where they have it here.
    """
    below = root / "lake" if place else None
    tables = {name: replace(one.shown, below=below) for name, one in found.items()}
    made = {
        relation.name: create_relation(relation, tables, catalog=CATALOG, kind="VIEW")
        for relation in all_relations(found, relations)
    }
    return {name: view for name, view in made.items() if view is not None}


def give_modes(
    root: Path, found: Mapping[str, Current], before: Published, folder_mode: str
) -> None:
    """Give folders and files their mode: all if the setting is new, else those of new commits."""
    if not folder_mode:
        return
    is_new = folder_mode != before.folder_mode
    names = [
        name for name, one in found.items() if is_new or before.versions.get(name) != one.version
    ]
    if names:
        apply_folder_mode(root, names, int(folder_mode, 8))
    if is_new and (root / DATABASE).exists():
        set_mode(root / DATABASE, int(folder_mode, 8) & FILE_BITS)


def kept_views(
    root: Path, before: Mapping[str, str], digests: Mapping[str, str]
) -> Collection[str]:
    """Return the names of the views that can be copied with the database that has them.

    None, where this process has that one open: to copy it would lift DuckDB's lock on it, by which
    others know that it is in use (`open_readers`).
    """
    kept = {name for name, digest in before.items() if digests.get(name) == digest}
    return () if kept and is_open_here(root / DATABASE) else kept


def is_intact(root: Path, found: Mapping[str, Current], before: Published) -> bool:
    """Tell whether the database is the one that the last publisher made.

    Where a table's first file is gone, it is built anew: DuckDB finds that, and it is told.
    """
    if not all(path.exists() for one in found.values() for path in one.shown.paths[:1]):
        return False
    return bool(before.file) and before.file == fingerprint(root / DATABASE)


def build(
    root: Path, views: Mapping[str, Sequence[str]], *, kept: Collection[str], place: str = ""
) -> list[LakeError]:
    """Write a database with these views beside the old one; return the errors of those that failed.

    Those that are `kept` are copied with the old one. `place` is the lake's folder as readers have
    it, "" for here.
    """
    beside = root / BESIDE
    for left in (beside, *side_files(beside)):
        left.unlink(missing_ok=True)
    if kept:
        copyfile(root / DATABASE, beside)
    with told(root / DATABASE, None), database_at(beside) as connection:
        for name in sorted(view_names(connection) - set(kept)):
            connection.execute(drop_view(name, catalog=CATALOG))
        if place:
            connection.execute(create_lake_file(str(root / "lake"), catalog=CATALOG))
        new = {name: view for name, view in views.items() if name not in kept}
        failed = create_views(connection, new)
        if place:
            connection.execute(create_lake_file(place, catalog=CATALOG))
    return [broken(root / "lake" / name, name) for name in failed]


def create_views(
    connection: "duckdb.DuckDBPyConnection", views: Mapping[str, Sequence[str]]
) -> list[str]:
    """Create views and their comments; return the names of those that failed.

    One transaction a view: outside of one, each comment takes twice as long.
    """
    # Whoever gets here has DuckDB in memory already, or will in a moment.
    import duckdb  # noqa: PLC0415 - late, as `engine` says

    failed: list[str] = []
    for name, view in views.items():
        connection.begin()
        try:
            connection.execute("; ".join(view))
        except duckdb.Error:
            connection.rollback()
            failed.append(name)
        else:
            connection.commit()
    return failed


def view_names(connection: "duckdb.DuckDBPyConnection") -> set[str]:
    """Return the names of the views that a database that is being written has."""
    sql = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND database_name = ?"
    return {str(name) for (name,) in connection.execute(sql, [CATALOG]).fetchall()}


def swap(root: Path) -> None:
    """Put the new database in the old one's place, without what other programs left beside that.

    The side files go first: a reader in between finds the old database as it was published, never
    the new one with them. A program that still has the old one open for writing may make another
    at any time; the next publisher removes that.
    """
    for left in side_files(root / DATABASE):
        left.unlink(missing_ok=True)
    (root / BESIDE).replace(root / DATABASE)
    for left in side_files(root / DATABASE):
        left.unlink(missing_ok=True)


def retire(root: Path, found: Mapping[str, Current], before: Published) -> None:
    """Start the grace of the files that the database shows and its successor will not."""
    for name, one in found.items():
        folder = table_folder(root, name)
        for path in removed_since(folder, after=before.versions.get(name, one.version)):
            with suppress(FileNotFoundError):
                os.utime(folder / path)
