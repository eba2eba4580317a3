"""Accounts: who the key belongs to. Klaviyo API reference, section "Accounts"."""

from klaviyo_assets.model.column import Column, attribute_column
from klaviyo_assets.model.stream import TIER_XS, Collection, Stream

ACCOUNTS = Stream(
    name="accounts",
    description="One row per Klaviyo account that the key opens: always one.",
    section="Accounts",
    source=Collection(path="/api/accounts", page_size=None),
    tier=TIER_XS,
    scopes=("accounts:read",),
    is_exempt_from_start_date=True,
    columns=(
        Column("test_account", "Whether Klaviyo marks it as a test account.", "boolean"),
        attribute_column(
            "contact_information.default_sender_name",
            "Sender name put into new messages.",
            is_personal=True,
        ),
        attribute_column(
            "contact_information.default_sender_email",
            "Sender address of new messages.",
            personal_kind="email",
        ),
        attribute_column("contact_information.website_url", "The organization's website."),
        attribute_column("contact_information.organization_name", "The organization's name."),
        attribute_column(
            "contact_information.street_address.address1", "Street address, first line."
        ),
        attribute_column(
            "contact_information.street_address.address2", "Street address, second line."
        ),
        attribute_column("contact_information.street_address.city", "City of the street address."),
        attribute_column(
            "contact_information.street_address.region", "State or region of the address."
        ),
        attribute_column(
            "contact_information.street_address.country", "Country of the street address."
        ),
        attribute_column(
            "contact_information.street_address.zip", "Postal code of the street address."
        ),
        Column("industry", "The line of business that the account gives."),
        Column("timezone", "IANA time zone that Klaviyo counts the account's days in."),
        Column("preferred_currency", "ISO 4217 code of the currency that values are shown in."),
        Column("public_api_key", "The public key, six characters; the same as the id."),
        Column("locale", "Language tag that numbers and dates are shown by."),
    ),
)
