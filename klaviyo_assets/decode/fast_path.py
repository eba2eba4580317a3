"""The fast path: msgspec decodes a whole page into structs generated from the stream's columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Annotated, Protocol, cast

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import astuple

from klaviyo_assets.decode.coercion import INT64_RANGE, coerce_or_keep
from klaviyo_assets.decode.jsonapi import (
    ABSENT_JSON,
    EMPTY_JSON_VALUES,
    EMPTY_LINKS,
    PageIssues,
    PageLinks,
    PageRelationships,
    ParsedPage,
    Relationship,
    ResourceId,
    is_json_null,
)
from klaviyo_assets.decode.schema import FieldNode, ObjectNode, apply_schema_drift, extra_key
from klaviyo_assets.model.column import ColumnType, JsonPath

_Int64 = Annotated[int, Meta(ge=INT64_RANGE.start, le=INT64_RANGE.stop - 1)]

_STRUCT_TYPES: Mapping[ColumnType, object] = MappingProxyType(
    {
        "string": str | None,
        "timestamp": str | None,
        "date": str | None,
        "integer": _Int64 | None,
        # Also text: coordinates are published as either, and old integrations send text.
        "number": float | str | None,
        "boolean": bool | None,
        "ids": list[str] | None,
        "json": Raw,
    }
)

_define_struct = partial(msgspec.defstruct, kw_only=True, gc=False)
_define_closed_struct = partial(_define_struct, forbid_unknown_fields=True)


class _StructRecord(Protocol):
    id: str
    attributes: Struct
    relationships: Struct | None
    meta: Raw


class _StructPage(Protocol):
    data: list[_StructRecord] | _StructRecord
    links: PageLinks | None
    errors: Raw
    included: Raw


@dataclass(frozen=True, slots=True)
class _StructNode:
    """The fields of a struct in their order; `empty` replaces a null or missing object."""

    parts: "tuple[FieldNode | _StructNode, ...]"
    empty: Struct


def can_name_struct_field(path: JsonPath) -> bool:
    """Return whether msgspec accepts all names of a path as names of struct fields."""
    return all(name.isprintable() and not set(name) & {'"', "\\"} for name in path)


class FastPath:
    """Decodes pages that contain only fields of the field tree, of its types, and `relationships`.

    `new_fields` and `loose_fields`: what earlier pages contained beyond the declaration, as
    `apply_schema_drift` adds it to the tree.
    """

    def __init__(
        self,
        declared: ObjectNode,
        relationships: frozenset[str],
        *,
        new_fields: frozenset[JsonPath] = frozenset(),
        loose_fields: frozenset[JsonPath] = frozenset(),
    ) -> None:
        """Build the structs, which takes some milliseconds."""
        self.relationships = relationships
        self.new_fields, self.loose_fields = new_fields, loose_fields
        self._root = apply_schema_drift(declared, new_fields=new_fields, loose_fields=loose_fields)
        attributes, self._attributes_node = _build_structs(self._root)
        names = {f"f{number}": name for number, name in enumerate(sorted(relationships))}
        related = _define_closed_struct(
            "Relationships", [(each, Relationship | None, None) for each in names], rename=names
        )
        self._relationship_names = tuple(names.values())
        self._empty_relationships = related()
        self._decoder = _build_page_decoder(attributes, related)

    def parse(self, body: bytes) -> ParsedPage:
        """Return the values of a page.

        Raises:
            msgspec.ValidationError: the page contains a field or type that the structs lack.
            msgspec.DecodeError: it is not JSON.
        """
        page = cast("_StructPage", self._decoder.decode(body))
        is_list = isinstance(page.data, list)
        records = cast("list[_StructRecord]", page.data if is_list else [page.data])
        attributes = [each.attributes for each in records]
        issues = PageIssues()
        values = {
            field.path: self._finish_column(field, found, issues)
            for field, found in _iterate_fields(self._attributes_node, attributes)
        }
        _keep_record_metas([each.meta for each in records], issues)
        return ParsedPage(
            ids=[each.id for each in records],
            values=values,
            relationships=self._transpose_relationships(records),
            record_count=len(records),
            issues=issues,
            included=page.included,
            links=page.links or EMPTY_LINKS,
            errors=page.errors,
            is_list=is_list,
            is_fast=True,
        )

    def _transpose_relationships(self, records: Sequence[_StructRecord]) -> PageRelationships:
        columns = _transpose_structs(
            [each.relationships or self._empty_relationships for each in records],
            fields=len(self._relationship_names),
        )
        relationships = cast("Sequence[Sequence[Relationship | None]]", columns)
        return dict(zip(self._relationship_names, relationships, strict=True))

    def _finish_column(
        self, field: FieldNode, found: Sequence[object], issues: PageIssues
    ) -> Sequence[object]:
        """Return a column's values, coerced where needed; add to `issues` what goes to `extra`."""
        if field.purpose == "extra":
            key = extra_key(self._root, field.path)
            for row, raw in enumerate(map(bytes, cast("Sequence[Raw]", found))):
                if not is_json_null(raw):
                    issues.add_undeclared(row, key, raw)
            return found
        if field.is_loosely_typed:
            raws = list(map(bytes, cast("Sequence[Raw]", found)))
        elif field.type == "number" and str in set(map(type, found)):
            raws = list(map(msgspec.json.encode, found))
        else:
            return found
        key = extra_key(self._root, field.path)
        return [
            coerce_or_keep(raw, field.type, issues, row=row, key=key)[0]
            for row, raw in enumerate(raws)
        ]


def _build_page_decoder(
    attributes: type[Struct], relationships: type[Struct]
) -> msgspec.json.Decoder[object]:
    record = _define_closed_struct(
        "Record",
        [
            ("id", ResourceId),
            ("attributes", attributes),
            ("relationships", relationships | None, None),
            ("meta", Raw, ABSENT_JSON),
            ("type", Raw, ABSENT_JSON),
            ("links", Raw, ABSENT_JSON),
        ],
    )
    page = _define_struct(
        "Page",
        [
            ("data", list[record] | record),
            ("links", PageLinks | None, None),
            ("errors", Raw, ABSENT_JSON),
            ("included", Raw, ABSENT_JSON),
        ],
    )
    return msgspec.json.Decoder(page)


def _build_structs(branch: ObjectNode) -> tuple[type[Struct], _StructNode]:
    fields: list[tuple[str, object, object]] = []
    names: dict[str, str] = {}
    parts: list[FieldNode | _StructNode] = []
    for number, (name, child) in enumerate(branch.children.items()):
        # Numbered names: Klaviyo's may be no identifiers, or reserved in Python or msgspec.
        ours = f"f{number}"
        names[ours] = name
        if isinstance(child, ObjectNode):
            struct, nest = _build_structs(child)
            fields.append((ours, struct | None, None))
            parts.append(nest)
        else:
            read = Raw if child.is_loosely_typed else _STRUCT_TYPES[child.type]
            fields.append((ours, read, ABSENT_JSON if read is Raw else None))
            parts.append(child)
    # pyright wants each field to be one of three tuple types; ours all have three items.
    struct = _define_closed_struct("Attributes", fields, rename=names)
    return struct, _StructNode(tuple(parts), struct())


def _transpose_structs(structs: Sequence[Struct], *, fields: int) -> Sequence[Sequence[object]]:
    """Return the values field by field instead of struct by struct."""
    return list(zip(*map(astuple, structs), strict=True)) or [()] * fields


def _iterate_fields(
    node: _StructNode, structs: Sequence[Struct]
) -> Iterator[tuple[FieldNode, Sequence[object]]]:
    columns = _transpose_structs(structs, fields=len(node.parts))
    for part, found in zip(node.parts, columns, strict=True):
        if isinstance(part, _StructNode):
            empty = part.empty
            below = cast("Sequence[Struct | None]", found)
            yield from _iterate_fields(part, [each or empty for each in below])
        elif part.purpose != "ignored":
            yield part, found


def _keep_record_metas(metas: Sequence[Raw], issues: PageIssues) -> None:
    if not any(map(len, metas)):
        return
    for row, meta in enumerate(metas):
        if bytes(meta) not in EMPTY_JSON_VALUES:
            issues.add_undeclared(row, "record.meta", bytes(meta))
