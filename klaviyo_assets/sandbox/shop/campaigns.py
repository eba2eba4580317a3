"""Campaigns of three channels and every send strategy, with their messages and estimates.

Some are archived, some drafts, one has no message; times carry microseconds.
"""

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_object
from klaviyo_assets.sandbox.moments import DAY_SECONDS, SECOND, micro_text, seconds_text
from klaviyo_assets.sandbox.shop.goods import OCCASIONS
from klaviyo_assets.sandbox.shop.record import Linked, Record, RecordShelf
from klaviyo_assets.sandbox.shop.seeds import draw, ulid

CHANNELS = ("email", "email", "email", "sms", "mobile_push", "email")
AT_ONCE = ("immediate", "static")
SPREADING = ("smart_send_time", "throttled", "ab_test_campaign", "local")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What all campaigns of a shop share: `base` in seconds, the company's zone, the audiences."""

    seed: int
    base: int
    zone: ZoneInfo
    spread_share: float
    group_ids: list[str]


def campaign_shelf(outline: Outline, *, count: int, days: int) -> RecordShelf:
    """Campaigns sent over the history, the last within the last hours; some are not sent yet."""
    span = days * DAY_SECONDS
    first = outline.base - span - DAY_SECONDS // 2
    records = [
        _campaign(outline, index, created=first + span * (index + 1) // count)
        for index in range(count)
    ]
    return RecordShelf("campaign", records)


def strategy_name(index: int, share: float) -> str:
    """How the campaign is sent; `share` of all spread over hours and days."""
    before, after = int(index * share), int((index + 1) * share)
    if after > before:
        return SPREADING[before % len(SPREADING)]
    return AT_ONCE[index % len(AT_ONCE)]


def _campaign(outline: Outline, index: int, *, created: int) -> Record:
    source = draw(outline.seed, "campaign", index)
    channel = CHANNELS[index % len(CHANNELS)]
    name = strategy_name(index, outline.spread_share)
    send = _send_time(name, created + 3600 + source.randrange(DAY_SECONDS // 4), outline.zone)
    status = ("Sent", "Sent", "Sent", "Sent", "Draft", "Cancelled", "Sent", "Scheduled")[index % 8]
    status = "Scheduled" if status == "Sent" and send >= outline.base else status
    born = created * SECOND + source.randrange(SECOND)
    updated = min(send, outline.base - 1) * SECOND + source.randrange(SECOND)
    groups = outline.group_ids
    attributes: JsonObject = {
        "name": f"{OCCASIONS[index % len(OCCASIONS)]} #{index}",
        "status": status,
        "archived": index % 9 == 4,
        "audiences": {"included": list(groups[index % 3 : index % 3 + 2]), "excluded": groups[-1:]},
        "send_options": {"use_smart_sending": channel != "sms"},
        "tracking_options": _tracking(channel),
        "send_strategy": _strategy(name, send, outline.zone),
        "created_at": micro_text(born),
        "scheduled_at": None if status == "Draft" else micro_text(born + 60 * SECOND),
        "updated_at": micro_text(updated),
        "send_time": seconds_text(send) if status == "Sent" else None,
    }
    ids = _message_ids(outline.seed, index, created=created, tested=name == "ab_test_campaign")
    return Record(
        id=ulid(outline.seed ^ 0xCA, index, created),
        attributes=attributes,
        links={"campaign-messages": ("campaign-message", ids), "tags": ("tag", ())},
        hidden={"messages.channel": channel},
    )


def _message_ids(seed: int, index: int, *, created: int, tested: bool) -> tuple[str, ...]:
    """One message, two of a tested campaign, none of every seventeenth."""
    variants = 0 if index % 17 == 16 else 1 + tested
    return tuple(message_id(seed, index * 2 + v, created) for v in range(variants))


def _send_time(name: str, wanted: int, zone: ZoneInfo) -> int:
    """Throttled campaigns start at 22:00 in the company's zone, to go on past midnight."""
    if name != "throttled":
        return wanted
    local = datetime.fromtimestamp(wanted, zone)
    evening = int(local.replace(hour=22, minute=5, second=0).timestamp())
    return evening if evening >= wanted else evening + DAY_SECONDS


def message_id(seed: int, ordinal: int, created: int) -> str:
    """The id of a campaign message."""
    return ulid(seed ^ 0x3E55, ordinal, created)


def _tracking(channel: str) -> Json:
    if channel == "mobile_push":
        return None
    shared: JsonObject = {
        "add_tracking_params": True,
        "custom_tracking_params": [{"type": "static", "value": "mail", "name": "utm_medium"}],
    }
    if channel == "sms":
        return shared
    return {**shared, "is_tracking_clicks": True, "is_tracking_opens": True}


def _strategy(name: str, send: int, zone: ZoneInfo) -> JsonObject:
    when = seconds_text(send)
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


def message_shelf(campaigns: RecordShelf, template_ids: list[str]) -> RecordShelf:
    """The messages of all campaigns; email ones name a template."""
    records: list[Record] = []
    for campaign in campaigns.records:
        _, ids = campaign.links["campaign-messages"]
        channel = str(campaign.hidden["messages.channel"])
        for place, record_id in enumerate(ids or ()):
            template = None
            if channel == "email" and template_ids:
                template = template_ids[(len(records) + place) % len(template_ids)]
            attributes: JsonObject = {
                "definition": _definition(channel, str(campaign.attributes["name"])),
                "send_times": _send_times(campaign.attributes),
                "created_at": campaign.attributes["created_at"],
                "updated_at": campaign.attributes["updated_at"],
            }
            links: dict[str, Linked] = {
                "campaign": ("campaign", campaign.id),
                "template": ("template", template),
                "image": ("image", None),
            }
            records.append(Record(id=record_id, attributes=attributes, links=links))
    return RecordShelf("campaign-message", records)


def _send_times(campaign: JsonObject) -> Json:
    """When the message went out; empty for what was never sent."""
    sent = campaign["send_time"]
    options = as_object(as_object(campaign["send_strategy"]).get("options"))
    is_local = options.get("is_local", False)
    return [] if sent is None else [{"datetime": sent, "is_local": is_local}]


def _definition(channel: str, name: str) -> JsonObject:
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


def estimation_shelf(seed: int, campaigns: RecordShelf, people: int) -> RecordShelf:
    """Recipient estimates, for four campaigns in five: the others never had a job."""
    records: list[Record] = []
    for index, campaign in enumerate(campaigns.records):
        if index % 5 == 3:
            continue
        count = draw(seed, "estimate", index).randint(0, max(1, people))
        attributes: JsonObject = {"estimated_recipient_count": count}
        records.append(Record(id=campaign.id, attributes=attributes))
    return RecordShelf("campaign-recipient-estimation", records)
