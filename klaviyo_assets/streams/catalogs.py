"""Catalogs: what the account sells. Klaviyo API reference, section "Catalogs"."""

from klaviyo_assets.model.column import Column, RelatedId, RelatedIds
from klaviyo_assets.model.stream import TIER_XL, Collection, Stream

PRODUCT_COLUMNS = (
    Column("price", "The price shown in messages, in the account's currency.", "number"),
    Column("url", "Its page in the shop."),
    Column("image_full_url", "Address of a full picture."),
    Column("image_thumbnail_url", "Address of a small picture."),
    Column("images", "Addresses of further pictures.", "ids"),
    Column("custom_metadata", "What the shop sent along.", "json", is_free_form=True),
    Column("published", "Whether it may be shown in messages.", "boolean"),
    Column("created", "When it was created.", "timestamp"),
    Column("updated", "When it last changed.", "timestamp"),
)
"""What items and their variants share."""

CATALOG_ITEMS = Stream(
    name="catalog_items",
    description="One row per item of the catalog.",
    section="Catalogs",
    # Klaviyo sends the ids of a to-many relationship only with `include`; it costs no request.
    source=Collection(path="/api/catalog-items", page_size=100, include=("variants",)),
    tier=TIER_XL,
    scopes=("catalogs:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("external_id", "The shop's own id."),
        Column("title", "Its name."),
        Column("description", "What is said about it."),
        *PRODUCT_COLUMNS,
        Column("variant_ids", "Its variants.", "ids", declared_source=RelatedIds("variants")),
    ),
)

CATALOG_VARIANTS = Stream(
    name="catalog_variants",
    description="One row per variant of an item: a size, a colour.",
    section="Catalogs",
    source=Collection(path="/api/catalog-variants", page_size=100),
    tier=TIER_XL,
    scopes=("catalogs:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("external_id", "The shop's own id."),
        Column("title", "Its name."),
        Column("description", "What is said about it."),
        Column("sku", "The shop's stock number."),
        Column("inventory_policy", "Whether feeds show it: 0 and 2 always, 1 in stock.", "integer"),
        Column("inventory_quantity", "Pieces in stock.", "number"),
        *PRODUCT_COLUMNS,
        Column("item_id", "Its item, where Klaviyo says it.", declared_source=RelatedId("item")),
    ),
)

CATALOG_CATEGORIES = Stream(
    name="catalog_categories",
    description="One row per category of the catalog.",
    section="Catalogs",
    source=Collection(path="/api/catalog-categories", page_size=100),
    tier=TIER_XL,
    scopes=("catalogs:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("external_id", "The shop's own id."),
        Column("name", "Its name."),
        Column("updated", "When it last changed.", "timestamp"),
    ),
)
