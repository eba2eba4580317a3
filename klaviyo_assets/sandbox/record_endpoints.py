"""The endpoints of every collection but events: pages, single records, members, documents.

Takes an operation, its path's id and a `ParsedQuery`, and gives the body and the ids shown.
Refusals that depend on the request's form were made before; those here depend on the records (404,
bad cursor).

Most relationships show links only, their ids once included; a few always show ids (events, campaign
messages), as recorded on 2026-09-04 at revision 2026-07-15. Resource links end in a slash,
collection links do not.

Profiles that a test changed, and pages with sparse fields or includes, go through Python objects.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from klaviyo_assets.sandbox.account.profiles import POOL_SHIFTS, ProfileCollection
from klaviyo_assets.sandbox.account.records import (
    Linkage,
    ResourceCollection,
    SubsetCollection,
    sort_key,
)
from klaviyo_assets.sandbox.account.seeds import mix_bits
from klaviyo_assets.sandbox.account.store import AccountStore
from klaviyo_assets.sandbox.facts.operations import (
    additional_field_names,
    published_attribute_names,
)
from klaviyo_assets.sandbox.facts.schema import Operation
from klaviyo_assets.sandbox.filters import build_record_predicate, literal_micros
from klaviyo_assets.sandbox.http_messages import invalid_input_error, not_found_error
from klaviyo_assets.sandbox.json_types import Json, JsonObject, dump_json
from klaviyo_assets.sandbox.query import (
    UNPAGED_SIZE,
    ParsedQuery,
    SortValue,
    build_next_link,
    build_self_link,
    decode_record_cursor,
    encode_record_cursor,
    invalid_cursor_error,
)

RELATIONSHIPS_WITH_DATA = frozenset(
    {
        ("event", "profile"),
        ("event", "metric"),
        ("campaign", "campaign-messages"),
    }
)


def record_url(origin: str, kind: str, record_id: str) -> str:
    """The address of a record, with its trailing slash."""
    return f"{origin}/api/{kind}s/{record_id}/"


def build_resource(
    collection: ResourceCollection,
    ordinal: int,
    *,
    origin: str,
    query: ParsedQuery,
    is_primary: bool,
) -> JsonObject:
    """A record with the parts that the query selects.

    `is_primary` is False for included ones, whose relationships stay closed.
    """
    kind, record_id = collection.kind, collection.id_of(ordinal)
    fields = query.fieldsets.get(kind)
    additional_fields = query.additional_fields if is_primary else frozenset[str]()
    attributes = select_attributes(
        offered_attributes(collection, ordinal, query),
        kind=kind,
        additional_fields=additional_fields,
        fields=fields,
    )
    found: JsonObject = {"type": kind, "id": record_id, "attributes": attributes}
    opened = query.includes if is_primary else ()
    related = build_relationships(
        collection.links(ordinal),
        kind=kind,
        url=record_url(origin, kind, record_id),
        included_names=opened,
    )
    if fields is not None:
        related = {name: value for name, value in related.items() if name in fields}
    if related:
        found["relationships"] = related
    found["links"] = {"self": record_url(origin, kind, record_id)}
    return found


# Sent by operations of 2026-07-15 though the list of that day does not have them yet.
UNLISTED_FIELDS = frozenset({"assigner_configuration", "screenshot_url"})


def offered_attributes(
    collection: ResourceCollection, ordinal: int, query: ParsedQuery
) -> JsonObject:
    """The attributes without those that only other operations publish; unknown ones are shown."""
    attributes = collection.attributes(ordinal)
    offered = query.offered_fields.get(collection.kind)
    if offered is None:
        return attributes
    shown = {name.partition(".")[0] for name in offered} | UNLISTED_FIELDS
    hidden = published_attribute_names(collection.kind) - shown
    return {name: value for name, value in attributes.items() if name not in hidden}


def select_attributes(
    attributes: JsonObject,
    *,
    kind: str,
    additional_fields: frozenset[str],
    fields: frozenset[str] | None,
) -> JsonObject:
    """The attributes to show: additional ones only on request, then only the sparse fields."""
    found = dict(attributes)
    for name in additional_field_names().get(kind, frozenset()) - additional_fields:
        if kind == "profile":
            found[name] = None
        else:
            found.pop(name, None)
    return found if fields is None else select_fields(found, fields)


def select_fields(
    attributes: Mapping[str, Json], fields: frozenset[str], prefix: str = ""
) -> JsonObject:
    """Only the named members; a dotted name keeps its branch of the tree."""
    found: JsonObject = {}
    for name, value in attributes.items():
        path = f"{prefix}{name}"
        if path in fields:
            found[name] = value
        elif any(field.startswith(f"{path}.") for field in fields):
            inner = isinstance(value, Mapping)
            found[name] = select_fields(value, fields, f"{path}.") if inner else value
    return found


def build_relationships(
    links: Mapping[str, Linkage], *, kind: str, url: str, included_names: tuple[str, ...]
) -> JsonObject:
    """Relationship objects; `data` only where included or always shown."""
    found: JsonObject = {}
    for name, (target, ids) in links.items():
        one: JsonObject = {}
        if name in included_names or (kind, name) in RELATIONSHIPS_WITH_DATA:
            one["data"] = build_linkage(target, ids)
        one["links"] = {"self": f"{url}relationships/{name}/", "related": f"{url}{name}/"}
        found[name] = one
    return found


def build_linkage(kind: str, ids: str | tuple[str, ...] | None) -> Json:
    """Resource identifiers: one, null, or a list."""
    if ids is None:
        return None
    if isinstance(ids, str):
        return {"type": kind, "id": ids}
    return [{"type": kind, "id": each} for each in ids]


def collect_included(
    collections: Mapping[str, ResourceCollection],
    primary_links: list[dict[str, Linkage]],
    *,
    origin: str,
    query: ParsedQuery,
) -> list[JsonObject]:
    """The records that the shown ones are related to, each once, in order of appearance."""
    found: dict[tuple[str, str], JsonObject] = {}
    for links in primary_links:
        for name in query.includes:
            kind, ids = links.get(name, ("", None))
            collection = collections.get(kind)
            for record_id in (ids,) if isinstance(ids, str) else ids or ():
                ordinal = collection.ordinal_of(record_id) if collection else None
                if collection is None or ordinal is None or (kind, record_id) in found:
                    continue
                found[kind, record_id] = build_resource(
                    collection, ordinal, origin=origin, query=query, is_primary=False
                )
    return list(found.values())


# Null until `additional-fields` names it.
HIDDEN_ATTRIBUTES = frozenset({"subscriptions", "predictive_analytics"})


class ProfileRenderer:
    """Renders profiles; the pools' JSON is made once, the own parts of each profile each time."""

    def __init__(self, profiles: ProfileCollection) -> None:
        """Take the pools of the profiles as JSON."""
        self.profiles = profiles
        texts = profiles.pools.texts
        self.pools = [(shift, texts[name]) for name, shift in POOL_SHIFTS.items()]

    def render_profiles(
        self, ordinals: list[int], *, origin: str, additional_fields: frozenset[str]
    ) -> list[bytes]:
        """Profiles in JSON, with the requested additional fields."""
        collection = self.profiles
        mark = "@id@"
        url = record_url(origin, "profile", mark)
        links = build_relationships(collection.links(0), kind="profile", url=url, included_names=())
        tail = dump_json({"relationships": links, "links": {"self": url}})[1:].split(mark.encode())
        found: list[bytes] = []
        for ordinal in ordinals:
            record_id = collection.id_of(ordinal).encode()
            attributes = self.render_attributes(ordinal, additional_fields)
            head = b'{"type":"profile","id":"' + record_id + b'","attributes":{'
            found.append(head + attributes + b"}," + record_id.join(tail))
        return found

    def render_attributes(self, ordinal: int, additional_fields: frozenset[str]) -> bytes:
        """The members of `render_attributes` in JSON, without the braces."""
        collection = self.profiles
        if ordinal in collection.changes:
            attributes = collection.attributes(ordinal)
            for name in HIDDEN_ATTRIBUTES - additional_fields:
                attributes[name] = None
            return dump_json(attributes)[1:-1]
        own = dump_json(collection.own_attributes(ordinal))[1:-1]
        pools = (
            self.pools
            if additional_fields >= HIDDEN_ATTRIBUTES
            else self.select_pools(additional_fields)
        )
        bits = mix_bits(collection.seed, ordinal)
        ready = [pool[(bits >> shift) % len(pool)] for shift, pool in pools]
        return b",".join([own, *ready])

    def select_pools(self, additional_fields: frozenset[str]) -> list[tuple[int, Sequence[bytes]]]:
        """The pools with null for what is not requested."""
        found = self.pools[:2]
        for name, pool in zip(
            ("subscriptions", "predictive_analytics"), self.pools[2:], strict=True
        ):
            found.append(pool if name in additional_fields else (0, [f'"{name}":null'.encode()]))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseDocument:
    """A body, and the ordinals of the primary records in it, of the named collection."""

    body: bytes
    kind: str
    shown_ordinals: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTarget:
    """Where an answer is given: the address seen by the client, the path, the path's id.

    `collections` are those that the requested revision shows, by type.
    """

    origin: str
    path: str
    record_id: str
    collections: Mapping[str, ResourceCollection]


def render_document(
    rows: list[bytes],
    *,
    links: JsonObject,
    included_rows: list[bytes] | None,
    is_single: bool = False,
) -> bytes:
    """A JSON:API document of ready rows; `collect_included` only where the query has an include."""
    joined = b",".join(rows)
    data = joined if is_single else b"[" + joined + b"]"
    tail = b"" if included_rows is None else b',"included":[' + b",".join(included_rows) + b"]"
    return b'{"data":' + data + b',"links":' + dump_json(links) + tail + b"}"


class RecordEndpoints:
    """Responses about everything but events, which have a module of their own."""

    def __init__(self, store: AccountStore) -> None:
        """Serve the records of this store."""
        self.store = store
        self.profile_renderer = ProfileRenderer(store.profiles)

    def get_collection(
        self, collection: ResourceCollection, target: RequestTarget, query: ParsedQuery
    ) -> ResponseDocument:
        """A page of a collection."""
        found = list(islice(self.iterate_ordinals(collection, query), query.page_size + 1))
        shown = found[: query.page_size]
        return self.render_page(
            collection, target, query=query, ordinals=shown, has_more=len(found) > query.page_size
        )

    def render_page(
        self,
        collection: ResourceCollection,
        target: RequestTarget,
        *,
        query: ParsedQuery,
        ordinals: list[int],
        has_more: bool,
    ) -> ResponseDocument:
        """The document of a page, with its next link."""
        following = None
        if has_more:
            last = ordinals[-1]
            values = collection.field_values(last, query.sort)
            cursor = encode_record_cursor(
                query, value=values[0] if values else None, record_id=collection.id_of(last)
            )
            following = build_next_link(
                target.origin, target.path, pairs=query.pairs, cursor=cursor
            )
        links: JsonObject = {"self": build_self_link(target.origin, target.path, query.pairs)}
        if query.page_size < UNPAGED_SIZE:
            links |= {"next": following, "prev": self.previous_link(target, query)}
        rows = self.render_rows(collection, ordinals, target=target, query=query)
        extras = self.render_included(
            [collection.links(k) for k in ordinals], target=target, query=query
        )
        body = render_document(rows, links=links, included_rows=extras)
        return ResponseDocument(body=body, kind=collection.kind, shown_ordinals=ordinals)

    def previous_link(self, target: RequestTarget, query: ParsedQuery) -> str | None:
        """The `prev` link: null on page one, and of no use afterwards, as recorded."""
        if query.cursor is None:
            return None
        pairs = query.pairs
        return build_next_link(target.origin, target.path, pairs=pairs, cursor="cHJldjo6aWQ6OjA=")

    def render_rows(
        self,
        collection: ResourceCollection,
        ordinals: list[int],
        *,
        target: RequestTarget,
        query: ParsedQuery,
    ) -> list[bytes]:
        """Records in JSON."""
        if (
            collection is self.store.profiles
            and not query.fieldsets.get("profile")
            and not query.includes
        ):
            return self.profile_renderer.render_profiles(
                ordinals, origin=target.origin, additional_fields=query.additional_fields
            )
        return [
            dump_json(
                build_resource(collection, k, origin=target.origin, query=query, is_primary=True)
            )
            for k in ordinals
        ]

    def render_included(
        self, links: list[dict[str, Linkage]], *, target: RequestTarget, query: ParsedQuery
    ) -> list[bytes] | None:
        """Records included by these relationships; None when nothing was to be included."""
        if not query.includes:
            return None
        found = collect_included(target.collections, links, origin=target.origin, query=query)
        return [dump_json(each) for each in found]

    def iterate_ordinals(self, collection: ResourceCollection, query: ParsedQuery) -> Iterator[int]:
        """Ordinals after the cursor, in the requested order, that meet the conditions."""
        order = collection.sorted_ordinals(query.sort)
        after = decode_record_cursor(query)
        start = 0 if after is None else self.count_up_to_cursor(collection, query, position=after)
        if not query.descending:
            start = max(start, self.count_below_bounds(collection, query))
        indices = (
            range(len(order) - 1 - start, -1, -1) if query.descending else range(start, len(order))
        )
        test = build_record_predicate(collection, query.clauses)
        return (order[k] for k in indices if test(order[k]))

    def count_below_bounds(self, collection: ResourceCollection, query: ParsedQuery) -> int:
        """How many records lie below the lower bounds of the sort field."""
        # A field with many values is sorted by the first, but met by any.
        if "." in query.sort:
            return 0
        order = collection.sorted_ordinals(query.sort)
        edges = [
            (0, literal_micros(clause.values[0]))
            for clause in query.clauses
            if clause.field == query.sort and clause.operator.startswith("greater")
        ]
        places = (
            bisect_left(
                order, limit, key=lambda k: sort_key(collection.field_values(k, query.sort))
            )
            for limit in edges
        )
        return max(places, default=0)

    def count_up_to_cursor(
        self, collection: ResourceCollection, query: ParsedQuery, *, position: tuple[SortValue, str]
    ) -> int:
        """How many records of the order lie at or before the cursor."""
        value, record_id = position
        ordinal = collection.ordinal_of(record_id)
        if ordinal is None:
            raise invalid_cursor_error()
        order = collection.sorted_ordinals(query.sort)
        cursor_key = (sort_key(() if value is None else (value,)), ordinal)

        def key(k: int) -> tuple[tuple[int, float | str], int]:
            return sort_key(collection.field_values(k, query.sort)), k

        index = bisect_left(order, cursor_key, key=key)
        at_edge = index < len(order) and order[index] == ordinal and key(ordinal) == cursor_key
        if query.descending:
            return len(order) - index
        return index + 1 if at_edge else index

    def find_living(self, collection: ResourceCollection, record_id: str) -> int:
        """The ordinal of a record that can be read; 404 otherwise."""
        ordinal = collection.ordinal_of(record_id)
        if collection.kind == "mapped-metric" and ordinal is None:
            # Malformed ids of this collection are 400, not 404 (recorded).
            message = f"Invalid Mapped Metric ID: '{record_id}'"
            raise invalid_input_error(message, pointer="/data/id")
        if ordinal is None or not collection.is_alive(ordinal):
            raise not_found_error(collection.kind, record_id)
        return ordinal

    def get_detail(
        self, collection: ResourceCollection, target: RequestTarget, query: ParsedQuery
    ) -> ResponseDocument:
        """One record."""
        ordinal = self.find_living(collection, target.record_id)
        found = build_resource(
            collection, ordinal, origin=target.origin, query=query, is_primary=True
        )
        if "profile_count" in query.additional_fields:
            group = self.store.group_members(collection.kind, target.record_id)
            count = 0 if group is None else len(group.member_ordinals())
            attributes = found["attributes"]
            if isinstance(attributes, dict):
                attributes["profile_count"] = count
        links = collection.links(ordinal)
        url = record_url(target.origin, collection.kind, target.record_id)
        if collection is self.store.profiles and {"lists", "segments"} & set(query.includes):
            links = {**links, **self.store.group_links(ordinal)}
            found["relationships"] = build_relationships(
                links, kind="profile", url=url, included_names=query.includes
            )
        extras = self.render_included([links], target=target, query=query)
        body = render_document(
            [dump_json(found)], links={"self": url}, included_rows=extras, is_single=True
        )
        return ResponseDocument(body=body, kind=collection.kind, shown_ordinals=[ordinal])

    def get_children(
        self, parent: ResourceCollection, kind: str, target: RequestTarget, query: ParsedQuery
    ) -> ResponseDocument:
        """The records of a type that belong to one parent."""
        return self.get_collection(self.related_records(parent, kind, target), target, query)

    def related_records(
        self, parent: ResourceCollection, kind: str, target: RequestTarget
    ) -> SubsetCollection:
        """The records that a parent is related to by the last word of the path."""
        ordinal = self.find_living(parent, target.record_id)
        collection = target.collections[kind]
        name = target.path.rpartition("/")[2]
        links = parent.links(ordinal)
        if name not in links:
            belongs = f"parent:{parent.kind}"
            return SubsetCollection(
                collection,
                [
                    k
                    for k in collection.sorted_ordinals("id")
                    if target.record_id in collection.field_values(k, belongs)
                ],
            )
        _, ids = links[name]
        listed = (ids,) if isinstance(ids, str) else ids or ()
        ordinals = [k for each in listed if (k := collection.ordinal_of(each)) is not None]
        return SubsetCollection(collection, [k for k in ordinals if collection.is_alive(k)])

    def get_linkage(
        self, parent: ResourceCollection, kind: str, target: RequestTarget, query: ParsedQuery
    ) -> ResponseDocument:
        """The ids of the records that one record is related to."""
        answer = self.get_collection(self.related_records(parent, kind, target), target, query)
        collection = target.collections[kind]
        return self.replace_with_identifiers(
            answer, kind, [collection.id_of(k) for k in answer.shown_ordinals]
        )

    def get_related(
        self, parent: ResourceCollection, target: RequestTarget, query: ParsedQuery
    ) -> ResponseDocument:
        """The one record that a record is related to; `data` is null where there is none."""
        ordinal = self.find_living(parent, target.record_id)
        kind, found = parent.links(ordinal)[target.path.rpartition("/")[2]]
        if not isinstance(found, str):
            body = dump_json({"data": None, "links": {"self": f"{target.origin}{target.path}/"}})
            return ResponseDocument(body=body, kind=kind, shown_ordinals=[])
        one = replace(target, record_id=found)
        return self.get_detail(target.collections[kind], one, query)

    def get_members(
        self, operation: Operation, target: RequestTarget, query: ParsedQuery
    ) -> ResponseDocument:
        """A page of the profiles of a list or segment, whole or as ids."""
        kind = "list" if "/lists/" in operation.path else "segment"
        group = self.store.group_members(kind, target.record_id)
        if group is None:
            raise not_found_error(kind, target.record_id)
        if operation.role == "members":
            return self.get_collection(group, target, query)
        found = list(islice(self.iterate_ordinals(group, query), query.page_size + 1))
        shown = found[: query.page_size]
        answer = self.render_page(
            group, target, query=query, ordinals=shown, has_more=len(found) > query.page_size
        )
        return self.replace_with_identifiers(answer, "profile", [group.id_of(k) for k in shown])

    def replace_with_identifiers(
        self, document: ResponseDocument, kind: str, ids: list[str]
    ) -> ResponseDocument:
        """The same page with resource identifiers only."""
        _, _, tail = document.body.rpartition(b',"links":')
        body = b'{"data":' + dump_json(build_linkage(kind, tuple(ids))) + b',"links":' + tail
        return ResponseDocument(body=body, kind=kind, shown_ordinals=document.shown_ordinals)
