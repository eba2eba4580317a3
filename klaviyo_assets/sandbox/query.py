"""The query of a request, parsed and checked against its operation, with page cursors and links.

Everything the reference does not offer is a 400 here; the answer is built elsewhere from the
`ParsedQuery` value alone. The texts are the recorded ones where a recording exists, else close to
them.
Sources: recorded answers of 2026-09-04 at revision 2026-07-15;
https://developers.klaviyo.com/en/docs/jsonapi_

A cursor is a keyset in base64: the sort value and id of the last record shown, and a fingerprint of
the order and the filter, so that it is stateless and of no use with another sort. Links are
absolute, with percent-encoded brackets, as recorded on 2026-09-04 at revision 2026-07-15.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl, quote, unquote

from klaviyo_assets.sandbox.clock import SECOND_MICROS
from klaviyo_assets.sandbox.facts.schema import Operation
from klaviyo_assets.sandbox.filters import FilterClause, check_filter, literal_micros, parse_filter
from klaviyo_assets.sandbox.http_messages import ApiError, invalid_input_error

# The reports that come in pages; their cursor stands in the query, the rest in the body.
PAGED_REPORTS = frozenset({"query_campaign_values", "query_flow_values", "query_flow_series"})
# The page length of collections that are answered whole.
UNPAGED_SIZE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedQuery:
    """A parsed query: conditions, order, page, and which parts of each record.

    `offered_fields` are the fields of each type that the operation publishes.
    """

    clauses: tuple[FilterClause, ...]
    sort: str
    descending: bool
    page_size: int
    cursor: str | None
    includes: tuple[str, ...]
    additional_fields: frozenset[str]
    fieldsets: dict[str, frozenset[str]]
    offered_fields: Mapping[str, frozenset[str]]
    pairs: tuple[tuple[str, str], ...]
    fingerprint: str


def parse_query_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """The decoded pairs of a query text; a parameter given twice is a 400."""
    pairs = tuple(parse_qsl(text, keep_blank_values=True))
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            message = f"'{name}' may be given only once."
            raise invalid_input_error(message, parameter=name)
    return pairs


def parse_query(operation: Operation, text: str, now: float) -> ParsedQuery:
    """Check a query text against the facts; `now` in seconds is needed for bounds in the future."""
    pairs = parse_query_pairs(text)
    given = dict(pairs)
    for name in given:
        _check_parameter(operation, name)
    clauses = _parse_clauses(operation, given.get("filter"), now)
    sort, descending = _parse_sort(operation, given.get("sort"), clauses)
    return ParsedQuery(
        clauses=clauses,
        sort=sort,
        descending=descending,
        page_size=_parse_page_size(operation, given.get("page[size]")),
        cursor=given.get("page[cursor]"),
        includes=_parse_includes(operation, given.get("include")),
        additional_fields=_parse_additional_fields(operation, given),
        fieldsets=_parse_fieldsets(operation, given),
        offered_fields=operation.fieldsets,
        pairs=pairs,
        fingerprint=_query_fingerprint(given, sort=sort, descending=descending),
    )


def _query_fingerprint(given: dict[str, str], *, sort: str, descending: bool) -> str:
    order = f"{sort}|{descending}|{given.get('filter', '')}"
    return hashlib.sha256(order.encode()).hexdigest()[:8]


def _is_offered(operation: Operation, name: str) -> bool:
    collection = bool(operation.page_size or operation.has_cursor)
    offered = {
        "filter": bool(operation.filters),
        "sort": bool(operation.sorts),
        "include": bool(operation.includes),
        "page[size]": operation.page_size is not None,
        "page[cursor]": collection,
        "page_cursor": operation.name in PAGED_REPORTS,
    }
    if name.startswith("fields[") and name.endswith("]"):
        return name[7:-1] in operation.fieldsets
    return offered.get(name, False)


def _check_parameter(operation: Operation, name: str) -> None:
    if _is_offered(operation, name):
        return
    if name == "page[size]":
        message = f"'page_size' is not a valid field for the resource '{operation.kind}'"
        raise invalid_input_error(message, parameter="page_size")
    if name == "page[cursor]":
        message = f"'page_cursor' is not a valid field for the resource '{operation.kind}'"
        raise invalid_input_error(message, parameter="page_cursor")
    if name.startswith("additional-fields["):
        return
    message = f"'{name}' is not a valid parameter for the resource '{operation.kind}'"
    raise invalid_input_error(message, parameter=name)


def _parse_clauses(operation: Operation, text: str | None, now: float) -> tuple[FilterClause, ...]:
    if text is None:
        clauses: tuple[FilterClause, ...] = ()
    else:
        clauses = parse_filter(text)
        check_filter(clauses, operation.filters)
    wanted = operation.required_filters
    if wanted and not any(clause.field in wanted for clause in clauses):
        # Wording not recorded; the reference only says that the filter is required.
        listed = " or ".join(f"'{name}'" for name in wanted)
        message = f"A filter on {listed} is required to list {operation.kind}s."
        raise invalid_input_error(message, parameter="filter")
    if operation.past_bounds_only:
        _check_bounds_in_past(operation, clauses, now)
    return clauses


def _check_bounds_in_past(
    operation: Operation, clauses: tuple[FilterClause, ...], now: float
) -> None:
    for clause in clauses:
        if operation.filters[clause.field].kind != "time" or clause.field == "scheduled_at":
            continue
        for value in clause.values:
            if literal_micros(value) > now * SECOND_MICROS:
                message = f"End date may not be in the future: {value.value}"
                raise invalid_input_error(message, pointer=clause.field)


def _parse_sort(
    operation: Operation, text: str | None, clauses: tuple[FilterClause, ...]
) -> tuple[str, bool]:
    chosen = operation.default_sort if text is None else text
    name = chosen.removeprefix("-")
    if text is not None and name not in operation.sorts:
        allowed = ",".join(sign + field for field in operation.sorts for sign in ("", "-"))
        message = f"'{text}' is not a sortable field for the resource. Sortable fields: {allowed}"
        raise invalid_input_error(message, parameter="sort")
    if operation.sort_matches_filter and text is not None:
        times = {c.field for c in clauses if operation.filters[c.field].kind == "time"}
        if times and name not in times:
            message = f"Sort field must match the filtered date field: {','.join(sorted(times))}"
            raise invalid_input_error(message, parameter="sort")
    return name, chosen.startswith("-")


def _parse_page_size(operation: Operation, text: str | None) -> int:
    if operation.page_size is None:
        return operation.fixed_page_size or UNPAGED_SIZE
    if text is None:
        return operation.page_size.default
    if (
        not text.isascii()
        or not text.isdigit()
        or not 1 <= int(text) <= operation.page_size.maximum
    ):
        message = f"Page size must be an integer between 1 and {operation.page_size.maximum}."
        raise invalid_input_error(message, parameter="page[size]")
    return int(text)


def _parse_includes(operation: Operation, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    requested = tuple(text.split(","))
    for name in requested:
        if name not in operation.includes:
            message = f"'{name}' is not an allowed include parameter for this resource."
            raise invalid_input_error(message, parameter="include")
    return requested


def _parse_additional_fields(operation: Operation, given: dict[str, str]) -> frozenset[str]:
    requested: set[str] = set()
    for name, text in given.items():
        if not name.startswith("additional-fields["):
            continue
        allowed = operation.additional_fields.get(name[18:-1], ())
        for value in text.split(","):
            if value not in allowed:
                raise _additional_field_error(name, allowed)
            requested.add(value)
    return frozenset(requested)


def _additional_field_error(name: str, allowed: tuple[str, ...]) -> ApiError:
    listed = ", ".join(f"'{value}'" for value in allowed)
    return invalid_input_error(f"additional-fields must be in [{listed}]", parameter=name)


def _parse_fieldsets(operation: Operation, given: dict[str, str]) -> dict[str, frozenset[str]]:
    requested: dict[str, frozenset[str]] = {}
    for name, text in given.items():
        if not name.startswith("fields["):
            continue
        kind = name[7:-1]
        chosen = frozenset(text.split(",")) if text else frozenset[str]()
        for value in sorted(
            chosen - operation.fieldsets[kind] - operation.relationship_names.get(kind, frozenset())
        ):
            message = f"'{value}' is not a valid field for the resource '{kind}'"
            raise invalid_input_error(message, parameter=name)
        requested[kind] = chosen
    return requested


# next, field, value, id, <id>, q, <fingerprint>
_CURSOR_PARTS = 7
SortValue = int | float | str | bool | None


def invalid_cursor_error() -> ApiError:
    """The one answer to a cursor that is not ours, or not of this order."""
    return invalid_input_error("Invalid cursor provided.", pointer="/data/")


def encode_event_cursor(query: ParsedQuery, *, seconds: int, record_id: str) -> str:
    """An events cursor: a JSON list in base64."""
    keyset = json.dumps([seconds, record_id, not query.descending, query.fingerprint])
    return base64.b64encode(keyset.encode()).decode()


def decode_event_cursor(query: ParsedQuery) -> tuple[int, str] | None:
    """Seconds and id of the last event shown; None on the first page; 400 when it does not fit."""
    if query.cursor is None:
        return None
    try:
        keyset: object = json.loads(base64.b64decode(query.cursor, validate=True))
    except (binascii.Error, ValueError):
        raise invalid_cursor_error() from None
    match keyset:
        case [int(seconds), str(record_id), bool(ascending), str(fingerprint)]:
            if fingerprint == query.fingerprint and ascending is not query.descending:
                return seconds, record_id
        case _:
            pass
    raise invalid_cursor_error()


def encode_record_cursor(query: ParsedQuery, *, value: SortValue, record_id: str) -> str:
    """A cursor of any other collection: `next::<field>::<value>::id::<id>::q::<fingerprint>`."""
    value_text = json.dumps(value, ensure_ascii=False)
    # Ids of catalog records contain the separator.
    quoted_id = quote(record_id, safe="")
    keyset = f"next::{query.sort}::{value_text}::id::{quoted_id}::q::{query.fingerprint}"
    return base64.b64encode(keyset.encode()).decode()


def decode_record_cursor(query: ParsedQuery) -> tuple[SortValue, str] | None:
    """Sort value and id of the last record shown; None on the first page."""
    if query.cursor is None:
        return None
    try:
        parts = base64.b64decode(query.cursor, validate=True).decode().split("::")
        if len(parts) < _CURSOR_PARTS or (parts[0], parts[1]) != ("next", query.sort):
            raise invalid_cursor_error()
        value: object = json.loads("::".join(parts[2:-4]))
    except (binascii.Error, ValueError):
        raise invalid_cursor_error() from None
    if parts[-1] != query.fingerprint or not isinstance(value, int | float | str | None):
        raise invalid_cursor_error()
    return cast("SortValue", value), unquote(parts[-3])


def encode_query(pairs: tuple[tuple[str, str], ...]) -> str:
    """Pairs as a query with everything encoded that Klaviyo encodes, brackets included."""
    return "&".join(f"{quote(name, safe='-')}={quote(value, safe=':,')}" for name, value in pairs)


def build_next_link(
    origin: str, path: str, *, pairs: tuple[tuple[str, str], ...], cursor: str
) -> str:
    """The absolute address of the next page: the same query with the new cursor."""
    remaining_pairs = tuple(pair for pair in pairs if pair[0] != "page[cursor]")
    return f"{origin}{path}?{encode_query((*remaining_pairs, ('page[cursor]', cursor)))}"


def build_self_link(origin: str, path: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """The absolute address of this page; no trailing slash on collections."""
    return f"{origin}{path}?{encode_query(pairs)}" if pairs else f"{origin}{path}"
