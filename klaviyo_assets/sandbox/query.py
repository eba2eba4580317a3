"""The query of a request, read against the facts of its operation.

Everything the reference does not offer is a 400 here; the answer is built elsewhere from the
`Query` value alone. The texts are the recorded ones where a recording exists, else close to them.
Sources: recorded answers of 2026-09-04 at revision 2026-07-15;
https://developers.klaviyo.com/en/docs/jsonapi_
"""

import hashlib
from dataclasses import dataclass
from urllib.parse import parse_qsl

from klaviyo_assets.sandbox.errors import ApiError, invalid
from klaviyo_assets.sandbox.facts.operation import Operation
from klaviyo_assets.sandbox.grammar import Clause, check, parse, seconds_as_micros
from klaviyo_assets.sandbox.moments import SECOND

# The reports that come in pages; their cursor stands in the query, the rest in the body.
POST_PAGED = frozenset({"query_campaign_values", "query_flow_values", "query_flow_series"})
# The page length of collections that are answered whole.
UNPAGED = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is asked for: conditions, order, page, and which parts of each record."""

    clauses: tuple[Clause, ...]
    sort: str
    descending: bool
    size: int
    cursor: str | None
    includes: tuple[str, ...]
    additional: frozenset[str]
    fields: dict[str, frozenset[str]]
    pairs: tuple[tuple[str, str], ...]
    fingerprint: str


def pairs_of(text: str) -> tuple[tuple[str, str], ...]:
    """The decoded pairs of a query text; a parameter given twice is a 400."""
    pairs = tuple(parse_qsl(text, keep_blank_values=True))
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            message = f"'{name}' may be given only once."
            raise invalid(message, parameter=name)
    return pairs


def read_query(operation: Operation, text: str, now: float) -> Query:
    """Check a query text against the facts; `now` in seconds is needed for bounds in the future."""
    pairs = pairs_of(text)
    given = dict(pairs)
    for name in given:
        _check_name(operation, name)
    clauses = _clauses(operation, given.get("filter"), now)
    sort, descending = _sort(operation, given.get("sort"), clauses)
    return Query(
        clauses=clauses,
        sort=sort,
        descending=descending,
        size=_size(operation, given.get("page[size]")),
        cursor=given.get("page[cursor]"),
        includes=_includes(operation, given.get("include")),
        additional=_additional(operation, given),
        fields=_fields(operation, given),
        pairs=pairs,
        fingerprint=_fingerprint(given, sort=sort, descending=descending),
    )


def _fingerprint(given: dict[str, str], *, sort: str, descending: bool) -> str:
    order = f"{sort}|{descending}|{given.get('filter', '')}"
    return hashlib.sha256(order.encode()).hexdigest()[:8]


def _offers(operation: Operation, name: str) -> bool:
    collection = bool(operation.page or operation.cursor)
    offered = {
        "filter": bool(operation.filters),
        "sort": bool(operation.sorts),
        "include": bool(operation.includes),
        "page[size]": operation.page is not None,
        "page[cursor]": collection,
        "page_cursor": operation.name in POST_PAGED,
    }
    if name.startswith("fields[") and name.endswith("]"):
        return name[7:-1] in operation.fields
    return offered.get(name, False)


def _check_name(operation: Operation, name: str) -> None:
    if _offers(operation, name):
        return
    if name == "page[size]":
        message = f"'page_size' is not a valid field for the resource '{operation.kind}'"
        raise invalid(message, parameter="page_size")
    if name == "page[cursor]":
        message = f"'page_cursor' is not a valid field for the resource '{operation.kind}'"
        raise invalid(message, parameter="page_cursor")
    if name.startswith("additional-fields["):
        return
    message = f"'{name}' is not a valid parameter for the resource '{operation.kind}'"
    raise invalid(message, parameter=name)


def _clauses(operation: Operation, text: str | None, now: float) -> tuple[Clause, ...]:
    if text is None:
        clauses: tuple[Clause, ...] = ()
    else:
        clauses = parse(text)
        check(clauses, operation.filters)
    wanted = operation.required_filter
    if wanted and not any(clause.field == wanted for clause in clauses):
        # Wording not recorded; the reference only says that the filter is required.
        message = f"A filter on '{wanted}' is required to list {operation.kind}s."
        raise invalid(message, parameter="filter")
    if operation.past_bounds_only:
        _check_past(operation, clauses, now)
    return clauses


def _check_past(operation: Operation, clauses: tuple[Clause, ...], now: float) -> None:
    for clause in clauses:
        if operation.filters[clause.field].kind != "time" or clause.field == "scheduled_at":
            continue
        for value in clause.values:
            if seconds_as_micros(value) > now * SECOND:
                message = f"End date may not be in the future: {value.value}"
                raise invalid(message, pointer=clause.field)


def _sort(operation: Operation, text: str | None, clauses: tuple[Clause, ...]) -> tuple[str, bool]:
    chosen = operation.default_sort if text is None else text
    name = chosen.removeprefix("-")
    if text is not None and name not in operation.sorts:
        allowed = ",".join(sign + field for field in operation.sorts for sign in ("", "-"))
        message = f"'{text}' is not a sortable field for the resource. Sortable fields: {allowed}"
        raise invalid(message, parameter="sort")
    if operation.sort_matches_filter and text is not None:
        times = {c.field for c in clauses if operation.filters[c.field].kind == "time"}
        if times and name not in times:
            message = f"Sort field must match the filtered date field: {','.join(sorted(times))}"
            raise invalid(message, parameter="sort")
    return name, chosen.startswith("-")


def _size(operation: Operation, text: str | None) -> int:
    if operation.page is None:
        return operation.fixed_page or UNPAGED
    if text is None:
        return operation.page.default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= operation.page.maximum:
        message = f"Page size must be an integer between 1 and {operation.page.maximum}."
        raise invalid(message, parameter="page[size]")
    return int(text)


def _includes(operation: Operation, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    asked = tuple(text.split(","))
    for name in asked:
        if name not in operation.includes:
            message = f"'{name}' is not an allowed include parameter for this resource."
            raise invalid(message, parameter="include")
    return asked


def _additional(operation: Operation, given: dict[str, str]) -> frozenset[str]:
    asked: set[str] = set()
    for name, text in given.items():
        if not name.startswith("additional-fields["):
            continue
        allowed = operation.additional.get(name[18:-1], ())
        for value in text.split(","):
            if value not in allowed:
                raise _not_additional(name, allowed)
            asked.add(value)
    return frozenset(asked)


def _not_additional(name: str, allowed: tuple[str, ...]) -> ApiError:
    listed = ", ".join(f"'{value}'" for value in allowed)
    return invalid(f"additional-fields must be in [{listed}]", parameter=name)


def _fields(operation: Operation, given: dict[str, str]) -> dict[str, frozenset[str]]:
    asked: dict[str, frozenset[str]] = {}
    for name, text in given.items():
        if not name.startswith("fields["):
            continue
        kind = name[7:-1]
        chosen = frozenset(text.split(",")) if text else frozenset[str]()
        for value in sorted(chosen - operation.fields[kind] - RELATIONSHIPS.get(kind, frozenset())):
            message = f"'{value}' is not a valid field for the resource '{kind}'"
            raise invalid(message, parameter=name)
        asked[kind] = chosen
    return asked


# `fields` also chooses among relationships, by their names.
RELATIONSHIPS: dict[str, frozenset[str]] = {
    "event": frozenset({"profile", "metric", "attributions"}),
    "profile": frozenset({"lists", "segments", "push-tokens", "conversations"}),
    "list": frozenset({"profiles", "tags", "flow-triggers"}),
    "segment": frozenset({"profiles", "tags", "flow-triggers"}),
    "campaign": frozenset({"campaign-messages", "tags"}),
    "campaign-message": frozenset({"campaign", "template", "image"}),
    "flow": frozenset({"flow-actions", "tags"}),
    "metric": frozenset({"flow-triggers"}),
    "tag": frozenset({"tag-group", "lists", "segments", "campaigns", "flows"}),
    "custom-metric": frozenset({"metrics"}),
    "mapped-metric": frozenset({"metric", "custom-metric"}),
}
