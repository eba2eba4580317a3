"""The columns of a page: each is taken from its place, and all become one record batch.

What belongs here: what each place means. What does not: building arrays (`arrays`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw

from klaviyo_assets.model.column import (
    At,
    Column,
    FirstIncludedId,
    Included,
    Newest,
    OfSlice,
    RelatedId,
    RelatedIds,
)
from klaviyo_assets.model.stream import Slice
from klaviyo_assets.tables.arrays import (
    Misfits,
    Texts,
    day_arrays,
    json_array,
    moment_arrays,
    text_arrays,
)
from klaviyo_assets.tables.coercion import coerced
from klaviyo_assets.tables.gathered import Gathered
from klaviyo_assets.tables.included import IncludedResources, several
from klaviyo_assets.tables.layout import Layout
from klaviyo_assets.tables.resources import ABSENT, Linkage, linkages
from klaviyo_assets.tables.schema import ARROW_TYPES, EXTRA, KEY, MOMENT, SYNCED_AT
from klaviyo_assets.tables.tree import extra_key

# The first and the last second that Python and Arrow both can name: years 1 to 9999.
_SECONDS = range(-62_135_596_800, 253_402_300_800)


@dataclass(slots=True)
class Building:
    """One page on its way into a record batch. Texts and times wait, to be built together."""

    layout: Layout
    gathered: Gathered
    slice_: Slice
    _texts: dict[str, Texts] = field(default_factory=dict[str, Texts])
    _moments: dict[str, Texts] = field(default_factory=dict[str, Texts])
    _days: dict[str, Texts] = field(default_factory=dict[str, Texts])
    _arrays: dict[str, pa.Array] = field(default_factory=dict[str, pa.Array])
    _included: IncludedResources | None = None

    def batch(self, synced_at: datetime) -> pa.RecordBatch:
        """Return the record batch of the layout's schema, a row a gathered record."""
        self._texts[KEY] = self.gathered.ids
        for column in self.layout.columns:
            self._take(column)
        self._keep_other_relationships()
        self._build()
        rows = len(self.gathered.ids)
        self._arrays[EXTRA] = (
            json_array(self.gathered.findings.objects(rows))
            if self.gathered.findings.kept
            else pa.nulls(rows, pa.string())
        )
        self._arrays[SYNCED_AT] = pa.repeat(pa.scalar(synced_at, MOMENT), rows)
        schema = self.layout.schema
        arrays = [
            self._arrays[each.name] if each.name in self._arrays else pa.nulls(rows, each.type)
            for each in schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _take(self, column: Column) -> None:
        match column.source:
            case At(path, _):
                self._attribute(column, self.gathered.values[tuple(path.split("."))])
            case RelatedId(name):
                self._texts[column.name] = self._single(
                    linkages(self.gathered.relations, name), name
                )
            case RelatedIds(name):
                self._arrays[column.name] = self._several(name)
            case Included(name):
                found = linkages(self.gathered.relations, name)
                self._arrays[column.name] = json_array(list(map(self._resources().whole, found)))
            case FirstIncludedId(name, related):
                resources = self._resources()
                found = linkages(self.gathered.relations, name)
                firsts = [resources.related_of_first(each, related) for each in found]
                self._texts[column.name] = self._single(firsts, None)
            case Newest(path, item):
                raws = cast("list[Raw]", self.gathered.values[tuple(path.split("."))])
                self._arrays[column.name] = self._newest(raws, item, path)
            case OfSlice(name):
                value = self.slice_.values.get(name)
                self._texts[column.name] = [value] * len(self.gathered.ids)

    def _resources(self) -> IncludedResources:
        if self._included is None:
            self._included = IncludedResources(self.gathered.included, self.gathered.findings)
        return self._included

    def _attribute(self, column: Column, values: list[object]) -> None:
        match column.type:
            case "string":
                self._texts[column.name] = cast("Texts", values)
            case "timestamp":
                self._moments[column.name] = cast("Texts", values)
            case "date":
                self._days[column.name] = cast("Texts", values)
            case "json":
                self._arrays[column.name] = json_array(cast("list[Raw]", values))
            case _:
                self._arrays[column.name] = pa.array(values, ARROW_TYPES[column.type])

    def _single(self, found: list[Linkage], name: str | None) -> list[str | None]:
        """Return one id a record; with `name`, what is a list instead is kept as it came."""
        ids: list[str | None] = []
        for row, each in enumerate(found):
            if isinstance(each, list):
                ids.append(None)
                if name is not None:
                    outcome = "where one related record is declared, left NULL"
                    self._misfit(row, f"relationships.{name}", each, outcome)
            else:
                ids.append(each.id if each else None)
        return ids

    def _several(self, name: str) -> pa.Array:
        lists: list[list[str] | None] = []
        for row, each in enumerate(linkages(self.gathered.relations, name)):
            if each is not None and not isinstance(each, (list, msgspec.UnsetType)):
                outcome = "where several related records are declared, converted"
                self._misfit(row, f"relationships.{name}", each, outcome)
            is_there = each is not None and each is not msgspec.UNSET
            lists.append([one.id for one in several(each)] if is_there else None)
        return pa.array(lists, ARROW_TYPES["ids"])

    def _misfit(self, row: int, key: str, value: object, outcome: str) -> None:
        self.gathered.findings.misfit(row, key, msgspec.json.encode(value), outcome=outcome)

    def _newest(self, raws: Sequence[Raw], item: str, path: str) -> pa.Array:
        texts: list[str] = []
        rows: list[int] = []
        for row, raw in enumerate(raws):
            found = _items(raw, item)
            if found is None:
                self.gathered.findings.note(path, f"no list of objects with {item} as text")
            for text in found or ():
                texts.append(text)
                rows.append(row)
        moments = moment_arrays({item: texts})[0][item].cast(pa.int64()).to_pylist()
        newest: list[int | None] = [None] * len(raws)
        for row, moment in zip(rows, moments, strict=True):
            before = newest[row]
            if moment is not None and (before is None or moment > before):
                newest[row] = moment
        return pa.array(newest, pa.int64()).cast(MOMENT)

    def _keep_other_relationships(self) -> None:
        declared = self.layout.relationships
        for row, relations in enumerate(self.gathered.relations):
            if not relations or relations.keys() <= declared:
                continue
            for name, each in relations.items():
                if name not in declared and each is not None and each.data:
                    raw = msgspec.json.encode(each.data)
                    self.gathered.findings.without_column(row, f"relationships.{name}", raw)

    def _build(self) -> None:
        arrays, cleaned = text_arrays(self._texts)
        self._arrays |= arrays
        for name in cleaned:
            self.gathered.findings.note(name, "string with NUL characters, replaced by U+FFFD")
        for build, waiting, kind in (
            (moment_arrays, self._moments, "timestamp"),
            (day_arrays, self._days, "date"),
        ):
            if waiting:
                arrays, misfits = build(waiting)
                self._arrays |= arrays
                self._keep_misfits(waiting, misfits, kind)
        self._fill()

    def _keep_misfits(self, texts: dict[str, Texts], misfits: Misfits, kind: str) -> None:
        places = {column.name: column.source for column in self.layout.columns}
        for name, rows in misfits.items():
            place = places[name]
            path = place.path if isinstance(place, At) else name
            key = extra_key(self.layout.root, tuple(path.split(".")))
            for row in rows:
                self._misfit(row, key, texts[name][row], f"where {kind} is declared, left NULL")

    def _fill(self) -> None:
        """Put the seconds of `or_else` where a moment is null."""
        for column in self.layout.columns:
            match column.source:
                case At(_, str(or_else)) if self._arrays[column.name].null_count:
                    values = self.gathered.values[tuple(or_else.split("."))]
                    micros = [
                        each * 1_000_000 if each is not None and each in _SECONDS else None
                        for each in cast("list[int | None]", values)
                    ]
                    other = pa.array(micros, pa.int64()).cast(MOMENT)
                    self._arrays[column.name] = pc.coalesce(self._arrays[column.name], other)
                case _:
                    pass


_objects = msgspec.json.Decoder(list[dict[str, Raw]] | None)


def _items(raw: Raw, item: str) -> list[str] | None:
    """Return the texts `item` of a JSON array of objects, None where it is something else."""
    if not len(raw):
        return []
    try:
        found = _objects.decode(raw) or []
    except msgspec.ValidationError:
        return None
    values = (coerced(bytes(each.get(item, ABSENT)), "timestamp")[0] for each in found)
    return [value for value in values if isinstance(value, str)]
