"""Custom objects: tables of the account's own. Klaviyo API reference, section "Custom Objects"."""

from klaviyo_assets.model.column import Column, RelatedId
from klaviyo_assets.model.stream import PARENT_ID, TIER_S, Children, Collection, Stream

DATA_SOURCES = Stream(
    name="data_sources",
    description="One row per source that custom objects come from.",
    section="Custom Objects",
    source=Collection(path="/api/data-sources", page_size=100),
    tier=TIER_S,
    scopes=("custom-objects:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("title", "Its name."),
        Column("visibility", "Who may use it: private or shared."),
        Column("description", "What it is for."),
        Column("namespace", "The name that its objects are kept apart by."),
    ),
)

OBJECT_TYPES = Stream(
    name="object_types",
    description="One row per type of custom objects.",
    section="Custom Objects",
    source=Collection(
        path="/api/object-types", page_size=None, include=("current-schema", "draft-schema")
    ),
    tier=TIER_S,
    scopes=("custom-objects:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("title", "Its name."),
        Column("description", "What it is for."),
        Column("status", "active, draft, publishing or undefined."),
        Column("namespace", "The name that it is kept apart by."),
        Column("created_at", "When it was created.", "timestamp"),
        Column("updated_at", "When it last changed.", "timestamp"),
        Column(
            "current_schema_id",
            "The schema in use.",
            declared_source=RelatedId("current-schema"),
        ),
        Column(
            "draft_schema_id",
            "The schema being worked on.",
            declared_source=RelatedId("draft-schema"),
        ),
    ),
)

OBJECT_RECORDS = Stream(
    name="object_records",
    description="One row per custom object.",
    section="Custom Objects",
    source=Children(
        parent="object_types",
        path="/api/object-types/{id}/object-records",
        page_size=100,
    ),
    tier=TIER_S,
    scopes=("custom-objects:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("object_type_id", "Its type.", declared_source=PARENT_ID),
        Column("record_properties", "The values of the object.", "json", is_free_form=True),
    ),
)
