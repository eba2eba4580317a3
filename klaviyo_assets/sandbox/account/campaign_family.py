"""Campaigns as revision 2026-10-15 shows them: campaign, audiences, messages, variations.

The account keeps its campaigns in the older shape, and tests change them there. Here they are seen
in the newer one: each campaign has one audience and one message, and the message has a variation
for each of the older messages. A variation bears the older message's id, so that reports and events
lead to it. A message has changed when its campaign or one of the older messages has.

An account with `omni_campaigns` also has those that only the newer shape can show: WhatsApp ones,
which reports know, and one of several audiences, messages and channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from klaviyo_assets.sandbox.account.records import (
    ApiRecord,
    FieldValue,
    Linkage,
    RecordCollection,
    value_at_path,
)
from klaviyo_assets.sandbox.account.seeds import sibling_id
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_object

STATUSES: Final[Mapping[str, str]] = {
    "Sent": "sent",
    "Draft": "draft",
    "Cancelled": "cancelled",
    "Scheduled": "scheduled",
    "Sending": "sending",
}
STRATEGIES: Final[Mapping[str, str]] = {
    "immediate": "static",
    "static": "static",
    "smart_send_time": "send_time_optimization",
    "throttled": "throttled",
    "ab_test_campaign": "content_variation",
}
CHANNELS: Final[Mapping[str, str]] = {"mobile_push": "push"}
"""Channels that variations spell otherwise than campaigns did."""


@dataclass(frozen=True, slots=True)
class CampaignFamily:
    """The four collections of the newer shape."""

    campaigns: RecordCollection
    audiences: RecordCollection
    messages: RecordCollection
    variations: RecordCollection

    def by_kind(self) -> dict[str, RecordCollection]:
        """Return them by type."""
        return {
            each.kind: each
            for each in (self.campaigns, self.audiences, self.messages, self.variations)
        }


class CampaignFamilyView:
    """The newer shape of an account's campaigns, made again when one of them has changed."""

    def __init__(
        self,
        campaigns: RecordCollection,
        messages: RecordCollection,
        more: "CampaignFamily | None" = None,
    ) -> None:
        self.campaigns = campaigns
        self.messages = messages
        self.more = more
        self.made: tuple[tuple[int, int], CampaignFamily] | None = None

    def current(self) -> CampaignFamily:
        """Return the collections as the campaigns are now."""
        versions = (self.campaigns.version, self.messages.version)
        if self.made is None or self.made[0] != versions:
            self.made = (versions, build_family(self.campaigns, self.messages, self.more))
        return self.made[1]


def build_family(
    campaigns: RecordCollection, messages: RecordCollection, more: CampaignFamily | None = None
) -> CampaignFamily:
    """Build the four collections from the two of the older shape, and `more` beside them."""
    found: dict[str, list[ApiRecord]] = {"c": [], "a": [], "m": [], "v": []}
    for campaign in campaigns.records:
        audience_id = sibling_id(campaign.id, "audience")
        _, ids = campaign.links["campaign-messages"]
        known = [messages.records[messages.ordinal_of(each) or 0] for each in ids or ()]
        # A campaign that a test has copied names the messages of its pattern.
        olds = [
            each for each in known if each.is_alive and each.links["campaign"][1] == campaign.id
        ]
        message_id = sibling_id(campaign.id, "message")
        # A campaign whose older shape has no message has one here, with nothing but a channel.
        variations = [
            _variation(campaign, old, message_id, position) for position, old in enumerate(olds)
        ] or [_bare_variation(campaign, message_id)]
        found["c"].append(_campaign(campaign, audience_id, (message_id,)))
        found["a"].append(_audience(campaign, audience_id, (message_id,)))
        variation_ids = tuple(each.id for each in variations)
        updated = max(str(each.attributes["updated_at"]) for each in (campaign, *olds))
        message = _message(campaign, audience_id, message_id, variation_ids)
        message.attributes["updated"] = updated
        found["m"].append(message)
        found["v"] += variations
    if more is not None:
        for key, each in zip("camv", more.by_kind().values(), strict=True):
            found[key] += each.records
    return CampaignFamily(
        RecordCollection("campaign", found["c"]),
        RecordCollection("campaign-audience", found["a"]),
        RecordCollection("campaign-message", found["m"]),
        RecordCollection("campaign-variation", found["v"]),
    )


def _campaign(old: ApiRecord, audience_id: str, message_ids: tuple[str, ...]) -> ApiRecord:
    attributes: JsonObject = {
        "created_at": old.attributes["created_at"],
        "updated_at": old.attributes["updated_at"],
        "definition": {
            "name": old.attributes["name"],
            "archived": old.attributes["archived"],
            "builder": "wizard",
            "color": "3366ff",
            "description": None,
            "send_settings": {
                "send_timezone": "account",
                "send_strategy": STRATEGIES.get(_method(old), "static"),
                "send_passed_rltz_immediately": False,
                "exit_condition_enabled": False,
                "exit_condition_conversion_metric_id": None,
            },
        },
    }
    links: dict[str, Linkage] = {
        "campaign-audiences": ("campaign-audience", (audience_id,)),
        "campaign-messages": ("campaign-message", message_ids),
        "tags": old.links["tags"],
    }
    shown: dict[str, FieldValue] = {
        "name": str(old.attributes["name"]),
        "archived": bool(old.attributes["archived"]),
        "builder": "wizard",
    }
    return ApiRecord(
        id=old.id,
        attributes=attributes,
        links=links,
        filter_only_values=shown,
        is_alive=old.is_alive,
    )


def _audience(old: ApiRecord, audience_id: str, message_ids: tuple[str, ...]) -> ApiRecord:
    audiences = as_object(old.attributes["audiences"])
    attributes: JsonObject = {
        **_lifetime(old),
        "definition": {
            "name": "Audience 1",
            "included": audiences.get("included"),
            "excluded": audiences.get("excluded"),
            "priority": 1,
        },
    }
    links: dict[str, Linkage] = {
        "campaign": ("campaign", old.id),
        "campaign-messages": ("campaign-message", message_ids),
    }
    return ApiRecord(id=audience_id, attributes=attributes, links=links, is_alive=old.is_alive)


def _message(
    old: ApiRecord, audience_id: str, message_id: str, variation_ids: tuple[str, ...]
) -> ApiRecord:
    status = STATUSES.get(str(old.attributes["status"]), "draft")
    tracking = as_object(old.attributes["tracking_options"])
    attributes: JsonObject = {
        **_lifetime(old),
        "definition": {
            "name": old.attributes["name"],
            "status": status,
            "tracking_options": {
                "is_add_utm": tracking.get("add_tracking_params"),
                "is_tracking_clicks": tracking.get("is_tracking_clicks"),
                "is_tracking_opens": tracking.get("is_tracking_opens"),
                "tracking_params": tracking.get("custom_tracking_params"),
            },
            "send_options": _send_options(old, variation_ids),
            "ab_test": _ab_test() if len(variation_ids) > 1 else None,
        },
    }
    links: dict[str, Linkage] = {
        "campaign": ("campaign", old.id),
        "campaign-audience": ("campaign-audience", audience_id),
        "campaign-variations": ("campaign-variation", variation_ids),
        "tags": old.links["tags"],
    }
    shown: dict[str, FieldValue] = {
        "campaign_id": old.id,
        "name": str(old.attributes["name"]),
        "status": status,
    }
    return ApiRecord(
        id=message_id,
        attributes=attributes,
        links=links,
        filter_only_values=shown,
        is_alive=old.is_alive,
    )


def _send_options(old: ApiRecord, variation_ids: tuple[str, ...]) -> JsonObject:
    sent = old.attributes["send_time"]
    if old.attributes["status"] == "Draft":
        sent = value_at_path(old.attributes, "send_strategy.datetime")
    strategy = STRATEGIES.get(_method(old), "static")
    if value_at_path(old.attributes, "send_strategy.options.is_local"):
        strategy = "local_timezone"
    is_spread = strategy == "send_time_optimization" and sent is not None
    is_throttled = strategy == "throttled"
    return {
        "send_time": sent,
        "send_times": dict.fromkeys(variation_ids, sent) if is_spread else None,
        "send_strategy": strategy,
        "recipient_percentage": 20 if is_throttled else None,
        "throttling_type": "throttle-for-campaigns",
        "throttle_unit": "hour" if is_throttled else None,
        "is_ignoring_unsubscribes": False,
    }


def _variation(campaign: ApiRecord, old: ApiRecord, message_id: str, position: int) -> ApiRecord:
    definition = as_object(old.attributes["definition"])
    channel = str(definition.get("channel"))
    details: JsonObject = {
        "channel": CHANNELS.get(channel, channel),
        **as_object(definition.get("content")),
    }
    details.pop("media_url", None)
    details.pop("dynamic_image", None)
    _, template = old.links["template"]
    if channel == "sms":
        details |= {"text_message_type": "SMS", **as_object(definition.get("render_options"))}
    elif channel == "mobile_push":
        details |= {"push_type": "standard", "kv_pairs": as_object(definition.get("kv_pairs"))}
    if channel != "mobile_push":
        details["template_id"] = template if isinstance(template, str) else None
    attributes: JsonObject = {
        **_lifetime(old),
        "definition": {"name": f"Variation {position + 1}", "details": details},
    }
    links: dict[str, Linkage] = {
        "campaign-message": ("campaign-message", message_id),
        "image": old.links["image"],
        "translation": ("translation", None),
    }
    return ApiRecord(
        id=old.id,
        attributes=attributes,
        links=links,
        is_alive=campaign.is_alive,
    )


def _bare_variation(campaign: ApiRecord, message_id: str) -> ApiRecord:
    channel = str(campaign.filter_only_values["messages.channel"])
    return ApiRecord(
        id=sibling_id(campaign.id, "variation"),
        attributes={
            **_lifetime(campaign),
            "definition": {
                "name": "Variation 1",
                "details": {"channel": CHANNELS.get(channel, channel)},
            },
        },
        links={
            "campaign-message": ("campaign-message", message_id),
            "image": ("image", None),
            "translation": ("translation", None),
        },
        is_alive=campaign.is_alive,
    )


def _lifetime(old: ApiRecord) -> JsonObject:
    return {"created": old.attributes["created_at"], "updated": old.attributes["updated_at"]}


def _method(old: ApiRecord) -> str:
    return str(value_at_path(old.attributes, "send_strategy.method"))


def _ab_test() -> Json:
    return {"winner_metric": "opens_unique", "winner_percentage": 60, "winner_wait_hours": 4}
