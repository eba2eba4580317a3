"""Reviews: what people say of products. Klaviyo API reference, section "Reviews"."""

from klaviyo_assets.model.column import Column, RelatedId, RelatedIds, attribute_column
from klaviyo_assets.model.stream import TIER_M, Collection, Slice, Stream

REVIEWS = Stream(
    name="reviews",
    description="One row per review, rating or question, unpublished ones included.",
    section="Reviews",
    source=Collection(
        path="/api/reviews",
        page_size=100,
        # What a list without the filter leaves out is not documented.
        slices=(Slice(name="status=all", filter='equals(status,"all")'),),
        include=("events",),
    ),
    tier=TIER_M,
    scopes=("reviews:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("email", "Address of who wrote it.", personal_kind="email"),
        Column("status", "Whether it is shown, and why not: value, rejection_reason.", "json"),
        Column("verified", "Whether the writer bought the product.", "boolean"),
        Column("review_type", "review, rating, question or store."),
        Column("created", "When it was written.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        Column("images", "Addresses of pictures sent along.", "ids", is_personal=True),
        attribute_column("product.url", "The product's page."),
        attribute_column("product.name", "The product's name."),
        attribute_column("product.image_url", "A picture of the product."),
        attribute_column("product.external_id", "The shop's own id of the product."),
        Column("rating", "Stars, one to five.", "integer"),
        Column("author", "The name that is shown.", is_personal=True),
        Column("content", "What was written.", is_personal=True),
        Column("title", "Its heading.", is_personal=True),
        Column("smart_quote", "The sentence that Klaviyo picked out.", is_personal=True),
        attribute_column("public_reply.content", "The shop's answer.", is_personal=True),
        attribute_column("public_reply.author", "Who answered.", is_personal=True),
        attribute_column("public_reply.updated", "When the answer last changed.", "timestamp"),
        Column("event_ids", "The events it made.", "ids", declared_source=RelatedIds("events")),
        Column("item_id", "The item of the catalog.", declared_source=RelatedId("item")),
    ),
)
