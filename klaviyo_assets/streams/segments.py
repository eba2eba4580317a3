"""Segments: profiles that a rule finds. Klaviyo API reference, section "Segments".

What belongs here: the streams of this section, as values. What does not: anything that acts.
As with lists, `updated` says nothing of members and deletions are reported nowhere: read whole.
Source: https://developers.klaviyo.com/en/reference/segments_api_overview, revision 2026-07-15.
"""

from klaviyo_assets.model.column import Column, RelatedIds
from klaviyo_assets.model.stream import Collection, Stream
from klaviyo_assets.model.tiers import L

SEGMENTS = Stream(
    name="segments",
    about="One row per segment.",
    section="Segments",
    # The ids of a to-many relationship come only with `include`; it costs no request.
    source=Collection(path="/api/segments", page_size=10, include=("flow-triggers", "tags")),
    tier=L,
    scopes=("segments:read",),
    ignores_start=True,
    marks_deleted=True,
    columns=(
        Column("name", "The segment's name."),
        Column("definition", "The rule as a tree of conditions.", "json", is_free_form=True),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When the segment itself last changed; not its members.", "timestamp"),
        Column("is_active", "Whether Klaviyo keeps its members up to date.", "boolean"),
        Column("is_processing", "Whether Klaviyo is working its members out.", "boolean"),
        Column("is_starred", "Whether somebody has starred it.", "boolean"),
        Column("tag_ids", "The tags it carries.", "ids", place=RelatedIds("tags")),
        Column(
            "flow_trigger_ids",
            "The flows that entering it sets off.",
            "ids",
            place=RelatedIds("flow-triggers"),
        ),
    ),
)
