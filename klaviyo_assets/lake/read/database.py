"""Publishes klaviyo.duckdb: builds it, swaps it in, and tracks who has a replaced one open.

Most commits of an hourly job move the high-water mark and bring no rows: then the database is not
rebuilt. The others change the files of a table. Views do not name files: each table has a macro
that returns the paths of its files, and the views of the table call it. So a commit copies the
database and replaces one macro, in 0.03 s of CPU; a view is created anew only if its columns or its
SQL changed. To create and describe those of the profiles again took 0.2 s (decision 9).

A program that opens the database for writing puts a side file beside it, with the database's name
(`klaviyo.duckdb.wal`). If that program was killed, or continues after a swap, the side file stays,
and DuckDB would read it into the new database, to which it does not belong. So the swap removes it,
and a publisher that finds one rebuilds the database.

    lake/_readers/<name>.duckdb     a second name (hard link) of a published database
                  <name>.json       the files that its macros name, by table

DuckDB locks the file that it has open, whatever its release and language, so a lock attempt of ours
fails while somebody reads. A reader is not seen where locks do not reach, as between two machines,
or where a file can have no second name, as on FAT: it then has only the grace.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.delta.log import DELTA_LOG_FOLDER, read_paths_removed_since
from klaviyo_assets.lake.disk import (
    FILE_MODE_MASK,
    corrupt_file_error,
    create_folder,
    hold_lock,
    is_statement_error,
    map_storage_errors,
    query_error,
    read_mode,
    remove_symlink,
    set_mode,
)
from klaviyo_assets.lake.layout import (
    DATABASE_FILE,
    OPEN_READERS_FOLDER,
    TARGETS_FILE,
    table_folder,
)
from klaviyo_assets.lake.read.duckdb import (
    NEW_DATABASE_CATALOG,
    create_paths_macro,
    open_new_database,
    quote_identifier,
)
from klaviyo_assets.lake.read.views import (
    CachedTable,
    Relation,
    add_plain_relations,
    build_create_statements,
    build_drop_view,
    load_current_tables,
    relation_from_json,
    relation_to_json,
    write_table_cache,
)
from klaviyo_assets.seams import reach_crash_point

if TYPE_CHECKING:
    import duckdb

PUBLISHED_FILE = "_published.json"

PATHS_MACRO_PREFIX = "files_of_"
"""What the macro of a table's paths is called, before the table's name."""


class PublishedDatabase(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={
        "stored_relations": "relations",
        "view_digests": "views",
        "macro_digests": "macros",
        "database_fingerprint": "file",
    },
):
    """What the database shows: versions by table, and the relations that it was published with.

    `view_digests` has the digest of each view's statements, `macro_digests` that of each table's
    paths. `database_fingerprint` identifies the state of the file that has these views, "" where
    unknown. `lake_root` is the path at which readers have mounted the lake's folder, "" for the
    path here. `folder_mode` is the mode that folders were given.
    """

    versions: dict[str, int] = {}
    stored_relations: tuple[dict[str, object], ...] = ()
    view_digests: dict[str, str] = {}
    macro_digests: dict[str, str] = {}
    database_fingerprint: str = ""
    lake_root: str = ""
    folder_mode: str = ""

    @property
    def relations(self) -> list[Relation]:
        """Return the relations that it was published with."""
        return [relation_from_json(each) for each in self.stored_relations]


def read_published(root: Path) -> PublishedDatabase:
    """Return what the last publisher stored; an empty value where that is unknown."""
    with suppress(OSError, ValueError):
        raw = (root / "lake" / PUBLISHED_FILE).read_bytes()
        return msgspec.json.decode(raw, type=PublishedDatabase)
    # Only a cache: the next publisher rebuilds it.
    return PublishedDatabase()


def write_published(root: Path, published: PublishedDatabase) -> None:
    """Store what the database shows now."""
    target = root / "lake" / PUBLISHED_FILE
    part_file = target.with_suffix(".part")
    remove_symlink(part_file)
    part_file.write_bytes(msgspec.json.encode(published))
    part_file.replace(target)


def fingerprint_database(database: Path) -> str:
    """Return what identifies this state of a database file; "" where it cannot be trusted.

    That is where the file is missing, or where another program opened it for writing.
    """
    if wal_files(database):
        return ""
    try:
        file = database.stat()
    except FileNotFoundError:
        return ""
    return f"{file.st_ino} {file.st_size} {file.st_mtime_ns}"


def wal_files(database: Path) -> list[Path]:
    """Return the side files that another program, which writes to a database, has beside it."""
    return sorted(database.parent.glob(f"{database.name}.wal*"))


def remove_wal_files(database: Path) -> None:
    """Delete the side files of a database."""
    for each in wal_files(database):
        each.unlink(missing_ok=True)


def digest_statements(statements: Sequence[str]) -> str:
    """Return a hash of a view's statements."""
    return sha256("\n".join(statements).encode()).hexdigest()


def track_open_readers(root: Path, new_database: Path, tables: Mapping[str, CachedTable]) -> None:
    """Link a database that is about to be published, and store which files its macros name.

    The database that it replaces counts as replaced from now on.
    """
    folder = root / "lake" / OPEN_READERS_FOLDER
    create_folder(folder)
    for note in folder.glob("*.json"):
        if is_same_file(note.with_suffix(".duckdb"), root / DATABASE_FILE):
            os.utime(note)
    note = folder / f"{uuid4().hex}.json"
    note.write_text(json.dumps(list_paths_by_table(root, tables)), encoding="utf-8")
    try:
        note.with_suffix(".duckdb").hardlink_to(new_database)
    except OSError:
        note.unlink()


def list_paths_by_table(root: Path, tables: Mapping[str, CachedTable]) -> dict[str, list[str]]:
    """Return the files of each table, relative to the table's folder."""
    return {name: one.relative_paths(table_folder(root, name)) for name, one in tables.items()}


def find_files_in_use(root: Path, *, before: datetime) -> dict[str, set[str]]:
    """Return the files, by table, that open replaced databases name; forget those that are closed.

    A database that was replaced after `before` is not forgotten: a program may be about to open it.
    """
    files: dict[str, set[str]] = {}
    for note in (root / "lake" / OPEN_READERS_FOLDER).glob("*.json"):
        database = note.with_suffix(".duckdb")
        with suppress(FileNotFoundError):
            if is_same_file(database, root / DATABASE_FILE):
                continue
            if is_database_open(database):
                for name, paths in json.loads(note.read_bytes()).items():
                    files.setdefault(name, set()).update(paths)
            elif note.stat().st_mtime <= before.timestamp():
                database.unlink(missing_ok=True)
                note.unlink(missing_ok=True)
    return files


def has_readers_of_replaced(root: Path) -> bool:
    """Return whether a program has a database open that was replaced by a newer one."""
    databases = (root / "lake" / OPEN_READERS_FOLDER).glob("*.duckdb")
    return any(
        is_database_open(each) for each in databases if not is_same_file(each, root / DATABASE_FILE)
    )


def is_same_file(one: Path, other: Path) -> bool:
    """Return whether two paths name one existing file."""
    with suppress(FileNotFoundError):
        return one.samefile(other)
    return False


def is_database_open(database: Path) -> bool:
    """Return whether a process has a database open; False where there is none.

    To close a file drops every lock that this process has on it. So a database that this process
    has open must not be opened again here.
    """
    if not database.exists():
        return False
    if is_open_in_this_process(database):
        return True
    descriptor = os.open(database, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        # This file system has no locks, so DuckDB holds none either.
        return False
    finally:
        os.close(descriptor)
    return False


def is_open_in_this_process(database: Path) -> bool:
    """Return whether this process has a file open."""
    known = database.stat()
    for number in Path("/dev/fd").iterdir():
        with suppress(OSError):
            if os.path.samestat(os.fstat(int(number.name)), known):
                return True
    return False


def apply_folder_mode(root: Path, names: Iterable[str], mode: int) -> None:
    """Set the mode of the data folder, of `lake/`, and of some tables' folders and files.

    The data folder may hold more than the lake, so no permission on it is removed.

    Raises:
        OSError: a folder or file belongs to another user.
    """
    for name in names:
        apply_table_mode(table_folder(root, name), mode)
    set_mode(root / "lake", mode)
    set_mode(root, mode | read_mode(root))


def apply_table_mode(folder: Path, mode: int) -> None:
    """Set the mode of a table's folders and files, except folders that readers do not need."""
    for place, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if name == DELTA_LOG_FOLDER or not name.startswith("_")
        ]
        set_mode(Path(place), mode)
        for name in files:
            set_mode(Path(place, name), mode & FILE_MODE_MASK)


DATABASE_LOCK_FILE = ".klaviyo.duckdb.lock"
NEW_DATABASE_FILE = ".beside.duckdb"
PUBLISH_LOCK_TIMEOUT_SECONDS = 60.0
"""How long a publisher waits for another; building takes well under a second."""


def publish_database(
    root: Path,
    relations: Sequence[Relation],
    *,
    lake_root: str | None = None,
    folder_mode: str = "",
) -> tuple[LakeError, ...]:
    """Write views of all tables as they are now; return an error for each that has no view.

    Every table gets a view, and every one of `relations` whose tables exist. Two publishers wait
    for each other, and the later one sees what both have committed. `lake_root` is the path at
    which readers have mounted the lake's folder: "" for the path here, None to leave it as it was.
    `folder_mode` is the octal mode of the folders, "" to leave existing ones as they are.

    Raises:
        StorageError: the folder cannot be written, or another publisher does not finish.
    """
    with map_storage_errors(root, None):
        create_folder(root / "lake")
        with hold_lock(root / DATABASE_LOCK_FILE, timeout_seconds=PUBLISH_LOCK_TIMEOUT_SECONDS):
            found, problems = load_current_tables(root)
            before = read_published(root)
            place = before.lake_root if lake_root is None else lake_root
            content = build_content(root, found, relations, readers_root=place)
            apply_new_modes(root, found, before, folder_mode)
            failed = []
            is_intact = is_database_intact(root, found, before)
            if not (is_intact and content.is_shown_by(before)):
                failed = build_database(root, content, previous=before if is_intact else None)
                start_file_grace(root, found, before)
                if folder_mode:
                    set_mode(root / NEW_DATABASE_FILE, int(folder_mode, 8) & FILE_MODE_MASK)
                track_open_readers(root, root / NEW_DATABASE_FILE, found)
                swap_database(root)
            for problem in failed:
                del content.view_digests[str(problem.stream)]
            now = PublishedDatabase(
                versions={name: one.version for name, one in found.items()},
                stored_relations=tuple(map(relation_to_json, relations)),
                view_digests=content.view_digests,
                macro_digests=content.macro_digests,
                database_fingerprint=fingerprint_database(root / DATABASE_FILE),
                lake_root=place,
                folder_mode=folder_mode,
            )
            write_published(root, now)
            write_table_cache(root, found)
    return (*problems, *failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseContent:
    """The statements that make klaviyo.duckdb.

    `views` has those that create and describe each view, by its name. `macros` has the one that
    makes the macro of each table's paths, as readers have mounted the lake; `local_macros` has them
    for the paths here. The digests are those of `views` and `macros`, by the same names.
    """

    views: Mapping[str, tuple[str, ...]]
    macros: Mapping[str, str]
    local_macros: Mapping[str, str]
    view_digests: dict[str, str]
    macro_digests: dict[str, str]

    def is_shown_by(self, published: PublishedDatabase) -> bool:
        """Return whether that database has the same views and macros."""
        return (published.view_digests, published.macro_digests) == (
            self.view_digests,
            self.macro_digests,
        )


def build_content(
    root: Path,
    current_tables: Mapping[str, CachedTable],
    relations: Sequence[Relation],
    *,
    readers_root: str,
) -> DatabaseContent:
    """Return what the database is made of, with a view of every table and of `relations`.

    `readers_root` is the lake's folder as readers have mounted it, "" for the path here.
    """
    tables = {
        name: replace(one.files, paths_macro=f"{PATHS_MACRO_PREFIX}{name}")
        for name, one in current_tables.items()
    }
    made = {
        relation.name: build_create_statements(
            relation, tables, catalog=NEW_DATABASE_CATALOG, kind="VIEW"
        )
        for relation in add_plain_relations(current_tables, relations)
    }
    here = str(root / "lake")

    def build_macros(folder: str) -> dict[str, str]:
        return {
            name: create_paths_macro(
                one.paths_macro,
                [f"{folder}{path[len(here) :]}" for path in one.paths],
                catalog=NEW_DATABASE_CATALOG,
            )
            for name, one in tables.items()
        }

    macros = build_macros(readers_root or here)
    views = {name: view for name, view in made.items() if view is not None}
    return DatabaseContent(
        views=views,
        macros=macros,
        local_macros=build_macros(here) if readers_root else macros,
        view_digests={name: digest_statements(view) for name, view in views.items()},
        macro_digests={name: digest_statements([each]) for name, each in macros.items()},
    )


def apply_new_modes(
    root: Path, tables: Mapping[str, CachedTable], previous: PublishedDatabase, folder_mode: str
) -> None:
    """Set the modes of folders and files: all if the setting is new, else those of new commits."""
    if not folder_mode:
        return
    is_new = folder_mode != previous.folder_mode
    names = [
        name for name, one in tables.items() if is_new or previous.versions.get(name) != one.version
    ]
    if names:
        apply_folder_mode(root, names, int(folder_mode, 8))
    if is_new and (root / DATABASE_FILE).exists():
        set_mode(root / DATABASE_FILE, int(folder_mode, 8) & FILE_MODE_MASK)


def find_reusable_views(
    root: Path, previous: Mapping[str, str], digests: Mapping[str, str]
) -> set[str]:
    """Return the names of the views that can be copied with the database that has them.

    No view can while this process has that database open: a copy would drop DuckDB's lock on it, by
    which other processes know that it is in use (see the module docstring).
    """
    unchanged = {name for name, digest in previous.items() if digests.get(name) == digest}
    return set() if unchanged and is_open_in_this_process(root / DATABASE_FILE) else unchanged


def is_database_intact(
    root: Path, tables: Mapping[str, CachedTable], previous: PublishedDatabase
) -> bool:
    """Return whether the database is the one that the last publisher wrote.

    It is not if a table's first file is missing: building it anew then lets DuckDB report the
    damage.
    """
    if not all(Path(path).exists() for one in tables.values() for path in one.files.paths[:1]):
        return False
    return bool(
        previous.database_fingerprint
    ) and previous.database_fingerprint == fingerprint_database(root / DATABASE_FILE)


def build_database(
    root: Path, content: DatabaseContent, *, previous: PublishedDatabase | None
) -> list[LakeError]:
    """Write a new database beside the old one; return errors of the views that failed.

    Views and macros that are the same as in `previous` are copied with the old database; None: that
    database is not the one that was published.
    """
    reach_crash_point("before building the database")
    beside = root / NEW_DATABASE_FILE
    beside.unlink(missing_ok=True)
    remove_wal_files(beside)
    previous = previous or PublishedDatabase()
    reused = find_reusable_views(root, previous.view_digests, content.view_digests)
    if reused:
        with map_storage_errors(root / DATABASE_FILE, None):
            beside.write_bytes((root / DATABASE_FILE).read_bytes())
    stored = previous.macro_digests if reused else {}
    changed = [name for name, each in content.macro_digests.items() if stored.get(name) != each]
    with map_storage_errors(root / DATABASE_FILE, None), open_new_database(beside) as connection:
        # A view is created with the paths here: DuckDB looks for the first file.
        has_other_paths = content.macros != content.local_macros
        run_together(
            connection,
            [
                *(build_drop_macro(name) for name in stored.keys() - content.macros.keys()),
                *(
                    content.local_macros[each]
                    for each in (content.macros if has_other_paths else changed)
                ),
            ],
        )
        for name in sorted(read_view_names(connection) - reused):
            connection.execute(build_drop_view(name, catalog=NEW_DATABASE_CATALOG))
        new = {name: view for name, view in content.views.items() if name not in reused}
        failed = create_views(connection, new)
        if has_other_paths:
            run_together(connection, content.macros.values())
    return [
        query_error(cause, root / DATABASE_FILE, name)
        if is_statement_error(cause)
        else corrupt_file_error(root / "lake" / name, name)
        for name, cause in failed.items()
    ]


def build_drop_macro(table: str) -> str:
    """Return the statement that removes the macro of a table's paths."""
    name = quote_identifier(f"{PATHS_MACRO_PREFIX}{table}")
    return f"DROP MACRO IF EXISTS {quote_identifier(NEW_DATABASE_CATALOG)}.main.{name}"


def run_together(connection: "duckdb.DuckDBPyConnection", statements: Iterable[str]) -> None:
    """Run statements in one transaction."""
    connection.begin()
    try:
        connection.execute("; ".join(statements) or "SELECT 1")
        connection.commit()
    except BaseException:
        # The database cannot be detached in a transaction: that error would hide this one.
        with suppress(Exception):
            connection.rollback()
        raise


def create_views(
    connection: "duckdb.DuckDBPyConnection", views: Mapping[str, Sequence[str]]
) -> dict[str, Exception]:
    """Create views and their comments; return the errors of those that failed, by name.

    Each view has its own transaction: outside of one, each comment takes twice as long.
    """
    import duckdb  # noqa: PLC0415 - late, see `read/duckdb.py`

    failed: dict[str, Exception] = {}
    for name, view in views.items():
        connection.begin()
        try:
            connection.execute("; ".join(view))
        except duckdb.Error as cause:
            connection.rollback()
            failed[name] = cause
        else:
            connection.commit()
    return failed


def read_view_names(connection: "duckdb.DuckDBPyConnection") -> set[str]:
    """Return the names of the views in the database that is being written."""
    sql = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND database_name = ?"
    return {str(name) for (name,) in connection.execute(sql, [NEW_DATABASE_CATALOG]).fetchall()}


def swap_database(root: Path) -> None:
    """Replace the database by the new one, without the side files of other programs.

    The side files are removed first: a reader in between then finds the old database as it was
    published, never the new one with side files of the old. A program that still has the old one
    open for writing may create another side file at any time; the next publisher removes it.
    """
    reach_crash_point("before swapping the database")
    remove_wal_files(root / DATABASE_FILE)
    (root / NEW_DATABASE_FILE).replace(root / DATABASE_FILE)
    reach_crash_point("after swapping the database")
    remove_wal_files(root / DATABASE_FILE)


def start_file_grace(
    root: Path, tables: Mapping[str, CachedTable], previous: PublishedDatabase
) -> None:
    """Start the grace of the files that the old database names and the new one does not."""
    reach_crash_point("before starting the file grace")
    for name, one in tables.items():
        before = previous.versions.get(name, one.version)
        if before == one.version:
            continue
        folder = table_folder(root, name)
        for path in read_paths_removed_since(folder, after=before):
            with suppress(FileNotFoundError):
                os.utime(folder / path)


TableFileNames = Mapping[str, Sequence[str]]
"""The files that views name, by table, relative to the table's folder."""

TargetFiles = Mapping[str, Mapping[str, TableFileNames]]
"""The same by database and schema."""


def read_targets(root: Path) -> TargetFiles:
    """Return which files the databases with views of ours name, without databases that are gone."""
    with suppress(OSError, ValueError, AttributeError):
        known = json.loads((root / "lake" / TARGETS_FILE).read_bytes())
        return {path: schemas for path, schemas in known.items() if Path(path).exists()}
    return {}


def find_target_files(root: Path) -> dict[str, set[str]]:
    """Return the files, by table, that views in users' databases name."""
    files: dict[str, set[str]] = {}
    for schemas in read_targets(root).values():
        for tables in schemas.values():
            for name, paths in tables.items():
                files.setdefault(name, set()).update(paths)
    return files
