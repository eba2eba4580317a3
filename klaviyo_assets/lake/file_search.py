"""Files that name a person, whatever form they are of.

What belongs here: every file below some folders, decoded, and what of it names one of the terms.
What does not: what counts as naming (`search_terms`), and what becomes of a file (`erase`).

    Parquet              every column, nested ones and binary ones included, and the footer's notes
    DuckDB, SQLite       every row of every table, the statements of the views, and the raw pages
    kept answers         unpacked
    gzip, bzip2, xz,     unpacked, up to `MOST_UNPACKED` bytes, and what is packed in them as well;
    zip, tar             databases and Parquet in them, and other packers, cannot be looked through
    all others           as text (UTF-8, or as a byte order mark says); where none, as bytes

A row group of ours has 16 MiB; nothing here holds more than a few of them.
"""

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
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

MOST_UNPACKED = 4 * 2**30
"""Bytes of all that is packed in one file; where there are more, it cannot be looked through."""

DEEPEST = 4
"""How often a file can be packed one time upon another, as with text (`search_terms.DEPTH`)."""

_DUCKDB_AT = 8
_TAR_AT = 257
_HEAD_BYTES = 64 * 1024
_UNREADABLE = (
    *(pa.ArrowException, zlib.error, lzma.LZMAError, sqlite3.Error, EOFError, ValueError),
    *(zipfile.BadZipFile, tarfile.TarError, NotImplementedError),
)
_PACKERS: Final = (
    (re.compile(rb"\x1f\x8b"), gzip.open),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), bz2.open),
    (re.compile(rb"\xfd7zXZ\0"), lzma.open),
)
_CLOSED = re.compile(
    rb"\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07"
    rb"|PAR1|SQLite format 3|.{8}DUCK",
    re.DOTALL,
)
"""How the files begin that cannot be looked through as a stream: zstd, lz4, 7z, rar, databases."""

_MARKS = (
    *((codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be")),
    *((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")),
)
"""Byte order marks, the longer ones first: one begins with another."""


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
        yield from _database_naming(path, _duckdb_texts(path), terms)
    elif head.startswith(b"SQLite format 3"):
        yield from _database_naming(path, _sqlite_texts(path), terms)
    elif path.suffix == ENDING:
        first, _, packed = path.read_bytes().partition(b"\n")
        if _is_one_named([first, zlib.decompress(packed)], terms):
            yield ""
    else:
        with path.open("rb") as file:
            if _is_named_in(file, terms, _Room(MOST_UNPACKED)):
                yield ""


def _is_one_named(
    texts: Iterable[bytes], terms: SearchTerms, longer: set[bytes] | None = None
) -> bool:
    """Tell whether one of the texts names a term; `longer` as in `SearchTerms.are_named_in`."""
    return any(
        terms.are_in_bytes(text) if b"\0" in text else terms.are_named_in(text, longer)
        for text in texts
    )


def _database_naming(path: Path, texts: Iterable[bytes], terms: SearchTerms) -> Iterator[str]:
    """Yield "" if the rows of a database name a term, or else its pages, as deleted rows may lie.

    In pages nothing bounds a value: what the rows say is a longer word is taken for one.
    """
    longer: set[bytes] = set()
    if _is_one_named(texts, terms, longer):
        yield ""
        return
    with path.open("rb") as file:
        if any(terms.are_in_bytes(piece, longer) for piece in _pieces(file)):
            yield ""


@dataclass(slots=True)
class _Room:
    """Bytes that may still be unpacked of one file."""

    left: int


class _Unpacked(io.RawIOBase):
    """What is packed in a file, to be read as far as there is room."""

    def __init__(self, file: BinaryIO, room: _Room) -> None:
        self._file, self._room = file, room

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview[int]", /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        piece = self._file.read(len(buffer))
        self._room.left -= len(piece)
        if self._room.left < 0:
            raise ValueError("more is packed in it than is unpacked")
        buffer[: len(piece)] = piece
        return len(piece)


def _is_named_in(file: BinaryIO, terms: SearchTerms, room: _Room, depth: int = 0) -> bool:
    """Tell whether a file names a term, unpacked as often as it is packed.

    Raises:
        OSError, ValueError and all of `_UNREADABLE`: it cannot be looked through.
    """
    stream = cast("io.BufferedReader", file)
    if depth:
        stream = io.BufferedReader(_Unpacked(file, room), _HEAD_BYTES)
    head = stream.peek(_HEAD_BYTES)
    if depth > DEEPEST or _CLOSED.match(head):
        raise ValueError("it cannot be looked through as a stream")
    for mark, packer in _PACKERS:
        if mark.match(head):
            with packer(stream) as unpacked:
                return _is_named_in(cast("BinaryIO", unpacked), terms, room, depth + 1)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _is_named_in_zip(stream, terms, room, depth)
    if head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        return _is_named_in_tar(stream, terms, room, depth)
    return _is_one_named(_texts(stream, head), terms)


def _is_named_in_zip(file: BinaryIO, terms: SearchTerms, room: _Room, depth: int) -> bool:
    with zipfile.ZipFile(file) as archive:
        for each in archive.infolist():
            if terms.are_named_in(each.filename.encode() + b"\n" + each.comment):
                return True
            if each.flag_bits & 1:
                raise ValueError("it is encrypted")
            with archive.open(each) as member:
                if _is_named_in(cast("BinaryIO", member), terms, room, depth + 1):
                    return True
        return terms.are_named_in(archive.comment)


def _is_named_in_tar(file: BinaryIO, terms: SearchTerms, room: _Room, depth: int) -> bool:
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for each in archive:
            if terms.are_named_in(f"{each.name}\n{each.linkname}".encode("utf-8", "replace")):
                return True
            member = archive.extractfile(each) if each.isfile() else None
            if member and _is_named_in(cast("BinaryIO", member), terms, room, depth + 1):
                return True
    return False


def _texts(file: BinaryIO, head: bytes) -> Iterator[bytes]:
    """Yield a file in pieces that overlap, and each as UTF-8 where its mark says it is another."""
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    for piece in _pieces(file):
        yield piece
        if encoding is not None:
            yield piece.decode(encoding, "replace").encode()


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file in pieces that overlap, by whole characters of any width."""
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
