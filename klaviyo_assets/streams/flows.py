"""Flows: messages that an occasion sets off. Klaviyo API reference, section "Flows"."""

from klaviyo_assets.model.column import Column, RelatedIds
from klaviyo_assets.model.stream import TIER_S, Collection, Cursor, Slice, Stream

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
