"""The body of a report request, read and checked against the facts.

Every unknown field, statistic, grouping or operator is a 400 that points at its place.
"""

import json
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from klaviyo_assets.sandbox.errors import ApiError, invalid
from klaviyo_assets.sandbox.facts.operation import Filter
from klaviyo_assets.sandbox.facts.reporting import (
    INTERVAL_DAYS,
    LISTED,
    REPORTS,
    SEND_CHANNELS,
    STATISTICS,
    ReportFacts,
)
from klaviyo_assets.sandbox.grammar import Clause, check, parse
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, as_object
from klaviyo_assets.sandbox.reports.timeframes import Timeframe, check_length, timeframe

_AT = "/data/attributes"
_MOST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportAsk:
    """What a report is asked for; `interval` only for series."""

    kind: str
    statistics: tuple[str, ...]
    frame: Timeframe
    metric_id: str
    group_by: tuple[str, ...]
    clauses: tuple[Clause, ...]
    interval: str | None


def attributes_of(body: bytes, kind: str) -> JsonObject:
    """The attributes of a JSON:API body of that type; 400 when it is none."""
    try:
        document: Json = json.loads(body)
    except ValueError:
        raise invalid("Invalid JSON.", pointer="/data") from None
    data = as_object(as_object(document).get("data"))
    if data.get("type") != kind:
        raise invalid(
            f"'{data.get('type')}' is not a valid type; use '{kind}'.", pointer="/data/type"
        )
    attributes = data.get("attributes")
    if not isinstance(attributes, dict):
        raise missing("attributes", "/data")
    return as_object(attributes)


def read_ask(body: bytes, kind: str, *, zone: ZoneInfo, now: float) -> ReportAsk:
    """The ask in a body; 400 for everything that is not offered."""
    facts = REPORTS[kind]
    attributes = attributes_of(body, kind)
    needed = ["statistics", "timeframe", "conversion_metric_id"]
    needed += ["interval"] if facts.is_series else []
    check_names(attributes, kind, [*needed, "group_by", "filter"], needed)
    frame = timeframe(as_object(attributes["timeframe"]), zone, now)
    interval = chosen_interval(attributes) if facts.is_series else None
    if interval is not None:
        check_length(frame, interval)
    return ReportAsk(
        kind=kind,
        statistics=chosen_from(attributes["statistics"], STATISTICS, "statistics"),
        frame=frame,
        metric_id=str(attributes["conversion_metric_id"]),
        group_by=chosen_groups(attributes.get("group_by"), facts),
        clauses=chosen_filter(attributes.get("filter"), facts),
        interval=interval,
    )


def check_names(attributes: JsonObject, kind: str, known: list[str], needed: list[str]) -> None:
    """Refuse attributes that are unknown or missing."""
    for name in attributes:
        if name not in known:
            message = f"'{name}' is not a valid field for the resource '{kind}'"
            raise invalid(message, pointer=f"{_AT}/{name}")
    for name in needed:
        if attributes.get(name) is None:
            raise missing(name, _AT)


def missing(name: str, at: str) -> ApiError:
    """A 400 for a field that is required."""
    return invalid(f"'{name}' is a required field.", pointer=f"{at}/{name}")


def chosen_from(value: Json, offered: tuple[str, ...], name: str) -> tuple[str, ...]:
    """A list that is not empty and holds only what is offered."""
    asked = tuple(str(each) for each in as_list(value))
    if not asked:
        raise missing(name, _AT)
    for each in asked:
        if each not in offered:
            message = f"'{each}' is not a valid choice for {name}. Options: {', '.join(offered)}"
            raise invalid(message, pointer=f"{_AT}/{name}")
    return asked


def chosen_interval(attributes: JsonObject) -> str:
    """The interval of a series."""
    return chosen_from([attributes["interval"]], tuple(INTERVAL_DAYS), "interval")[0]


def chosen_groups(value: Json, facts: ReportFacts) -> tuple[str, ...]:
    """The groupings; those that are required must be among them."""
    if value is None:
        return facts.default
    asked = chosen_from(value, facts.group_by, "group_by")
    for name in facts.required:
        if name not in asked:
            required = ", ".join(facts.required)
            message = f"The following group by attributes are required: {required}"
            raise invalid(message, pointer=f"{_AT}/group_by")
    return asked


def chosen_filter(value: Json, facts: ReportFacts) -> tuple[Clause, ...]:
    """The clauses of the filter: one per attribute, at most a hundred items each."""
    if value is None:
        return ()
    clauses = parse(str(value))
    check(clauses, {name: filter_of(name) for name in facts.filters})
    fields = [clause.field for clause in clauses]
    for clause in clauses:
        if fields.count(clause.field) > 1:
            message = f"Only one filter can be used per attribute: {clause.field}"
            raise invalid(message, pointer=f"{_AT}/filter")
        if len(clause.values) > _MOST:
            message = f"At most {_MOST} items are allowed in a filter on {clause.field}."
            raise invalid(message, pointer=f"{_AT}/filter")
    return clauses


def filter_of(name: str) -> Filter:
    """The operators of a filterable attribute."""
    if name in LISTED:
        return Filter(("contains-any", "contains-all"))
    values = SEND_CHANNELS if name == "send_channel" else ()
    return Filter(("equals", "contains-any"), values=values)
