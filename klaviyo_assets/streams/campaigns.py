"""Campaigns: what was sent to many at once. Klaviyo API reference, section "Campaigns"."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

from klaviyo_assets.model.column import (
    Column,
    ColumnSource,
    ColumnType,
    Derived,
    FieldPath,
    Included,
    PersonalDataKind,
    RelatedId,
    RelatedIds,
    SliceConstant,
    attribute_column,
)
from klaviyo_assets.model.stream import (
    REVISION_COLUMN,
    TIER_M,
    Collection,
    Cursor,
    Detail,
    Rollup,
    Slice,
    Stream,
    Unnest,
    ViewColumn,
)
from klaviyo_assets.streams.campaign_sql import (
    IS_OCTOBER,
    JULY,
    JULY_CHANNELS,
    MESSAGE_OF_CAMPAIGN,
    MESSAGE_TOTALS,
    OCTOBER,
    OCTOBER_VALUES,
)


def campaign_slice(channel: str, archived: str) -> Slice:
    """Return July's campaigns of one channel that are archived ("true") or not ("false").

    Archiving a campaign moves it to the other slice, and also changes its `updated_at`.
    """
    return Slice(
        name=f"{channel}, archived={archived}",
        filter=f'equals(messages.channel,"{channel}"),equals(archived,{archived})',
        values={"channel": channel, REVISION_COLUMN.name: JULY},
    )


SENDER_ADDRESS_MEMBERS: tuple[tuple[str, PersonalDataKind], ...] = tuple(
    (f"{name}_email", "email") for name in ("from", "reply_to", "cc", "bcc")
)
"""Members of a message's content that are addresses."""

CAMPAIGN_COLUMNS = (
    Column("name", "The campaign's name."),
    Column("status", "Where it stands: Draft, Scheduled, Sending, Sent, Cancelled, ..."),
    Column("archived", "Whether it has been archived.", "boolean"),
    attribute_column("audiences.included", "Ids of the lists and segments it goes to.", "ids"),
    attribute_column("audiences.excluded", "Ids of the lists and segments left out.", "ids"),
    attribute_column(
        "send_options.use_smart_sending",
        "Whether people just written to are spared; NULL since 2026-10-15.",
        "boolean",
    ),
    # Tracking and strategy differ by channel and method; the columns are the union of them.
    attribute_column(
        "tracking_options.add_tracking_params", "Whether links get UTM parameters.", "boolean"
    ),
    attribute_column(
        "tracking_options.custom_tracking_params",
        "The campaign's own UTM parameters; empty: those of the account.",
        "json",
    ),
    attribute_column(
        "tracking_options.is_tracking_clicks", "Whether clicks are tracked.", "boolean"
    ),
    attribute_column("tracking_options.is_tracking_opens", "Whether opens are tracked.", "boolean"),
    attribute_column("send_strategy.method", "How it is sent: static, throttled, immediate, ..."),
    attribute_column("send_strategy.datetime", "When to send; static and throttled.", "timestamp"),
    attribute_column(
        "send_strategy.options.is_local",
        "Whether each recipient's own time zone counts; static only.",
        "boolean",
    ),
    attribute_column(
        "send_strategy.options.send_past_recipients_immediately",
        "Whether those whose local time has passed get it at once; static and local only.",
        "boolean",
    ),
    attribute_column(
        "send_strategy.date",
        "The day to send on; smart send time only, NULL since 2026-10-15.",
        "date",
    ),
    attribute_column(
        "send_strategy.throttle_percentage",
        "Percentage of the recipients written to each hour; throttled, NULL since 2026-10-15.",
        "integer",
    ),
    Column("created_at", "When it was created.", "timestamp"),
    Column(
        "scheduled_at",
        "When somebody scheduled it; NULL until then, and since 2026-10-15.",
        "timestamp",
    ),
    Column("updated_at", "When it last changed, by a person or by Klaviyo.", "timestamp"),
    Column("send_time", "When it is or was sent; NULL until it is scheduled.", "timestamp"),
    Column(
        "channel",
        "The channel: email, sms, mobile_push or whatsapp; NULL where it has several.",
        declared_source=SliceConstant(
            "channel",
            included_relationship="campaign-messages",
            included_path="definition.channel",
        ),
    ),
    Column(
        "campaign_message_ids",
        "Its messages.",
        "ids",
        declared_source=RelatedIds("campaign-messages"),
    ),
    Column("tag_ids", "The tags it carries.", "ids", declared_source=RelatedIds("tags")),
    Column(
        "campaign_messages",
        "Its messages whole: subject, sender, content, send times; since 2026-10-15 each with its "
        "variations.",
        "json",
        declared_source=Included("campaign-messages"),
        personal_members=SENDER_ADDRESS_MEMBERS,
    ),
    REVISION_COLUMN,
    Column(
        "campaign_audiences",
        "Its audiences whole, each with the lists and segments of it.",
        "json",
        Derived(),
    ),
    Column("builder", "What it was made with: canvas, wizard.", declared_source=Derived()),
    Column("color", "Its colour in Klaviyo: six hex digits.", declared_source=Derived()),
    Column("description", "What somebody wrote about it.", declared_source=Derived()),
    Column("send_settings_send_timezone", "Time zone of its sends.", declared_source=Derived()),
    Column("send_settings_send_strategy", "How its messages are sent.", declared_source=Derived()),
    Column(
        "send_settings_send_passed_rltz_immediately",
        "Whether those whose local time has passed get it at once.",
        "boolean",
        Derived(),
    ),
    Column(
        "send_settings_exit_condition_enabled",
        "Whether those who meet a condition get no more of it.",
        "boolean",
        Derived(),
    ),
    Column(
        "send_settings_exit_condition_conversion_metric_id",
        "Metric of that condition.",
        declared_source=Derived(),
    ),
)
"""The columns of campaigns, as the oldest revision sends them; it has nothing of the last ones."""

OCTOBER_SOURCES: Mapping[str, ColumnSource] = {
    "name": FieldPath("definition.name"),
    "archived": FieldPath("definition.archived"),
    "status": Derived("campaign_messages.status"),
    "audiences_included": Derived("campaigns.campaign_audiences"),
    "audiences_excluded": Derived("campaigns.campaign_audiences"),
    "send_options_use_smart_sending": Derived(),
    "tracking_options_add_tracking_params": Derived(
        "campaign_messages.tracking_options_is_add_utm"
    ),
    "tracking_options_custom_tracking_params": Derived(
        "campaign_messages.tracking_options_tracking_params"
    ),
    "tracking_options_is_tracking_clicks": Derived(
        "campaign_messages.tracking_options_is_tracking_clicks"
    ),
    "tracking_options_is_tracking_opens": Derived(
        "campaign_messages.tracking_options_is_tracking_opens"
    ),
    "send_strategy_method": Derived("campaign_messages.send_options_send_strategy"),
    "send_strategy_datetime": Derived("campaign_messages.send_options_send_time"),
    "send_strategy_options_is_local": Derived("campaign_messages.send_options_send_strategy"),
    "send_strategy_options_send_past_recipients_immediately": Derived(
        "campaigns.send_settings_send_passed_rltz_immediately"
    ),
    "send_strategy_date": Derived(),
    "send_strategy_throttle_percentage": Derived(),
    "scheduled_at": Derived(),
    "send_time": Derived("campaign_messages.send_options_send_time"),
    "channel": Derived("campaign_variations.channel"),
    "campaign_messages": Derived("campaign_messages.campaign_variations"),
    "campaign_audiences": Included("campaign-audiences"),
    **{name: FieldPath(f"definition.{name}") for name in ("builder", "color", "description")},
    **{
        f"send_settings_{name}": FieldPath(f"definition.send_settings.{name}")
        for name in (
            "send_timezone",
            "send_strategy",
            "send_passed_rltz_immediately",
            "exit_condition_enabled",
            "exit_condition_conversion_metric_id",
        )
    },
}
"""Where campaigns have their columns since 2026-10-15, where it is not the same place."""

CAMPAIGN_ROLLUP = Rollup(
    table="campaign_messages",
    join_column="campaign_id",
    condition=MESSAGE_OF_CAMPAIGN,
    totals=tuple(
        ViewColumn(column=Column(name, "", kind), sql=sql) for name, kind, sql in MESSAGE_TOTALS
    ),
    columns=(
        *(
            ViewColumn(
                column=each,
                sql=f"CASE WHEN {IS_OCTOBER} THEN {OCTOBER_VALUES[each.name]} "
                + (f"WHEN len({JULY_CHANNELS}) > 1 THEN NULL " if each.name == "channel" else "")
                + f"ELSE own.{each.name} END",
            )
            for each in CAMPAIGN_COLUMNS
            if each.name in OCTOBER_VALUES
        ),
        ViewColumn(
            column=Column("channels", "All channels of its messages, in order.", "ids"),
            sql=f"CASE WHEN {IS_OCTOBER} THEN total.channels ELSE {JULY_CHANNELS} END",
        ),
        ViewColumn(
            column=Column(
                "campaign_variation_ids",
                "The variations of its messages; reports and events may name one as the message.",
                "ids",
            ),
            sql="total.variation_ids",
        ),
    ),
)
"""The public columns of campaigns, whichever revision a row was read at."""


CAMPAIGNS_DESCRIPTION = "One row per campaign of any channel, archived ones included."
CAMPAIGNS_CURSOR = Cursor(column="updated_at", field="updated_at")


def campaigns_before_october() -> Stream:
    """Return the stream as revisions before 2026-10-15 show campaigns: of three channels alone."""
    return Stream(
        name="campaigns",
        description=CAMPAIGNS_DESCRIPTION,
        section="Campaigns",
        source=Collection(
            path="/api/campaigns",
            page_size=100,
            # Klaviyo requires a filter by one channel, and returns one archived state at a time.
            slices=tuple(
                campaign_slice(channel, archived)
                for channel, archived in product(("email", "sms", "mobile_push"), ("false", "true"))
            ),
            include=("campaign-messages", "tags"),
        ),
        cursor=CAMPAIGNS_CURSOR,
        tier=TIER_M,
        scopes=("campaigns:read",),
        has_soft_deletes=True,
        columns=CAMPAIGN_COLUMNS,
        rollup=CAMPAIGN_ROLLUP,
        is_partial=True,
    )


CAMPAIGNS = Stream(
    name="campaigns",
    description=CAMPAIGNS_DESCRIPTION,
    section="Campaigns",
    source=Collection(
        path="/api/campaigns",
        page_size=100,
        # It is not known whether the list shows archived ones without being asked to.
        slices=tuple(
            Slice(
                name=f"archived={archived}",
                filter=f"equals(archived,{archived})",
                values={REVISION_COLUMN.name: OCTOBER},
            )
            for archived in ("false", "true")
        ),
        include=("campaign-audiences", "campaign-messages", "tags"),
    ),
    cursor=CAMPAIGNS_CURSOR,
    tier=TIER_M,
    scopes=("campaigns:read",),
    has_soft_deletes=True,
    columns=tuple(
        replace(each, declared_source=OCTOBER_SOURCES.get(each.name, each.declared_source))
        for each in CAMPAIGN_COLUMNS
    ),
    rollup=CAMPAIGN_ROLLUP,
    # Status, channel and send time are on messages and variations.
    read_first=("campaign_messages",),
    shape=OCTOBER,
    earlier=campaigns_before_october(),
)

CAMPAIGNS_DETAILED = Stream(
    name="campaigns_detailed",
    description=(
        "One row per campaign: all of campaigns, and how many recipients Klaviyo estimates."
    ),
    section="Campaigns",
    source=Detail(
        parent="campaigns",
        path="/api/campaign-recipient-estimations/{id}",
        version_column="updated_at",
        # A 404 until somebody has requested an estimate in Klaviyo.
        is_null_when_missing=True,
    ),
    tier=TIER_M,
    scopes=("campaigns:read",),
    columns=(
        Column(
            "estimated_recipient_count",
            "People the campaign is expected to reach; NULL when Klaviyo has no estimate.",
            "integer",
        ),
    ),
)


def definition_column(path: str, description: str, kind: ColumnType = "string") -> Column:
    """Return the column of a value at `definition.<path>`, named without that first word."""
    return Column(path.replace(".", "_"), description, kind, FieldPath(f"definition.{path}"))


CAMPAIGN_MESSAGES = Stream(
    name="campaign_messages",
    description="One row per message of a campaign: what is sent to one of its audiences.",
    section="Campaigns",
    source=Collection(
        path="/api/campaign-messages",
        page_size=100,
        # Klaviyo has no list of all variations; it costs no request to have them with the messages.
        include=("campaign", "campaign-variations"),
        # Klaviyo's reference lists that include, and its SDK of the same revision lacks it.
        related_paths={"campaign-variations": "/api/campaign-messages/{id}/campaign-variations"},
    ),
    cursor=Cursor(column="updated", field="updated"),
    tier=TIER_M,
    scopes=("campaigns:read",),
    has_soft_deletes=True,
    since=OCTOBER,
    columns=(
        Column("campaign_id", "Its campaign.", declared_source=RelatedId("campaign")),
        Column(
            "campaign_audience_id",
            "The audience that it is sent to; NULL where Klaviyo sends no id.",
            declared_source=RelatedId("campaign-audience"),
        ),
        Column(
            "campaign_variation_ids",
            "Its variations: one for each channel, or for each version of an A/B test.",
            "ids",
            declared_source=RelatedIds("campaign-variations"),
        ),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        definition_column("name", "The message's name."),
        definition_column("status", "Where it stands: draft, scheduled, sending, sent, cancelled."),
        definition_column("send_options.send_time", "When it is or was sent.", "timestamp"),
        definition_column(
            "send_options.send_times", "When each variation is sent, by its id.", "json"
        ),
        definition_column(
            "send_options.send_strategy", "How it is sent: static, throttled, local_timezone, ..."
        ),
        definition_column(
            "send_options.recipient_percentage",
            "Percentage of the recipients written to at a time; throttled only.",
            "integer",
        ),
        definition_column(
            "send_options.throttling_type", "What the message counts with for Smart Sending."
        ),
        definition_column(
            "send_options.throttle_unit", "Time from one part to the next: minute, hour."
        ),
        definition_column(
            "send_options.is_ignoring_unsubscribes",
            "Whether those who unsubscribed get it too.",
            "boolean",
        ),
        definition_column(
            "tracking_options.is_add_utm", "Whether links get UTM parameters.", "boolean"
        ),
        definition_column(
            "tracking_options.is_tracking_clicks", "Whether clicks are tracked.", "boolean"
        ),
        definition_column(
            "tracking_options.is_tracking_opens", "Whether opens are tracked.", "boolean"
        ),
        definition_column(
            "tracking_options.tracking_params", "The message's own UTM parameters.", "json"
        ),
        definition_column("ab_test.winner_metric", "What the winner is chosen by; A/B tests only."),
        definition_column(
            "ab_test.winner_percentage", "Percentage of the recipients in the test.", "integer"
        ),
        definition_column(
            "ab_test.winner_wait_hours", "Hours until the winner is chosen.", "integer"
        ),
        Column(
            "campaign_variations",
            "Its variations whole: channel, subject, sender, content.",
            "json",
            declared_source=Included("campaign-variations"),
            personal_members=SENDER_ADDRESS_MEMBERS,
        ),
    ),
)


def details_column(
    name: str, description: str, kind: ColumnType = "string", *, is_personal: bool = False
) -> Column:
    """Return the column of a member of a variation's content."""
    path = FieldPath(f"attributes.definition.details.{name}")
    return Column(name, description, kind, path, is_personal=is_personal)


CAMPAIGN_VARIATIONS = Stream(
    name="campaign_variations",
    description="One row per variation of a campaign's message: its content, in one channel.",
    section="Campaigns",
    source=Unnest(
        parent="campaign_messages",
        array="campaign_variations",
        parent_columns={"campaign_message_id": "id", "campaign_id": "campaign_id"},
    ),
    tier=None,
    scopes=("campaigns:read",),
    since=OCTOBER,
    columns=(
        Column("campaign_message_id", "Its message."),
        Column("campaign_id", "Its campaign."),
        Column("created", "When it was created.", "timestamp", FieldPath("attributes.created")),
        Column("updated", "When it last changed.", "timestamp", FieldPath("attributes.updated")),
        Column(
            "name", "The variation's name.", declared_source=FieldPath("attributes.definition.name")
        ),
        details_column("channel", "The channel: email, sms, push or whatsapp."),
        Column(
            "image_id",
            "Its image.",
            declared_source=FieldPath("relationships.image.data.id"),
        ),
        Column(
            "translation_id",
            "Its translations.",
            declared_source=FieldPath("relationships.translation.data.id"),
        ),
        details_column("template_id", "The template; not in push messages."),
        details_column("subject", "Subject; email."),
        details_column("preview_text", "What mailboxes show beside the subject; email."),
        details_column("from_email", "Address of the sender; email.", is_personal=True),
        details_column("from_label", "Name of the sender; email.", is_personal=True),
        details_column("reply_to_email", "Where answers go; email.", is_personal=True),
        details_column("cc_email", "Who gets a copy; email.", is_personal=True),
        details_column("bcc_email", "Who gets a copy unseen; email.", is_personal=True),
        details_column("body", "The text; SMS and push."),
        details_column("text_message_type", "The kind of text message: SMS, MMS, RCS."),
        details_column(
            "shorten_links", "Whether links are shortened; SMS and WhatsApp.", "boolean"
        ),
        details_column("title", "The title; push."),
        details_column("push_type", "Whether it is shown: standard, silent; push."),
        Column(
            "details",
            "The content whole, as it differs by channel.",
            "json",
            FieldPath("attributes.definition.details"),
            is_personal=True,
        ),
    ),
)


CAMPAIGN_AUDIENCES = Stream(
    name="campaign_audiences",
    description="One row per audience of a campaign: whom a part of its messages is sent to.",
    section="Campaigns",
    source=Unnest(
        parent="campaigns", array="campaign_audiences", parent_columns={"campaign_id": "id"}
    ),
    tier=None,
    scopes=("campaigns:read",),
    since=OCTOBER,
    columns=(
        Column("campaign_id", "Its campaign."),
        Column("created", "When it was created.", "timestamp", FieldPath("attributes.created")),
        Column("updated", "When it last changed.", "timestamp", FieldPath("attributes.updated")),
        Column(
            "name", "The audience's name.", declared_source=FieldPath("attributes.definition.name")
        ),
        Column(
            "included",
            "Ids of the lists and segments it goes to.",
            "ids",
            FieldPath("attributes.definition.included"),
        ),
        Column(
            "excluded",
            "Ids of the lists and segments left out.",
            "ids",
            FieldPath("attributes.definition.excluded"),
        ),
        Column(
            "priority",
            "Which audience counts for those who are in several.",
            "integer",
            FieldPath("attributes.definition.priority"),
        ),
    ),
)
