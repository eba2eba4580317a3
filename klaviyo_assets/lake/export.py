"""An export: one DuckDB file that holds the rows themselves, to hand over or to carry away.

What belongs here: choosing the relations, and writing the file. What does not: the SQL
(`relations`) and klaviyo.duckdb, which holds views alone (`database`). The file is written beside
its place and renamed, so that there is never half of one. Memory is bounded: DuckDB collects a row
group per thread before it is packed, so there is one thread, and a row group has a twelfth of the
usual rows. Measured with 800,000 rows of 1.7 kB: 580 MiB, where its defaults take 2,300; the whole
command with 400,000 events: 665 MiB, 442 MB of a lake of 39.
"""

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from klaviyo_assets.errors import LakeError, MissingTableError, SettingError, StorageError
from klaviyo_assets.lake.answers import write_whole
from klaviyo_assets.lake.current import tables_now
from klaviyo_assets.lake.disk import force_one_to_disk, take_lock, told
from klaviyo_assets.lake.engine import STORAGE_VERSION, connection
from klaviyo_assets.lake.layout import DATABASE, EXPORTS
from klaviyo_assets.lake.published import side_files
from klaviyo_assets.lake.relations import Relation, all_relations, create_relation
from klaviyo_assets.lake.sql import literal, quoted

if TYPE_CHECKING:
    import duckdb

CATALOG = "exported"
MAGIC = b"DUCK"
MAGIC_AT = 8
"""Where each DuckDB file says what it is: behind the checksum of its first block."""

MEMORY = "512MB"
ROW_GROUP_ROWS = 10_240
"""Rows that DuckDB collects before it packs them; a multiple of 2,048."""

PROGRESS_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """How far a table is: `share` of it from 0 to 1, and `rows` once it is whole."""

    name: str
    share: float
    rows: int | None = None


Say = Callable[[Exported], None]


def relations_to_export(
    root: Path, relations: Sequence[Relation], names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the statements that make each table; `names` of none mean all that were ever read.

    Raises:
        SettingError: a name is none of a relation; the text has the nearest ones.
        MissingTableError: one of the names was never read, or nothing was.
        LakeError: a table that is asked for cannot be read.
    """
    found, problems = tables_now(root)
    tables = {name: one.shown for name, one in found.items()}
    known = {each.name: each for each in all_relations(found, relations)}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
            raise SettingError(f"there is no table {name!r}: {hint}")
    if not found and not problems:
        raise LakeError(f"no lake in {root} (KLAVIYO_DATA_DIR): there is nothing to export")
    wanted = list(dict.fromkeys(names)) or list(known)
    needed = {table for name in wanted for table in (name, *known[name].tables)}
    for problem in problems:
        if problem.stream in needed or not names:
            raise problem
    made = {
        name: create_relation(known[name], tables, catalog=CATALOG, kind="TABLE") for name in wanted
    }
    for name in names:
        if made[name] is None:
            raise MissingTableError("was never read; materialize its asset first", stream=name)
    return {name: statements for name, statements in made.items() if statements is not None}


def refuse_target(root: Path, target: Path, *, overwrite: bool) -> None:
    """Refuse to write an export where something else would be lost.

    Raises:
        SettingError: the text says what is there, and what to do.
    """
    own = (root / DATABASE).resolve()
    if target.resolve() == own or (root / "lake").resolve() in target.resolve().parents:
        raise SettingError(f"{target} is the lake's own: give the export a place outside of it")
    if not target.parent.is_dir():
        raise SettingError(f"{target.parent} is no folder: make it first, or give another place")
    if target.is_dir():
        raise SettingError(f"{target} is a folder: give the export a file's name")
    if not target.exists():
        return
    with target.open("rb") as file:
        is_database = file.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC
    if not is_database:
        raise SettingError(f"{target} is there and no DuckDB database; it stays as it is")
    if not overwrite:
        raise SettingError(f"{target} is there already: --force replaces it")


def note_export(root: Path, target: Path, *, at: datetime) -> None:
    """Note where an export is about to be written, so that an erasure looks there.

    Who may read the lake alone exports unnoted.
    """
    known = {str(path): when for path, when in noted_exports(root).items()}
    content = json.dumps(known | {str(target): at.isoformat()}, indent=2).encode()
    with suppress(OSError):
        write_whole(root / "lake" / EXPORTS, content, at=at.timestamp())


def noted_exports(root: Path) -> dict[Path, str]:
    """Return where exports of a lake were written, and when last (ISO 8601)."""
    with suppress(OSError, ValueError, AttributeError):
        known = json.loads((root / "lake" / EXPORTS).read_bytes())
        return {Path(path): str(when) for path, when in known.items()}
    return {}


def half_written(target: Path) -> Path:
    """Return where an export writes until it is whole, and what one that was killed leaves."""
    return target.with_name(f".{target.name}.part")


def export(target: Path, tables: Mapping[str, Sequence[str]], *, say: Say) -> list[Exported]:
    """Write the tables into a new file at `target`, in the storage format that klaviyo.duckdb has.

    The tables are those of one moment, each as it was committed last. What was at `target` is
    replaced when all is written.

    Raises:
        StorageError: the disk refused, or another export writes this file.
        LakeError: a table cannot be read, or its rows need too much memory.
    """
    beside = half_written(target)
    with told(target, None), alone(beside):
        for left in (beside, *side_files(beside)):
            left.unlink(missing_ok=True)
        try:
            with opened(beside) as writing:
                done = [write_table(writing, name, each, say=say) for name, each in tables.items()]
            force_one_to_disk(beside)
            for left in side_files(target):
                left.unlink(missing_ok=True)
            beside.replace(target)
        except RuntimeError as error:
            # What DuckDB makes of Ctrl-C; its other errors are none of these.
            if str(error) != "Query interrupted":
                raise
            raise KeyboardInterrupt from None
        finally:
            for left in (beside, *side_files(beside)):
                left.unlink(missing_ok=True)
    return done


@contextmanager
def alone(beside: Path) -> Generator[None]:
    """Hold a lock for the block by which a second export of the same file is refused.

    Raises:
        StorageError: there is one at work.
    """
    lock = beside.with_suffix(".lock")
    number = take_lock(lock, wait=False)
    if number is None:
        raise StorageError(f"another export writes {beside}; wait for it to end")
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(number)


@contextmanager
def opened(path: Path) -> "Generator[duckdb.DuckDBPyConnection]":
    """Open a new file as `CATALOG`, with bounded memory; it is whole when the block has ended."""
    options = f"STORAGE_VERSION {literal(STORAGE_VERSION)}, ROW_GROUP_SIZE {ROW_GROUP_ROWS}"
    with connection() as made:
        made.execute(f"SET memory_limit = {literal(MEMORY)}; SET threads = 1")
        made.execute(f"SET temp_directory = {literal(f'{path}.spill')}")
        # Without the bar DuckDB does not count; it prints none.
        made.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        made.execute(f"ATTACH {literal(str(path))} AS {quoted(CATALOG)} ({options})")
        yield made
        made.execute(f"DETACH {quoted(CATALOG)}")


def write_table(
    writing: "duckdb.DuckDBPyConnection", name: str, statements: Sequence[str], *, say: Say
) -> Exported:
    """Write one table, and say from time to time how far it is.

    Raises:
        LakeError: its rows need more memory than there is.
    """
    import duckdb  # noqa: PLC0415 - late, as `engine` says

    create, *comments = statements
    try:
        with watched(writing, name, say):
            writing.execute(create)
    except duckdb.OutOfMemoryException:
        # Without the cause: DuckDB's texts can quote rows.
        raise LakeError(
            f"its rows are so large that {MEMORY} of memory do not hold a part of it; "
            "leave it out with --tables",
            stream=name,
        ) from None
    for each in comments:
        writing.execute(each)
    ((rows,),) = writing.execute(
        f"SELECT count(*) FROM {quoted(CATALOG)}.{quoted(name)}"
    ).fetchall()
    done = Exported(name=name, share=1.0, rows=rows)
    say(done)
    return done


@contextmanager
def watched(writing: "duckdb.DuckDBPyConnection", name: str, say: Say) -> Generator[None]:
    """Say every half second how far the statement of the block is."""
    ended = Event()

    def watch() -> None:
        while not ended.wait(PROGRESS_SECONDS):
            percent = writing.query_progress()
            if percent >= 0:
                say(Exported(name=name, share=percent / 100))

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
