"""The body of a metric-aggregates request, read and checked.

The filter is a list of texts that must hold a lower and an upper bound of `datetime`, a year apart
at most; other members are equalities on dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

from klaviyo_assets.sandbox.errors import ApiError, invalid
from klaviyo_assets.sandbox.facts.operation import GE, LT, ONE_OF, Filter
from klaviyo_assets.sandbox.facts.reporting import AGGREGATE_INTERVALS, DIMENSIONS, MEASUREMENTS
from klaviyo_assets.sandbox.grammar import Clause, check, parse
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list
from klaviyo_assets.sandbox.moments import EPOCH, SECOND
from klaviyo_assets.sandbox.reports.asks import attributes_of, check_names, chosen_from
from klaviyo_assets.sandbox.shop.store import Shop

_KIND = "metric-aggregate"
_AT = "/data/attributes"
_YEAR_SECONDS = 366 * 86_400
_LARGEST = 10_000
_NOT_OFFERED = frozenset({"Factory", "Europe/Kyiv", "Pacific/Kanton"})
_NEEDED = ["metric_id", "measurements", "filter"]
_KNOWN = [*_NEEDED, "interval", "page_size", "page_cursor", "by", "return_fields", "timezone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateAsk:
    """What is counted: `start` and `end` in seconds since 1970, end excluded."""

    metric: int
    measurements: tuple[str, ...]
    interval: str
    by: tuple[str, ...]
    equals: Mapping[str, frozenset[str]]
    start: int
    end: int
    timezone: str
    page_size: int
    page_cursor: str | None


def read_aggregate_ask(shop: Shop, body: bytes) -> AggregateAsk:
    """The ask in a body; 400 for everything that is not offered, 500 where Klaviyo breaks."""
    attributes = attributes_of(body, _KIND)
    check_sort(attributes)
    check_names(attributes, _KIND, _KNOWN, _NEEDED)
    zone = chosen_zone(attributes.get("timezone"))
    clauses = chosen_clauses(attributes["filter"])
    start, end = bounds(clauses, zone)
    by = attributes.get("by") or []
    cursor = attributes.get("page_cursor")
    return AggregateAsk(
        metric=chosen_metric(shop, str(attributes["metric_id"])),
        measurements=chosen_from(attributes["measurements"], MEASUREMENTS, "measurements"),
        interval=chosen_from(
            [attributes.get("interval") or "day"], AGGREGATE_INTERVALS, "interval"
        )[0],
        by=chosen_from(by, tuple(sorted(DIMENSIONS)), "by") if by else (),
        equals={
            clause.field: frozenset(str(each.value) for each in clause.values)
            for clause in clauses
            if clause.field != "datetime"
        },
        start=start,
        end=end,
        timezone=zone,
        page_size=chosen_size(attributes.get("page_size")),
        page_cursor=None if cursor is None else str(cursor),
    )


def check_sort(attributes: JsonObject) -> None:
    """Sorting does not work: a 400, or a 500 together with `by`, as recorded."""
    if attributes.get("sort") is None:
        return
    if attributes.get("by"):
        title = "A server error occurred."
        raise ApiError(500, "error", title=title, detail=title, source={"pointer": "/data/"})
    raise invalid("unsupported operand type(s) for +", pointer=f"{_AT}/sort")


def chosen_metric(shop: Shop, metric_id: str) -> int:
    """The ordinal of a metric; custom metrics (computed ones) cannot be counted."""
    ordinal = shop.metrics.ordinal_of(metric_id)
    if ordinal is None:
        raise invalid(f"Invalid metric id: '{metric_id}'.", pointer=f"{_AT}/metric_id")
    return ordinal


def chosen_zone(value: Json) -> str:
    """An IANA zone by its exact name; three of them are not offered."""
    zone = "UTC" if value is None else str(value)
    if zone in _NOT_OFFERED or zone not in available_timezones():
        raise invalid(f"'{zone}' is not a valid timezone.", pointer=f"{_AT}/timezone")
    return zone


def chosen_size(value: Json) -> int:
    """Rows a page."""
    if value is None:
        return 500
    if not isinstance(value, int) or not 1 <= value <= _LARGEST:
        raise invalid("page_size must be a positive integer.", pointer=f"{_AT}/page_size")
    return value


def chosen_clauses(value: Json) -> tuple[Clause, ...]:
    """The clauses of all texts of the list."""
    if not isinstance(value, list):
        raise invalid("'filter' must be a list.", pointer=f"{_AT}/filter")
    clauses = tuple(clause for text in as_list(value) for clause in parse(str(text)))
    offered = dict.fromkeys(DIMENSIONS, ONE_OF)
    check(clauses, {**offered, "datetime": Filter((GE, LT), "time")})
    return clauses


def bounds(clauses: tuple[Clause, ...], zone: str) -> tuple[int, int]:
    """[start, end) in seconds; times without an offset are taken in the zone of the request."""
    found: dict[str, int] = {}
    for clause in clauses:
        if clause.field == "datetime":
            edge = clause.values[0]
            micros = int(edge.value) if isinstance(edge.value, int) else 0
            found[clause.operator] = local(micros, zone) if edge.is_local else micros
    if set(found) != {GE, LT}:
        message = "A greater-or-equal and a less-than filter on datetime are required."
        raise invalid(message, pointer=f"{_AT}/filter")
    start, end = found[GE] // SECOND, -(-found[LT] // SECOND)
    if not 0 < end - start <= _YEAR_SECONDS:
        raise invalid("The time range may not be longer than 1 year.", pointer=f"{_AT}/filter")
    return start, end


def local(micros: int, zone: str) -> int:
    """A wall-clock time, read before as if it were UTC, as the instant in a zone."""
    wall = datetime.fromtimestamp(micros / SECOND, UTC).replace(tzinfo=ZoneInfo(zone))
    return int((wall.astimezone(UTC) - EPOCH).total_seconds() * SECOND)
