"""Tags: labels of campaigns, flows, lists and segments. Klaviyo API reference, section "Tags"."""

from klaviyo_assets.model.column import Column, FieldPath, RelatedId
from klaviyo_assets.model.stream import TIER_S, Collection, Stream, Unnest

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


def tag_link_stream(parent: str) -> Stream:
    """Return the stream of which tag each record of the stream `parent` carries."""
    kind = parent.removesuffix("s")
    return Stream(
        name=f"{kind}_tags",
        description=f"One row per {kind} and tag that it carries.",
        section="Tags",
        source=Unnest(parent=parent, array="tag_ids", parent_columns={f"{kind}_id": "id"}),
        tier=None,
        scopes=(f"{parent}:read",),
        key=(f"{kind}_id", "tag_id"),
        is_opt_in=True,
        columns=(
            Column(f"{kind}_id", f"The {kind}."),
            Column("tag_id", "The tag, by its id in tags.", declared_source=FieldPath("")),
        ),
    )


CAMPAIGN_TAGS = tag_link_stream("campaigns")
FLOW_TAGS = tag_link_stream("flows")
LIST_TAGS = tag_link_stream("lists")
SEGMENT_TAGS = tag_link_stream("segments")
