"""Flows: messages that an occasion sets off. Klaviyo API reference, section "Flows"."""

from klaviyo_assets.model.column import Column, PersonalDataKind, RelatedId, RelatedIds
from klaviyo_assets.model.stream import (
    PARENT_ID,
    TIER_S,
    AdditionalField,
    Children,
    Collection,
    Cursor,
    Detail,
    Slice,
    Stream,
)

FLOW_ADDRESS_MEMBERS: tuple[tuple[str, PersonalDataKind], ...] = tuple(
    (name, "email")
    for name in ("from_email", "reply_to_email", "cc_email", "bcc_email", "to_emails")
)
"""Members of a message's content that are addresses."""

FLOWS = Stream(
    name="flows",
    description="One row per flow, archived ones included.",
    section="Flows",
    source=Collection(
        path="/api/flows",
        page_size=50,
        # Without a filter Klaviyo leaves archived flows out; archiving a flow changes its slice.
        slices=(
            Slice(name="archived=false", filter="equals(archived,false)"),
            Slice(name="archived=true", filter="equals(archived,true)"),
        ),
        include=("flow-actions", "tags"),
    ),
    cursor=Cursor(column="updated", field="updated"),
    tier=TIER_S,
    scopes=("flows:read",),
    has_soft_deletes=True,
    columns=(
        Column("name", "The flow's name."),
        Column("status", "Where it stands: draft, manual or live."),
        Column("archived", "Whether it has been archived.", "boolean"),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        Column("trigger_type", "What sets it off: Metric, Added to List, Date Based, ..."),
        Column("flow_action_ids", "Its steps.", "ids", declared_source=RelatedIds("flow-actions")),
        Column("tag_ids", "The tags it carries.", "ids", declared_source=RelatedIds("tags")),
    ),
)

FLOW_ACTIONS = Stream(
    name="flow_actions",
    description="One row per step of a flow.",
    section="Flows",
    source=Children(
        parent="flows",
        path="/api/flows/{id}/flow-actions",
        page_size=50,
    ),
    tier=TIER_S,
    scopes=("flows:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("flow_id", "Its flow.", declared_source=PARENT_ID),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        # Webhook steps hold headers, and so perhaps secrets; others the addresses of senders.
        Column(
            "definition",
            "What it does: type, links to the next steps, data.",
            "json",
            is_personal=True,
        ),
    ),
)

FLOW_MESSAGES = Stream(
    name="flow_messages",
    description="One row per message that a step of a flow sends.",
    section="Flows",
    source=Children(
        parent="flow_actions",
        path="/api/flow-actions/{id}/flow-messages",
        page_size=50,
        parent_condition=("definition", "type", "send-"),
    ),
    tier=TIER_S,
    scopes=("flows:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("flow_action_id", "The step that sends it.", declared_source=PARENT_ID),
        Column("channel", "The channel: email, sms, mobile_push, ..."),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        Column(
            "definition",
            "Its content: name, subject, sender, body, template.",
            "json",
            personal_members=FLOW_ADDRESS_MEMBERS,
        ),
        Column("template_id", "Its template.", declared_source=RelatedId("template")),
    ),
)

FLOW_DEFINITIONS = Stream(
    name="flow_definitions",
    description="One row per flow: all of flows, and the graph of its steps.",
    section="Flows",
    source=Detail(
        parent="flows",
        path="/api/flows/{id}",
        version_column="updated",
        additional_fields=(AdditionalField(resource="flow", name="definition"),),
    ),
    tier=TIER_S,
    scopes=("flows:read",),
    is_opt_in=True,
    history_columns=("definition",),
    columns=(
        Column(
            "definition",
            "Triggers, filters, steps and how they follow.",
            "json",
            is_personal=True,
        ),
    ),
)
