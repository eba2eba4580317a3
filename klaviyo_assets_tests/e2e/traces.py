"""Looking for values in every file of a home, in whatever form a file keeps them.

What belongs here: reading files so that nothing hides in them. What does not: what is looked for.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq


def traces(root: Path, values: Iterable[str]) -> dict[str, set[str]]:
    """Return the values that are found below a folder, by the files that hold them."""
    wanted = {value: value.encode() for value in values}
    assert wanted
    found: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            forms = list(forms_of(path))
            seen = {value for value, raw in wanted.items() if any(raw in form for form in forms)}
            if seen:
                found[str(path.relative_to(root))] = seen
    return found


def forms_of(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes as they are, and what they say once they are decoded."""
    raw = path.read_bytes()
    yield raw
    if raw.startswith(b"PAR1"):
        rows = pq.read_table(path).to_pylist()
        yield json.dumps(rows, ensure_ascii=False, default=str).encode()
        yield b"\n".join(each for row in rows for each in row.values() if isinstance(each, bytes))
    elif raw.startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(path)) as database:
            yield "\n".join(database.iterdump()).encode()
    elif path.suffix == ".answer":
        yield zlib.decompress(raw.partition(b"\n")[2])
