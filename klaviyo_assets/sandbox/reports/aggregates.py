"""Metric aggregates: events of one metric by interval and dimensions, by the event's own time.

Dates are true instants, unlike those of the series reports. Rows without a dimension carry an empty
text. Sorting fails as it was recorded to fail on 2026-09-04.
"""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from klaviyo_assets.sandbox.answers import Answer, Place
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_object, dumps, loads_object
from klaviyo_assets.sandbox.paging import bad_cursor
from klaviyo_assets.sandbox.render.event_pages import EventPages
from klaviyo_assets.sandbox.reports.aggregate_asks import AggregateAsk, read_aggregate_ask
from klaviyo_assets.sandbox.reports.timeframes import instant
from klaviyo_assets.sandbox.shop.events import EventAsk
from klaviyo_assets.sandbox.shop.store import Shop

_ATTRIBUTED = {
    "$attributed_flow": "flow",
    "$attributed_message": "campaign-message",
    "$attributed_variation": "flow-message-variation",
}


@dataclass(slots=True)
class Cell:
    """What fell into one bucket of one group."""

    count: int = 0
    total: float = 0.0
    people: set[int | None] = field(default_factory=set[int | None])


class Aggregates:
    """Counts events of one shop."""

    def __init__(self, shop: Shop, pages: EventPages) -> None:
        self.shop = shop
        self.pages = pages

    def answer(self, body: bytes, *, place: Place, now: float) -> Answer:
        """One page of rows."""
        ask = read_aggregate_ask(self.shop, body)
        starts = list(bucket_starts(ask))
        rows = self.rows(ask, starts, now)
        first = offset_of(ask)
        shown = rows[first : first + ask.page_size]
        links: JsonObject = {"self": f"{place.origin}{place.path}"}
        if first + ask.page_size < len(rows):
            # Unverified: where Klaviyo returns the next cursor; the body is where it is sent.
            cursor = base64.b64encode(str(first + ask.page_size).encode()).decode()
            links["next"] = f"{place.origin}{place.path}?page_cursor={cursor}"
        attributes: JsonObject = {
            "dates": [datetime.fromtimestamp(each, UTC).isoformat() for each in starts[:-1]],
            "data": shown,
        }
        data: JsonObject = {"type": "metric-aggregate", "id": "ephemeral", "attributes": attributes}
        whole = dumps({"data": data, "links": links})
        return Answer(body=whole, kind="metric-aggregate", shown=[])

    def rows(self, ask: AggregateAsk, starts: list[int], now: float) -> list[Json]:
        """A row per group of dimensions, sorted by them."""
        groups: dict[tuple[str, ...], list[Cell]] = {}
        book = self.shop.events
        wanted = EventAsk(start=ask.start, end=ask.end, metric=ask.metric, counting=True)
        bucket = 0
        for ordinal in book.walk(wanted, now, after=None, descending=False):
            seconds = book.seconds(ordinal)
            while seconds >= starts[bucket + 1]:
                bucket += 1
            key = self.dimensions(ordinal, ask)
            if key is None:
                continue
            cells = groups.setdefault(key, [Cell() for _ in starts[1:]])
            cell = cells[bucket]
            cell.count += 1
            cell.total += self.value(ordinal)
            cell.people.add(book.profile(ordinal))
        if not ask.by and not groups:
            groups[()] = [Cell() for _ in starts[1:]]
        return [row(ask, key, cells) for key, cells in sorted(groups.items())]

    def dimensions(self, ordinal: int, ask: AggregateAsk) -> tuple[str, ...] | None:
        """The group of an event; None when it does not meet the filters."""
        if not ask.by and not ask.equals:
            return ()
        properties = self.properties(ordinal)
        attribution = self.pages.attribution(ordinal)
        related = as_object(None if attribution is None else attribution["relationships"])

        def value(name: str) -> str:
            if name in _ATTRIBUTED:
                data = as_object(as_object(related.get(_ATTRIBUTED[name])).get("data"))
                return str(data.get("id", ""))
            if name == "$attributed_channel":
                return "email" if related else ""
            found = properties.get(name)
            return "" if found is None else str(found)

        if any(value(name) not in allowed for name, allowed in ask.equals.items()):
            return None
        return tuple(value(name) for name in ask.by)

    def properties(self, ordinal: int) -> JsonObject:
        """The event's properties as they would be read."""
        metric = self.shop.events.metric(ordinal)
        return loads_object(self.pages.properties(ordinal, metric, b""))

    def value(self, ordinal: int) -> float:
        """The event's `$value`, also when it was sent as a text; 0 for anything else."""
        try:
            return float(str(self.properties(ordinal).get("$value") or 0))
        except ValueError:
            return 0.0


def row(ask: AggregateAsk, key: tuple[str, ...], cells: list[Cell]) -> Json:
    """Dimensions and one list of numbers per measurement."""
    numbers: dict[str, list[Json]] = {
        "count": [float(cell.count) for cell in cells],
        "sum_value": [round(cell.total, 4) for cell in cells],
        "unique": [float(len(cell.people)) for cell in cells],
    }
    chosen: JsonObject = {name: numbers[name] for name in ask.measurements}
    return {"dimensions": list(key), "measurements": chosen}


def bucket_starts(ask: AggregateAsk) -> Iterator[int]:
    """Instants at which buckets begin, the first at the ask's start, with the end as the last."""
    zone = ZoneInfo(ask.timezone)
    at = ask.start
    while at < ask.end:
        yield at
        at = next_start(at, ask.interval, zone)
    yield ask.end


def next_start(at: int, interval: str, zone: ZoneInfo) -> int:
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
    return instant(datetime.combine(following, time()), zone)


def offset_of(ask: AggregateAsk) -> int:
    """The first row of the page asked for."""
    if ask.page_cursor is None:
        return 0
    try:
        return int(base64.b64decode(ask.page_cursor, validate=True))
    except (binascii.Error, ValueError):
        raise bad_cursor() from None
