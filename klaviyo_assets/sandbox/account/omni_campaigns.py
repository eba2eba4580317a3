"""Campaigns that no revision before 2026-10-15 can list: WhatsApp ones, and one of many parts.

Reports of every revision know the WhatsApp ones. The one of many parts has two audiences, and three
messages in three channels: an A/B test of send times that was sent, one that is scheduled, and one
that was cancelled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from klaviyo_assets.sandbox.account.campaign_family import CampaignFamily
from klaviyo_assets.sandbox.account.config import AccountConfig
from klaviyo_assets.sandbox.account.records import ApiRecord, RecordCollection
from klaviyo_assets.sandbox.account.seeds import sibling_id, ulid
from klaviyo_assets.sandbox.clock import (
    SECOND_MICROS,
    SECONDS_PER_DAY,
    format_iso_micros,
    format_iso_seconds,
)
from klaviyo_assets.sandbox.json_types import Json, JsonObject

SMS_DETAILS: Final[JsonObject] = {
    "channel": "sms",
    "body": "20% off",
    "text_message_type": "SMS",
    "shorten_links": True,
}
PUSH_DETAILS: Final[JsonObject] = {
    "channel": "push",
    "title": "20% off",
    "body": "Tap to see",
    "push_type": "standard",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlistedCampaign:
    """A campaign that July's list does not have; `sent_at` is in seconds since 1970."""

    index: int
    channel: str
    name: str
    sent_at: int
    campaign_id: str
    message_id: str


def unlisted_campaigns(config: AccountConfig, base: int) -> Iterator[UnlistedCampaign]:
    """WhatsApp campaigns, and those that were deleted long ago, in turn."""
    seed, count = config.seed, -(-config.campaigns // 12)
    for index in range(count):
        span = config.days * SECONDS_PER_DAY
        sent_at = base - span + (2 * index + 1) * span // (2 * count)
        yield UnlistedCampaign(
            index=index,
            channel=("whatsapp", "email")[index % 2],
            name=f"{('WhatsApp', 'Deleted')[index % 2]} campaign {index}",
            sent_at=sent_at,
            campaign_id=ulid(seed ^ 0xDEAD, index, sent_at),
            message_id=ulid(seed ^ 0xFADE, index, sent_at),
        )


class FamilyBuilder:
    """Adds campaigns with their parts, all of one moment."""

    def __init__(self) -> None:
        self.found: dict[str, list[ApiRecord]] = {
            kind: []
            for kind in (
                "campaign",
                "campaign-audience",
                "campaign-message",
                "campaign-variation",
            )
        }

    def family(self) -> CampaignFamily:
        """What was added."""
        return CampaignFamily(
            *(RecordCollection(kind, records) for kind, records in self.found.items())
        )

    def add(self, kind: str, record_id: str, definition: JsonObject, at: int) -> ApiRecord:
        """A record of that kind, made and last changed at that second."""
        when: Json = format_iso_micros(at * SECOND_MICROS)
        names = ("created_at", "updated_at") if kind == "campaign" else ("created", "updated")
        record = ApiRecord(
            id=record_id, attributes={**dict.fromkeys(names, when), "definition": definition}
        )
        self.found[kind].append(record)
        return record

    def add_campaign(self, campaign_id: str, name: str, builder: str, at: int) -> ApiRecord:
        """A campaign without parts."""
        settings: JsonObject = {
            "send_timezone": "account",
            "send_strategy": "static",
            "send_passed_rltz_immediately": False,
            "exit_condition_enabled": False,
            "exit_condition_conversion_metric_id": None,
        }
        definition: JsonObject = {
            "name": name,
            "archived": False,
            "builder": builder,
            "color": "cc0066",
            "description": "Made by hand",
            "send_settings": settings,
        }
        campaign = self.add("campaign", campaign_id, definition, at)
        campaign.filter_only_values = {"name": name, "archived": False, "builder": builder}
        campaign.links = {
            "campaign-audiences": ("campaign-audience", ()),
            "campaign-messages": ("campaign-message", ()),
            "tags": ("tag", ()),
        }
        return campaign

    def add_audience(
        self, campaign: ApiRecord, groups: tuple[Sequence[str], Sequence[str]], at: int
    ) -> ApiRecord:
        """The next audience of a campaign: ids that are included, and excluded."""
        _, known = campaign.links["campaign-audiences"]
        others = known if isinstance(known, tuple) else ()
        priority = len(others) + 1
        record_id = sibling_id(campaign.id, f"audience {priority}")
        definition: JsonObject = {
            "name": f"Audience {priority}",
            "included": list(groups[0]),
            "excluded": list(groups[1]),
            "priority": priority,
        }
        audience = self.add("campaign-audience", record_id, definition, at)
        audience.links = {
            "campaign": ("campaign", campaign.id),
            "campaign-messages": ("campaign-message", ()),
        }
        campaign.links["campaign-audiences"] = ("campaign-audience", (*others, record_id))
        return audience

    def add_message(
        self,
        campaign: ApiRecord,
        audience: ApiRecord,
        message_id: str,
        definition: JsonObject,
        variations: dict[str, JsonObject],
    ) -> None:
        """A message of a campaign to an audience, with the content of each variation by its id."""
        at = str(campaign.attributes["created_at"])
        message = self.add("campaign-message", message_id, definition, 0)
        message.attributes |= {"created": at, "updated": at}
        message.filter_only_values = {
            "campaign_id": campaign.id,
            "name": str(definition["name"]),
            "status": str(definition["status"]),
        }
        message.links = {
            "campaign": ("campaign", campaign.id),
            "campaign-audience": ("campaign-audience", audience.id),
            "campaign-variations": ("campaign-variation", tuple(variations)),
            "tags": ("tag", ()),
        }
        for owner in (campaign, audience):
            _, known = owner.links["campaign-messages"]
            others = known if isinstance(known, tuple) else ()
            owner.links["campaign-messages"] = ("campaign-message", (*others, message_id))
        for position, (variation_id, details) in enumerate(variations.items()):
            content: JsonObject = {"name": f"Variation {position + 1}", "details": details}
            variation = self.add("campaign-variation", variation_id, content, 0)
            variation.attributes |= {"created": at, "updated": at}
            variation.links = {
                "campaign-message": ("campaign-message", message_id),
                "image": ("image", None),
                "translation": ("translation", None),
            }


def message_definition(
    name: str, status: str, strategy: str, at: int | None, times: JsonObject | None = None
) -> JsonObject:
    """What a message says of itself; `at` is its send time, `times` those of its variations."""
    return {
        "name": name,
        "status": status,
        "tracking_options": {
            "is_add_utm": True,
            "is_tracking_clicks": True,
            "is_tracking_opens": True,
            "tracking_params": None,
        },
        "send_options": {
            "send_time": None if at is None else format_iso_seconds(at),
            "send_times": times,
            "send_strategy": strategy,
            "recipient_percentage": None,
            "throttling_type": "none",
            "throttle_unit": None,
            "is_ignoring_unsubscribes": False,
        },
        "ab_test": None,
    }


def build_omni_family(config: AccountConfig, base: int, group_ids: Sequence[str]) -> CampaignFamily:
    """All of them."""
    builder = FamilyBuilder()
    for each in unlisted_campaigns(config, base):
        if each.channel != "whatsapp":
            continue
        campaign = builder.add_campaign(each.campaign_id, each.name, "wizard", each.sent_at)
        audience = builder.add_audience(campaign, (group_ids[:1], ()), each.sent_at)
        details: JsonObject = {
            "channel": "whatsapp",
            "template_id": "WaTmpl",
            "shorten_links": True,
        }
        builder.add_message(
            campaign,
            audience,
            sibling_id(each.campaign_id, "message"),
            message_definition(each.name, "sent", "static", each.sent_at),
            {each.message_id: details},
        )
    add_canvas_campaign(builder, config.seed, base, group_ids)
    return builder.family()


def add_canvas_campaign(
    builder: FamilyBuilder, seed: int, base: int, group_ids: Sequence[str]
) -> None:
    """The campaign of two audiences, three messages and three channels."""
    sent_at = base - 5 * SECONDS_PER_DAY
    campaign = builder.add_campaign(
        ulid(seed ^ 0xCA5, 0, sent_at), "Canvas of all channels", "canvas", sent_at
    )
    first = builder.add_audience(campaign, (group_ids[:2], group_ids[3:5]), sent_at)
    second = builder.add_audience(campaign, (group_ids[1:3], group_ids[4:5]), sent_at)
    add_send_time_test(builder, campaign, first, sent_at)
    planned = base + 3 * SECONDS_PER_DAY
    builder.add_message(
        campaign,
        second,
        sibling_id(campaign.id, "phones"),
        message_definition("To phones", "scheduled", "static", planned),
        {
            sibling_id(campaign.id, "variation sms"): SMS_DETAILS,
            sibling_id(campaign.id, "variation push"): PUSH_DETAILS,
        },
    )
    builder.add_message(
        campaign,
        second,
        sibling_id(campaign.id, "called off"),
        message_definition("Called off", "cancelled", "static", None),
        {sibling_id(campaign.id, "variation off"): SMS_DETAILS},
    )


def add_send_time_test(
    builder: FamilyBuilder, campaign: ApiRecord, audience: ApiRecord, sent_at: int
) -> None:
    """A message whose second variation was sent a day after the first."""
    one, two = (sibling_id(campaign.id, f"variation {name}") for name in "AB")
    email: JsonObject = {"channel": "email", "subject": "20% off", "from_email": "a@example.com"}
    builder.add_message(
        campaign,
        audience,
        sibling_id(campaign.id, "test"),
        message_definition(
            "Test of send times",
            "sent",
            "ab_send_time_test",
            sent_at,
            {
                one: format_iso_seconds(sent_at),
                two: format_iso_seconds(sent_at + SECONDS_PER_DAY),
            },
        ),
        {one: email, two: email},
    )
