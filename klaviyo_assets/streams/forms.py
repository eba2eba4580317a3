"""Forms: where people sign up. Klaviyo API reference, section "Forms"."""

from klaviyo_assets.model.column import Column, attribute_column
from klaviyo_assets.model.stream import (
    PARENT_ID,
    TIER_S,
    Children,
    Collection,
    Cursor,
    Detail,
    Stream,
)

FORMS = Stream(
    name="forms",
    description="One row per sign-up form.",
    section="Forms",
    source=Collection(path="/api/forms", page_size=100),
    cursor=Cursor(column="updated_at", field="updated_at"),
    tier=TIER_S,
    scopes=("forms:read",),
    has_soft_deletes=True,
    columns=(
        Column("name", "The form's name."),
        Column("status", "Whether visitors see it: live or draft."),
        Column("ab_test", "Whether versions are being compared.", "boolean"),
        Column("created_at", "When it was created.", "timestamp"),
        Column("updated_at", "When it last changed.", "timestamp"),
    ),
)

FORM_VERSIONS = Stream(
    name="form_versions",
    description="One row per version of a form.",
    section="Forms",
    source=Children(
        parent="forms",
        path="/api/forms/{id}/form-versions",
        page_size=100,
    ),
    tier=TIER_S,
    scopes=("forms:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("form_id", "Its form.", declared_source=PARENT_ID),
        Column("form_type", "How it appears: popup, embed, full_page, flyout or banner."),
        Column("variation_name", "The version's name."),
        attribute_column("ab_test.variation_name", "Its name in the comparison of versions."),
        Column("status", "Whether visitors see it: live or draft."),
        Column("created_at", "When it was created.", "timestamp"),
        Column("updated_at", "When it last changed.", "timestamp"),
    ),
)

FORM_DEFINITIONS = Stream(
    name="form_definitions",
    description="One row per form: all of forms, and what its versions consist of.",
    section="Forms",
    source=Detail(
        parent="forms", path="/api/forms/{id}", version_column="updated_at", resource="form"
    ),
    tier=TIER_S,
    scopes=("forms:read",),
    is_opt_in=True,
    history_columns=("definition_versions",),
    columns=(
        # One JSON document: its steps, blocks and styles have no meaning on their own.
        attribute_column("definition.versions", "Every version with its blocks.", "json"),
    ),
)
