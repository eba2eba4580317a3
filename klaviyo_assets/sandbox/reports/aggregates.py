"""The metric-aggregates endpoint: parses its body and counts events by interval and dimension.

Dates are true instants, unlike those of the series reports. Rows without a dimension carry an empty
text. Sorting fails as it was recorded to fail on 2026-09-04.

The filter is a list of texts that must hold a lower and an upper bound of `datetime`, a year apart
at most; other members are equalities on dimensions.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

from klaviyo_assets.sandbox.account.events import EventSelection
from klaviyo_assets.sandbox.account.store import AccountStore
from klaviyo_assets.sandbox.clock import SECOND_MICROS, UNIX_EPOCH
from klaviyo_assets.sandbox.event_endpoints import EventRenderer
from klaviyo_assets.sandbox.facts.reporting import (
    AGGREGATE_DIMENSIONS,
    AGGREGATE_INTERVALS,
    AGGREGATE_MEASUREMENTS,
)
from klaviyo_assets.sandbox.facts.schema import FilterableField
from klaviyo_assets.sandbox.filters import FilterClause, check_filter, parse_filter
from klaviyo_assets.sandbox.http_messages import ApiError, invalid_input_error
from klaviyo_assets.sandbox.json_types import (
    Json,
    JsonObject,
    as_list,
    as_object,
    dump_json,
    load_json_object,
)
from klaviyo_assets.sandbox.query import invalid_cursor_error
from klaviyo_assets.sandbox.record_endpoints import RequestTarget, ResponseDocument
from klaviyo_assets.sandbox.reports.request_body import (
    check_attribute_names,
    local_seconds,
    parse_body_attributes,
    parse_choices,
)

_RESOURCE_KIND = "metric-aggregate"
_ATTRIBUTES_POINTER = "/data/attributes"
_MAX_RANGE_SECONDS = 366 * 86_400
_MAX_PAGE_ROWS = 10_000
_FROM, _BEFORE = "greater-or-equal", "less-than"
_UNSUPPORTED_ZONES = frozenset({"Factory", "Europe/Kyiv", "Pacific/Kanton"})
_REQUIRED_ATTRIBUTES = ["metric_id", "measurements", "filter"]
_KNOWN_ATTRIBUTES = [
    *_REQUIRED_ATTRIBUTES,
    "interval",
    "page_size",
    "page_cursor",
    "by",
    "return_fields",
    "timezone",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateRequestBody:
    """What is counted: `start` and `end` in seconds since 1970, end excluded."""

    metric: int
    measurements: tuple[str, ...]
    interval: str
    dimensions: tuple[str, ...]
    dimension_filters: Mapping[str, frozenset[str]]
    start: int
    end: int
    timezone: str
    page_size: int
    page_cursor: str | None


def parse_aggregate_body(store: AccountStore, body: bytes) -> AggregateRequestBody:
    """The ask in a body; 400 for everything that is not offered, 500 where Klaviyo breaks."""
    attributes = parse_body_attributes(body, _RESOURCE_KIND)
    refuse_sort(attributes)
    check_attribute_names(attributes, _RESOURCE_KIND, _KNOWN_ATTRIBUTES, _REQUIRED_ATTRIBUTES)
    zone = parse_timezone(attributes.get("timezone"))
    clauses = parse_aggregate_filter(attributes["filter"])
    start, end = parse_datetime_bounds(clauses, zone)
    by = attributes.get("by") or []
    cursor = attributes.get("page_cursor")
    return AggregateRequestBody(
        metric=parse_metric(store, str(attributes["metric_id"])),
        measurements=parse_choices(
            attributes["measurements"], AGGREGATE_MEASUREMENTS, "measurements"
        ),
        interval=parse_choices(
            [attributes.get("interval") or "day"], AGGREGATE_INTERVALS, "interval"
        )[0],
        dimensions=parse_choices(by, tuple(sorted(AGGREGATE_DIMENSIONS)), "by") if by else (),
        dimension_filters={
            clause.field: frozenset(str(each.value) for each in clause.values)
            for clause in clauses
            if clause.field != "datetime"
        },
        start=start,
        end=end,
        timezone=zone,
        page_size=parse_page_rows(attributes.get("page_size")),
        page_cursor=None if cursor is None else str(cursor),
    )


def refuse_sort(attributes: JsonObject) -> None:
    """Sorting does not work: a 400, or a 500 together with `dimensions`, as recorded."""
    if attributes.get("sort") is None:
        return
    if attributes.get("by"):
        title = "A server error occurred."
        raise ApiError(500, "error", title=title, detail=title, source={"pointer": "/data/"})
    raise invalid_input_error(
        "unsupported operand type(s) for +", pointer=f"{_ATTRIBUTES_POINTER}/sort"
    )


def parse_metric(store: AccountStore, metric_id: str) -> int:
    """The ordinal of a metric; custom metrics (computed ones) cannot be counted."""
    ordinal = store.metrics.ordinal_of(metric_id)
    if ordinal is None:
        raise invalid_input_error(
            f"Invalid metric id: '{metric_id}'.", pointer=f"{_ATTRIBUTES_POINTER}/metric_id"
        )
    return ordinal


def parse_timezone(value: Json) -> str:
    """An IANA zone by its exact name; three of them are not offered."""
    zone = "UTC" if value is None else str(value)
    if zone in _UNSUPPORTED_ZONES or zone not in available_timezones():
        raise invalid_input_error(
            f"'{zone}' is not a valid timezone.", pointer=f"{_ATTRIBUTES_POINTER}/timezone"
        )
    return zone


def parse_page_rows(value: Json) -> int:
    """Rows a page."""
    if value is None:
        return 500
    if not isinstance(value, int) or not 1 <= value <= _MAX_PAGE_ROWS:
        raise invalid_input_error(
            "page_size must be a positive integer.", pointer=f"{_ATTRIBUTES_POINTER}/page_size"
        )
    return value


def parse_aggregate_filter(value: Json) -> tuple[FilterClause, ...]:
    """The clauses of all texts of the list."""
    if not isinstance(value, list):
        raise invalid_input_error(
            "'filter' must be a list.", pointer=f"{_ATTRIBUTES_POINTER}/filter"
        )
    clauses = tuple(clause for text in as_list(value) for clause in parse_filter(str(text)))
    offered = dict.fromkeys(AGGREGATE_DIMENSIONS, FilterableField(("any", "equals")))
    check_filter(clauses, {**offered, "datetime": FilterableField((_FROM, _BEFORE), "time")})
    return clauses


def parse_datetime_bounds(clauses: tuple[FilterClause, ...], zone: str) -> tuple[int, int]:
    """[start, end) in seconds; times without an offset are taken in the zone of the request."""
    found: dict[str, int] = {}
    for clause in clauses:
        if clause.field == "datetime":
            literal = clause.values[0]
            micros = int(literal.value) if isinstance(literal.value, int) else 0
            found[clause.operator] = wall_time_micros(micros, zone) if literal.is_local else micros
    if set(found) != {_FROM, _BEFORE}:
        message = "A greater-or-equal and a less-than filter on datetime are required."
        raise invalid_input_error(message, pointer=f"{_ATTRIBUTES_POINTER}/filter")
    start, end = found[_FROM] // SECOND_MICROS, -(-found[_BEFORE] // SECOND_MICROS)
    if not 0 < end - start <= _MAX_RANGE_SECONDS:
        raise invalid_input_error(
            "The time range may not be longer than 1 year.", pointer=f"{_ATTRIBUTES_POINTER}/filter"
        )
    return start, end


def wall_time_micros(micros: int, zone: str) -> int:
    """A wall-clock time, read before as if it were UTC, as the instant in a zone."""
    wall = datetime.fromtimestamp(micros / SECOND_MICROS, UTC).replace(tzinfo=ZoneInfo(zone))
    return int((wall.astimezone(UTC) - UNIX_EPOCH).total_seconds() * SECOND_MICROS)


_ATTRIBUTION_RELATIONSHIPS = {
    "$attributed_flow": ("flow",),
    "$attributed_message": ("campaign-message", "flow-message"),
    "$attributed_variation": ("flow-message-variation",),
}


@dataclass(slots=True)
class BucketTotals:
    """What fell into one bucket of one group."""

    count: int = 0
    total: float = 0.0
    profiles: set[int | None] = field(default_factory=set[int | None])


class AggregateEndpoint:
    """Counts the events of one account."""

    def __init__(self, store: AccountStore, pages: EventRenderer) -> None:
        self.store = store
        self.renderer = pages

    def respond(self, body: bytes, *, target: RequestTarget, now: float) -> ResponseDocument:
        """One page of rows."""
        request = parse_aggregate_body(self.store, body)
        starts = list(bucket_starts(request))
        rows = self.compute_rows(request, starts, now)
        first = decode_aggregate_cursor(request)
        shown = rows[first : first + request.page_size]
        links: JsonObject = {"self": f"{target.origin}{target.path}"}
        if first + request.page_size < len(rows):
            # Unverified: where Klaviyo returns the next cursor; the body is where it is sent.
            cursor = base64.b64encode(str(first + request.page_size).encode()).decode()
            links["next"] = f"{target.origin}{target.path}?page_cursor={cursor}"
        attributes: JsonObject = {
            "dates": [datetime.fromtimestamp(each, UTC).isoformat() for each in starts[:-1]],
            "data": shown,
        }
        data: JsonObject = {"type": "metric-aggregate", "id": "ephemeral", "attributes": attributes}
        whole = dump_json({"data": data, "links": links})
        return ResponseDocument(body=whole, kind="metric-aggregate", shown_ordinals=[])

    def compute_rows(
        self, request: AggregateRequestBody, starts: list[int], now: float
    ) -> list[Json]:
        """A row per group of dimensions, sorted by them."""
        groups: dict[tuple[str, ...], list[BucketTotals]] = {}
        events = self.store.events
        wanted = EventSelection(
            start=request.start, end=request.end, metric=request.metric, includes_counted=True
        )
        bucket = 0
        for ordinal in events.iterate(wanted, now, after=None, descending=False):
            seconds = events.seconds(ordinal)
            while seconds >= starts[bucket + 1]:
                bucket += 1
            key = self.read_dimensions(ordinal, request)
            if key is None:
                continue
            cells = groups.setdefault(key, [BucketTotals() for _ in starts[1:]])
            cell = cells[bucket]
            cell.count += 1
            cell.total += self.read_value(ordinal)
            cell.profiles.add(events.profile(ordinal))
        if not request.dimensions and not groups:
            groups[()] = [BucketTotals() for _ in starts[1:]]
        return [build_aggregate_row(request, key, cells) for key, cells in sorted(groups.items())]

    def read_dimensions(
        self, ordinal: int, request: AggregateRequestBody
    ) -> tuple[str, ...] | None:
        """The group of an event; None when it does not meet the filters."""
        if not request.dimensions and not request.dimension_filters:
            return ()
        properties = self.read_properties(ordinal)
        attribution = self.renderer.build_attribution(ordinal)
        related = as_object(None if attribution is None else attribution["relationships"])

        def value(name: str) -> str:
            if name in _ATTRIBUTION_RELATIONSHIPS:
                linked = (as_object(related.get(each)) for each in _ATTRIBUTION_RELATIONSHIPS[name])
                ids = (as_object(each.get("data")).get("id") for each in linked)
                return str(next((each for each in ids if each is not None), ""))
            if name == "$attributed_channel":
                return "email" if related else ""
            found = properties.get(name)
            return "" if found is None else str(found)

        if any(value(name) not in allowed for name, allowed in request.dimension_filters.items()):
            return None
        return tuple(value(name) for name in request.dimensions)

    def read_properties(self, ordinal: int) -> JsonObject:
        """The event's properties as they would be read."""
        metric = self.store.events.metric(ordinal)
        return load_json_object(self.renderer.render_properties(ordinal, metric, b""))

    def read_value(self, ordinal: int) -> float:
        """The event's `$value`, also when it was sent as a text; 0 for anything else."""
        try:
            return float(str(self.read_properties(ordinal).get("$value") or 0))
        except ValueError:
            return 0.0


def build_aggregate_row(
    request: AggregateRequestBody, key: tuple[str, ...], buckets: list[BucketTotals]
) -> Json:
    """Dimensions and one list of numbers per measurement."""
    numbers: dict[str, list[Json]] = {
        "count": [float(cell.count) for cell in buckets],
        "sum_value": [round(cell.total, 4) for cell in buckets],
        "unique": [float(len(cell.profiles)) for cell in buckets],
    }
    chosen: JsonObject = {name: numbers[name] for name in request.measurements}
    return {"dimensions": list(key), "measurements": chosen}


def bucket_starts(request: AggregateRequestBody) -> Iterator[int]:
    """Instants at which buckets begin, the first at the ask's start, with the end as the last."""
    zone = ZoneInfo(request.timezone)
    at = request.start
    while at < request.end:
        yield at
        at = next_bucket_start(at, request.interval, zone)
    yield request.end


def next_bucket_start(at: int, interval: str, zone: ZoneInfo) -> int:
    """The next border of an hour, day, week (Monday) or month in the zone."""
    if interval == "hour":
        return at // 3600 * 3600 + 3600
    day = datetime.fromtimestamp(at, zone).date()
    if interval == "day":
        following = day + timedelta(days=1)
    elif interval == "week":
        following = day + timedelta(days=7 - day.weekday())
    else:
        following = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return local_seconds(datetime.combine(following, time()), zone)


def decode_aggregate_cursor(request: AggregateRequestBody) -> int:
    """The first row of the requested page."""
    if request.page_cursor is None:
        return 0
    try:
        return int(base64.b64decode(request.page_cursor, validate=True))
    except (binascii.Error, ValueError):
        raise invalid_cursor_error() from None
