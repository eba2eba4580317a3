"""Searches values in every file of a home, in each encoding that a file may have."""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import cast

import duckdb
import pyarrow.parquet as pq


def find_values(root: Path, values: Iterable[str]) -> dict[str, set[str]]:
    """Return the values that are found below a folder, in any case, by the files that hold them."""
    wanted = {value: value.lower().encode() for value in values}
    assert wanted
    found: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            forms = [form.lower() for form in decoded_forms(path)]
            seen = {value for value, raw in wanted.items() if any(raw in form for form in forms)}
            if seen:
                found[str(path.relative_to(root))] = seen
    return found


def decoded_forms(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes as they are, and what they say once they are decoded."""
    raw = path.read_bytes()
    yield raw
    if raw.startswith(b"PAR1"):
        # Half a file says nothing more: what was to be its footer is not there.
        if raw.endswith(b"PAR1"):
            yield b"\n".join({*texts_in_value(pq.read_table(path).to_pylist())})
    elif raw.startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(path)) as database:
            yield "\n".join(database.iterdump()).encode()
    elif raw[8:12] == b"DUCK":
        with duckdb.connect(str(path), read_only=True) as database:
            for (name,) in database.execute("SELECT table_name FROM duckdb_tables()").fetchall():
                yield b"\n".join(texts_in_value(database.execute(f'FROM "{name}"').fetchall()))
    elif path.suffix == ".answer":
        yield zlib.decompress(raw.partition(b"\n")[2])
    else:
        yield b"\n".join(text for line in raw.splitlines() for text in texts_in_value(line))


def texts_in_value(value: object) -> Iterator[bytes]:
    """Yield the texts of a value, and of the JSON that is in them, in no order."""
    # Not recursive: a search of a small lake passes some hundred thousand values.
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, bytes):
            each = each.decode("utf-8", "replace")
        if isinstance(each, str):
            yield each.encode("utf-8", "replace")
            if each.startswith(("{", "[", '"')):
                with suppress(ValueError):
                    waiting.append(json.loads(each))
        else:
            waiting.extend(nested_values(each))


def nested_values(value: object) -> Iterable[object]:
    """Return what a value is made of."""
    if isinstance(value, dict):
        return chain.from_iterable(cast("dict[object, object]", value).items())
    return cast("Iterable[object]", value) if isinstance(value, list | tuple) else ()
