"""Templates: how emails look. Klaviyo API reference, section "Templates"."""

from klaviyo_assets.model.column import Column
from klaviyo_assets.model.stream import TIER_L, AdditionalField, Collection, Cursor, Stream

EMAIL_TEMPLATES = Stream(
    name="email_templates",
    description="One row per email template.",
    section="Templates",
    source=Collection(
        path="/api/templates",
        page_size=10,
        additional_fields=(AdditionalField(resource="template", name="definition"),),
    ),
    cursor=Cursor(column="updated", field="updated"),
    tier=TIER_L,
    scopes=("templates:read",),
    has_soft_deletes=True,
    # A signed address, valid for a day: a new one comes with every response.
    ignored_attributes=frozenset({"screenshot_url"}),
    history_columns=("name", "editor_type", "html", "text", "amp", "definition"),
    columns=(
        Column("name", "The template's name."),
        Column("editor_type", "How it is edited: SYSTEM_DRAGGABLE, USER_DRAGGABLE, CODE, SIMPLE."),
        Column("html", "The HTML as rendered; may be large."),
        Column("text", "The plain text version."),
        Column("amp", "The AMP version."),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        # One JSON document: its sections and styles have no meaning on their own.
        Column("definition", "The building blocks; SYSTEM_DRAGGABLE templates only.", "json"),
    ),
)

UNIVERSAL_CONTENT = Stream(
    name="universal_content",
    description="One row per block or section that several templates share.",
    section="Templates",
    source=Collection(path="/api/template-universal-content", page_size=100),
    cursor=Cursor(column="updated", field="updated"),
    tier=TIER_L,
    scopes=("templates:read",),
    has_soft_deletes=True,
    columns=(
        Column("name", "Its name."),
        Column("definition", "The block or section, whole.", "json"),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        Column("screenshot_status", "Whether there is a picture of it: completed, stale, ..."),
        Column("screenshot_url", "The picture; the address is good for a day."),
    ),
)
