"""Pages of events as bytes, fast: a thousand in some ten milliseconds.

An event is put together from ready pieces; only pages that ask for sparse fields take the slow way
through Python objects.
"""

from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_object, dumps, loads_object
from klaviyo_assets.sandbox.moments import DAY_SECONDS, seconds_text
from klaviyo_assets.sandbox.query import Query
from klaviyo_assets.sandbox.render.resources import resource, sparse
from klaviyo_assets.sandbox.shop.event_properties import POOL
from klaviyo_assets.sandbox.shop.events import WRITTEN
from klaviyo_assets.sandbox.shop.record import Linked
from klaviyo_assets.sandbox.shop.seeds import event_id, mix
from klaviyo_assets.sandbox.shop.store import Shop

# Three orders in ten are credited to a message.
_CREDITED = frozenset({0, 1, 2})
ORDERS = frozenset({5, 6, 7, 11})


class EventPages:
    """Renders events of one shop for one origin."""

    def __init__(self, shop: Shop, origin: str) -> None:
        """Prepare the pieces that hold the origin's links."""
        self.shop = shop
        self.origin = origin
        base = f"{origin}/api/events/".encode()
        self.people: dict[int, bytes] = {}
        self.metrics = [record.id.encode() for record in shop.metrics.records]
        self.days: dict[int, bytes] = {}
        linked = (
            b'"links":{"self":"' + base + b'%b/relationships/%b/","related":"' + base + b'%b/%b/"}'
        )
        self.form = (
            b'{"type":"event","id":"%b","attributes":{"timestamp":%d,"event_properties":%b,'
            b'"datetime":"%b%02d:%02d:%02d+00:00","uuid":"%b"},"relationships":{"profile":{"data":%b,'
            + linked % (b"%b", b"profile", b"%b", b"profile")
            + b'},"metric":{"data":%b,'
            + linked % (b"%b", b"metric", b"%b", b"metric")
            + b'},"attributions":{%b'
            + linked % (b"%b", b"attributions", b"%b", b"attributions")
            + b'}},"links":{"self":"'
            + base
            + b'%b/"}}'
        )

    def person(self, ordinal: int | None) -> bytes:
        """The profile's resource identifier in JSON, or null."""
        if ordinal is None:
            return b"null"
        kept = self.people.get(ordinal)
        if kept is None:
            record_id = self.shop.profiles.id_of(ordinal).encode()
            kept = self.people[ordinal] = b'{"type":"profile","id":"' + record_id + b'"}'
        return kept

    def metric(self, ordinal: int) -> bytes:
        """The id of a metric, of one that a test created too."""
        while ordinal >= len(self.metrics):
            self.metrics.append(self.shop.metrics.id_of(len(self.metrics)).encode())
        return self.metrics[ordinal]

    def day(self, number: int) -> bytes:
        """`2026-01-31T` for a day since 1970."""
        kept = self.days.get(number)
        if kept is None:
            kept = self.days[number] = seconds_text(number * DAY_SECONDS)[:11].encode()
        return kept

    def properties(self, ordinal: int, metric: int | None, record_id: bytes) -> bytes:
        """The event's properties in JSON."""
        book = self.shop.events
        if ordinal >= WRITTEN:
            return dumps(book.written[ordinal - WRITTEN].properties)
        pool = self.shop.pools[0 if metric is None else metric]
        entry = pool[(book.bits(ordinal) >> 48) % POOL]
        return entry + b',"$event_id":"' + record_id + b':%d"}' % ordinal

    def event(self, ordinal: int, attributions: bytes = b"") -> bytes:
        """One event in JSON; `attributions` is ready `"data":[...],` or nothing."""
        book = self.shop.events
        seconds, metric, person, bits = book.glance(ordinal)
        record_id = event_id(self.shop.account.seed, ordinal)
        # What a deleted person did stays, redacted.
        redacted = person is None and book.had_profile(ordinal)
        if redacted:
            properties = b"{}"
        elif ordinal >= WRITTEN:
            properties = dumps(book.written[ordinal - WRITTEN].properties)
        else:
            # Not by `properties`: this runs a thousand times a page.
            entry = self.shop.pools[metric or 0][(bits >> 48) % POOL]
            properties = entry + b',"$event_id":"' + record_id + b':%d"}' % ordinal
        day, second = divmod(seconds, DAY_SECONDS)
        minute, second = divmod(second, 60)
        metric_data = b"null"
        if metric is not None:
            metric_data = b'{"type":"metric","id":"' + self.metric(metric) + b'"}'
        return self.form % (
            record_id, seconds, properties, self.day(day), minute // 60, minute % 60, second,
            uuid_of(seconds, ordinal), self.person(person), record_id, record_id, metric_data,
            record_id, record_id, attributions, record_id, record_id, record_id,
        )  # fmt: skip

    def page(self, ordinals: list[int], query: Query) -> tuple[list[bytes], list[bytes]]:
        """Events and included records in JSON, as asked for."""
        asked = "attributions" in query.includes
        extras: dict[str, JsonObject] = {}
        rows: list[bytes] = []
        for ordinal in ordinals:
            if asked:
                found = self.attribution(ordinal)
                if found is None:
                    rows.append(self.event(ordinal, b'"data":[],'))
                else:
                    ids = [{"type": "attribution", "id": found["id"]}]
                    rows.append(self.event(ordinal, b'"data":' + dumps(ids) + b","))
                    extras[str(found["id"])] = found
            else:
                rows.append(self.event(ordinal))
            for kind in ("metric", "profile"):
                if kind in query.includes:
                    self.include(ordinal, kind, extras=extras, query=query)
        fields = query.fields.get("event")
        if fields is not None:
            rows = [dumps(sparse_event(loads_object(row), fields)) for row in rows]
        return rows, [dumps(each) for each in extras.values()]

    def include(
        self, ordinal: int, kind: str, *, extras: dict[str, JsonObject], query: Query
    ) -> None:
        """Add the event's metric or profile to the included records."""
        book = self.shop.events
        found = book.metric(ordinal) if kind == "metric" else book.profile(ordinal)
        if found is None:
            return
        shelf = self.shop.shelves[kind]
        record_id = shelf.id_of(found)
        if record_id not in extras:
            extras[record_id] = resource(shelf, found, origin=self.origin, query=query, top=False)

    def attribution(self, ordinal: int) -> JsonObject | None:
        """What a share of the orders is credited to: a campaign's message or a flow's."""
        book, shop = self.shop.events, self.shop
        if ordinal >= WRITTEN or book.metric(ordinal) not in ORDERS:
            return None
        bits = mix(shop.account.seed ^ 0xA77, ordinal)
        if bits % 10 not in _CREDITED:
            return None
        messages = shop.messages.records
        flows = shop.flows.records
        links: dict[str, Linked] = {"event": ("event", book.id_of(ordinal))}
        if ordinal > 0:
            links["attributed-event"] = ("event", book.id_of(ordinal - 1 - bits % min(ordinal, 99)))
        if messages and (bits & 1024 or not flows):
            message = messages[(bits >> 12) % len(messages)]
            links["campaign"] = message.links["campaign"]
            links["campaign-message"] = ("campaign-message", message.id)
        elif flows:
            flow = flows[(bits >> 12) % len(flows)]
            links["flow"] = ("flow", flow.id)
            links["flow-message"] = ("flow-message", f"F{flow.id}")
        related: dict[str, Json] = {
            name: {"data": {"type": kind, "id": str(target)}}
            for name, (kind, target) in links.items()
        }
        return {
            "type": "attribution",
            "id": f"{book.id_of(ordinal)}-{bits & 0xFFFF:04x}",
            "relationships": related,
            "links": {"self": f"{self.origin}/api/attributions/{book.id_of(ordinal)}/"},
        }


def sparse_event(event: JsonObject, fields: frozenset[str]) -> JsonObject:
    """An event with only the named attributes and relationships."""
    related = as_object(event["relationships"])
    kept: JsonObject = {name: value for name, value in related.items() if name in fields}
    found: JsonObject = {
        "type": event["type"],
        "id": event["id"],
        "attributes": sparse(as_object(event["attributes"]), fields),
    }
    if kept:
        found["relationships"] = kept
    return {**found, "links": event["links"]}


def uuid_of(seconds: int, ordinal: int) -> bytes:
    """A version-1 UUID of the event's time."""
    ticks = seconds * 10_000_000 + 0x01B21DD213814000
    return b"%08x-%04x-1%03x-8001-%012x" % (
        ticks & 0xFFFFFFFF,
        ticks >> 32 & 0xFFFF,
        ticks >> 48 & 0xFFF,
        ordinal & 0xFFFFFFFFFFFF,
    )
