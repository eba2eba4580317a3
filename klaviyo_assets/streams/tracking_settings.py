"""Tracking settings: UTM parameters of links. Klaviyo reference, section "Tracking Settings"."""

from klaviyo_assets.model.column import Column, attribute_column
from klaviyo_assets.model.stream import TIER_M, Collection, Stream

PARAMETERS = ("utm_source", "utm_medium", "utm_campaign", "utm_id", "utm_term")

TRACKING_SETTINGS = Stream(
    name="tracking_settings",
    description="One row per account: how links are tracked.",
    section="Tracking Settings",
    source=Collection(path="/api/tracking-settings", page_size=1),
    tier=TIER_M,
    scopes=("tracking-settings:read",),
    is_exempt_from_start_date=True,
    columns=(
        Column("auto_add_parameters", "Whether every link gets them.", "boolean"),
        *(
            attribute_column(f"{name}.{kind}", f"{name} of links in a {kind}.", "json")
            for name in PARAMETERS
            for kind in ("flow", "campaign")
        ),
        Column("custom_parameters", "Parameters of the account's own.", "json"),
    ),
)
