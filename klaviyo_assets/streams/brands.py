"""Brands: how the account's emails look. Klaviyo API reference, section "Brands"."""

from klaviyo_assets.model.column import Column, RelatedId, attribute_column
from klaviyo_assets.model.stream import TIER_M, Collection, Stream

SCOPES = ("brands:read",)
SINCE = "2026-10-15"

BRAND_BUTTONS = Stream(
    name="brand_buttons",
    description="One row per button of the brand.",
    section="Brands",
    source=Collection(path="/api/brand-buttons", page_size=None),
    tier=TIER_M,
    scopes=SCOPES,
    is_opt_in=True,
    has_soft_deletes=True,
    since=SINCE,
    columns=(
        Column("name", "The button's name."),
        Column("is_primary", "Whether it is the main button.", "boolean"),
        attribute_column("style.background_color", "Colour of the button."),
        attribute_column("style.border_radius", "Radius of its corners, pixels.", "integer"),
        attribute_column("style.box_shadow", "Its shadow, as CSS writes it."),
        attribute_column("style.is_shadow_active", "Whether it has a shadow.", "boolean"),
        attribute_column("border.border_color", "Colour of its border."),
        attribute_column("border.border_style", "Style of its border: solid, dashed, ..."),
        attribute_column("border.border_width", "Width of its border, pixels.", "integer"),
        attribute_column("border.is_border_active", "Whether it has a border.", "boolean"),
        *(
            attribute_column(
                f"spacing.padding_{side}", f"Space inside at the {side}, pixels.", "integer"
            )
            for side in ("top", "right", "bottom", "left")
        ),
        attribute_column("text.color", "Colour of its text."),
        attribute_column("text.font_size", "Size of its text, pixels.", "integer"),
        attribute_column("text.font_style", "Style of its text: normal, italic."),
        attribute_column("text.font_family", "Fonts of its text."),
        attribute_column("text.font_weight", "Weight of its text, such as 400.", "integer"),
        attribute_column("text.letter_spacing", "Space between letters: a number or text.", "json"),
        attribute_column("text.text_decoration", "Decoration of its text, such as underline."),
        Column("preview_page_hex", "Colour that it is shown on in Klaviyo."),
    ),
)

BRAND_COLORS = Stream(
    name="brand_colors",
    description="One row per palette of the brand.",
    section="Brands",
    source=Collection(path="/api/brand-colors", page_size=None),
    tier=TIER_M,
    scopes=SCOPES,
    is_opt_in=True,
    has_soft_deletes=True,
    since=SINCE,
    columns=(
        Column("name", "The palette's name."),
        Column("colors", "Its colours in order, each with name and hex.", "json"),
    ),
)

BRAND_EMAIL_DEFAULTS = Stream(
    name="brand_email_defaults",
    description="One row per set of styles that new emails start with.",
    section="Brands",
    source=Collection(
        path="/api/brand-email-defaults",
        page_size=None,
        include=("brand-button", "brand-logo", "brand-social-group"),
    ),
    tier=TIER_M,
    scopes=SCOPES,
    is_opt_in=True,
    has_soft_deletes=True,
    since=SINCE,
    columns=(
        Column("body", "Colours and fonts of the body.", "json"),
        Column("header", "Colours, links and logo width of the header.", "json"),
        Column("footer", "Colours and fonts of the footer.", "json"),
        *(
            Column(f"{name.replace('-', '_')}_id", about, declared_source=RelatedId(name))
            for name, about in (
                ("brand-button", "Its button."),
                ("brand-logo", "Its logo."),
                ("brand-social-group", "Its group of links to social media."),
            )
        ),
    ),
)

BRAND_LOGOS = Stream(
    name="brand_logos",
    description="One row per logo of the brand.",
    section="Brands",
    source=Collection(path="/api/brand-logos", page_size=None, include=("image",)),
    tier=TIER_M,
    scopes=SCOPES,
    is_opt_in=True,
    has_soft_deletes=True,
    since=SINCE,
    columns=(
        Column("width", "Width, pixels.", "integer"),
        Column("height", "Height, pixels.", "integer"),
        Column("alt_text", "Text for those who cannot see it."),
        Column("link_url", "Where a click on it leads."),
        Column("name", "The logo's name."),
        Column("image_id", "The image.", declared_source=RelatedId("image")),
    ),
)

BRAND_SOCIAL_GROUPS = Stream(
    name="brand_social_groups",
    description="One row per group of links to the brand's pages in social media.",
    section="Brands",
    source=Collection(path="/api/brand-social-groups", page_size=None),
    tier=TIER_M,
    scopes=SCOPES,
    is_opt_in=True,
    has_soft_deletes=True,
    since=SINCE,
    columns=(
        Column("name", "The group's name."),
        Column("social_links", "Its links in order, each with its platform.", "json"),
    ),
)
