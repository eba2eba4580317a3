"""The fast path: a page is decoded at once into structs made of the stream's columns.

What belongs here: making the structs and reading their values out, column by column. What does not:
pages that hold more than the structs know; those raise, and `survey` reads them.
Typed structs with raw slices take a tenth of the time that dictionaries take: nothing is made of
what is only passed on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Annotated, Protocol, cast

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import astuple

from klaviyo_assets.model.column import ColumnType
from klaviyo_assets.tables.coercion import INT64
from klaviyo_assets.tables.findings import Findings, is_null
from klaviyo_assets.tables.gathered import Gathered
from klaviyo_assets.tables.resources import (
    ABSENT,
    NO_LINKS,
    NOTHING,
    Id,
    Links,
    Relations,
    Relationship,
    Relationships,
    relations_of,
)
from klaviyo_assets.tables.tree import Branch, Field, Path, extra_key

_INT64 = Annotated[int, Meta(ge=INT64.start, le=INT64.stop - 1)]

_TYPES: Mapping[ColumnType, object] = MappingProxyType(
    {
        "string": str | None,
        "timestamp": str | None,
        "date": str | None,
        "integer": _INT64 | None,
        # Text, too: so coordinates are published, and so old senders send them.
        "number": float | str | None,
        "boolean": bool | None,
        "ids": list[str] | None,
        "json": Raw,
    }
)

_struct = partial(msgspec.defstruct, kw_only=True, gc=False)
_closed_struct = partial(_struct, forbid_unknown_fields=True)


class _Record(Protocol):
    id: str
    attributes: Struct
    relationships: object
    meta: Raw


class _Page(Protocol):
    data: list[_Record] | _Record
    links: Links | None
    errors: Raw
    included: Raw


@dataclass(frozen=True, slots=True)
class _Nest:
    """What the fields of a struct are, in its order; `empty` stands for null and for absent."""

    parts: "tuple[Field | _Nest, ...]"
    empty: Struct


def is_learnable(path: Path) -> bool:
    """Tell whether msgspec can name a struct's field so."""
    return all(name.isprintable() and not set(name) & {'"', "\\"} for name in path)


class FastPath:
    """Decodes pages that hold nothing but what the tree knows."""

    def __init__(self, root: Branch, relationships: Sequence[str]) -> None:
        """Make the structs, some milliseconds of work.

        `relationships` are those that are declared. A page with others is decoded as well, only
        not as quickly.
        """
        self._root = root
        self._names = tuple(relationships)
        attributes, self._nest = _structs(root)
        fields = [(f"f{number}", Relationship | None, None) for number in range(len(self._names))]
        names = {f"f{number}": name for number, name in enumerate(self._names)}
        declared = _closed_struct("Relationships", fields, rename=names)
        self._no_relationships = declared()
        self._declared = _page_decoder(attributes, declared)
        self._any = _page_decoder(attributes, Relationships)
        self._has_others = False

    def gathered(self, body: bytes) -> Gathered:
        """Return the values of a page.

        Raises:
            msgspec.ValidationError: the page holds something that the structs do not know.
            msgspec.DecodeError: it is not JSON.
        """
        if not self._has_others:
            try:
                page = cast("_Page", self._declared.decode(body))
            except msgspec.ValidationError:
                # One name that is not declared is enough, mostly in the first record.
                pass
            else:
                return self._gathered(page, self._declared_relations)
        page = cast("_Page", self._any.decode(body))
        self._has_others = True
        return self._gathered(page, self._any_relations)

    def _gathered(
        self, page: _Page, relations_of_page: Callable[[Sequence[object]], Relations]
    ) -> Gathered:
        is_list = isinstance(page.data, list)
        records = cast("list[_Record]", page.data if is_list else [page.data])
        ids = [each.id for each in records]
        attributes = [each.attributes for each in records]
        relations = [each.relationships for each in records]
        metas = [each.meta for each in records]
        findings = Findings()
        values = {
            field.path: self._finished(field, found, findings)
            for field, found in _fields(self._nest, attributes)
        }
        _keep_metas(metas, findings)
        return Gathered(
            ids=ids,
            values=values,
            relations=relations_of_page(relations),
            records=len(records),
            findings=findings,
            included=page.included,
            links=page.links or NO_LINKS,
            errors=page.errors,
            is_list=is_list,
            is_fast=True,
        )

    def _declared_relations(self, found: Sequence[object]) -> Relations:
        structs = [
            each or self._no_relationships for each in cast("Sequence[Struct | None]", found)
        ]
        columns = cast(
            "Sequence[Sequence[Relationship | None]]", _columns(structs, fields=len(self._names))
        )
        return dict(zip(self._names, columns, strict=True))

    def _any_relations(self, found: Sequence[object]) -> Relations:
        return relations_of(cast("Sequence[Relationships | None]", found))

    def _finished(
        self, field: Field, found: Sequence[object], findings: Findings
    ) -> Sequence[object]:
        """Return a column's values; fill in what goes to `extra` on the way."""
        if field.purpose == "extra":
            key = extra_key(self._root, field.path)
            for row, raw in enumerate(map(bytes, cast("Sequence[Raw]", found))):
                if not is_null(raw):
                    findings.without_column(row, key, raw)
            return found
        if field.is_loose:
            raws = list(map(bytes, cast("Sequence[Raw]", found)))
        elif field.type == "number" and str in set(map(type, found)):
            raws = list(map(msgspec.json.encode, found))
        else:
            return found
        key = extra_key(self._root, field.path)
        return [findings.typed(raw, field.type, at=(row, key))[0] for row, raw in enumerate(raws)]


def _page_decoder(
    attributes: type[Struct], relationships: type[object]
) -> msgspec.json.Decoder[object]:
    record = _closed_struct(
        "Record",
        [
            ("id", Id),
            ("attributes", attributes),
            ("relationships", relationships | None, None),
            ("meta", Raw, ABSENT),
            ("type", Raw, ABSENT),
            ("links", Raw, ABSENT),
        ],
    )
    page = _struct(
        "Page",
        [
            ("data", list[record] | record),
            ("links", Links | None, None),
            ("errors", Raw, ABSENT),
            ("included", Raw, ABSENT),
        ],
    )
    return msgspec.json.Decoder(page)


def _structs(branch: Branch) -> tuple[type[Struct], _Nest]:
    fields: list[tuple[str, object, object]] = []
    names: dict[str, str] = {}
    parts: list[Field | _Nest] = []
    for number, (name, child) in enumerate(branch.children.items()):
        # A name of our own: Klaviyo's may be no identifier, or a word of Python or msgspec.
        ours = f"f{number}"
        names[ours] = name
        if isinstance(child, Branch):
            struct, nest = _structs(child)
            fields.append((ours, struct | None, None))
            parts.append(nest)
        else:
            read = Raw if child.is_loose else _TYPES[child.type]
            fields.append((ours, read, ABSENT if read is Raw else None))
            parts.append(child)
    # pyright wants each field to be one of three tuples; ours are all the longest.
    struct = _closed_struct("Attributes", fields, rename=names)
    return struct, _Nest(tuple(parts), struct())


def _columns(structs: Sequence[Struct], *, fields: int) -> Sequence[Sequence[object]]:
    """Return the values field by field instead of struct by struct."""
    return list(zip(*map(astuple, structs), strict=True)) or [()] * fields


def _fields(nest: _Nest, structs: Sequence[Struct]) -> Iterator[tuple[Field, Sequence[object]]]:
    columns = _columns(structs, fields=len(nest.parts))
    for part, found in zip(nest.parts, columns, strict=True):
        if isinstance(part, _Nest):
            empty = part.empty
            below = cast("Sequence[Struct | None]", found)
            yield from _fields(part, [each or empty for each in below])
        elif part.purpose != "ignored":
            yield part, found


def _keep_metas(metas: Sequence[Raw], findings: Findings) -> None:
    if not any(map(len, metas)):
        return
    for row, meta in enumerate(metas):
        if bytes(meta) not in NOTHING:
            findings.without_column(row, "record.meta", bytes(meta))
