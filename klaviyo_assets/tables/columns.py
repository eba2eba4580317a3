"""The columns of a page: each is taken from its place, and all become one record batch.

What belongs here: what each place means. What does not: building arrays (`arrays`).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import cast

import msgspec
import pyarrow as pa
from msgspec import Raw

from klaviyo_assets.model.column import (
    At,
    Column,
    ColumnType,
    FirstIncludedId,
    Included,
    Newest,
    OfSlice,
    RelatedId,
    RelatedIds,
)
from klaviyo_assets.model.stream import Slice
from klaviyo_assets.tables.arrays import Built, built
from klaviyo_assets.tables.coercion import coerced, moment_of
from klaviyo_assets.tables.findings import is_null
from klaviyo_assets.tables.gathered import Gathered
from klaviyo_assets.tables.layout import Layout
from klaviyo_assets.tables.related import Related
from klaviyo_assets.tables.resources import ABSENT
from klaviyo_assets.tables.schema import DELETED_AT, EXTRA, KEY, MOMENT, PARENT_VERSION, SYNCED_AT
from klaviyo_assets.tables.tree import extra_key, path_of
from klaviyo_assets.tables.values import Array, json_array, moments, nulls

# The first and the last second that Python and Arrow both can name: years 1 to 9999.
_SECONDS = range(-62_135_596_800, 253_402_300_800)


class Building:
    """One page on its way into a record batch: taken column by column, built type by type."""

    def __init__(self, layout: Layout, gathered: Gathered, slice_: Slice) -> None:
        """Hold a page's values; `slice_` brings the constants."""
        self._layout = layout
        self._gathered = gathered
        self._slice = slice_
        self._related = Related(
            gathered.relations,
            rows=len(gathered.ids),
            included=gathered.included,
            findings=gathered.findings,
        )
        self._values: dict[ColumnType, dict[str, Sequence[object]]] = {}

    def batch(self, synced_at: datetime) -> pa.RecordBatch:
        """Return the record batch of the layout's schema, a row a gathered record."""
        values = self._gathered.values
        self._values["string"] = {KEY: self._gathered.ids}
        for name, kind, path in self._layout.attributes:
            self._values.setdefault(kind, {})[name] = values[path]
        for column in self._layout.others:
            self._values.setdefault(column.type, {})[column.name] = self._placed(column)
        self._related.keep_others(self._layout.relationships)
        arrays: dict[str, Array] = {}
        for kind, columns in self._values.items():
            made = built(kind, columns)
            self._tell(made, kind)
            arrays |= made.arrays
        self._fill(arrays)
        rows = len(self._gathered.ids)
        arrays[EXTRA] = self._extra(rows)
        arrays[SYNCED_AT] = moments(synced_at, rows)
        arrays[PARENT_VERSION] = arrays[DELETED_AT] = nulls(rows, MOMENT)
        schema = self._layout.schema
        return pa.record_batch([arrays[name] for name in schema.names], schema=schema)

    def _placed(self, column: Column) -> Sequence[object]:
        match column.source:
            case RelatedId(name):
                return self._related.ids(name)
            case RelatedIds(name):
                return self._related.id_lists(name)
            case Included(name):
                return self._related.wholes(name)
            case FirstIncludedId(name, related):
                return self._related.ids_of_firsts(name, related)
            case Newest(path, item):
                return self._newest(path, item)
            case OfSlice() as place:
                return self._of_slice(column.name, place)
            case At(path):
                return self._gathered.values[path_of(path)]

    def _of_slice(self, column: str, place: OfSlice) -> list[str | None]:
        asked = self._slice.values.get(place.name)
        if not place.first:
            return [asked] * len(self._gathered.ids)
        came = self._related.texts_of_firsts(place.first, place.path)
        for other in sorted({each for each in came if each is not None} - {asked or ""}):
            self._gathered.findings.note(column, f"records of {other} came for {asked}")
        return [each or asked for each in came]

    def _newest(self, path: str, item: str) -> list[str | None]:
        newest: list[str | None] = []
        for raw in cast("Sequence[Raw]", self._gathered.values[path_of(path)]):
            texts = _texts(raw, item)
            if texts is None:
                self._gathered.findings.note(path, f"no list of objects with {item}, left NULL")
            moments = {text: moment_of(text) for text in texts or ()}
            known = {text: moment for text, moment in moments.items() if moment is not None}
            newest.append(max(known, key=known.__getitem__, default=None))
        return newest

    def _tell(self, made: Built, kind: ColumnType) -> None:
        findings = self._gathered.findings
        for name in made.cleaned:
            findings.note(name, "string with NUL characters, replaced by U+FFFD")
        for name, rows in made.misfits.items():
            paths = {each: path for each, _, path in self._layout.attributes}
            key = extra_key(self._layout.root, paths[name])
            for row in rows:
                raw = msgspec.json.encode(self._values[kind][name][row])
                findings.misfit(row, key, raw, outcome=f"where {kind} is declared, left NULL")

    def _fill(self, arrays: dict[str, Array]) -> None:
        """Put the seconds of `or_else` where a moment is null."""
        for name, path in self._layout.seconds:
            if not arrays[name].null_count:
                continue
            others = cast("Sequence[int | None]", self._gathered.values[path])
            micros = arrays[name].cast(pa.int64()).to_pylist()
            filled = [
                other * 1_000_000
                if micro is None and other is not None and other in _SECONDS
                else micro
                for micro, other in zip(micros, others, strict=True)
            ]
            arrays[name] = pa.array(filled, pa.int64()).cast(MOMENT)

    def _extra(self, rows: int) -> Array:
        findings = self._gathered.findings
        return json_array(findings.objects(rows)) if findings.kept else nulls(rows, pa.string())


_objects = msgspec.json.Decoder(list[dict[str, Raw]])


def _texts(raw: Raw, item: str) -> list[str] | None:
    """Return the texts `item` of a JSON array of objects, None where it is something else."""
    if is_null(raw):
        return []
    try:
        found = _objects.decode(raw)
    except msgspec.ValidationError:
        return None
    values = (coerced(bytes(each.get(item, ABSENT)), "timestamp")[0] for each in found)
    return [value for value in values if isinstance(value, str)]
