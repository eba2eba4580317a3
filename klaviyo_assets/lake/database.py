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
from klaviyo_assets.lake.published import (
    Published,
    digest_of,
    fingerprint,
    published,
    remember,
    side_files,
)
from klaviyo_assets.lake.relations import Relation, all_relations, create_relation, drop_view

if TYPE_CHECKING:
    import duckdb

LOCK = ".klaviyo.duckdb.lock"
BESIDE = ".beside.duckdb"
WAIT_SECONDS = 60.0
"""How long a publisher waits for another; building takes well under a second."""


def publish(root: Path, relations: Sequence[Relation]) -> tuple[LakeError, ...]:
    """Show the whole lake as it is now; return what could not be shown, table by table.

    Every table has a view, and every one of `relations` whose tables were read. Two publishers at
    once wait for each other, and the later one sees what both have committed.

    Raises:
        StorageError: the folder cannot be written, or another publisher does not end.
    """
    with told(root, None):
        make_folder(root / "lake")
        with exclusive(root / LOCK, seconds=WAIT_SECONDS):
            found, problems = tables_now(root)
            views = statements(found, relations)
            digests = {name: digest_of(view) for name, view in views.items()}
            before = published(root)
            intact = before.views if is_intact(root, found, before) else None
            if intact != digests:
                failed = build(root, views, kept=kept_views(root, intact or {}, digests))
                problems += failed
                retire(root, found, before)
                follow_database(root, root / BESIDE, found)
                swap(root)
                for problem in failed:
                    digests.pop(str(problem.stream))
            now = Published(
                versions={name: one.version for name, one in found.items()},
                relations=tuple(relations),
                views=digests,
                file=fingerprint(root / DATABASE),
            )
            remember(root, now)
    return tuple(problems)


def statements(
    found: Mapping[str, Current], relations: Sequence[Relation]
) -> dict[str, tuple[str, ...]]:
    """Return the statements that create and describe each view, by its name."""
    tables = {name: one.shown for name, one in found.items()}
    made = {
        relation.name: create_relation(relation, tables, catalog=CATALOG, kind="VIEW")
        for relation in all_relations(found, relations)
    }
    return {name: view for name, view in made.items() if view is not None}


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
    root: Path, views: Mapping[str, Sequence[str]], *, kept: Collection[str]
) -> list[LakeError]:
    """Write a database with these views beside the old one; return the errors of those that failed.

    Those that are `kept` are copied with the old one. One transaction a view: outside of one, each
    comment takes twice as long.
    """
    # Whoever gets here has DuckDB in memory already, or will in a moment.
    import duckdb  # noqa: PLC0415 - late, as `engine` says

    beside = root / BESIDE
    for left in (beside, *side_files(beside)):
        left.unlink(missing_ok=True)
    if kept:
        copyfile(root / DATABASE, beside)
    problems: list[LakeError] = []
    with told(root / DATABASE, None), database_at(beside) as connection:
        for name in sorted(view_names(connection) - set(kept)):
            connection.execute(drop_view(name, catalog=CATALOG))
        for name, statements_of_view in views.items():
            if name in kept:
                continue
            connection.begin()
            try:
                connection.execute("; ".join(statements_of_view))
            except duckdb.Error:
                connection.rollback()
                problems.append(broken(root / "lake" / name, name))
            else:
                connection.commit()
    return problems


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
