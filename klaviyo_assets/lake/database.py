"""klaviyo.duckdb: views over the files of the current versions, built beside and renamed over.

What belongs here: building, swapping and remembering what was published. What does not: the SQL
(`relations`) and the tables (`log`). DuckDB locks a file for its one writer and keeps writers out
while somebody reads, so the database is never opened for writing in place. A reader that holds the
old file goes on with the old versions, whose files stay for the grace.

Beside the lake lies `_published.json`: which version of which table the database shows. From it
follows which files a new database retires, and from when their grace counts: a file is retired
when the database that named it is replaced, not when a commit dropped it.

DuckDB is imported by what uses it. A sync keeps the garbage collector from what is there when it
begins (`sync.memory`), and DuckDB reports what of its own that covers as leaks when the process
ends, fifty lines of them.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.disk import broken, exclusive, make_folder, told
from klaviyo_assets.lake.layout import DATABASE, table_folder
from klaviyo_assets.lake.log import Snapshot, removed_since, snapshot
from klaviyo_assets.lake.relations import (
    SCHEMA,
    Plain,
    Relation,
    create_view,
    from_json,
    query,
    to_json,
)
from klaviyo_assets.lake.sql import Shown, quoted

if TYPE_CHECKING:
    import duckdb

PUBLISHED = "_published.json"
LOCK = ".klaviyo.duckdb.lock"
BESIDE = ".beside.duckdb"
WAIT_SECONDS = 60.0
"""How long a publisher waits for another; building takes well under a second."""

# Nothing may be fetched from the network, whatever a path or a function is called.
OFFLINE: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the database shows: versions by table, and the relations that are not plain tables."""

    versions: Mapping[str, int] = field(default_factory=dict[str, int])
    relations: tuple[Relation, ...] = ()


def published(root: Path) -> Published:
    """Return what the last publisher showed; nothing where that is not known."""
    try:
        known = json.loads((root / "lake" / PUBLISHED).read_bytes())
        return Published(
            versions={str(name): int(number) for name, number in known["versions"].items()},
            relations=tuple(from_json(each) for each in known["relations"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # A cache: what it says is found out anew by the next publisher.
        return Published()


def stored_tables(root: Path) -> Iterator[str]:
    """Yield the names of the tables in the lake, histories included, in order."""
    for folder in sorted((root / "lake").glob("*/_delta_log")):
        name = folder.parent.name
        with suppress(LakeError):
            table_folder(root, name)
            yield name


def shown(root: Path, found: Mapping[str, Snapshot]) -> dict[str, Shown]:
    """Return the tables as relations use them."""
    return {
        name: Shown(
            schema=one.schema,
            paths=tuple(table_folder(root, name) / file.path for file in one.files),
        )
        for name, one in found.items()
    }


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
            found, problems = snapshots(root)
            beside = root / BESIDE
            for left in (beside, beside.with_suffix(".duckdb.wal")):
                left.unlink(missing_ok=True)
            with told(root / DATABASE, None):
                problems += build(beside, shown(root, found), relations)
            retire(root, found)
            beside.replace(root / DATABASE)
            remember(root, found, relations)
    return tuple(problems)


def snapshots(root: Path) -> tuple[dict[str, Snapshot], list[LakeError]]:
    """Return all readable tables, and an error for each of the others."""
    found: dict[str, Snapshot] = {}
    problems: list[LakeError] = []
    for name in stored_tables(root):
        try:
            one = snapshot(table_folder(root, name), name)
        except LakeError as problem:
            problems.append(problem)
        else:
            if one is not None:
                found[name] = one
    return found, problems


def build(
    path: Path, tables: Mapping[str, Shown], relations: Sequence[Relation]
) -> list[LakeError]:
    """Write a database with a view for each relation that can be shown; return the others' errors.

    The statements name the catalog, because it may be called like the schema.
    """
    import duckdb  # noqa: PLC0415 - late, as the head of this file says

    problems: list[LakeError] = []
    with duckdb.connect(path, config=OFFLINE) as connection:
        catalog = str(connection.execute("SELECT current_database()").fetchall()[0][0])
        connection.execute(f"CREATE SCHEMA {quoted(catalog)}.{quoted(SCHEMA)}")
        for relation in all_relations(tables, relations):
            sql = query(relation, tables)
            if sql is None:
                continue
            try:
                connection.execute(create_view(relation, sql, catalog=catalog))
            except duckdb.Error:
                problems.append(broken(path.parent / "lake" / relation.name, relation.name))
    return problems


def all_relations(tables: Mapping[str, Shown], relations: Sequence[Relation]) -> list[Relation]:
    """Return the given relations, and a plain one for every table that none of them is named as."""
    named = {relation.name for relation in relations}
    others = [Plain(name=name) for name in tables if name not in named]
    return [*relations, *others]


def retire(root: Path, found: Mapping[str, Snapshot]) -> None:
    """Start the grace of the files that the database shows and its successor will not."""
    known = published(root).versions
    for name, one in found.items():
        folder = table_folder(root, name)
        for path in removed_since(folder, after=known.get(name, one.version)):
            with suppress(FileNotFoundError):
                os.utime(folder / path)


def remember(root: Path, found: Mapping[str, Snapshot], relations: Sequence[Relation]) -> None:
    """Write down what the database shows now."""
    target = root / "lake" / PUBLISHED
    half = target.with_suffix(".part")
    known = {
        "versions": {name: one.version for name, one in found.items()},
        "relations": [to_json(each) for each in relations if not isinstance(each, Plain)],
    }
    half.write_text(json.dumps(known), encoding="utf-8")
    half.replace(target)


def load() -> None:
    """Import DuckDB, 70 ms of work, for whoever has the time now."""
    import_module("duckdb")


def connection() -> "duckdb.DuckDBPyConnection":
    """Return a connection in memory, in UTC, that fetches nothing."""
    import duckdb  # noqa: PLC0415 - late, as the head of this file says

    made = duckdb.connect(":memory:", config=OFFLINE)
    made.execute("SET TimeZone = 'UTC'")
    return made
