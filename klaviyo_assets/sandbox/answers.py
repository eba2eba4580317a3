"""The answer to a request that was accepted: records, pages, links.

Takes an operation, its path's id and a `Query`, and gives the body and the ids shown. Refusals that
depend on the request's form were made before; those here depend on the records (404, bad cursor).
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from klaviyo_assets.sandbox.errors import invalid, not_found
from klaviyo_assets.sandbox.facts.operation import Operation
from klaviyo_assets.sandbox.grammar import seconds_as_micros
from klaviyo_assets.sandbox.json_types import JsonObject, dumps
from klaviyo_assets.sandbox.matching import keeps
from klaviyo_assets.sandbox.paging import (
    SortValue,
    bad_cursor,
    next_link,
    read_record_cursor,
    record_cursor,
    self_link,
)
from klaviyo_assets.sandbox.query import UNPAGED, Query
from klaviyo_assets.sandbox.render.profile_pages import ProfilePages
from klaviyo_assets.sandbox.render.resources import (
    included,
    linkage,
    record_url,
    relationships,
    resource,
)
from klaviyo_assets.sandbox.shop.record import Linked, Shelf, sort_key
from klaviyo_assets.sandbox.shop.store import Shop


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A body, and the ordinals of the primary records in it, of the named collection."""

    body: bytes
    kind: str
    shown: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an answer is given: the address seen by the client, the path, the path's id."""

    origin: str
    path: str
    record_id: str


def document(
    rows: list[bytes], *, links: JsonObject, extras: list[bytes] | None, single: bool = False
) -> bytes:
    """A JSON:API document of ready rows; `included` only where an include was asked for."""
    joined = b",".join(rows)
    data = joined if single else b"[" + joined + b"]"
    tail = b"" if extras is None else b',"included":[' + b",".join(extras) + b"]"
    return b'{"data":' + data + b',"links":' + dumps(links) + tail + b"}"


class Answers:
    """Answers of everything but events, which have a room of their own."""

    def __init__(self, shop: Shop) -> None:
        """Answer from this shop."""
        self.shop = shop
        self.profile_pages = ProfilePages(shop.profiles)

    def collection(self, shelf: Shelf, place: Place, query: Query) -> Answer:
        """A page of a shelf."""
        found = list(islice(self.walk(shelf, query), query.size + 1))
        shown = found[: query.size]
        return self.page(shelf, place, query=query, shown=shown, more=len(found) > query.size)

    def page(
        self, shelf: Shelf, place: Place, *, query: Query, shown: list[int], more: bool
    ) -> Answer:
        """The document of a page, with its next link."""
        following = None
        if more:
            last = shown[-1]
            values = shelf.values(last, query.sort)
            cursor = record_cursor(
                query, value=values[0] if values else None, record_id=shelf.id_of(last)
            )
            following = next_link(place.origin, place.path, pairs=query.pairs, cursor=cursor)
        links: JsonObject = {"self": self_link(place.origin, place.path, query.pairs)}
        if query.size < UNPAGED:
            links |= {"next": following, "prev": self.previous(place, query)}
        rows = self.rows(shelf, shown, place=place, query=query)
        extras = self.extras([shelf.links(k) for k in shown], place=place, query=query)
        body = document(rows, links=links, extras=extras)
        return Answer(body=body, kind=shelf.kind, shown=shown)

    def previous(self, place: Place, query: Query) -> str | None:
        """The `prev` link: null on page one, and of no use afterwards, as recorded."""
        if query.cursor is None:
            return None
        pairs = query.pairs
        return next_link(place.origin, place.path, pairs=pairs, cursor="cHJldjo6aWQ6OjA=")

    def rows(self, shelf: Shelf, shown: list[int], *, place: Place, query: Query) -> list[bytes]:
        """Records in JSON."""
        if shelf is self.shop.profiles and not query.fields.get("profile") and not query.includes:
            return self.profile_pages.rows(shown, origin=place.origin, asked=query.additional)
        return [
            dumps(resource(shelf, k, origin=place.origin, query=query, top=True)) for k in shown
        ]

    def extras(
        self, links: list[dict[str, Linked]], *, place: Place, query: Query
    ) -> list[bytes] | None:
        """Records included by these relationships; None when nothing was to be included."""
        if not query.includes:
            return None
        found = included(self.shop.shelves, links, origin=place.origin, query=query)
        return [dumps(each) for each in found]

    def walk(self, shelf: Shelf, query: Query) -> Iterator[int]:
        """Ordinals from beyond the cursor on, in the order asked for, that meet the conditions."""
        order = shelf.order(query.sort)
        after = read_record_cursor(query)
        start = 0 if after is None else self.beyond(shelf, query, after=after)
        if not query.descending:
            start = max(start, self.reached(shelf, query))
        indices = (
            range(len(order) - 1 - start, -1, -1) if query.descending else range(start, len(order))
        )
        test = keeps(shelf, query.clauses)
        return (order[k] for k in indices if test(order[k]))

    def reached(self, shelf: Shelf, query: Query) -> int:
        """How many records lie below the lower bounds of the sort field."""
        # A field with many values is sorted by the first, but met by any.
        if "." in query.sort:
            return 0
        order = shelf.order(query.sort)
        edges = [
            (0, seconds_as_micros(clause.values[0]))
            for clause in query.clauses
            if clause.field == query.sort and clause.operator.startswith("greater")
        ]
        places = (
            bisect_left(order, edge, key=lambda k: sort_key(shelf.values(k, query.sort)))
            for edge in edges
        )
        return max(places, default=0)

    def beyond(self, shelf: Shelf, query: Query, *, after: tuple[SortValue, str]) -> int:
        """How many records of the order lie at or before the cursor."""
        value, record_id = after
        ordinal = shelf.ordinal_of(record_id)
        if ordinal is None:
            raise bad_cursor()
        order = shelf.order(query.sort)
        edge = (sort_key(() if value is None else (value,)), ordinal)

        def key(k: int) -> tuple[tuple[int, float | str], int]:
            return sort_key(shelf.values(k, query.sort)), k

        place = bisect_left(order, edge, key=key)
        at_edge = place < len(order) and order[place] == ordinal and key(ordinal) == edge
        if query.descending:
            return len(order) - place
        return place + 1 if at_edge else place

    def living(self, shelf: Shelf, record_id: str) -> int:
        """The ordinal of a record that can be read; 404 otherwise."""
        ordinal = shelf.ordinal_of(record_id)
        if shelf.kind == "mapped-metric" and ordinal is None:
            # Malformed ids of this collection are 400, not 404 (recorded).
            message = f"Invalid Mapped Metric ID: '{record_id}'"
            raise invalid(message, pointer="/data/id")
        if ordinal is None or not shelf.alive(ordinal):
            raise not_found(shelf.kind, record_id)
        return ordinal

    def detail(self, shelf: Shelf, place: Place, query: Query) -> Answer:
        """One record."""
        ordinal = self.living(shelf, place.record_id)
        found = resource(shelf, ordinal, origin=place.origin, query=query, top=True)
        if "profile_count" in query.additional:
            group = self.shop.members(shelf.kind, place.record_id)
            count = 0 if group is None else len(group.members())
            attributes = found["attributes"]
            if isinstance(attributes, dict):
                attributes["profile_count"] = count
        links = shelf.links(ordinal)
        url = record_url(place.origin, shelf.kind, place.record_id)
        if shelf is self.shop.profiles and {"lists", "segments"} & set(query.includes):
            links = {**links, **self.shop.groups_of(ordinal)}
            found["relationships"] = relationships(
                links, kind="profile", url=url, opened=query.includes
            )
        extras = self.extras([links], place=place, query=query)
        body = document([dumps(found)], links={"self": url}, extras=extras, single=True)
        return Answer(body=body, kind=shelf.kind, shown=[ordinal])

    def children(self, parent: Shelf, place: Place, query: Query) -> Answer:
        """The messages of a campaign: unpaged, only a self link."""
        ordinal = self.living(parent, place.record_id)
        _, ids = parent.links(ordinal)["campaign-messages"]
        shelf = self.shop.messages
        shown = [k for each in ids or () if (k := shelf.ordinal_of(each)) is not None]
        rows = self.rows(shelf, shown, place=place, query=query)
        extras = self.extras([shelf.links(k) for k in shown], place=place, query=query)
        links: JsonObject = {"self": f"{place.origin}{place.path}/"}
        return Answer(body=document(rows, links=links, extras=extras), kind=shelf.kind, shown=shown)

    def members(self, operation: Operation, place: Place, query: Query) -> Answer:
        """A page of the profiles of a list or segment, whole or as ids."""
        kind = "list" if "/lists/" in operation.path else "segment"
        group = self.shop.members(kind, place.record_id)
        if group is None:
            raise not_found(kind, place.record_id)
        if operation.role == "members":
            return self.collection(group, place, query)
        found = list(islice(self.walk(group, query), query.size + 1))
        shown = found[: query.size]
        answer = self.page(group, place, query=query, shown=shown, more=len(found) > query.size)
        return self.as_ids(answer, [group.id_of(k) for k in shown])

    def as_ids(self, answer: Answer, ids: list[str]) -> Answer:
        """The same page with resource identifiers only."""
        _, _, tail = answer.body.rpartition(b',"links":')
        body = b'{"data":' + dumps(linkage("profile", tuple(ids))) + b',"links":' + tail
        return Answer(body=body, kind="profile", shown=answer.shown)

    def linked(self, parent: Shelf, place: Place) -> Answer:
        """The tag ids of a campaign."""
        ordinal = self.living(parent, place.record_id)
        kind, ids = parent.links(ordinal)["tags"]
        links: JsonObject = {"self": f"{place.origin}{place.path}/"}
        body = dumps({"data": linkage(kind, ids), "links": links})
        tags = self.shop.tags
        shown = [k for each in ids or () if (k := tags.ordinal_of(each)) is not None]
        return Answer(body=body, kind=kind, shown=shown)
