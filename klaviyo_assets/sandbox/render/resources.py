"""One record as a JSON:API resource.

Most relationships show links only, their ids once included; a few always show ids (events, campaign
messages), as recorded on 2026-09-04 at revision 2026-07-15. Resource links end in a slash,
collection links do not.
"""

from collections.abc import Mapping

from klaviyo_assets.sandbox.json_types import Json, JsonObject
from klaviyo_assets.sandbox.query import Query
from klaviyo_assets.sandbox.shop.record import Linked, Shelf

ALWAYS_LINKED = frozenset(
    {
        ("event", "profile"),
        ("event", "metric"),
        ("campaign", "campaign-messages"),
    }
)
# Attributes that stay out, or null, until they are asked for.
ASKED_ABSENT = {
    "list": ("profile_count",),
    "segment": ("profile_count",),
    "flow": ("definition",),
    "template": ("definition",),
}
ASKED_NULL = {"profile": ("subscriptions", "predictive_analytics")}


def record_url(origin: str, kind: str, record_id: str) -> str:
    """The address of a record, with its trailing slash."""
    return f"{origin}/api/{kind}s/{record_id}/"


def resource(shelf: Shelf, ordinal: int, *, origin: str, query: Query, top: bool) -> JsonObject:
    """A record as asked for; `top` is False for included ones, whose relationships stay closed."""
    kind, record_id = shelf.kind, shelf.id_of(ordinal)
    fields = query.fields.get(kind)
    asked = query.additional if top else frozenset[str]()
    attributes = chosen(shelf.attributes(ordinal), kind=kind, asked=asked, fields=fields)
    found: JsonObject = {"type": kind, "id": record_id, "attributes": attributes}
    opened = query.includes if top else ()
    related = relationships(
        shelf.links(ordinal), kind=kind, url=record_url(origin, kind, record_id), opened=opened
    )
    if fields is not None:
        related = {name: value for name, value in related.items() if name in fields}
    if related:
        found["relationships"] = related
    found["links"] = {"self": record_url(origin, kind, record_id)}
    return found


def chosen(
    attributes: JsonObject, *, kind: str, asked: frozenset[str], fields: frozenset[str] | None
) -> JsonObject:
    """The attributes to show: additional ones only if asked, then only the sparse fields."""
    found = dict(attributes)
    for name in ASKED_ABSENT.get(kind, ()):
        if name not in asked:
            found.pop(name, None)
    for name in ASKED_NULL.get(kind, ()):
        if name not in asked:
            found[name] = None
    return found if fields is None else sparse(found, fields)


def sparse(attributes: Mapping[str, Json], fields: frozenset[str], at: str = "") -> JsonObject:
    """Only the named members; a dotted name keeps its branch of the tree."""
    found: JsonObject = {}
    for name, value in attributes.items():
        path = f"{at}{name}"
        if path in fields:
            found[name] = value
        elif any(field.startswith(f"{path}.") for field in fields):
            inner = isinstance(value, Mapping)
            found[name] = sparse(value, fields, f"{path}.") if inner else value
    return found


def relationships(
    links: Mapping[str, Linked], *, kind: str, url: str, opened: tuple[str, ...]
) -> JsonObject:
    """Relationship objects; `data` only where included or always shown."""
    found: JsonObject = {}
    for name, (target, ids) in links.items():
        one: JsonObject = {}
        if name in opened or (kind, name) in ALWAYS_LINKED:
            one["data"] = linkage(target, ids)
        one["links"] = {"self": f"{url}relationships/{name}/", "related": f"{url}{name}/"}
        found[name] = one
    return found


def linkage(kind: str, ids: str | tuple[str, ...] | None) -> Json:
    """Resource identifiers: one, null, or a list."""
    if ids is None:
        return None
    if isinstance(ids, str):
        return {"type": kind, "id": ids}
    return [{"type": kind, "id": each} for each in ids]


def included(
    shelves: Mapping[str, Shelf], shown: list[dict[str, Linked]], *, origin: str, query: Query
) -> list[JsonObject]:
    """The records that the shown ones are related to, each once, in order of appearance."""
    found: dict[tuple[str, str], JsonObject] = {}
    for links in shown:
        for name in query.includes:
            kind, ids = links.get(name, ("", None))
            shelf = shelves.get(kind)
            for record_id in (ids,) if isinstance(ids, str) else ids or ():
                ordinal = shelf.ordinal_of(record_id) if shelf else None
                if shelf is None or ordinal is None or (kind, record_id) in found:
                    continue
                found[kind, record_id] = resource(
                    shelf, ordinal, origin=origin, query=query, top=False
                )
    return list(found.values())
