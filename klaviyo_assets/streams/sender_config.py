"""Senders of text messages. Klaviyo API reference, section "Sender Config"."""

from klaviyo_assets.model.column import Column, RelatedId, attribute_column
from klaviyo_assets.model.stream import TIER_S, Collection, Stream

TEXT_MESSAGING_SENDERS = Stream(
    name="text_messaging_senders",
    description="One row per number or name that text messages are sent from.",
    section="Sender Config",
    source=Collection(
        path="/api/text-messaging-senders",
        page_size=20,
        include=("text-messaging-sender-registration",),
    ),
    tier=TIER_S,
    scopes=("sender-config:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    since="2026-10-15",
    columns=(
        Column("sender_type", "Its kind: toll_free, short_code, long_code, alpha, ..."),
        attribute_column("sender_details.country", "Country, two letters (ISO 3166-1)."),
        Column("status", "Where it stands: active, pending_registration, suspended, ..."),
        Column("created_at", "When it was created.", "timestamp"),
        Column(
            "forwarding_number",
            "Number that calls are passed on to; NULL: none.",
            personal_kind="phone_number",
        ),
        Column(
            "sender_identifier",
            "What recipients see: mostly a number in E.164 form.",
            personal_kind="phone_number",
        ),
        Column(
            "text_messaging_sender_registration_id",
            "Its registration with the carriers.",
            declared_source=RelatedId("text-messaging-sender-registration"),
        ),
    ),
)
