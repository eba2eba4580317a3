"""Tags: labels of campaigns, flows, lists and segments. Klaviyo API reference, section "Tags"."""

from klaviyo_assets.model.column import Column, RelatedId
from klaviyo_assets.model.stream import TIER_S, Collection, Stream

TAGS = Stream(
    name="tags",
    description="One row per tag.",
    section="Tags",
    # Klaviyo sends the id of the group only with `include`; it costs no request.
    source=Collection(path="/api/tags", page_size=50, include=("tag-group",)),
    tier=TIER_S,
    scopes=("tags:read",),
    is_exempt_from_start_date=True,
    has_soft_deletes=True,
    columns=(
        Column("name", "The tag's name."),
        Column("tag_group_id", "Its group.", declared_source=RelatedId("tag-group")),
    ),
)

TAG_GROUPS = Stream(
    name="tag_groups",
    description="One row per group of tags.",
    section="Tags",
    source=Collection(path="/api/tag-groups", page_size=25),
    tier=TIER_S,
    scopes=("tags:read",),
    is_exempt_from_start_date=True,
    has_soft_deletes=True,
    columns=(
        Column("name", "The group's name."),
        Column("exclusive", "Whether a record may carry only one of its tags.", "boolean"),
        Column("default", "Whether new tags go here.", "boolean"),
    ),
)
