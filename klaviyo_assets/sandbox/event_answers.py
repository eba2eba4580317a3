"""Answers of the events operations: pages by keyset, and the single event.

A page that is exactly full carries a next link even when nothing follows, as recorded: it leads to
an empty page.
"""

from klaviyo_assets.sandbox.answers import Answer, Place, document
from klaviyo_assets.sandbox.errors import invalid, not_found
from klaviyo_assets.sandbox.grammar import Clause, seconds_as_micros
from klaviyo_assets.sandbox.json_types import JsonObject
from klaviyo_assets.sandbox.moments import SECOND
from klaviyo_assets.sandbox.paging import (
    bad_cursor,
    event_cursor,
    next_link,
    read_event_cursor,
    self_link,
)
from klaviyo_assets.sandbox.query import Query
from klaviyo_assets.sandbox.render.event_pages import EventPages
from klaviyo_assets.sandbox.render.resources import record_url
from klaviyo_assets.sandbox.shop.events import EventAsk, first_events
from klaviyo_assets.sandbox.shop.seeds import event_ordinal
from klaviyo_assets.sandbox.shop.store import Shop

_NOBODY = -1
_FAR = 1 << 40


class EventAnswers:
    """Answers from the event book; pages are rendered per origin."""

    def __init__(self, shop: Shop) -> None:
        """Answer from this shop."""
        self.shop = shop
        self.pages: dict[str, EventPages] = {}

    def rendered(self, origin: str) -> EventPages:
        """The renderer whose links begin with that origin."""
        if origin not in self.pages:
            self.pages[origin] = EventPages(self.shop, origin)
        return self.pages[origin]

    def collection(self, place: Place, query: Query, now: float) -> Answer:
        """A page of events visible at `now`."""
        book = self.shop.events
        ask = self.ask(query.clauses)
        walk = book.walk(ask, now, after=self.after(query), descending=query.descending)
        shown = first_events(walk, query.size)
        following = None
        if shown and len(shown) == query.size:
            last = shown[-1]
            cursor = event_cursor(query, seconds=book.seconds(last), record_id=book.id_of(last))
            following = next_link(place.origin, place.path, pairs=query.pairs, cursor=cursor)
        links: JsonObject = {
            "self": self_link(place.origin, place.path, query.pairs),
            "next": following,
            "prev": None,
        }
        rows, extras = self.rendered(place.origin).page(shown, query)
        body = document(rows, links=links, extras=extras if query.includes else None)
        return Answer(body=body, kind="event", shown=shown)

    def after(self, query: Query) -> tuple[int, int] | None:
        """The keyset of the cursor as (second, ordinal)."""
        keyset = read_event_cursor(query)
        if keyset is None:
            return None
        ordinal = event_ordinal(self.shop.account.seed, keyset[1])
        if ordinal is None:
            raise bad_cursor()
        return keyset[0], ordinal

    def ask(self, clauses: tuple[Clause, ...]) -> EventAsk:
        """The filter as an ask; several bounds narrow each other."""
        start, end = -_FAR, _FAR
        chosen: dict[str, int] = {}
        present: set[str] = set()
        for clause in clauses:
            if clause.operator == "has":
                present.add(clause.field)
            elif clause.field in {"metric_id", "profile_id"}:
                kind = clause.field.removesuffix("_id")
                ordinal = self.shop.shelves[kind].ordinal_of(str(clause.values[0].value))
                chosen[kind] = _NOBODY if ordinal is None else ordinal
            else:
                low, high = seconds_between(clause)
                start, end = max(start, low), min(end, high)
        return EventAsk(
            start=start,
            end=end,
            metric=chosen.get("metric"),
            profile=chosen.get("profile"),
            has_profile="profile" in present,
            has_metric="metric" in present,
        )

    def detail(self, place: Place, query: Query, now: float) -> Answer:
        """One event; a malformed id is a 400, an unknown one a 404."""
        book = self.shop.events
        ordinal = book.known(place.record_id)
        if event_ordinal(self.shop.account.seed, place.record_id) is None:
            message = f"Invalid Event ID: '{place.record_id}'"
            raise invalid(message, pointer="/data/id")
        if ordinal is None or not book.visible(ordinal, now):
            raise not_found("event", place.record_id)
        rows, extras = self.rendered(place.origin).page([ordinal], query)
        links: JsonObject = {"self": record_url(place.origin, "event", place.record_id)}
        extra_rows = extras if query.includes else None
        body = document(rows, links=links, extras=extra_rows, single=True)
        return Answer(body=body, kind="event", shown=[ordinal])


def seconds_between(clause: Clause) -> tuple[int, int]:
    """A bound as whole seconds [start, end): events have no fractions of a second."""
    micros = seconds_as_micros(clause.values[0])
    floor, ceiling = micros // SECOND, -(-micros // SECOND)
    match clause.operator:
        case "greater-than":
            return floor + 1, _FAR
        case "greater-or-equal":
            return ceiling, _FAR
        case "less-than":
            return -_FAR, ceiling
        case _:
            return -_FAR, floor + 1
