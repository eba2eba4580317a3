"""Segments: profiles that a rule finds. Klaviyo API reference, section "Segments"."""

from klaviyo_assets.model.column import Column, RecordId, RelatedIds
from klaviyo_assets.model.stream import PARENT_ID, TIER_L, Children, Collection, Cursor, Stream

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

SEGMENT_MEMBERS = Stream(
    name="segment_members",
    description="One row per profile in a segment and time of entry: a re-entry is a new row.",
    section="Segments",
    source=Children(
        parent="segments",
        path="/api/segments/{id}/profiles",
        page_size=100,
        # All else that comes with a member is the profile's own.
        fields=("joined_group_at",),
        has_parent_filter=True,
    ),
    tier=TIER_L,
    scopes=("profiles:read", "segments:read"),
    key=("segment_id", "profile_id", "joined_group_at"),
    # Leaving changes nothing that Klaviyo can filter by: only a full read can tell.
    cursor=Cursor(column="joined_group_at", field="joined_group_at", is_version=False),
    is_exempt_from_start_date=True,
    has_soft_deletes=True,
    deletion_column=Column(
        "left_at", "When a full read first missed the member; NULL until then.", "timestamp"
    ),
    is_opt_in=True,
    columns=(
        Column("segment_id", "The segment.", declared_source=PARENT_ID),
        Column("profile_id", "The member.", declared_source=RecordId()),
        Column("joined_group_at", "When the profile entered the segment.", "timestamp"),
    ),
)
