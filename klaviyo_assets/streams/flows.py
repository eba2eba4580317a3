"""Flows: messages that an occasion sets off. Klaviyo API reference, section "Flows".

What belongs here: the streams of this section, as values. What does not: anything that acts.
Source: https://developers.klaviyo.com/en/reference/flows_api_overview, revision 2026-07-15.
"""

from klaviyo_assets.model.column import Column, RelatedIds
from klaviyo_assets.model.stream import Collection, Cursor, Slice, Stream
from klaviyo_assets.model.tiers import S

FLOWS = Stream(
    name="flows",
    about="One row per flow, archived ones included.",
    section="Flows",
    source=Collection(
        path="/api/flows",
        page_size=50,
        # Without the filter Klaviyo leaves archived flows out; archiving moves a flow across.
        slices=(
            Slice(name="archived=false", filter="equals(archived,false)"),
            Slice(name="archived=true", filter="equals(archived,true)"),
        ),
        include=("flow-actions", "tags"),
    ),
    cursor=Cursor(column="updated", field="updated"),
    tier=S,
    scopes=("flows:read",),
    marks_deleted=True,
    columns=(
        Column("name", "The flow's name."),
        Column("status", "Where it stands: draft, manual or live."),
        Column("archived", "Whether it has been archived.", "boolean"),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        Column("trigger_type", "What sets it off: Metric, Added to List, Date Based, ..."),
        Column("flow_action_ids", "Its steps.", "ids", place=RelatedIds("flow-actions")),
        Column("tag_ids", "The tags it carries.", "ids", place=RelatedIds("tags")),
    ),
)
