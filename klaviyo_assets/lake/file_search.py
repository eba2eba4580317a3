"""Files that name a person, whatever form they are of.

What belongs here: every file below some folders, decoded, and what of it names one of the terms.
What does not: what counts as naming (`search_terms`), and what becomes of a file (`erase`).

    Parquet              every column, nested ones and binary ones included, and the footer's notes
    DuckDB, SQLite       every row of every table, the statements of the views, and the raw pages
    kept answers, gzip   unpacked
    all others           as text; where they are none, as bytes

A row group of ours has 16 MiB; nothing here holds more than a few of them.
"""

import gzip
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from klaviyo_assets.lake.answers import ENDING
from klaviyo_assets.lake.disk import disk_errors
from klaviyo_assets.lake.engine import connection
from klaviyo_assets.lake.search_terms import SearchTerms
from klaviyo_assets.lake.sql import literal, quoted

BATCH_ROWS = 4096
PIECE_BYTES = 8 * 2**20
OVERLAP_BYTES = 4096
"""What two pieces of a text share: a term with all its escapes is shorter."""

_DUCKDB_AT = 8
_UNREADABLE = (pa.ArrowException, zlib.error, sqlite3.Error, EOFError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamingFile:
    """A file that names one of the terms, or could not be looked through.

    `columns` are those of a Parquet file that do, empty where there are none or all may.
    """

    path: Path
    columns: tuple[str, ...] = ()
    is_readable: bool = True
    is_named_for: bool = False
    """The file's own name holds a term, and must not be shown."""


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file of a folder and of those in it, behind symbolic links too, each once.

    A file that is given instead of a folder is all there is. A folder that cannot be listed comes
    itself.
    """
    closed: list[Path] = []

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError) and error.filename is not None:
            closed.append(Path(error.filename))

    if folder.is_file():
        yield folder
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, onerror=note, followlinks=True):
        known = Path(place).stat()
        if (known.st_dev, known.st_ino) in seen:
            folders.clear()
            continue
        seen.add((known.st_dev, known.st_ino))
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))
    yield from closed


def files_naming(paths: Iterable[Path], terms: SearchTerms) -> Iterator[NamingFile]:
    """Yield the files that name one of the terms, by content or name, or cannot be read."""
    for path in paths:
        # An address without the ending of the file that is named for it.
        names = os.fsencode(f"{path.name}\n{path.stem}")
        is_named_for = terms.are_named_in(names)
        try:
            if path.is_dir():
                # It came because it could not be listed.
                yield NamingFile(path=path, is_readable=False, is_named_for=is_named_for)
                continue
            if not path.is_file():
                continue
            columns = list(_parts_naming(path, terms))
        except FileNotFoundError:
            continue
        except (*_UNREADABLE, *disk_errors()):
            yield NamingFile(path=path, is_readable=False, is_named_for=is_named_for)
            continue
        if columns or is_named_for:
            shown = tuple(dict.fromkeys(each for each in columns if each))
            yield NamingFile(path=path, columns=shown, is_named_for=is_named_for)


def _parts_naming(path: Path, terms: SearchTerms) -> Iterator[str]:
    """Yield the columns of a file that name a term, "" where it has none."""
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"PAR1") or path.suffix == ".parquet":
        yield from _parquet_columns_naming(path, terms)
    elif head[_DUCKDB_AT : _DUCKDB_AT + 4] == b"DUCK":
        yield from _texts_naming(_duckdb_texts(path), terms)
        yield from _raw_naming(path, terms)
    elif head.startswith(b"SQLite format 3"):
        yield from _texts_naming(_sqlite_texts(path), terms)
        yield from _raw_naming(path, terms)
    elif path.suffix == ENDING:
        first, _, packed = path.read_bytes().partition(b"\n")
        yield from _texts_naming([first, zlib.decompress(packed)], terms)
    elif head.startswith(b"\x1f\x8b"):
        with gzip.open(path) as unpacked:
            yield from _texts_naming(_pieces(cast("BinaryIO", unpacked)), terms)
    else:
        with path.open("rb") as file:
            yield from _texts_naming(_pieces(file), terms)


def _texts_naming(texts: Iterable[bytes], terms: SearchTerms) -> Iterator[str]:
    """Yield "" once if one of the texts names a term."""
    for text in texts:
        is_binary = b"\0" in text
        if terms.are_in_bytes(text) if is_binary else terms.are_named_in(text):
            yield ""
            return


def _raw_naming(path: Path, terms: SearchTerms) -> Iterator[str]:
    with path.open("rb") as file:
        if any(terms.are_in_bytes(piece) for piece in _pieces(file)):
            yield ""


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file in pieces that overlap."""
    before = b""
    while piece := file.read(PIECE_BYTES):
        yield before + piece
        before = piece[-OVERLAP_BYTES:]


def _parquet_columns_naming(path: Path, terms: SearchTerms) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        notes = file.metadata.metadata or {}
        if any(terms.are_named_in(key + b"\n" + value) for key, value in notes.items()):
            yield ""
        left = set(file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            for name in batch.schema.names:
                if name in left and column_names(cast("pa.Array[Any]", batch.column(name)), terms):
                    left.discard(name)
                    yield name


def column_names(values: "pa.Array[Any]", terms: SearchTerms) -> bool:
    """Tell whether a column, of texts or of whatever holds texts, names one of the terms."""
    return any(terms.are_named_in(text) for text in _column_texts(values))


def _column_texts(column: "pa.Array[Any]") -> Iterator[bytes]:
    """Yield the texts of a column as one, those of nested ones one by one."""
    values, kind = cast("Any", column), column.type
    if pa.types.is_dictionary(kind):
        yield from _column_texts(values.dictionary)
    elif pa.types.is_struct(kind):
        for part in values.flatten():
            yield from _column_texts(part)
    elif pa.types.is_map(kind):
        yield from _column_texts(values.keys)
        yield from _column_texts(values.items)
    elif pa.types.is_nested(kind):
        yield from _column_texts(values.flatten())
    elif isinstance(values, pa.ExtensionArray):
        yield from _column_texts(values.storage)
    elif _is_text(kind):
        plain = values.cast(pa.binary() if _is_binary(kind) else pa.string()).drop_null()
        whole = cast("Any", pa.ListArray).from_arrays([0, len(plain)], plain)
        joined = cast("Any", pc.binary_join)(whole, b"\n" if _is_binary(kind) else "\n")
        yield joined[0].as_buffer().to_pybytes()


def _is_binary(kind: pa.DataType) -> bool:
    is_plain = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return is_plain or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    is_plain = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return is_plain or pa.types.is_string_view(kind) or _is_binary(kind)


def _duckdb_texts(path: Path) -> Iterator[bytes]:
    """Yield the statements and the rows of a DuckDB file, rows as text.

    Raises:
        duckdb.Error: it is damaged, or another program has it open for writing.
    """
    with connection() as opened:
        opened.execute(f"ATTACH {literal(str(path))} AS searched (READ_ONLY)")
        mine = "WHERE NOT internal AND database_name = 'searched'"
        for kind in ("views", "tables"):
            said = opened.execute(f"SELECT sql, comment FROM duckdb_{kind}() {mine}").fetchall()
            yield from (str(row).encode() for row in said)
        tables = opened.execute(f"SELECT schema_name, table_name FROM duckdb_tables() {mine}")
        for schema, name in tables.fetchall():
            rows = f"FROM searched.{quoted(schema)}.{quoted(name)} AS one SELECT one::VARCHAR"
            for batch in opened.sql(rows).to_arrow_reader(BATCH_ROWS):
                yield from _column_texts(batch.column(0))


def _sqlite_texts(path: Path) -> Iterator[bytes]:
    """Yield the rows of an SQLite file, as statements.

    Raises:
        sqlite3.Error: it is damaged.
    """
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
        for line in database.iterdump():
            yield line.encode("utf-8", "replace")
