"""Flows with their actions, templates with their html, tags with their group, and the account.

Small collections that need no room of their own.
"""

import uuid

from klaviyo_assets.sandbox.json_types import Json, JsonObject
from klaviyo_assets.sandbox.shop.goods import OCCASIONS
from klaviyo_assets.sandbox.shop.record import Linked, Record, RecordShelf, lifetime
from klaviyo_assets.sandbox.shop.seeds import draw, short_id

TRIGGERS = ("Metric", "Added to List", "Date Based", "Price Drop", "Low Inventory", "Unconfigured")
STEPS = ("time-delay", "send-email", "time-delay", "send-email", "send-sms")


def flow_shelf(seed: int, *, count: int, base: int, days: int) -> RecordShelf:
    """Flows of every trigger type; every fifth is archived."""
    records: list[Record] = []
    for index in range(count):
        action_ids = tuple(str(40_000_000 + index * 10 + step) for step in range(len(STEPS)))
        attributes: JsonObject = {
            "name": f"{OCCASIONS[index % len(OCCASIONS)]} flow {index}",
            "status": ("live", "draft", "manual")[index % 3],
            "archived": index % 5 == 3,
            **lifetime(draw(seed, "flow", index), base=base, days=days),
            "trigger_type": TRIGGERS[index % len(TRIGGERS)],
            "definition": flow_definition(action_ids),
        }
        links: dict[str, Linked] = {"flow-actions": ("flow-action", action_ids)}
        record_id = short_id(seed, "flow", index)
        links["tags"] = ("tag", ())
        records.append(Record(id=record_id, attributes=attributes, links=links))
    return RecordShelf("flow", records)


def flow_definition(action_ids: tuple[str, ...]) -> Json:
    """The graph of a flow, shown on request only."""
    actions: list[Json] = [
        {"id": each, "type": kind, "links": {"next": None}, "data": {}}
        for each, kind in zip(action_ids, STEPS, strict=True)
    ]
    return {
        "triggers": [{"type": "metric", "id": "abc", "trigger_filter": None}],
        "profile_filter": None,
        "actions": actions,
        "entry_action_id": action_ids[0],
        "reentry_criteria": {"duration": 30, "unit": "day"},
    }


def action_shelf(flows: RecordShelf) -> RecordShelf:
    """The actions of all flows; they can only be included, not listed."""
    records: list[Record] = []
    for flow in flows.records:
        _, ids = flow.links["flow-actions"]
        for record_id, kind in zip(ids or (), STEPS, strict=False):
            attributes: JsonObject = {
                "created": flow.attributes["created"],
                "updated": flow.attributes["updated"],
                "definition": {"id": record_id, "type": kind, "links": {"next": None}, "data": {}},
            }
            links: dict[str, Linked] = {
                "flow": ("flow", flow.id),
                "flow-messages": ("flow-message", ()),
            }
            records.append(Record(id=record_id, attributes=attributes, links=links))
    return RecordShelf("flow-action", records)


def template_shelf(seed: int, *, count: int, base: int, days: int) -> RecordShelf:
    """Templates of 2 to 40 kB of html; the dragged ones have a definition."""
    records: list[Record] = []
    for index in range(count):
        source = draw(seed, "template", index)
        editor = ("CODE", "SYSTEM_DRAGGABLE", "USER_DRAGGABLE")[index % 3]
        attributes: JsonObject = {
            "name": f"{OCCASIONS[index % len(OCCASIONS)]} template {index}",
            "editor_type": editor,
            "html": _html(index, rows=source.randrange(20, 400)),
            "text": None if index % 4 == 0 else "Hello {{ first_name|default:'friend' }} 👋",
            "amp": None,
            **lifetime(source, base=base, days=days),
            "definition": None if editor == "CODE" else _definition(index),
        }
        records.append(Record(id=short_id(seed, "template", index), attributes=attributes))
    return RecordShelf("template", records)


def _html(index: int, rows: int) -> str:
    row = '<tr><td class="p">{{ event.extra.line_items.%d.title }} &mdash; “%s”</td></tr>\n'
    body = "".join(row % (k, OCCASIONS[(index + k) % len(OCCASIONS)]) for k in range(rows))
    return f"<!doctype html>\n<html><body><table>\n{body}</table></body></html>"


def _definition(index: int) -> Json:
    return {
        "id": f"d{index}",
        "template_id": None,
        "body": {
            "id": f"b{index}",
            "properties": {"id": None, "css_class": "x"},
            "styles": {"background_color": "#ffffff", "width": 600},
            "sections": [{"type": "section", "rows": [{"columns": []}]}],
        },
        "styles": [],
    }


def tag_shelf(seed: int) -> RecordShelf:
    """Twelve tags of one group; ids are UUIDs."""
    group = _uuid(seed, "tag-group", 0)
    records: list[Record] = []
    for index, name in enumerate(OCCASIONS):
        links: dict[str, Linked] = {
            "tag-group": ("tag-group", group),
            "lists": ("list", ()),
            "segments": ("segment", ()),
            "campaigns": ("campaign", ()),
            "flows": ("flow", ()),
        }
        record_id = _uuid(seed, "tag", index)
        records.append(Record(id=record_id, attributes={"name": name.lower()}, links=links))
    return RecordShelf("tag", records)


def tag_group_shelf(seed: int) -> RecordShelf:
    """The default group."""
    attributes: JsonObject = {"name": "Default", "exclusive": False, "default": True}
    record = Record(
        id=_uuid(seed, "tag-group", 0), attributes=attributes, links={"tags": ("tag", ())}
    )
    return RecordShelf("tag-group", [record])


def _uuid(seed: int, kind: str, index: int) -> str:
    return str(uuid.UUID(int=draw(seed, kind, index).getrandbits(128), version=4))


def tag_some(shelf: RecordShelf, tags: RecordShelf, every: int) -> None:
    """Give every n-th record of a shelf one or two tags."""
    for index, record in enumerate(shelf.records):
        if index % every == 0:
            count = 1 + index % 2
            chosen = tuple(tags.id_of((index + k) % len(tags.records)) for k in range(count))
            record.links["tags"] = ("tag", chosen)


def trigger_flows(flows: RecordShelf, *, metrics: RecordShelf, lists: RecordShelf) -> None:
    """Tie flows to the metric or list that triggers them."""
    shelves = {"Metric": metrics, "Added to List": lists}
    for index, flow in enumerate(flows.records):
        shelf = shelves.get(str(flow.attributes["trigger_type"]))
        if shelf is None or not shelf.records:
            continue
        trigger = shelf.records[index % len(shelf.records)]
        _, ids = trigger.links["flow-triggers"]
        mine = ids if isinstance(ids, tuple) else ()
        trigger.links["flow-triggers"] = ("flow", (*mine, flow.id))


def account_shelf(seed: int, zone: str) -> RecordShelf:
    """The one account; its id is the six characters of the public key."""
    public = short_id(seed, "account", 0)
    attributes: JsonObject = {
        "test_account": False,
        "contact_information": {
            "default_sender_name": "The Shop",
            "default_sender_email": "shop@example.com",
            "website_url": "https://shop.example.com",
            "organization_name": "The Shop, Ltd. 🛍",
            "street_address": {
                "address1": "125 Summer St",
                "address2": None,
                "city": "Boston",
                "region": "Massachusetts",
                "country": "US",
                "zip": "02111",
            },
        },
        "industry": "Home & Garden",
        "timezone": zone,
        "preferred_currency": "USD",
        "public_api_key": public,
        "locale": "en-US",
    }
    return RecordShelf("account", [Record(id=public, attributes=attributes)])
