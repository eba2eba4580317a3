"""Builds the columns of a parsed page, and from them its Arrow record batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET, Raw, Struct

from klaviyo_assets.arrow_buffers import (
    TIMESTAMP_UTC,
    ArrowArray,
    build_array,
    build_json_array,
    build_null_array,
    build_timestamp_array,
    datetime_from_microseconds,
    integers_to_numpy,
)
from klaviyo_assets.decode.fallback import coerce_value, parse_iso_day, parse_timestamp
from klaviyo_assets.decode.jsonapi import (
    ABSENT_JSON,
    EMPTY_JSON_VALUES,
    PageIssues,
    PageRelationships,
    ParsedPage,
    QuarantinedRecord,
    RecordRelationships,
    ResourceIdentifier,
    ResourceLinkage,
    encode_json_array,
    is_json_null,
    json_array_decoder,
)
from klaviyo_assets.decode.schema import (
    ARROW_TYPES,
    ID_FIELD,
    PARENT_VERSION_FIELD,
    SYNCED_AT_FIELD,
    PageLayout,
    extra_key,
)
from klaviyo_assets.model.column import (
    EXTRA_FIELD,
    ColumnSource,
    ColumnType,
    Derived,
    FieldPath,
    FirstIncludedId,
    Included,
    LatestOf,
    RecordId,
    RelatedId,
    RelatedIds,
    SliceConstant,
    split_path,
)
from klaviyo_assets.model.stream import Slice

ValuesByColumn = Mapping[str, Sequence[object]]
"""The values of some columns by name, one value a row."""

_VALUE_RANGES: Mapping[ColumnType, tuple[pa.DataType, int, int]] = {
    "timestamp": (pa.int64(), -62_135_596_800_000_000, 253_402_300_799_999_999),
    "date": (pa.int32(), -719_162, 2_932_896),
}
"""The first and last value of the years 1 to 9999, in microseconds or days since 1970."""

REPLACEMENT_CHARACTER = "\ufffd"


def _is_all_null(values: Sequence[object]) -> bool:
    return not any(values) and values.count(None) == len(values)


def _join_columns(columns: ValuesByColumn) -> list[object]:
    return list(chain.from_iterable(columns.values()))


def _split_columns(joined: ArrowArray, columns: ValuesByColumn) -> dict[str, ArrowArray]:
    rows = len(joined) // len(columns)
    return {name: joined.slice(at * rows, rows) for at, name in enumerate(columns)}


def _replace_nul(value: object) -> object:
    if isinstance(value, list):
        return [_replace_nul(each) for each in cast("list[object]", value)]
    return value.replace("\0", REPLACEMENT_CHARACTER) if isinstance(value, str) else value


def _is_within_years(joined: ArrowArray, kind: ColumnType) -> bool:
    """Return whether Python can represent every value; Arrow also has the years 0 and 10000."""
    number, first, last = _VALUE_RANGES[kind]
    ends = cast("dict[str, int | None]", pc.min_max(joined.cast(number)).as_py())
    return all(end is None or first <= end <= last for end in ends.values())


class _ResourceHead(Struct, gc=False):
    type: str
    id: str
    relationships: RecordRelationships | None = None


_head_list_decoder = msgspec.json.Decoder(list[_ResourceHead])
_head_decoder = msgspec.json.Decoder(_ResourceHead)


class RelationshipReader:
    """The relationships of a page's records, in the records' order.

    Included resources are found by type and id; of two with the same ones the later counts.
    """

    def __init__(
        self, relationships: PageRelationships, *, rows: int, included: Raw, issues: PageIssues
    ) -> None:
        """Keep the page's parts; values of an undocumented shape are added to `issues`."""
        self._relationships = relationships
        self._rows = rows
        self._included = included
        self._issues = issues
        self._resources: dict[tuple[str, str], tuple[_ResourceHead, Raw]] | None = None
        self._first_resources: dict[str, list[tuple[int, _ResourceHead, Raw]]] = {}

    def read(self, source: RelatedId | RelatedIds | Included | FirstIncludedId) -> Sequence[object]:
        """Return the values of a column that is read from a relationship, one a record."""
        match source:
            case RelatedId(relationship):
                return self.ids(relationship)
            case RelatedIds(relationship):
                return self.id_lists(relationship)
            case Included(relationship):
                return self.included_json(relationship)
            case FirstIncludedId(relationship, related):
                return self.first_included_ids(relationship, related)

    def linkages(self, name: str) -> list[ResourceLinkage]:
        """Return a relationship's `data` for each record; UNSET where it was not sent."""
        found = self._relationships.get(name)
        if found is None:
            return [UNSET] * self._rows
        return [each.data if each is not None else UNSET for each in found]

    def ids(self, name: str) -> list[str | None]:
        """Return the ids of a to-one relationship; a list instead is put into `extra`."""
        found = self.linkages(name)
        if set(map(type, found)) == {ResourceIdentifier}:
            return [each.id for each in cast("list[ResourceIdentifier]", found)]
        for row, each in enumerate(found):
            if isinstance(each, list):
                self._add_mistyped(
                    row, name, each, "where one related record is declared, left NULL"
                )
        return [each.id if isinstance(each, ResourceIdentifier) else None for each in found]

    def id_lists(self, name: str) -> list[list[str] | None]:
        """Return the id lists of a to-many relationship in Klaviyo's order; None where not sent."""
        lists: list[list[str] | None] = []
        for row, each in enumerate(self.linkages(name)):
            if isinstance(each, ResourceIdentifier):
                self._add_mistyped(
                    row, name, each, "where a list is declared, read as a list of one"
                )
            is_sent = each is not None and each is not UNSET
            lists.append([one.id for one in _linked_identifiers(each)] if is_sent else None)
        return lists

    def included_json(self, name: str) -> list[bytes]:
        """Return the included resources of a relationship as JSON arrays, in its order.

        Empty bytes where the relationship was not sent. For a resource that was not included the
        array has its identifier.
        """
        # Most events have none, so the common case makes no function call.
        return [
            encode_json_array(map(self._resource_json, _linked_identifiers(each)))
            if each
            else (b"" if each is None or each is UNSET else b"[]")
            for each in self.linkages(name)
        ]

    def first_included_ids(self, name: str, related: str) -> list[str | None]:
        """Return the ids to which the first included resource of `name` relates as `related`."""
        ids: list[str | None] = [None] * self._rows
        for row, head, _ in self._list_first_resources(name):
            relationship = (head.relationships or {}).get(related)
            if relationship is not None and isinstance(relationship.data, ResourceIdentifier):
                ids[row] = relationship.data.id
        return ids

    def first_included_texts(self, name: str, path: str) -> list[str | None]:
        """Return the texts at a path below the attributes of the first included resource."""
        texts: list[str | None] = [None] * self._rows
        for row, _, raw in self._list_first_resources(name):
            texts[row] = _attribute_text(raw, path)
        return texts

    def _list_first_resources(self, name: str) -> "list[tuple[int, _ResourceHead, Raw]]":
        """Return the first included resource of each record that has one, with its row."""
        if name not in self._first_resources:
            rows = enumerate(self.linkages(name))
            found = (
                (row, self._find_included(_linked_identifiers(each)[0]))
                for row, each in rows
                if each
            )
            self._first_resources[name] = [(row, *each) for row, each in found if each is not None]
        return self._first_resources[name]

    def keep_undeclared(self, declared: frozenset[str]) -> None:
        """Put the data of relationships without a column into `extra`."""
        for name in self._relationships.keys() - declared:
            for row, each in enumerate(self._relationships[name]):
                if each is not None and each.data:
                    raw = msgspec.json.encode(each.data)
                    self._issues.add_undeclared(row, f"relationships.{name}", raw)

    def _add_mistyped(self, row: int, name: str, data: ResourceLinkage, outcome: str) -> None:
        raw = msgspec.json.encode(data)
        self._issues.add_mistyped(row, f"relationships.{name}", raw, outcome=outcome)

    def _resource_json(self, identifier: ResourceIdentifier) -> bytes:
        found = self._find_included(identifier)
        if found is not None:
            return bytes(found[1])
        self._issues.add_notice(
            "included", f"no {identifier.type} of that id, kept as its identifier"
        )
        return msgspec.json.encode(identifier)

    def _find_included(self, identifier: ResourceIdentifier) -> "tuple[_ResourceHead, Raw] | None":
        if self._resources is None:
            self._resources = {
                (head.type, head.id): (head, raw) for head, raw in self._read_included()
            }
        return self._resources.get((identifier.type, identifier.id))

    def _read_included(self) -> Iterator[tuple[_ResourceHead, Raw]]:
        if bytes(self._included) in {b"", b"null"}:
            return
        try:
            raws = json_array_decoder.decode(self._included)
        except msgspec.ValidationError:
            self._issues.add_notice("included", "not a list, ignored")
            return
        try:
            heads = _head_list_decoder.decode(self._included)
        except msgspec.ValidationError:
            heads = list(map(self._decode_head, raws))
        yield from ((head, raw) for head, raw in zip(heads, raws, strict=True) if head is not None)

    def _decode_head(self, raw: Raw) -> _ResourceHead | None:
        try:
            return _head_decoder.decode(raw)
        except msgspec.ValidationError:
            self._issues.add_notice("included", "a resource of another shape, ignored")
            return None


def _attribute_text(raw: Raw, path: str) -> str | None:
    value = msgspec.json.decode(raw)
    for name in ("attributes", *path.split(".")):
        value = cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) and value else None


def _linked_identifiers(linkage: ResourceLinkage) -> list[ResourceIdentifier]:
    if isinstance(linkage, ResourceIdentifier):
        return [linkage]
    return linkage if isinstance(linkage, list) else []


# The seconds since 1970 that both Python and Arrow can represent: the years 1 to 9999.
_EPOCH_SECONDS_RANGE = range(-62_135_596_800, 253_402_300_800)


class BatchBuilder:
    """Builds the record batch of one page: all columns of a type together."""

    def __init__(self, layout: PageLayout, parsed_page: ParsedPage, slice_: Slice) -> None:
        """Keep a page's values; `slice_` supplies the constants."""
        self._layout = layout
        self._parsed_page = parsed_page
        self._slice = slice_
        self._relationships = RelationshipReader(
            parsed_page.relationships,
            rows=len(parsed_page.ids),
            included=parsed_page.included,
            issues=parsed_page.issues,
        )

    def build(self, synced_at: datetime) -> pa.RecordBatch:
        """Return a record batch with the layout's schema and one row a parsed record."""
        values = self._parsed_page.values
        rows = len(self._parsed_page.ids)
        by_type: dict[ColumnType, dict[str, Sequence[object]]] = {
            "string": {ID_FIELD: self._parsed_page.ids}
        }
        for name, kind, path in self._layout.attributes:
            by_type.setdefault(kind, {})[name] = values[path]
        for name, kind, source in self._layout.other_columns:
            by_type.setdefault(kind, {})[name] = self._read_source(name, kind, source)
        self._relationships.keep_undeclared(self._layout.relationships)
        arrays: dict[str, ArrowArray] = {}
        for kind, columns in by_type.items():
            arrays |= self._build_arrays(kind, columns, rows)
        self._fill_from_epoch_seconds(arrays)
        arrays[EXTRA_FIELD] = self._build_extra_column(rows)
        arrays[SYNCED_AT_FIELD] = build_timestamp_array(synced_at, rows)
        nulls = build_null_array(rows, TIMESTAMP_UTC)
        arrays[PARENT_VERSION_FIELD] = arrays[self._layout.deletion_column] = nulls
        schema = self._layout.schema
        return pa.record_batch([arrays[name] for name in schema.names], schema=schema)

    def _build_arrays(
        self, kind: ColumnType, columns: ValuesByColumn, rows: int
    ) -> dict[str, ArrowArray]:
        """Return one array a column; all columns have the type `kind`.

        Values are text for strings, timestamps and dates; JSON text (`Raw` or bytes, empty for
        null) for JSON; lists of text for ids; otherwise Python's own types. None is null. JSON is
        not checked to be UTF-8.
        """
        if kind == "json":
            raws = cast("list[Raw | bytes]", _join_columns(columns))
            return _split_columns(build_json_array(raws), columns)
        # Most columns of most pages have no value at all; these share one array.
        null_array = build_null_array(rows, ARROW_TYPES[kind])
        arrays = dict.fromkeys(columns, null_array)
        some = {name: values for name, values in columns.items() if not _is_all_null(values)}
        if not some:
            return arrays
        match kind:
            case "string" | "ids":
                return arrays | self._build_texts(kind, some)
            case "timestamp":
                return arrays | self._build_parsed(kind, some, parse_timestamp)
            case "date":
                return arrays | self._build_parsed(kind, some, parse_iso_day)
            case _:
                whole = build_array(_join_columns(some), ARROW_TYPES[kind])
                return arrays | _split_columns(whole, some)

    def _build_texts(self, kind: ColumnType, columns: ValuesByColumn) -> dict[str, ArrowArray]:
        """Build arrays of text or of lists of text, with U+FFFD for NUL, which ends a C string."""
        whole = build_array(_join_columns(columns), ARROW_TYPES[kind])
        # The last buffer holds the characters, for strings and for lists of strings.
        data = whole.buffers()[-1]
        if data is not None and b"\0" in data.to_pybytes():
            clean = {name: [_replace_nul(one) for one in each] for name, each in columns.items()}
            for name, values in columns.items():
                if clean[name] != list(values):
                    self._parsed_page.issues.add_notice(
                        name, "string with NUL characters, replaced by U+FFFD"
                    )
            whole = build_array(_join_columns(clean), ARROW_TYPES[kind])
        return _split_columns(whole, columns)

    def _build_parsed(
        self, kind: ColumnType, columns: ValuesByColumn, parse: Callable[[str], object]
    ) -> dict[str, ArrowArray]:
        """Build arrays of the times or days in texts; text that is neither becomes null."""
        try:
            whole = build_array(_join_columns(columns), pa.string()).cast(ARROW_TYPES[kind])
        except pa.ArrowInvalid:
            # Arrow wants an offset and at most six decimals. Its error quotes the text: not shown.
            whole = None
        if whole is not None and _is_within_years(whole, kind):
            return _split_columns(whole, columns)
        if len(columns) > 1:
            parts = (self._build_parsed(kind, {name: columns[name]}, parse) for name in columns)
            return {name: array for part in parts for name, array in part.items()}
        ((name, texts),) = columns.items()
        values = [parse(text) if isinstance(text, str) else None for text in texts]
        for row, text in enumerate(texts):
            if text is not None and values[row] is None:
                path = next(path for each, _, path in self._layout.attributes if each == name)
                self._parsed_page.issues.add_mistyped(
                    row,
                    extra_key(self._layout.field_tree, path),
                    msgspec.json.encode(text),
                    outcome=f"where {kind} is declared, left NULL",
                )
        # This is rare, so `pa.array` may import pandas.
        return {name: pa.array(values, ARROW_TYPES[kind])}

    def _read_source(self, name: str, kind: ColumnType, source: ColumnSource) -> Sequence[object]:
        match source:
            case RecordId():
                return self._parsed_page.ids
            case RelatedId() | RelatedIds() | Included() | FirstIncludedId():
                return self._relationships.read(source)
            case LatestOf(path, item):
                return self._latest_of_values(path, item)
            case SliceConstant():
                return self._slice_constant_values(name, source)
            case Derived():
                return [b"" if kind == "json" else None] * len(self._parsed_page.ids)
            case FieldPath(path):
                return self._parsed_page.values[split_path(path)]

    def _slice_constant_values(self, column: str, source: SliceConstant) -> list[str | None]:
        requested = self._slice.values.get(source.name)
        if not source.included_relationship:
            return [requested] * len(self._parsed_page.ids)
        received = self._relationships.first_included_texts(
            source.included_relationship, source.included_path
        )
        for other in sorted({each for each in received if each is not None} - {requested or ""}):
            self._parsed_page.issues.add_notice(column, f"records of {other} came for {requested}")
        return [each or requested for each in received]

    def _latest_of_values(self, path: str, item: str) -> list[str | None]:
        latest: list[str | None] = []
        for raw in cast("Sequence[Raw]", self._parsed_page.values[split_path(path)]):
            texts = _timestamp_texts(raw, item)
            if texts is None:
                self._parsed_page.issues.add_notice(
                    path, f"no list of objects with {item}, left NULL"
                )
            moments = {text: parse_timestamp(text) for text in texts or ()}
            known = {text: moment for text, moment in moments.items() if moment is not None}
            latest.append(max(known, key=known.__getitem__, default=None))
        return latest

    def _fill_from_epoch_seconds(self, arrays: dict[str, ArrowArray]) -> None:
        """Fill null timestamps from the seconds at the column's `epoch_seconds_path`."""
        for name, path in self._layout.epoch_seconds_paths:
            if not arrays[name].null_count:
                continue
            others = cast("Sequence[int | None]", self._parsed_page.values[path])
            micros = arrays[name].cast(pa.int64()).to_pylist()
            filled = [
                other * 1_000_000
                if micro is None and other is not None and other in _EPOCH_SECONDS_RANGE
                else micro
                for micro, other in zip(micros, others, strict=True)
            ]
            arrays[name] = pa.array(filled, pa.int64()).cast(TIMESTAMP_UTC)

    def _build_extra_column(self, rows: int) -> ArrowArray:
        issues = self._parsed_page.issues
        return (
            build_json_array(issues.extra_objects(rows))
            if issues.extra_values
            else build_null_array(rows, pa.string())
        )


_object_list_decoder = msgspec.json.Decoder(list[dict[str, Raw]])


def _timestamp_texts(raw: Raw, item: str) -> list[str] | None:
    """Return the texts at `item` of a JSON array of objects; None if the JSON is something else."""
    if is_json_null(raw):
        return []
    try:
        found = _object_list_decoder.decode(raw)
    except msgspec.ValidationError:
        return None
    values = (coerce_value(bytes(each.get(item, ABSENT_JSON)), "timestamp")[0] for each in found)
    return [value for value in values if isinstance(value, str)]


def filter_rows_with_cursor(
    batch: pa.RecordBatch, cursor: str, *, layout: PageLayout, parsed_page: ParsedPage
) -> pa.RecordBatch:
    """Return the rows that have a cursor; the records of the others are quarantined.

    Exception: where the cursor is the latest of an array, a record whose array is empty is dropped,
    because it does not belong to the stream; Klaviyo sometimes ignores its own filter.
    `parsed_page` must come from the fallback, and is changed.
    """
    several = parsed_page.values.get(layout.latest_of_path, ())
    is_valid = batch[cursor].is_valid()
    for row, has_cursor in enumerate(is_valid.to_pylist()):
        if has_cursor:
            continue
        if several and bytes(cast("Raw", several[row])) in EMPTY_JSON_VALUES:
            parsed_page.issues.add_notice(cursor, "none, so the record is no row of this stream")
        else:
            broken = QuarantinedRecord(
                f"the record has no {cursor}", bytes(parsed_page.raw_records[row])
            )
            parsed_page.quarantined.append(broken)
    return batch.filter(is_valid)


def cursor_range(batch: pa.RecordBatch, cursor: str) -> tuple[datetime, datetime, bool] | None:
    """Return the lowest and the highest cursor, and whether the rows are in ascending order.

    None without rows. The column must not contain NULL.
    """
    micros = _list_microseconds(batch, cursor)
    if not micros:
        return None
    ordered = sorted(micros)
    first, last = datetime_from_microseconds(ordered[0]), datetime_from_microseconds(ordered[-1])
    return first, last, micros == ordered


def is_ascending_by_second(batch: pa.RecordBatch, cursor: str) -> bool:
    """Return whether no cursor is in an earlier second than the one before; none may be NULL."""
    seconds = [each // 1_000_000 for each in _list_microseconds(batch, cursor)]
    return seconds == sorted(seconds)


def _list_microseconds(batch: pa.RecordBatch, cursor: str) -> list[int]:
    return cast("list[int]", integers_to_numpy(batch[cursor].cast(pa.int64())).tolist())
