"""klaviyo.duckdb: views over the files of the current versions, built beside and renamed over.

What belongs here: building and swapping. What does not: the SQL (`relations`), the tables
(`current`) and what is noted of a database (`published`). DuckDB locks a file for its one writer
and keeps writers out while somebody reads, so the database is never opened for writing in place. A
reader that holds the old file goes on with the old versions, whose files stay for the grace.

Most commits of an hourly job bring a new mark and no rows: then the database stays as it is.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.current import Current, tables_now
from klaviyo_assets.lake.disk import broken, exclusive, make_folder, told
from klaviyo_assets.lake.engine import CATALOG, database_at
from klaviyo_assets.lake.layout import DATABASE, table_folder
from klaviyo_assets.lake.log import removed_since
from klaviyo_assets.lake.published import Published, published, remember, seal_of
from klaviyo_assets.lake.relations import Relation, all_relations, create_view

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
            before = published(root)
            seal = before.seal if is_shown(root, found, views, before) else ""
            if not seal:
                failed = build(root, views)
                problems += failed
                retire(root, found, before)
                (root / BESIDE).replace(root / DATABASE)
                seal = "" if failed else seal_of(root, views)
            versions = {name: one.version for name, one in found.items()}
            now = Published(versions=versions, relations=tuple(relations), seal=seal)
            remember(root, now)
    return tuple(problems)


def statements(
    found: Mapping[str, Current], relations: Sequence[Relation]
) -> dict[str, tuple[str, ...]]:
    """Return the statements that create and describe each view, by its name."""
    tables = {name: one.shown for name, one in found.items()}
    made = {
        relation.name: create_view(relation, tables, catalog=CATALOG)
        for relation in all_relations(found, relations)
    }
    return {name: view for name, view in made.items() if view is not None}


def is_shown(
    root: Path,
    found: Mapping[str, Current],
    views: Mapping[str, Sequence[str]],
    before: Published,
) -> bool:
    """Tell whether the database is there, and is what the last publisher made of these views.

    Where a table's first file is gone, it is built anew: DuckDB finds that, and it is told.
    """
    if not all(path.exists() for one in found.values() for path in one.shown.paths[:1]):
        return False
    with suppress(FileNotFoundError):
        return bool(before.seal) and before.seal == seal_of(root, views)
    return False


def build(root: Path, views: Mapping[str, Sequence[str]]) -> list[LakeError]:
    """Write a database with these views beside the old one; return the errors of those that failed.

    One transaction a view: outside of one, each comment takes twice as long.
    """
    # Whoever gets here has DuckDB in memory already, or will in a moment.
    import duckdb  # noqa: PLC0415 - late, as `engine` says

    beside = root / BESIDE
    for left in (beside, beside.with_suffix(".duckdb.wal")):
        left.unlink(missing_ok=True)
    problems: list[LakeError] = []
    with told(root / DATABASE, None), database_at(beside) as connection:
        for name, statements_of_view in views.items():
            connection.begin()
            try:
                connection.execute("; ".join(statements_of_view))
            except duckdb.Error:
                connection.rollback()
                problems.append(broken(root / "lake" / name, name))
            else:
                connection.commit()
    return problems


def retire(root: Path, found: Mapping[str, Current], before: Published) -> None:
    """Start the grace of the files that the database shows and its successor will not."""
    for name, one in found.items():
        folder = table_folder(root, name)
        for path in removed_since(folder, after=before.versions.get(name, one.version)):
            with suppress(FileNotFoundError):
                os.utime(folder / path)
