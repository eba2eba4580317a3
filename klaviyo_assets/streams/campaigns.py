"""Campaigns: what was sent to many at once. Klaviyo API reference, section "Campaigns".

What belongs here: the streams of this section, as values. What does not: anything that acts.
Campaigns of WhatsApp cannot be listed: the channel filter is required and offers three channels.
Source: https://developers.klaviyo.com/en/reference/campaigns_api_overview, revision 2026-07-15.
"""

from itertools import product

from klaviyo_assets.model.column import (
    Column,
    Included,
    OfSlice,
    PersonalKind,
    RelatedIds,
    attribute,
)
from klaviyo_assets.model.stream import Collection, Cursor, Detail, Slice, Stream
from klaviyo_assets.model.tiers import M


def campaign_slice(channel: str, archived: str) -> Slice:
    """Return the campaigns of one channel that are archived ("true") or not ("false").

    A campaign that is archived moves from one slice to the other, and its `updated_at` with it.
    """
    return Slice(
        name=f"{channel}, archived={archived}",
        filter=f'equals(messages.channel,"{channel}"),equals(archived,{archived})',
        values={"channel": channel},
    )


SENDERS: tuple[tuple[str, PersonalKind], ...] = tuple(
    (f"{name}_email", "email") for name in ("from", "reply_to", "cc", "bcc")
)
"""Members of a message's content that are addresses."""

CAMPAIGNS = Stream(
    name="campaigns",
    about="One row per campaign of email, SMS or mobile push, archived ones included.",
    section="Campaigns",
    source=Collection(
        path="/api/campaigns",
        page_size=100,
        # Klaviyo answers for one channel and one archived state at a time.
        slices=tuple(
            campaign_slice(channel, archived)
            for channel, archived in product(("email", "sms", "mobile_push"), ("false", "true"))
        ),
        include=("campaign-messages", "tags"),
    ),
    cursor=Cursor(column="updated_at", field="updated_at"),
    tier=M,
    scopes=("campaigns:read",),
    marks_deleted=True,
    columns=(
        Column("name", "The campaign's name."),
        Column("status", "Where it stands: Draft, Scheduled, Sending, Sent, Cancelled, ..."),
        Column("archived", "Whether it has been archived.", "boolean"),
        attribute("audiences.included", "Ids of the lists and segments it goes to.", "ids"),
        attribute("audiences.excluded", "Ids of the lists and segments left out.", "ids"),
        attribute(
            "send_options.use_smart_sending",
            "Whether people just written to are spared.",
            "boolean",
        ),
        # Tracking and strategy differ by channel and method; the columns are the union of them.
        attribute(
            "tracking_options.add_tracking_params", "Whether links get UTM parameters.", "boolean"
        ),
        attribute(
            "tracking_options.custom_tracking_params",
            "The campaign's own UTM parameters; empty: those of the account.",
            "json",
        ),
        attribute("tracking_options.is_tracking_clicks", "Whether clicks are tracked.", "boolean"),
        attribute("tracking_options.is_tracking_opens", "Whether opens are tracked.", "boolean"),
        attribute("send_strategy.method", "How it is sent: static, throttled, immediate, ..."),
        attribute("send_strategy.datetime", "When to send; static and throttled.", "timestamp"),
        attribute(
            "send_strategy.options.is_local",
            "Whether each recipient's own time zone counts; static only.",
            "boolean",
        ),
        attribute(
            "send_strategy.options.send_past_recipients_immediately",
            "Whether those whose local time has passed get it at once; static and local only.",
            "boolean",
        ),
        attribute("send_strategy.date", "The day to send on; smart send time only.", "date"),
        attribute(
            "send_strategy.throttle_percentage",
            "Percentage of the recipients written to each hour; throttled only.",
            "integer",
        ),
        Column("created_at", "When it was created.", "timestamp"),
        Column("scheduled_at", "When somebody scheduled it; NULL until then.", "timestamp"),
        Column("updated_at", "When it last changed, by a person or by Klaviyo.", "timestamp"),
        Column("send_time", "When it is or was sent; NULL until it is scheduled.", "timestamp"),
        Column(
            "channel",
            "The channel: email, sms or mobile_push.",
            place=OfSlice("channel", first="campaign-messages", path="definition.channel"),
        ),
        Column(
            "campaign_message_ids", "Its messages.", "ids", place=RelatedIds("campaign-messages")
        ),
        Column("tag_ids", "The tags it carries.", "ids", place=RelatedIds("tags")),
        Column(
            "campaign_messages",
            "Its messages whole: subject, sender, content, send times.",
            "json",
            place=Included("campaign-messages"),
            members=SENDERS,
        ),
    ),
)

CAMPAIGNS_DETAILED = Stream(
    name="campaigns_detailed",
    about="One row per campaign: all of campaigns, and how many recipients Klaviyo estimates.",
    section="Campaigns",
    source=Detail(
        parent="campaigns",
        path="/api/campaign-recipient-estimations/{id}",
        version="updated_at",
        # Until somebody has asked Klaviyo for an estimate, there is none: 404.
        missing_is_null=True,
    ),
    tier=M,
    scopes=("campaigns:read",),
    columns=(
        Column(
            "estimated_recipient_count",
            "People the campaign is expected to reach; NULL when Klaviyo has no estimate.",
            "integer",
        ),
    ),
)
