"""What a page holds that its columns cannot: values for `extra`, notices, and what to learn.

What belongs here: collecting them in words that name fields and types. What does not: finding them.
"""

from dataclasses import dataclass, field

import msgspec
from msgspec import Raw

from klaviyo_assets.model.column import ColumnType
from klaviyo_assets.redaction import redact
from klaviyo_assets.tables.coercion import coerced, number_in_text
from klaviyo_assets.tables.tree import Path

NOTICES_AT_MOST = 50
NAME_AT_MOST = 120
"""Characters of a field's name in a notice: a name is Klaviyo's, yet anybody's length."""

_STARTS = {
    ord('"'): "string",
    ord("{"): "object",
    ord("["): "array",
    ord("t"): "boolean",
    ord("f"): "boolean",
    ord("n"): "null",
}


def json_type(raw: bytes | Raw) -> str:
    """Return what a JSON value is, in JSON's words."""
    return _STARTS.get(memoryview(raw)[0], "number")


def is_null(raw: bytes | Raw) -> bool:
    """Tell whether a JSON value is null, or absent (empty)."""
    length = len(raw)
    return not length or (length == len(b"null") and bytes(raw) == b"null")


@dataclass(slots=True)
class Findings:
    """Filled while a page is read; rows are numbered as the page's records are."""

    kept: dict[int, dict[str, bytes]] = field(default_factory=dict[int, dict[str, bytes]])
    new_fields: set[Path] = field(default_factory=set[Path])
    loose_fields: set[Path] = field(default_factory=set[Path])
    _notices: set[str] = field(default_factory=set[str])

    def keep(self, row: int, key: str, raw: bytes) -> None:
        """Put a JSON value into the record's `extra`."""
        self.kept.setdefault(row, {})[key] = raw

    def without_column(self, row: int, key: str, raw: bytes) -> None:
        """Keep a value that no column is for, and say so."""
        self.keep(row, key, raw)
        self.note(key, f"{json_type(raw)} without a column, kept in `extra`")

    def misfit(self, row: int, key: str, raw: bytes, *, outcome: str) -> None:
        """Keep a value of another type than declared; `outcome` tells what its column got."""
        self.keep(row, key, raw)
        self.note(key, f"{json_type(raw)} {outcome}, kept in `extra`")

    def typed(self, raw: bytes, kind: ColumnType, *, at: tuple[int, str]) -> tuple[object, bool]:
        """Return a column's value for a JSON value, and whether it fits; if not, keep it.

        `at` is the row and the key in `extra`.
        """
        if kind == "number" and (number := number_in_text(raw)) is not None:
            return number, True
        value, fits = coerced(raw, kind)
        if not fits:
            end = "left NULL" if value is None else "converted"
            self.misfit(*at, raw, outcome=f"where {kind} is declared, {end}")
        return value, fits

    def note(self, name: str, text: str) -> None:
        """Add a notice; `text` must hold no value of a record."""
        name = redact(name)
        shown = name if len(name) <= NAME_AT_MOST else f"{name[:NAME_AT_MOST]}..."
        self._notices.add(f"{shown!r}: {text}" if not shown.isprintable() else f"{shown}: {text}")

    def notices(self) -> tuple[str, ...]:
        """Return the notices in order, each once, and how many were left off."""
        ordered = sorted(self._notices)
        more = len(ordered) - NOTICES_AT_MOST
        if more <= 0:
            return tuple(ordered)
        return (*ordered[:NOTICES_AT_MOST], f"and {more} more notices of this page")

    def objects(self, rows: int) -> list[bytes]:
        """Return a JSON object of sorted keys for each of the first rows; empty: nothing kept."""
        return [_object(self.kept.get(row)) for row in range(rows)]


def _object(members: dict[str, bytes] | None) -> bytes:
    if not members:
        return b""
    pairs = (msgspec.json.encode(key) + b":" + members[key] for key in sorted(members))
    return b"{" + b",".join(pairs) + b"}"
