"""Segments: profiles that a rule finds. Klaviyo API reference, section "Segments"."""

from klaviyo_assets.model.column import Column, RelatedIds
from klaviyo_assets.model.stream import TIER_L, Collection, Stream
from klaviyo_assets.streams.lists import detailed_stream, member_stream

SEGMENTS = Stream(
    name="segments",
    description="One row per segment.",
    section="Segments",
    # Klaviyo sends the ids of a to-many relationship only with `include`; it costs no request.
    source=Collection(path="/api/segments", page_size=10, include=("flow-triggers", "tags")),
    tier=TIER_L,
    scopes=("segments:read",),
    is_exempt_from_start_date=True,
    has_soft_deletes=True,
    columns=(
        Column("name", "The segment's name."),
        Column("definition", "The rule as a tree of conditions.", "json", is_free_form=True),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When the segment itself last changed; not its members.", "timestamp"),
        Column("is_active", "Whether Klaviyo keeps its members up to date.", "boolean"),
        Column("is_processing", "Whether Klaviyo is working its members out.", "boolean"),
        Column("is_starred", "Whether somebody has starred it.", "boolean"),
        Column("tag_ids", "The tags it carries.", "ids", declared_source=RelatedIds("tags")),
        Column(
            "flow_trigger_ids",
            "The flows that entering it sets off.",
            "ids",
            declared_source=RelatedIds("flow-triggers"),
        ),
    ),
)

SEGMENTS_DETAILED = detailed_stream(
    "segments",
    "One row per segment: all of segments, and how many profiles it finds.",
    "Profiles in the segment when it was read.",
    is_opt_in=True,
)

SEGMENT_MEMBERS = member_stream(
    "segments",
    "One row per profile in a segment and time of entry: a re-entry is a new row.",
    "When the profile entered the segment.",
)
