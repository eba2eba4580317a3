"""Coupons: offers and their codes. Klaviyo API reference, section "Coupons"."""

from klaviyo_assets.model.column import Column, RelatedId, attribute_column
from klaviyo_assets.model.stream import PARENT_ID, TIER_L, Children, Collection, Stream

COUPONS = Stream(
    name="coupons",
    description="One row per coupon: an offer that codes are made for.",
    section="Coupons",
    source=Collection(path="/api/coupons", page_size=100),
    tier=TIER_L,
    scopes=("coupons:read",),
    has_soft_deletes=True,
    columns=(
        Column("external_id", "The shop's own id."),
        Column("description", "What the offer is."),
        Column("monitor_configuration", "When to warn that codes run out.", "json"),
        attribute_column("assigner_configuration.used", "What a used code is followed by."),
        attribute_column(
            "assigner_configuration.unused_expired", "What an expired code is followed by."
        ),
    ),
)

COUPON_CODES = Stream(
    name="coupon_codes",
    description="One row per code of a coupon.",
    section="Coupons",
    source=Children(
        parent="coupons",
        path="/api/coupons/{id}/coupon-codes",
        page_size=100,
    ),
    tier=TIER_L,
    scopes=("coupon-codes:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("coupon_id", "The coupon.", declared_source=PARENT_ID),
        Column("unique_code", "What is typed in at the checkout."),
        Column("expires_at", "When it stops being worth anything.", "timestamp"),
        Column("status", "UNASSIGNED, ASSIGNED_TO_PROFILE, USED, ..."),
        Column("profile_id", "Whom it was given to.", declared_source=RelatedId("profile")),
    ),
)
