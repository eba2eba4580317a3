r"""Searches files of any format for people's ids, addresses and numbers, however escaped.

    Parquet              every column, also nested and binary ones, and the metadata of the footer
    DuckDB, SQLite       every row of every table, the statements of the views, and the raw pages
    cached responses     decompressed
    gzip, bzip2, xz,     decompressed up to `MAX_UNPACKED_BYTES`, and archives in them as well;
    zip, tar             databases, Parquet and other formats inside cannot be searched
    all others           as text (UTF-8, or as a byte order mark says), or else as bytes

A row group of ours has 16 MiB; nothing here holds more than a few of them in memory.

A term matches in any letter case, behind JSON escapes however often they were escaped (`\\u0040`),
percent encoding (`%40`) and HTML character references (`&#64;`). A term inside a longer word does
not match: `da@example.com` is not in `ada@example.com`.
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
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from klaviyo_assets.lake.disk import storage_error_types
from klaviyo_assets.lake.read.duckdb import open_connection, quote_identifier, quote_literal
from klaviyo_assets.lake.response_cache import RESPONSE_SUFFIX

MAX_ENCODING_DEPTH = 4
"""How many encodings of a text can be nested, such as JSON in JSON in a URL."""

MAX_LINEAR_TERMS = 16
"""Up to this many terms are searched one by one; of more, only those that share a word.

Measured with decoded properties of events: 65 MB/s for up to 16 terms, 26 MB/s for 20,000."""

_WORD = re.compile(rb"[a-z0-9]+")
_ESCAPES: tuple[tuple[bytes, "re.Pattern[bytes]", int], ...] = (
    (b"\\u", re.compile(rb"\\+u([0-9a-f]{4})"), 16),
    (b"%", re.compile(rb"%([0-9a-f]{2})"), 16),
    (b"&#x", re.compile(rb"&#x([0-9a-f]{1,5});"), 16),
    (b"&#", re.compile(rb"&#([0-9]{1,6});"), 10),
)
"""The marks of each kind of escape, their patterns in lower case, and their number base."""

_WORD_BYTES = 256
_WORD_BEFORE = re.compile(rb"[a-z0-9._+-]*\Z")
_WORD_AFTER = re.compile(rb"[a-z0-9.-]*")
_WORD_CONTINUES_BEFORE = re.compile(rb"[a-z0-9._-]\Z")
_WORD_CONTINUES_AFTER = re.compile(rb"[a-z0-9]|[.-][a-z0-9]")


def normalize_text(raw: bytes) -> bytes:
    """Return a text in lower case without escapes, as UTF-8."""
    text = raw.lower()
    if not raw.isascii():
        text = raw.decode("utf-8", "replace").casefold().encode("utf-8", "replace")
    for _ in range(MAX_ENCODING_DEPTH):
        before = text
        for mark, pattern, base in _ESCAPES:
            if mark in text:
                text = pattern.sub(_build_unescape(base), text)
        if text == before:
            break
    return text


def _build_unescape(base: int) -> "Callable[[re.Match[bytes]], bytes]":
    def one(found: "re.Match[bytes]") -> bytes:
        code = int(found[1], base)
        # A percent encoding is one byte of UTF-8, so it becomes that byte, not a character.
        if found[0].startswith(b"%"):
            return bytes([code]).lower()
        return chr(code).casefold().encode("utf-8", "replace") if code else found[0]

    return one


class SearchTerms:
    """Ids, addresses and numbers of people; never shown."""

    def __init__(self, terms: Iterable[str]) -> None:
        """Take the terms; empty texts are left out."""
        self._terms = sorted({normalize_text(each.encode()) for each in terms} - {b""})
        self._by_word: dict[bytes, list[bytes]] = defaultdict(list)
        for term in self._terms:
            # Where a term occurs alone, each of its words is a whole word of the text too.
            words = _WORD.findall(term) or [b""]
            self._by_word[max(words, key=len)].append(term)

    def __bool__(self) -> bool:
        """Return whether there is a term."""
        return bool(self._terms)

    def is_any_in_text(self, raw: bytes, longer: set[bytes] | None = None) -> bool:
        """Return whether a text matches one of the terms, through nested encodings.

        Words of the text that contain a term and are longer are added to `longer`.
        """
        text = normalize_text(raw)
        return any(
            _contains_whole_term(each, text, longer) for each in self._select_candidates(text)
        )

    def is_any_in_bytes(self, raw: bytes, longer: Collection[bytes] = ()) -> bool:
        """Return whether bytes that are not text contain one of the terms, whatever surrounds it.

        In a database page values follow each other without a gap: `ann@x` may be an address, or
        `n@x` behind a value that ends with `an`. It counts as the longer word if `longer`, the
        words in the rows of the same file, contains it. Otherwise it counts as a match, which may
        be a false alarm.
        """
        text = raw.lower()
        return any(_contains_apart(each, text, longer) for each in self._terms)

    def _select_candidates(self, text: bytes) -> Iterable[bytes]:
        if len(self._terms) <= MAX_LINEAR_TERMS:
            return self._terms
        words = self._by_word.keys() & {*_WORD.findall(text), b""}
        return [each for word in words for each in self._by_word[word]]


def _contains_apart(term: bytes, text: bytes, longer: Collection[bytes]) -> bool:
    """Return whether bytes contain a term that is not a part of one of the longer words."""
    words = [(each, each.find(term)) for each in longer if term in each]
    at = text.find(term)
    while at >= 0:
        # Of a word that begins before the chunk, the chunk contains only the end.
        if not any(text.startswith(each[max(0, n - at) :], max(0, at - n)) for each, n in words):
            return True
        at = text.find(term, at + 1)
    return False


def _whole_word(text: bytes, at: int, end: int) -> bytes:
    """Return the word of a text that contains the range from `at` to `end`."""
    before = _WORD_BEFORE.search(text, max(0, at - _WORD_BYTES), at)
    after = _WORD_AFTER.match(text, end, end + _WORD_BYTES)
    return text[before.start() if before else at : after.end() if after else end]


def _contains_whole_term(term: bytes, text: bytes, longer: set[bytes] | None = None) -> bool:
    """Return whether a text contains a term as a whole word; add longer words to `longer`."""
    at = text.find(term)
    while at >= 0:
        end = at + len(term)
        if b"@" in term:
            is_longer = _WORD_CONTINUES_BEFORE.search(text, max(0, at - 1), at)
            is_longer = is_longer or _WORD_CONTINUES_AFTER.match(text, end)
        else:
            # No character before the plus sign of a number makes it another number.
            is_longer = text[end : end + 1].isalnum()
            is_longer |= term[:1].isalnum() and at > 0 and text[at - 1 : at].isalnum()
        if not is_longer:
            return True
        if longer is not None:
            longer.add(_whole_word(text, at, end))
        at = text.find(term, at + 1)
    return False


SEARCH_BATCH_ROWS = 4096
SEARCH_CHUNK_BYTES = 8 * 2**20
SEARCH_OVERLAP_BYTES = 4096
"""The overlap of two chunks of a text: a term with all its escapes is shorter."""

MAX_UNPACKED_BYTES = 4 * 2**30
"""Limit of bytes decompressed from one file; a file with more counts as unsearchable."""

MAX_ARCHIVE_DEPTH = 4
"""How many archives can be nested in one another."""

_DUCKDB_MAGIC_OFFSET = 8
_TAR_MAGIC_OFFSET = 257
_HEAD_BYTES = 64 * 1024
_READ_ERRORS = (
    *(pa.ArrowException, zlib.error, lzma.LZMAError, sqlite3.Error, EOFError, ValueError),
    *(zipfile.BadZipFile, tarfile.TarError, NotImplementedError),
)
_COMPRESSIONS: Final = (
    (re.compile(rb"\x1f\x8b"), gzip.open),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), bz2.open),
    (re.compile(rb"\xfd7zXZ\0"), lzma.open),
)
_UNSEARCHABLE = re.compile(
    rb"\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07"
    rb"|PAR1|SQLite format 3|.{8}DUCK",
    re.DOTALL,
)
"""How files begin that cannot be searched as a stream: zstd, lz4, 7z, rar, databases."""

_STRINGS = {pa.string(), pa.large_string(), pa.string_view()}
_BINARIES = {pa.binary(), pa.large_binary(), pa.binary_view()}

_BYTE_ORDER_MARKS = (
    *((codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be")),
    *((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")),
)
"""Byte order marks, the longer ones first, because one is a prefix of another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchingFile:
    """A file that matches one of the terms, or that cannot be searched.

    `columns` are the matching columns of a Parquet file; empty where there are none, or where any
    part of the file may match.
    """

    path: Path
    columns: tuple[str, ...] = ()
    is_readable: bool = True
    has_matching_name: bool = False
    """The file's own name contains a term, so it must not be shown."""


def list_files(folder: Path) -> Iterator[Path]:
    """Yield every file of a folder and its subfolders once, also behind symbolic links.

    If the path is a file, that file alone. A folder that cannot be listed is yielded itself.
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


def find_matching_files(paths: Iterable[Path], terms: SearchTerms) -> Iterator[MatchingFile]:
    """Yield the files that match one of the terms, by content or name, or cannot be searched."""
    for path in paths:
        # Also without the suffix: a file may be named after an address.
        names = os.fsencode(f"{path.name}\n{path.stem}")
        is_named_for = terms.is_any_in_text(names)
        try:
            if path.is_dir():
                # `list_files` yields a folder only if it cannot be listed.
                yield MatchingFile(path=path, is_readable=False, has_matching_name=is_named_for)
                continue
            if not path.is_file():
                continue
            columns = list(_find_matching_parts(path, terms))
        except FileNotFoundError:
            continue
        except (*_READ_ERRORS, *storage_error_types()):
            yield MatchingFile(path=path, is_readable=False, has_matching_name=is_named_for)
            continue
        if columns or is_named_for:
            shown = tuple(dict.fromkeys(each for each in columns if each))
            yield MatchingFile(path=path, columns=shown, has_matching_name=is_named_for)


def _find_matching_parts(path: Path, terms: SearchTerms) -> Iterator[str]:
    """Yield the matching columns of a file; "" for a match outside of columns."""
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"PAR1") or path.suffix == ".parquet":
        yield from _match_parquet_columns(path, terms)
    elif head[_DUCKDB_MAGIC_OFFSET : _DUCKDB_MAGIC_OFFSET + 4] == b"DUCK":
        yield from _match_database(path, _read_duckdb_texts(path), terms)
    elif head.startswith(b"SQLite format 3"):
        yield from _match_database(path, _read_sqlite_texts(path), terms)
    elif path.suffix == RESPONSE_SUFFIX:
        first, _, packed = path.read_bytes().partition(b"\n")
        if _matches_text([first, zlib.decompress(packed)], terms):
            yield ""
    else:
        with path.open("rb") as file:
            if _matches_stream(file, terms, _UnpackBudget(MAX_UNPACKED_BYTES)):
                yield ""


def _matches_text(
    texts: Iterable[bytes], terms: SearchTerms, longer: set[bytes] | None = None
) -> bool:
    """Return whether one of the texts matches; `longer` as in `SearchTerms.is_any_in_text`."""
    return any(
        terms.is_any_in_bytes(text) if b"\0" in text else terms.is_any_in_text(text, longer)
        for text in texts
    )


def _match_database(path: Path, texts: Iterable[bytes], terms: SearchTerms) -> Iterator[str]:
    """Yield "" if a database's rows match, or else its raw pages, where deleted rows may be.

    In pages nothing separates values: what the rows contain as a longer word counts as one.
    """
    longer: set[bytes] = set()
    if _matches_text(texts, terms, longer):
        yield ""
        return
    with path.open("rb") as file:
        if any(terms.is_any_in_bytes(piece, longer) for piece in _read_chunks(file)):
            yield ""


@dataclass(slots=True)
class _UnpackBudget:
    """How many bytes may still be decompressed of one file."""

    left: int


class _UnpackedFile(io.RawIOBase):
    """The decompressed content of a file, readable up to the limit."""

    def __init__(self, file: BinaryIO, budget: _UnpackBudget) -> None:
        self._file, self._budget = file, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview[int]", /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        piece = self._file.read(len(buffer))
        self._budget.left -= len(piece)
        if self._budget.left < 0:
            raise ValueError("it unpacks to more than the limit")
        buffer[: len(piece)] = piece
        return len(piece)


def _matches_stream(
    file: BinaryIO, terms: SearchTerms, budget: _UnpackBudget, depth: int = 0
) -> bool:
    """Return whether a file matches a term, with nested archives decompressed.

    Raises:
        OSError, ValueError and all of `_READ_ERRORS`: it cannot be searched.
    """
    stream = cast("io.BufferedReader", file)
    if depth:
        stream = io.BufferedReader(_UnpackedFile(file, budget), _HEAD_BYTES)
    head = stream.peek(_HEAD_BYTES)
    if depth > MAX_ARCHIVE_DEPTH or _UNSEARCHABLE.match(head):
        raise ValueError("it cannot be looked through as a stream")
    for mark, packer in _COMPRESSIONS:
        if mark.match(head):
            with packer(stream) as unpacked:
                return _matches_stream(cast("BinaryIO", unpacked), terms, budget, depth + 1)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _matches_zip(stream, terms, budget, depth)
    if head[_TAR_MAGIC_OFFSET : _TAR_MAGIC_OFFSET + 5] == b"ustar":
        return _matches_tar(stream, terms, budget, depth)
    return _matches_text(_read_texts(stream, head), terms)


def _matches_zip(file: BinaryIO, terms: SearchTerms, budget: _UnpackBudget, depth: int) -> bool:
    with zipfile.ZipFile(file) as archive:
        for each in archive.infolist():
            if terms.is_any_in_text(each.filename.encode() + b"\n" + each.comment):
                return True
            if each.flag_bits & 1:
                raise ValueError("it is encrypted")
            with archive.open(each) as member:
                if _matches_stream(cast("BinaryIO", member), terms, budget, depth + 1):
                    return True
        return terms.is_any_in_text(archive.comment)


def _matches_tar(file: BinaryIO, terms: SearchTerms, budget: _UnpackBudget, depth: int) -> bool:
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for each in archive:
            if terms.is_any_in_text(f"{each.name}\n{each.linkname}".encode("utf-8", "replace")):
                return True
            member = archive.extractfile(each) if each.isfile() else None
            if member and _matches_stream(cast("BinaryIO", member), terms, budget, depth + 1):
                return True
    return False


def _read_texts(file: BinaryIO, head: bytes) -> Iterator[bytes]:
    """Yield a file in overlapping chunks; each also as UTF-8 if a byte order mark says so."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
    for piece in _read_chunks(file):
        yield piece
        if encoding is not None:
            yield piece.decode(encoding, "replace").encode()


def _read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file in overlapping chunks, whose size is a multiple of every character width."""
    before = b""
    while piece := file.read(SEARCH_CHUNK_BYTES):
        yield before + piece
        before = piece[-SEARCH_OVERLAP_BYTES:]


def _match_parquet_columns(path: Path, terms: SearchTerms) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        notes = file.metadata.metadata or {}
        if any(terms.is_any_in_text(key + b"\n" + value) for key, value in notes.items()):
            yield ""
        unmatched = set(file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=SEARCH_BATCH_ROWS):
            for name in batch.schema.names:
                column = cast("pa.Array[Any]", batch.column(name))
                if name in unmatched and any(
                    terms.is_any_in_text(text) for text in _read_column_texts(column)
                ):
                    unmatched.discard(name)
                    yield name


def _read_column_texts(column: "pa.Array[Any]") -> Iterator[bytes]:
    """Yield the texts of a column joined to one, those of nested columns one by one."""
    values, kind = cast("Any", column), column.type
    if pa.types.is_dictionary(kind):
        yield from _read_column_texts(values.dictionary)
    elif pa.types.is_struct(kind):
        for part in values.flatten():
            yield from _read_column_texts(part)
    elif pa.types.is_map(kind):
        yield from _read_column_texts(values.keys)
        yield from _read_column_texts(values.items)
    elif pa.types.is_nested(kind):
        yield from _read_column_texts(values.flatten())
    elif isinstance(values, pa.ExtensionArray):
        yield from _read_column_texts(values.storage)
    elif kind in _STRINGS or kind in _BINARIES or pa.types.is_fixed_size_binary(kind):
        plain = values.cast(pa.string() if kind in _STRINGS else pa.binary()).drop_null()
        whole = cast("Any", pa.ListArray).from_arrays([0, len(plain)], plain)
        joined = cast("Any", pc.binary_join)(whole, "\n" if kind in _STRINGS else b"\n")
        yield joined[0].as_buffer().to_pybytes()


def _read_duckdb_texts(path: Path) -> Iterator[bytes]:
    """Yield the statements and the rows of a DuckDB file, the rows as text.

    Raises:
        duckdb.Error: the file is damaged, or another program has it open for writing.
    """
    with open_connection() as opened:
        opened.execute(f"ATTACH {quote_literal(str(path))} AS searched (READ_ONLY)")
        condition = "WHERE NOT internal AND database_name = 'searched'"
        for kind in ("views", "tables"):
            definitions = opened.execute(
                f"SELECT sql, comment FROM duckdb_{kind}() {condition}"
            ).fetchall()
            yield from (str(row).encode() for row in definitions)
        tables = opened.execute(f"SELECT schema_name, table_name FROM duckdb_tables() {condition}")
        for schema, name in tables.fetchall():
            rows = (
                f"FROM searched.{quote_identifier(schema)}.{quote_identifier(name)} AS one SELECT "
                "one::VARCHAR"
            )
            for batch in opened.sql(rows).to_arrow_reader(SEARCH_BATCH_ROWS):
                yield from _read_column_texts(batch.column(0))


def _read_sqlite_texts(path: Path) -> Iterator[bytes]:
    """Yield the rows of an SQLite file, as SQL statements.

    Raises:
        sqlite3.Error: the file is damaged.
    """
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
        for line in database.iterdump():
            yield line.encode("utf-8", "replace")
