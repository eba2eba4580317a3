"""Writes views of the lake into a database of the user's own, and keeps the files that they name.

The views name files of the version that they were written for, as those of klaviyo.duckdb do. That
database is replaced after each commit; a user's file is not, since another program may have it
open. So the lake remembers which files each such database names, and vacuum spares them until
the views are written anew, or the database is gone.

    lake/_targets.json      {"/srv/shop.duckdb": {"klaviyo": {"flows": ["part-..."]}}}
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from klaviyo_assets.errors import MissingTableError, SettingError, StorageError
from klaviyo_assets.lake.disk import hold_lock, map_storage_errors
from klaviyo_assets.lake.layout import DATABASE_FILE, TARGETS_FILE
from klaviyo_assets.lake.read.database import PUBLISH_LOCK_TIMEOUT_SECONDS, list_paths_by_table
from klaviyo_assets.lake.read.duckdb import (
    DUCKDB_STORAGE_VERSION,
    open_connection,
    quote_identifier,
    quote_literal,
)
from klaviyo_assets.lake.read.export import DUCKDB_MAGIC, DUCKDB_MAGIC_OFFSET
from klaviyo_assets.lake.read.mapped_views import (
    OWN_COMMENT,
    MappedViewSql,
    build_mapped_statements,
    build_mapped_view,
)
from klaviyo_assets.lake.read.views import (
    Relation,
    add_plain_relations,
    load_current_tables,
)
from klaviyo_assets.lake.response_cache import write_file_atomically
from klaviyo_assets.model.mapped_view import MappedSchema

if TYPE_CHECKING:
    import duckdb

TARGET_CATALOG = "target"
"""The catalog name of the user's database while its views are written; they do not contain it."""

TableFileNames = Mapping[str, Sequence[str]]
"""The files that views name, by table, relative to the table's folder."""

TargetFiles = Mapping[str, Mapping[str, TableFileNames]]
"""The same by database and schema."""

NO_FILES: TableFileNames = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetView:
    """A view as it was written: its rows, and the relations that the lake does not have."""

    name: str
    rows: int
    missing: tuple[str, ...]


def refuse_target(root: Path, target: Path, *, schema: str) -> None:
    """Refuse a file that is no place for views in this schema.

    Raises:
        SettingError: the message says why, and what to do.
    """
    own = (root / DATABASE_FILE).resolve()
    if target.resolve() == own or (root / "lake").resolve() in target.resolve().parents:
        raise SettingError(f"{target} is the lake's own: name a database of yours")
    if target.stem.casefold() == schema.casefold():
        raise SettingError(
            f"a database in {target.name} is called {target.stem}, as its schema {schema} would "
            f"be, and DuckDB could not tell {schema}.<table> of the one from that of the other: "
            "give the file another name"
        )
    if not target.parent.is_dir():
        raise SettingError(f"{target.parent} is no folder: make it first, or give another place")
    if target.is_dir():
        raise SettingError(f"{target} is a folder: give a file's name")
    if target.exists() and target.stat().st_size:
        with target.open("rb") as file:
            head = file.read(DUCKDB_MAGIC_OFFSET + len(DUCKDB_MAGIC))
        if head[DUCKDB_MAGIC_OFFSET:] != DUCKDB_MAGIC:
            raise SettingError(f"{target} is no DuckDB database; it stays as it is")


def write_target_views(
    root: Path, target: Path, mapped: MappedSchema, relations: Sequence[Relation], *, at: datetime
) -> list[TargetView]:
    """Write the views of `mapped` into a database, which is created where it does not exist.

    All views or none are written. From now on vacuum spares the files that they name.

    Raises:
        SettingError: the target cannot be used, or its schema has a table or view of that name
            that is not ours.
        MissingTableError: the lake has nothing that a view could show.
        StorageError: the disk refused, or another program has the database open.
        LakeError: a table that a view reads is damaged.
    """
    refuse_target(root, target, schema=mapped.schema)
    found, problems = load_current_tables(root)
    known = {each.name: each for each in add_plain_relations(found, relations)}
    tables = {name: one.files for name, one in found.items()}
    built = [build_mapped_view(view, known, tables) for view in mapped.views]
    for problem in problems:
        if any(problem.stream in each.missing for each in built):
            raise problem
    if all(each.is_empty for each in built):
        raise MissingTableError(f"no lake in {root} (KLAVIYO_DATA_DIR): nothing was synced yet")
    names = frozenset[str]().union(*(each.tables for each in built))
    files = list_paths_by_table(root, {name: found[name] for name in names})
    if str(target) in read_targets(root):
        # A vacuum before the views are written must spare the old files and the new ones.
        record_target_files(root, target, mapped.schema, files, keeps_known=True, at=at)
    rows = _write_views(target, mapped.schema, built)
    record_target_files(root, target, mapped.schema, files, keeps_known=False, at=at)
    return [
        TargetView(name=each.view.name, rows=count, missing=each.missing)
        for each, count in zip(built, rows, strict=True)
    ]


def _write_views(target: Path, schema: str, built: Sequence[MappedViewSql]) -> list[int]:
    """Write all views in one transaction; return how many rows each shows."""
    import duckdb  # noqa: PLC0415 - late, see `read/duckdb.py`

    is_new = not target.exists()
    options = f" (STORAGE_VERSION {quote_literal(DUCKDB_STORAGE_VERSION)})" if is_new else ""
    with open_connection() as opened:
        try:
            opened.execute(
                f"ATTACH {quote_literal(str(target))} AS "
                f"{quote_identifier(TARGET_CATALOG)}{options}"
            )
        except duckdb.Error:
            # `from None`: what DuckDB says is of its own files.
            raise StorageError(
                f"{target} cannot be opened for writing: another program, such as dbt, may have it "
                "open, or a later DuckDB wrote it; let that program end, then try again"
            ) from None
        opened.begin()
        opened.execute(
            f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(TARGET_CATALOG)}."
            f"{quote_identifier(schema)}"
        )
        for each in built:
            _refuse_other_relation(opened, schema, each.view.name)
            with map_storage_errors(target, each.view.name):
                for statement in build_mapped_statements(
                    each, catalog=TARGET_CATALOG, schema=schema
                ):
                    opened.execute(statement)
        rows = [_count_rows(opened, target, schema, each.view.name) for each in built]
        opened.commit()
        opened.execute(f"DETACH {quote_identifier(TARGET_CATALOG)}")
    return rows


def _refuse_other_relation(opened: "duckdb.DuckDBPyConnection", schema: str, name: str) -> None:
    """Refuse to replace a table, or a view that we did not write.

    Raises:
        SettingError: there is one of that name.
    """
    found = opened.execute(
        "SELECT 'table', NULL FROM duckdb_tables() WHERE (database_name, schema_name, table_name) "
        "= ($1, $2, $3) UNION ALL SELECT 'view', comment FROM duckdb_views() "
        "WHERE (database_name, schema_name, view_name) = ($1, $2, $3)",
        [TARGET_CATALOG, schema, name],
    ).fetchall()
    for kind, comment in found:
        if kind == "table" or not str(comment).endswith(OWN_COMMENT):
            raise SettingError(
                f"there is a {kind} {schema}.{name} already, which klaviyo-assets did not write: "
                "rename or drop it, or give another file or --schema"
            )


def _count_rows(opened: "duckdb.DuckDBPyConnection", target: Path, schema: str, name: str) -> int:
    full = ".".join(map(quote_identifier, (TARGET_CATALOG, schema, name)))
    with map_storage_errors(target, name):
        ((rows,),) = opened.execute(f"SELECT count(*) FROM {full}").fetchall()
    return int(rows)


def read_targets(root: Path) -> TargetFiles:
    """Return which files the databases with views of ours name, without databases that are gone."""
    with suppress(OSError, ValueError, AttributeError):
        known = json.loads((root / "lake" / TARGETS_FILE).read_bytes())
        return {path: schemas for path, schemas in known.items() if Path(path).exists()}
    return {}


def record_target_files(  # noqa: PLR0913 - one entry of the file, by name
    root: Path,
    target: Path,
    schema: str,
    files: TableFileNames,
    *,
    keeps_known: bool,
    at: datetime,
) -> None:
    """Record which files the views in one schema of a database name, for vacuum and erasure.

    `keeps_known`: those recorded before stay as well.

    Raises:
        StorageError: the disk refused.
    """
    place = root / "lake" / TARGETS_FILE
    lock = place.with_suffix(".lock")
    with (
        map_storage_errors(place, None),
        hold_lock(lock, timeout_seconds=PUBLISH_LOCK_TIMEOUT_SECONDS),
    ):
        known = dict(read_targets(root))
        schemas = dict(known.get(str(target), {}))
        before = schemas.get(schema, NO_FILES) if keeps_known else NO_FILES
        schemas[schema] = {
            name: [*before.get(name, ()), *files.get(name, ())] for name in {*before, *files}
        }
        known[str(target)] = schemas
        write_file_atomically(place, json.dumps(known).encode(), modified_at=at.timestamp())


def find_target_files(root: Path) -> dict[str, set[str]]:
    """Return the files, by table, that views in users' databases name."""
    files: dict[str, set[str]] = {}
    for schemas in read_targets(root).values():
        for tables in schemas.values():
            for name, paths in tables.items():
                files.setdefault(name, set()).update(paths)
    return files
