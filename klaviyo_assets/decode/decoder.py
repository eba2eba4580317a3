"""Decodes the bytes of a page into an Arrow record batch, by the fast path or the fallback.

A page that contains only declared fields, of the declared types, is decoded in one go: by msgspec,
into structs that are generated from the stream's columns. Any other is read record by record by
`fallback`, and the decoder adds what was new to its fast path, so that later pages with the same
drift are fast again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Annotated, Protocol, cast

import msgspec
import pyarrow as pa
from msgspec import Meta, Raw, Struct
from msgspec.structs import astuple

from klaviyo_assets.decode.batch import BatchBuilder, cursor_range, filter_rows_with_cursor
from klaviyo_assets.decode.fallback import (
    INT64_RANGE,
    coerce_or_keep,
    parse_page_by_record,
    salvage_page,
)
from klaviyo_assets.decode.jsonapi import (
    ABSENT_JSON,
    EMPTY_JSON_VALUES,
    EMPTY_LINKS,
    PageIssues,
    PageLinks,
    PageRelationships,
    ParsedPage,
    QuarantinedRecord,
    Relationship,
    ResourceId,
    check_page_envelope,
    is_json_null,
    repair_json,
    strip_bom,
)
from klaviyo_assets.decode.masking import ColumnMasker
from klaviyo_assets.decode.schema import (
    FieldNode,
    ObjectNode,
    PageLayout,
    apply_schema_drift,
    build_page_layout,
    extra_key,
)
from klaviyo_assets.errors import BrokenBodyError, KlaviyoAssetsError, MalformedPageError
from klaviyo_assets.model.column import EXTRA_FIELD, ColumnType, JsonPath
from klaviyo_assets.model.privacy import PrivacyRules
from klaviyo_assets.model.stream import WHOLE_COLLECTION, Collection, Slice, Stream

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


class _AttributesRecord(Struct, gc=False):
    attributes: dict[str, Raw]


class _AttributesPage(Struct, gc=False):
    data: list[_AttributesRecord]


_attributes_page_decoder = msgspec.json.Decoder(_AttributesPage)


def missing_attributes(body: bytes, layout: PageLayout) -> list[str]:
    """Return the declared members of `attributes` that no record of a page has, sorted.

    Deeper members do not count, because they differ between records by design, as the strategies of
    campaigns do. Empty for a page with malformed records, and for a response with a single record:
    that may be a placeholder for a 404.
    """
    try:
        records = _attributes_page_decoder.decode(body).data
    except msgspec.ValidationError:
        return []
    declared = {path[0] for _, _, path in layout.attributes}
    return sorted(declared.difference(*(each.attributes for each in records)))


MAX_LEARNED_FIELDS = 500
"""Undeclared fields that the fast path may learn; beyond that, pages with new ones stay slow."""


_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedPage:
    """One page, decoded.

    `record_count` counts all records received; those that are not in `batch` are in `quarantined`.
    `lowest_cursor` and `highest_cursor`: of the cursor column, in UTC, None without rows or cursor.
    `is_ascending`: whether the cursor never decreases within the page. `notices` name fields and
    types, never values. `is_fast`: the fast path decoded the page.
    """

    batch: pa.RecordBatch
    next_link: str | None
    record_count: int
    lowest_cursor: datetime | None
    highest_cursor: datetime | None
    is_ascending: bool
    quarantined: tuple[QuarantinedRecord, ...]
    notices: tuple[str, ...]
    is_fast: bool


class PageDecoder:
    """Decodes the pages of one stream. Thread-safe.

    Every batch has the same `schema`: the stream's, whatever columns are excluded.
    """

    def __init__(self, stream: Stream, *, privacy: PrivacyRules | None = None) -> None:
        """Build the structs of the stream's columns.

        Values that `privacy` names are excluded or hashed in batches, in `extra` and in quarantine;
        excluded columns are NULL.

        Raises:
            ValueError: the stream's columns contradict each other, or the cursor is excluded.
        """
        privacy = privacy or PrivacyRules()
        excluded = (privacy.excluded_columns - {EXTRA_FIELD}) | stream.ignored_attributes
        self._layout = build_page_layout(stream, exclude=excluded)
        self._masker = ColumnMasker(stream, privacy, self._layout.field_tree)
        self._fast_path = FastPath(self._layout.field_tree, self._layout.relationships)
        self._passthrough_columns = frozenset(
            {EXTRA_FIELD, *(each.name for each in stream.columns if each.type == "json")}
        )
        self._is_first_page = True
        self._is_paged = isinstance(stream.source, Collection)

    @property
    def schema(self) -> pa.Schema:
        """Return the schema of every batch."""
        return self._masker.schema

    def decode(
        self, body: bytes, *, synced_at: datetime, slice_: Slice = WHOLE_COLLECTION
    ) -> DecodedPage:
        """Return a page as a record batch, with its next link, cursors, quarantine and notices.

        Args:
            body: the response's body, decompressed; `data` may be a list or a single record.
            synced_at: when it was read, UTC; the value of the column.
            slice_: the slice that was requested; its constants fill columns.

        Raises:
            BrokenBodyError: not JSON, not UTF-8, not a JSON object, or an object that is not a page
                (without `data` or `links.self`, or with `errors`); a retry may help.
            MalformedPageError: nested too deeply to be read.
        """
        text = strip_bom(body, self._layout.stream)
        try:
            return self._decode_page(text, synced_at, slice_)
        except _DECODE_ERRORS as problem:
            whole, changed = repair_json(text)
            if not changed:
                return self._decode_salvaged(whole, problem, synced_at, slice_)
        try:
            page = self._decode_page(whole, synced_at, slice_)
        except _DECODE_ERRORS as problem:
            page = self._decode_salvaged(whole, problem, synced_at, slice_)
        return replace(page, notices=(*page.notices, *changed))

    def _decode_salvaged(
        self, body: bytes, problem: Exception, synced_at: datetime, slice_: Slice
    ) -> DecodedPage:
        """Return a page whose unreadable records are in quarantine."""
        found = salvage_page(body)
        if found is None:
            raise self._undecodable_error(problem) from None
        try:
            page = self._decode_page(found.body, synced_at, slice_)
        except _DECODE_ERRORS:
            raise self._undecodable_error(problem) from None
        broken = tuple(map(self._masker.mask_quarantined, found.quarantined))
        return replace(
            page,
            record_count=page.record_count + len(broken),
            quarantined=(*page.quarantined, *broken),
        )

    def _undecodable_error(self, problem: Exception) -> KlaviyoAssetsError:
        stream = self._layout.stream
        match problem:
            case RecursionError():
                return MalformedPageError("the response is nested too deep to read", stream=stream)
            case UnicodeDecodeError():
                return BrokenBodyError("the response is not UTF-8", stream=stream)
            case _:
                # msgspec's text has the expected type and the position, and no value of the page.
                return BrokenBodyError(f"the response is not JSON: {problem}", stream=stream)

    def _decode_page(self, body: bytes, synced_at: datetime, slice_: Slice) -> DecodedPage:
        layout = self._layout
        parsed = self._parse_page(body)
        self._check_page(parsed)
        batch = BatchBuilder(layout, parsed, slice_).build(synced_at)
        cursor = layout.cursor
        if cursor is not None and batch[cursor].null_count:
            if parsed.is_fast:
                parsed = parse_page_by_record(body, layout.field_tree, layout.stream)
                batch = BatchBuilder(layout, parsed, slice_).build(synced_at)
            batch = filter_rows_with_cursor(batch, cursor, layout=layout, parsed_page=parsed)
        if not body.isascii():
            self._check_utf8(batch)
        if self._is_first_page and batch.num_rows:
            self._note_missing_fields(body, parsed.issues)
        no_range = None, None, True
        lowest, highest, is_ascending = (cursor and cursor_range(batch, cursor)) or no_range
        if self._masker.has_transforms or parsed.issues.extra_values:
            batch = self._masker.mask_batch(batch)
        return DecodedPage(
            batch=batch,
            next_link=parsed.links.next,
            record_count=parsed.record_count,
            lowest_cursor=lowest,
            highest_cursor=highest,
            is_ascending=is_ascending,
            quarantined=tuple(map(self._masker.mask_quarantined, parsed.quarantined)),
            notices=parsed.issues.notices(),
            is_fast=parsed.is_fast,
        )

    def _parse_page(self, body: bytes) -> ParsedPage:
        try:
            return self._fast_path.parse(body)
        except msgspec.ValidationError:
            parsed = parse_page_by_record(body, self._layout.field_tree, self._layout.stream)
        self._learn_schema_drift(parsed)
        return parsed

    def _check_page(self, parsed_page: ParsedPage) -> None:
        """Refuse a body that only looks like a page; links are not checked for a single record.

        Raises:
            BrokenBodyError: a retry may help.
        """
        stream = self._layout.stream
        check_page_envelope(
            parsed_page.links if self._is_paged else None, parsed_page.errors, stream=stream
        )
        if self._is_paged and not parsed_page.is_list:
            text = "the response is no page: its `data` is one record, not a list of them"
            raise BrokenBodyError(text, stream=stream)

    def _learn_schema_drift(self, page: ParsedPage) -> None:
        """Learn fields, loose types and relationships, by replacing one value: thread-safe."""
        known = self._fast_path
        names = {each for each in page.relationships if can_name_struct_field((each,))}
        relationships = known.relationships | names
        extras = known.new_fields | set(filter(can_name_struct_field, page.issues.new_fields))
        loose = known.loose_fields | page.issues.loose_fields
        before = (known.relationships, known.new_fields, known.loose_fields)
        if (relationships, extras, loose) != before and (
            len(extras) + len(relationships) <= MAX_LEARNED_FIELDS
        ):
            self._fast_path = FastPath(
                self._layout.field_tree, relationships, new_fields=extras, loose_fields=loose
            )

    def _note_missing_fields(self, body: bytes, issues: PageIssues) -> None:
        """Add a notice for each declared attribute that the first page with rows lacks."""
        self._is_first_page = False
        for name in missing_attributes(body, self._layout):
            issues.add_notice(name, "declared, but no record of the page has it")

    def _check_utf8(self, batch: pa.RecordBatch) -> None:
        """Check columns whose bytes were passed on undecoded.

        Raises:
            UnicodeDecodeError: they are not UTF-8.
        """
        for name in self._passthrough_columns.intersection(batch.schema.names):
            try:
                batch[name].validate(full=True)
            except pa.ArrowInvalid:
                raise UnicodeDecodeError("utf-8", b"", 0, 0, "not UTF-8") from None
