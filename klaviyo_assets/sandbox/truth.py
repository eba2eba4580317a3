"""What a complete reader must hold now, straight from the shop and not through its pages.

For oracle comparisons only: ids with their sort keys, by collection name as in the API's paths.
"""

from collections.abc import Mapping

from klaviyo_assets.sandbox.json_types import Json
from klaviyo_assets.sandbox.moments import SECOND, micro_text, moment, seconds_text
from klaviyo_assets.sandbox.shop.events import EventAsk
from klaviyo_assets.sandbox.shop.record import Shelf
from klaviyo_assets.sandbox.shop.store import Shop

CURSORS = {"campaign": "updated_at", "campaign-message": "updated_at"}
_FAR = 1 << 40


def truth(shop: Shop, name: str, *, now: float, given: Mapping[str, str]) -> Json:
    """`{"count": n, "records": [[id, sort key], ...]}`; members as `lists/<id>/profiles`.

    `start` and `end` (ISO) bound events by their datetime, end excluded. `ValueError` for an
    unknown name.
    """
    if name == "events":
        return events(shop, now=now, given=given)
    parts = name.split("/")
    if parts[2:] == ["profiles"]:
        group = shop.members(parts[0].removesuffix("s"), parts[1])
        if group is None:
            message = f"no such group: {parts[1]}"
            raise ValueError(message)
        return records(group, "joined_group_at")
    shelf = shop.shelves.get(name.removesuffix("s"))
    if shelf is None:
        message = f"no such collection: {name}"
        raise ValueError(message)
    return records(shelf, CURSORS.get(shelf.kind, "updated"))


def records(shelf: Shelf, cursor: str) -> Json:
    """Ids and sort keys of living records."""
    found: list[Json] = []
    for ordinal in shelf.order(cursor):
        values = shelf.values(ordinal, cursor)
        key = micro_text(int(values[0])) if values and isinstance(values[0], int) else None
        found.append([shelf.id_of(ordinal), key])
    return {"count": len(found), "records": found}


def events(shop: Shop, *, now: float, given: Mapping[str, str]) -> Json:
    """Ids and datetimes of events visible now, in order."""
    start = moment(given["start"]) // SECOND if "start" in given else -_FAR
    end = -(-moment(given["end"]) // SECOND) if "end" in given else _FAR
    book = shop.events
    walk = book.walk(EventAsk(start=start, end=end), now, after=None, descending=False)
    found: list[Json] = [[book.id_of(k), seconds_text(book.seconds(k))] for k in walk]
    return {"count": len(found), "records": found}
