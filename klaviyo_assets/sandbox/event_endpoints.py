"""The endpoints of events: pages by keyset and single events, rendered as bytes.

A page that is exactly full carries a next link even when nothing follows, as recorded: it leads to
an empty page.

An event is put together from ready pieces; only pages that ask for sparse fields take the slow way
through Python objects.
"""

from klaviyo_assets.sandbox.account.events import FIRST_WRITTEN_ORDINAL, EventSelection, take_first
from klaviyo_assets.sandbox.account.metrics import EVENT_POOL_SIZE, SentMessage
from klaviyo_assets.sandbox.account.records import Linkage
from klaviyo_assets.sandbox.account.seeds import event_id, event_ordinal
from klaviyo_assets.sandbox.account.store import AccountStore
from klaviyo_assets.sandbox.clock import SECOND_MICROS, SECONDS_PER_DAY, format_iso_seconds
from klaviyo_assets.sandbox.filters import FilterClause, literal_micros
from klaviyo_assets.sandbox.http_messages import invalid_input_error, not_found_error
from klaviyo_assets.sandbox.json_types import (
    Json,
    JsonObject,
    as_object,
    dump_json,
    load_json_object,
)
from klaviyo_assets.sandbox.query import (
    ParsedQuery,
    build_next_link,
    build_self_link,
    decode_event_cursor,
    encode_event_cursor,
    invalid_cursor_error,
)
from klaviyo_assets.sandbox.record_endpoints import (
    RequestTarget,
    ResponseDocument,
    build_resource,
    record_url,
    render_document,
    select_fields,
)


class EventRenderer:
    """Renders the events of one account for one origin."""

    def __init__(self, store: AccountStore, origin: str) -> None:
        """Prepare the pieces that hold the origin's links."""
        self.store = store
        self.origin = origin
        base = f"{origin}/api/events/".encode()
        self.profile_cache: dict[int, bytes] = {}
        self.metric_ids = [record.id.encode() for record in store.metrics.records]
        self.date_cache: dict[int, bytes] = {}
        linked = (
            b'"links":{"self":"' + base + b'%b/relationships/%b/","related":"' + base + b'%b/%b/"}'
        )
        self.event_template = (
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

    def profile_identifier(self, ordinal: int | None) -> bytes:
        """The profile's resource identifier in JSON, or null."""
        if ordinal is None:
            return b"null"
        cached = self.profile_cache.get(ordinal)
        if cached is None:
            record_id = self.store.profiles.id_of(ordinal).encode()
            cached = self.profile_cache[ordinal] = b'{"type":"profile","id":"' + record_id + b'"}'
        return cached

    def metric_id(self, ordinal: int) -> bytes:
        """The id of a metric, of one that a test created too."""
        while ordinal >= len(self.metric_ids):
            self.metric_ids.append(self.store.metrics.id_of(len(self.metric_ids)).encode())
        return self.metric_ids[ordinal]

    def date_prefix(self, number: int) -> bytes:
        """`2026-01-31T` for a day since 1970."""
        cached = self.date_cache.get(number)
        if cached is None:
            cached = self.date_cache[number] = format_iso_seconds(number * SECONDS_PER_DAY)[
                :11
            ].encode()
        return cached

    def render_properties(self, ordinal: int, metric: int | None, record_id: bytes) -> bytes:
        """The event's properties in JSON."""
        events = self.store.events
        if ordinal >= FIRST_WRITTEN_ORDINAL:
            return dump_json(events.written[ordinal - FIRST_WRITTEN_ORDINAL].properties)
        pool = self.store.event_pools.properties[0 if metric is None else metric]
        entry = pool[(events.random_bits(ordinal) >> 48) % EVENT_POOL_SIZE]
        return entry + b',"$event_id":"' + record_id + b':%d"}' % ordinal

    def render_event(self, ordinal: int, attributions: bytes = b"") -> bytes:
        """One event in JSON; `attributions` is ready `"data":[...],` or nothing."""
        events = self.store.events
        seconds, metric, person, bits = events.read_core(ordinal)
        record_id = event_id(self.store.config.seed, ordinal)
        # What a deleted person did stays, redacted.
        redacted = person is None and events.has_original_profile(ordinal)
        if redacted:
            properties = b"{}"
        elif ordinal >= FIRST_WRITTEN_ORDINAL:
            properties = dump_json(events.written[ordinal - FIRST_WRITTEN_ORDINAL].properties)
        else:
            # Not by `render_properties`: this runs a thousand times a page.
            entry = self.store.event_pools.properties[metric or 0][(bits >> 48) % EVENT_POOL_SIZE]
            properties = entry + b',"$event_id":"' + record_id + b':%d"}' % ordinal
        day, second = divmod(seconds, SECONDS_PER_DAY)
        minute, second = divmod(second, 60)
        metric_data = b"null"
        if metric is not None:
            metric_data = b'{"type":"metric","id":"' + self.metric_id(metric) + b'"}'
        return self.event_template % (
            record_id, seconds, properties, self.date_prefix(day), minute // 60, minute % 60,
            second, event_uuid(seconds, ordinal), self.profile_identifier(person), record_id,
            record_id, metric_data,
            record_id, record_id, attributions, record_id, record_id, record_id,
        )  # fmt: skip

    def render_page(
        self, ordinals: list[int], query: ParsedQuery
    ) -> tuple[list[bytes], list[bytes]]:
        """Events and included records in JSON, as the query selects them."""
        has_attributions = "attributions" in query.includes
        extras: dict[str, JsonObject] = {}
        rows: list[bytes] = []
        for ordinal in ordinals:
            if has_attributions:
                found = self.build_attribution(ordinal)
                if found is None:
                    rows.append(self.render_event(ordinal, b'"data":[],'))
                else:
                    ids = [{"type": "attribution", "id": found["id"]}]
                    rows.append(self.render_event(ordinal, b'"data":' + dump_json(ids) + b","))
                    extras[str(found["id"])] = found
            else:
                rows.append(self.render_event(ordinal))
            for kind in ("metric", "profile"):
                if kind in query.includes:
                    self.add_included(ordinal, kind, included=extras, query=query)
        fields = query.fieldsets.get("event")
        if fields is not None:
            rows = [dump_json(select_event_fields(load_json_object(row), fields)) for row in rows]
        return rows, [dump_json(each) for each in extras.values()]

    def add_included(
        self, ordinal: int, kind: str, *, included: dict[str, JsonObject], query: ParsedQuery
    ) -> None:
        """Add the event's metric or profile to the included records."""
        events = self.store.events
        found = events.metric(ordinal) if kind == "metric" else events.profile(ordinal)
        if found is None:
            return
        collection = self.store.collections[kind]
        record_id = collection.id_of(found)
        if record_id not in included:
            included[record_id] = build_resource(
                collection, found, origin=self.origin, query=query, is_primary=False
            )

    def message_of(self, ordinal: int) -> SentMessage | None:
        """The message that a regular event is about."""
        events = self.store.events
        metric = events.metric(ordinal)
        pool = self.store.event_pools.messages[0 if metric is None else metric]
        return pool[(events.random_bits(ordinal) >> 48) % EVENT_POOL_SIZE]

    def build_attribution(self, ordinal: int) -> JsonObject | None:
        """What a share of the orders is credited to: the message of an email before it."""
        events = self.store.events
        earlier = events.attributed_ordinal(ordinal)
        message = None if earlier is None else self.message_of(earlier)
        if earlier is None or message is None:
            return None
        links: dict[str, Linkage] = {
            "event": ("event", events.id_of(ordinal)),
            "attributed-event": ("event", events.id_of(earlier)),
            **message.links(),
        }
        related: dict[str, Json] = {
            name: {"data": {"type": kind, "id": str(target)}}
            for name, (kind, target) in links.items()
        }
        return {
            "type": "attribution",
            "id": f"{events.id_of(ordinal)}-{events.random_bits(ordinal) & 0xFFFF:04x}",
            "relationships": related,
            "links": {"self": f"{self.origin}/api/attributions/{events.id_of(ordinal)}/"},
        }


def select_event_fields(event: JsonObject, fields: frozenset[str]) -> JsonObject:
    """An event with only the named attributes and relationships."""
    related = as_object(event["relationships"])
    selected: JsonObject = {name: value for name, value in related.items() if name in fields}
    found: JsonObject = {
        "type": event["type"],
        "id": event["id"],
        "attributes": select_fields(as_object(event["attributes"]), fields),
    }
    if selected:
        found["relationships"] = selected
    return {**found, "links": event["links"]}


def event_uuid(seconds: int, ordinal: int) -> bytes:
    """A version-1 UUID of the event's time."""
    ticks = seconds * 10_000_000 + 0x01B21DD213814000
    return b"%08x-%04x-1%03x-8001-%012x" % (
        ticks & 0xFFFFFFFF,
        ticks >> 32 & 0xFFFF,
        ticks >> 48 & 0xFFF,
        ordinal & 0xFFFFFFFFFFFF,
    )


_NO_ORDINAL = -1
_FAR_SECONDS = 1 << 40


class EventEndpoints:
    """Responses about events; pages are rendered per origin."""

    def __init__(self, store: AccountStore) -> None:
        """Serve the events of this store."""
        self.store = store
        self.renderers: dict[str, EventRenderer] = {}

    def renderer_for(self, origin: str) -> EventRenderer:
        """The renderer whose links begin with that origin."""
        if origin not in self.renderers:
            self.renderers[origin] = EventRenderer(self.store, origin)
        return self.renderers[origin]

    def get_collection(
        self, target: RequestTarget, query: ParsedQuery, now: float
    ) -> ResponseDocument:
        """A page of events visible at `now`."""
        events = self.store.events
        selection = self.build_selection(query.clauses)
        ordinals = events.iterate(
            selection, now, after=self.decode_position(query), descending=query.descending
        )
        shown = take_first(ordinals, query.page_size)
        following = None
        if shown and len(shown) == query.page_size:
            last = shown[-1]
            cursor = encode_event_cursor(
                query, seconds=events.seconds(last), record_id=events.id_of(last)
            )
            following = build_next_link(
                target.origin, target.path, pairs=query.pairs, cursor=cursor
            )
        links: JsonObject = {
            "self": build_self_link(target.origin, target.path, query.pairs),
            "next": following,
            "prev": None,
        }
        rows, extras = self.renderer_for(target.origin).render_page(shown, query)
        body = render_document(rows, links=links, included_rows=extras if query.includes else None)
        return ResponseDocument(body=body, kind="event", shown_ordinals=shown)

    def decode_position(self, query: ParsedQuery) -> tuple[int, int] | None:
        """The keyset of the cursor as (second, ordinal)."""
        keyset = decode_event_cursor(query)
        if keyset is None:
            return None
        ordinal = event_ordinal(self.store.config.seed, keyset[1])
        if ordinal is None:
            raise invalid_cursor_error()
        return keyset[0], ordinal

    def build_selection(self, clauses: tuple[FilterClause, ...]) -> EventSelection:
        """The filter as an ask; several bounds narrow each other."""
        start, end = -_FAR_SECONDS, _FAR_SECONDS
        chosen: dict[str, int] = {}
        present: set[str] = set()
        for clause in clauses:
            if clause.operator == "has":
                present.add(clause.field)
            elif clause.field in {"metric_id", "profile_id"}:
                kind = clause.field.removesuffix("_id")
                ordinal = self.store.collections[kind].ordinal_of(str(clause.values[0].value))
                chosen[kind] = _NO_ORDINAL if ordinal is None else ordinal
            else:
                low, high = bound_seconds(clause)
                start, end = max(start, low), min(end, high)
        return EventSelection(
            start=start,
            end=end,
            metric=chosen.get("metric"),
            profile=chosen.get("profile"),
            has_profile="profile" in present,
            has_metric="metric" in present,
        )

    def get_detail(self, target: RequestTarget, query: ParsedQuery, now: float) -> ResponseDocument:
        """One event; a malformed id is a 400, an unknown one a 404."""
        events = self.store.events
        ordinal = events.ordinal_of(target.record_id)
        if event_ordinal(self.store.config.seed, target.record_id) is None:
            message = f"Invalid Event ID: '{target.record_id}'"
            raise invalid_input_error(message, pointer="/data/id")
        if ordinal is None or not events.is_visible(ordinal, now):
            raise not_found_error("event", target.record_id)
        rows, extras = self.renderer_for(target.origin).render_page([ordinal], query)
        links: JsonObject = {"self": record_url(target.origin, "event", target.record_id)}
        extra_rows = extras if query.includes else None
        body = render_document(rows, links=links, included_rows=extra_rows, is_single=True)
        return ResponseDocument(body=body, kind="event", shown_ordinals=[ordinal])


def bound_seconds(clause: FilterClause) -> tuple[int, int]:
    """A bound as whole seconds [start, end): events have no fractions of a second."""
    micros = literal_micros(clause.values[0])
    floor, ceiling = micros // SECOND_MICROS, -(-micros // SECOND_MICROS)
    match clause.operator:
        case "greater-than":
            return floor + 1, _FAR_SECONDS
        case "greater-or-equal":
            return ceiling, _FAR_SECONDS
        case "less-than":
            return -_FAR_SECONDS, ceiling
        case _:
            return -_FAR_SECONDS, floor + 1
