"""Images: pictures for messages. Klaviyo API reference, section "Images"."""

from klaviyo_assets.model.column import Column
from klaviyo_assets.model.stream import TIER_M, Collection, Cursor, Slice, Stream

IMAGES = Stream(
    name="images",
    description="One row per picture in the account's library, hidden ones included.",
    section="Images",
    source=Collection(
        path="/api/images",
        page_size=100,
        # Without a filter Klaviyo leaves hidden images out; hiding one changes its slice.
        slices=(
            Slice(name="hidden=false", filter="equals(hidden,false)"),
            Slice(name="hidden=true", filter="equals(hidden,true)"),
        ),
    ),
    cursor=Cursor(column="updated_at", field="updated_at"),
    tier=TIER_M,
    scopes=("images:read",),
    has_soft_deletes=True,
    columns=(
        Column("name", "The picture's name."),
        Column("image_url", "Its address."),
        Column("format", "Its format, such as jpeg."),
        Column("size", "Its size in bytes.", "integer"),
        Column("hidden", "Whether the library leaves it out.", "boolean"),
        Column("updated_at", "When it last changed.", "timestamp"),
    ),
)
