"""Campaigns with their messages, flows, templates, tags, and the account record.

Some are archived, some drafts, one has no message; times carry microseconds.

Small collections that need no module of their own.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from klaviyo_assets.sandbox.account.records import (
    ApiRecord,
    FieldValue,
    Linkage,
    RecordCollection,
    build_lifetime,
)
from klaviyo_assets.sandbox.account.seeds import OCCASIONS, random_source, short_id, ulid
from klaviyo_assets.sandbox.clock import (
    SECOND_MICROS,
    SECONDS_PER_DAY,
    format_iso_micros,
    format_iso_seconds,
)
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_object

CAMPAIGN_CHANNEL_CYCLE = ("email", "email", "email", "sms", "mobile_push", "email")
IMMEDIATE_STRATEGIES = ("immediate", "static")
SPREAD_STRATEGIES = ("smart_send_time", "throttled", "ab_test_campaign", "local")


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignContext:
    """What all campaigns share: `base` in seconds, the company's zone, the audiences."""

    seed: int
    base: int
    zone: ZoneInfo
    spread_share: float
    group_ids: list[str]


def build_campaigns(context: CampaignContext, *, count: int, days: int) -> RecordCollection:
    """Campaigns sent over the history, the last within the last hours; some are not sent yet."""
    span = days * SECONDS_PER_DAY
    first = context.base - span - SECONDS_PER_DAY // 2
    records = [
        _build_campaign(context, index, created=first + span * (index + 1) // count)
        for index in range(count)
    ]
    return RecordCollection("campaign", records)


def pick_strategy(index: int, share: float) -> str:
    """How the campaign is sent; `share` of all spread over hours and days."""
    before, after = int(index * share), int((index + 1) * share)
    if after > before:
        return SPREAD_STRATEGIES[before % len(SPREAD_STRATEGIES)]
    return IMMEDIATE_STRATEGIES[index % len(IMMEDIATE_STRATEGIES)]


def _build_campaign(context: CampaignContext, index: int, *, created: int) -> ApiRecord:
    source = random_source(context.seed, "campaign", index)
    channel = CAMPAIGN_CHANNEL_CYCLE[index % len(CAMPAIGN_CHANNEL_CYCLE)]
    name = pick_strategy(index, context.spread_share)
    send = _send_time(name, created + 3600 + source.randrange(SECONDS_PER_DAY // 4), context.zone)
    status = ("Sent", "Sent", "Sent", "Sent", "Draft", "Cancelled", "Sent", "Scheduled")[index % 8]
    status = "Scheduled" if status == "Sent" and send >= context.base else status
    created_micros = created * SECOND_MICROS + source.randrange(SECOND_MICROS)
    updated = min(send, context.base - 1) * SECOND_MICROS + source.randrange(SECOND_MICROS)
    groups = context.group_ids
    attributes: JsonObject = {
        "name": f"{OCCASIONS[index % len(OCCASIONS)]} #{index}",
        "status": status,
        "archived": index % 9 == 4,
        "audiences": {"included": list(groups[index % 3 : index % 3 + 2]), "excluded": groups[-1:]},
        "send_options": {"use_smart_sending": channel != "sms"},
        "tracking_options": _tracking_options(channel),
        "send_strategy": _send_strategy(name, send, context.zone),
        "created_at": format_iso_micros(created_micros),
        "scheduled_at": None
        if status == "Draft"
        else format_iso_micros(created_micros + 60 * SECOND_MICROS),
        "updated_at": format_iso_micros(updated),
        "send_time": format_iso_seconds(send) if status in ("Sent", "Scheduled") else None,
    }
    ids = _message_ids(context.seed, index, created=created, is_tested=name == "ab_test_campaign")
    return ApiRecord(
        id=ulid(context.seed ^ 0xCA, index, created),
        attributes=attributes,
        links={"campaign-messages": ("campaign-message", ids), "tags": ("tag", ())},
        filter_only_values={"messages.channel": channel},
    )


def _message_ids(seed: int, index: int, *, created: int, is_tested: bool) -> tuple[str, ...]:
    """One message, two of a tested campaign, none of every seventeenth."""
    variants = 0 if index % 17 == 16 else 1 + is_tested
    return tuple(campaign_message_id(seed, index * 2 + v, created) for v in range(variants))


def _send_time(name: str, wanted: int, zone: ZoneInfo) -> int:
    """Throttled campaigns start at 22:00 in the company's zone, to go on past midnight."""
    if name != "throttled":
        return wanted
    local = datetime.fromtimestamp(wanted, zone)
    evening = int(local.replace(hour=22, minute=5, second=0).timestamp())
    return evening if evening >= wanted else evening + SECONDS_PER_DAY


def campaign_message_id(seed: int, ordinal: int, created: int) -> str:
    """The id of a campaign message."""
    return ulid(seed ^ 0x3E55, ordinal, created)


def _tracking_options(channel: str) -> Json:
    if channel == "mobile_push":
        return None
    shared: JsonObject = {
        "add_tracking_params": True,
        "custom_tracking_params": [{"type": "static", "value": "mail", "name": "utm_medium"}],
    }
    if channel == "sms":
        return shared
    return {**shared, "is_tracking_clicks": True, "is_tracking_opens": True}


def _send_strategy(name: str, send: int, zone: ZoneInfo) -> JsonObject:
    when = format_iso_seconds(send)
    local: Json = {"is_local": True, "send_past_recipients_immediately": False}
    day = datetime.fromtimestamp(send, zone).date().isoformat()
    found: dict[str, JsonObject] = {
        "immediate": {"method": "immediate"},
        "static": {"method": "static", "datetime": when, "options": {"is_local": False}},
        "smart_send_time": {"method": "smart_send_time", "date": day},
        "throttled": {"method": "throttled", "datetime": when, "throttle_percentage": 20},
        "ab_test_campaign": {"method": "ab_test_campaign"},
        "local": {"method": "static", "datetime": when, "options": local},
    }
    return found[name]


def build_campaign_messages(
    campaigns: RecordCollection, template_ids: list[str]
) -> RecordCollection:
    """The messages of all campaigns; email ones name a template."""
    records: list[ApiRecord] = []
    for campaign in campaigns.records:
        _, ids = campaign.links["campaign-messages"]
        channel = str(campaign.filter_only_values["messages.channel"])
        for position, record_id in enumerate(ids or ()):
            template = None
            if channel == "email" and template_ids:
                template = template_ids[(len(records) + position) % len(template_ids)]
            attributes: JsonObject = {
                "definition": _message_definition(channel, str(campaign.attributes["name"])),
                "send_times": _send_times(campaign.attributes),
                "created_at": campaign.attributes["created_at"],
                "updated_at": campaign.attributes["updated_at"],
            }
            links: dict[str, Linkage] = {
                "campaign": ("campaign", campaign.id),
                "template": ("template", template),
                "image": ("image", None),
            }
            records.append(ApiRecord(id=record_id, attributes=attributes, links=links))
    return RecordCollection("campaign-message", records)


def _send_times(campaign: JsonObject) -> Json:
    """When the message went out; empty for what was never sent."""
    sent = campaign["send_time"] if campaign["status"] == "Sent" else None
    options = as_object(as_object(campaign["send_strategy"]).get("options"))
    is_local = options.get("is_local", False)
    return [] if sent is None else [{"datetime": sent, "is_local": is_local}]


def _message_definition(channel: str, name: str) -> JsonObject:
    if channel == "sms":
        content: JsonObject = {"body": f"{name}: 20% off 🎉 {{{{ link }}}}", "media_url": None}
        options: JsonObject = {"shorten_links": True, "add_org_prefix": True}
        return {"channel": "sms", "content": content, "render_options": options}
    if channel == "mobile_push":
        push: JsonObject = {"title": name, "body": "Tap to see", "dynamic_image": None}
        return {
            "channel": "mobile_push",
            "notification_type": "standard",
            "content": push,
            "kv_pairs": {"deep": "link"},
            "options": {"badge": None, "play_sound": False},
        }
    email: JsonObject = {
        "subject": f"{name} — don’t miss it",
        "preview_text": "Only until “Sunday”",
        "from_email": "shop@example.com",
        "from_label": "The Shop",
        "reply_to_email": None,
        "cc_email": None,
        "bcc_email": None,
    }
    return {"channel": "email", "label": name, "content": email}


def build_recipient_estimations(
    seed: int, campaigns: RecordCollection, profile_count: int
) -> RecordCollection:
    """Recipient estimates, for four campaigns in five: the others never had a job."""
    records: list[ApiRecord] = []
    for index, campaign in enumerate(campaigns.records):
        if index % 5 == 3:
            continue
        count = random_source(seed, "estimate", index).randint(0, max(1, profile_count))
        attributes: JsonObject = {"estimated_recipient_count": count}
        records.append(ApiRecord(id=campaign.id, attributes=attributes))
    return RecordCollection("campaign-recipient-estimation", records)


TRIGGER_TYPE_CYCLE = (
    "Metric",
    "Added to List",
    "Date Based",
    "Price Drop",
    "Low Inventory",
    "Unconfigured",
)
FLOW_STEPS = ("time-delay", "send-email", "time-delay", "send-email", "send-sms")


def build_flows(seed: int, *, count: int, base: int, days: int) -> RecordCollection:
    """Flows of every trigger type; every fifth is archived."""
    records: list[ApiRecord] = []
    for index in range(count):
        action_ids = tuple(str(40_000_000 + index * 10 + step) for step in range(len(FLOW_STEPS)))
        attributes: JsonObject = {
            "name": f"{OCCASIONS[index % len(OCCASIONS)]} flow {index}",
            "status": ("live", "draft", "manual")[index % 3],
            "archived": index % 5 == 3,
            **build_lifetime(random_source(seed, "flow", index), base=base, days=days),
            "trigger_type": TRIGGER_TYPE_CYCLE[index % len(TRIGGER_TYPE_CYCLE)],
            "definition": build_flow_definition(action_ids),
        }
        links: dict[str, Linkage] = {"flow-actions": ("flow-action", action_ids)}
        record_id = short_id(seed, "flow", index)
        links["tags"] = ("tag", ())
        records.append(ApiRecord(id=record_id, attributes=attributes, links=links))
    return RecordCollection("flow", records)


def build_flow_definition(action_ids: tuple[str, ...]) -> Json:
    """The graph of a flow, shown on request only."""
    actions: list[Json] = [
        {"id": each, "type": kind, "links": {"next": None}, "data": {}}
        for each, kind in zip(action_ids, FLOW_STEPS, strict=True)
    ]
    return {
        "triggers": [{"type": "metric", "id": "abc", "trigger_filter": None}],
        "profile_filter": None,
        "actions": actions,
        "entry_action_id": action_ids[0],
        "reentry_criteria": {"duration": 30, "unit": "day"},
    }


def flow_message_id(seed: int, action_id: str) -> str:
    """The id of the message that a step of a flow sends."""
    return short_id(seed, "flow-message", int(action_id))


def build_flow_actions(flows: RecordCollection, seed: int) -> RecordCollection:
    """The steps of all flows; those that send have one message each."""
    records: list[ApiRecord] = []
    for flow in flows.records:
        _, ids = flow.links["flow-actions"]
        for record_id, kind in zip(ids or (), FLOW_STEPS, strict=False):
            messages = (flow_message_id(seed, record_id),) if kind.startswith("send-") else ()
            attributes: JsonObject = {
                "created": flow.attributes["created"],
                "updated": flow.attributes["updated"],
                "definition": {"id": record_id, "type": kind, "links": {"next": None}, "data": {}},
            }
            links: dict[str, Linkage] = {
                "flow": ("flow", flow.id),
                "flow-messages": ("flow-message", messages),
            }
            shown: dict[str, FieldValue] = {
                "action_type": kind.upper().replace("-", "_"),
                "status": str(flow.attributes["status"]),
            }
            records.append(
                ApiRecord(
                    id=record_id, attributes=attributes, links=links, filter_only_values=shown
                )
            )
    return RecordCollection("flow-action", records)


def build_flow_messages(
    seed: int, actions: RecordCollection, template_ids: list[str]
) -> RecordCollection:
    """The messages of the steps that send, by email and by SMS."""
    records: list[ApiRecord] = []
    for action in actions.records:
        kind = str(as_object(action.attributes["definition"])["type"])
        if not kind.startswith("send-"):
            continue
        channel = kind.removeprefix("send-")
        index = len(records)
        template = template_ids[index % len(template_ids)] if template_ids else None
        record_id = flow_message_id(seed, action.id)
        name = f"{OCCASIONS[index % len(OCCASIONS)]} {channel} {index}"
        attributes: JsonObject = {
            "channel": channel,
            "created": action.attributes["created"],
            "updated": action.attributes["updated"],
            "definition": _flow_message_definition(channel, name, record_id=record_id),
        }
        links: dict[str, Linkage] = {
            "flow-action": ("flow-action", action.id),
            "template": ("template", template if channel == "email" else None),
        }
        records.append(
            ApiRecord(
                id=record_id,
                attributes=attributes,
                links=links,
                filter_only_values={"name": name},
            )
        )
    return RecordCollection("flow-message", records)


def _flow_message_definition(channel: str, name: str, *, record_id: str) -> JsonObject:
    shared: JsonObject = {"id": record_id, "name": name, "smart_sending_enabled": True}
    if channel == "sms":
        return {**shared, "body": f"{name}: come back 🎉", "shorten_links": True}
    return {
        **shared,
        "from_email": "shop@example.com",
        "from_label": "The Shop",
        "subject_line": f"{name} — we miss you",
        "preview_text": "A small gift inside",
        "transactional": False,
    }


def build_templates(seed: int, *, count: int, base: int, days: int) -> RecordCollection:
    """Templates of 2 to 40 kB of html; the dragged ones have a definition."""
    records: list[ApiRecord] = []
    for index in range(count):
        source = random_source(seed, "template", index)
        editor = ("CODE", "SYSTEM_DRAGGABLE", "USER_DRAGGABLE")[index % 3]
        attributes: JsonObject = {
            "name": f"{OCCASIONS[index % len(OCCASIONS)]} template {index}",
            "editor_type": editor,
            "html": _template_html(index, rows=source.randrange(20, 400)),
            "text": None if index % 4 == 0 else "Hello {{ first_name|default:'friend' }} 👋",
            "amp": None,
            **build_lifetime(source, base=base, days=days),
            "definition": None if editor == "CODE" else _template_definition(index),
            "screenshot_url": f"https://shop.example.com/template/{index}.png?signature={index}",
        }
        records.append(ApiRecord(id=short_id(seed, "template", index), attributes=attributes))
    return RecordCollection("template", records)


@lru_cache(maxsize=128)
def _template_html(index: int, rows: int) -> str:
    row = '<tr><td class="p">{{ event.extra.line_items.%d.title }} &mdash; “%s”</td></tr>\n'
    body = "".join(row % (k, OCCASIONS[(index + k) % len(OCCASIONS)]) for k in range(rows))
    return f"<!doctype html>\n<html><body><table>\n{body}</table></body></html>"


def _template_definition(index: int) -> Json:
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


def build_tags(seed: int) -> RecordCollection:
    """Twelve tags of one group; ids are UUIDs."""
    group = _random_uuid(seed, "tag-group", 0)
    records: list[ApiRecord] = []
    for index, name in enumerate(OCCASIONS):
        links: dict[str, Linkage] = {
            "tag-group": ("tag-group", group),
            "lists": ("list", ()),
            "segments": ("segment", ()),
            "campaigns": ("campaign", ()),
            "flows": ("flow", ()),
        }
        record_id = _random_uuid(seed, "tag", index)
        records.append(ApiRecord(id=record_id, attributes={"name": name.lower()}, links=links))
    return RecordCollection("tag", records)


def build_tag_groups(seed: int) -> RecordCollection:
    """The default group, and three that hold no tag yet."""
    records: list[ApiRecord] = []
    for index, name in enumerate(("Default", "Season", "Team", "Region")):
        attributes: JsonObject = {"name": name, "exclusive": index == 1, "default": index == 0}
        record_id = _random_uuid(seed, "tag-group", index)
        links: dict[str, Linkage] = {"tags": ("tag", ())}
        records.append(ApiRecord(id=record_id, attributes=attributes, links=links))
    return RecordCollection("tag-group", records)


def _random_uuid(seed: int, kind: str, index: int) -> str:
    return str(uuid.UUID(int=random_source(seed, kind, index).getrandbits(128), version=4))


def assign_tags(collection: RecordCollection, tags: RecordCollection, every: int) -> None:
    """Give every n-th record of a collection one or two tags."""
    for index, record in enumerate(collection.records):
        if index % every == 0:
            count = 1 + index % 2
            chosen = tuple(tags.id_of((index + k) % len(tags.records)) for k in range(count))
            record.links["tags"] = ("tag", chosen)


def link_flow_triggers(
    flows: RecordCollection, *, metrics: RecordCollection, lists: RecordCollection
) -> None:
    """Tie flows to the metric or list that triggers them."""
    collections = {"Metric": metrics, "Added to List": lists}
    for index, flow in enumerate(flows.records):
        collection = collections.get(str(flow.attributes["trigger_type"]))
        if collection is None or not collection.records:
            continue
        trigger = collection.records[index % len(collection.records)]
        _, ids = trigger.links["flow-triggers"]
        mine = ids if isinstance(ids, tuple) else ()
        trigger.links["flow-triggers"] = ("flow", (*mine, flow.id))


def build_accounts(seed: int, zone: str) -> RecordCollection:
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
    return RecordCollection("account", [ApiRecord(id=public, attributes=attributes)])
