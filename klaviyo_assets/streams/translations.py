"""Translations: texts in other languages. Klaviyo API reference, section "Translations"."""

from klaviyo_assets.model.column import Column, RelatedId
from klaviyo_assets.model.stream import TIER_M, Collection, Stream

TRANSLATIONS = Stream(
    name="translations",
    description="One row per translation of a message, a template or a consent page.",
    section="Translations",
    source=Collection(
        path="/api/translations",
        page_size=100,
        include=("campaign-variation", "flow-message", "template", "template-universal-content"),
    ),
    tier=TIER_M,
    scopes=("translations:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    since="2026-10-15",
    columns=(
        Column("source_locale", "Language of the original, such as en."),
        Column("target_locales", "Languages that it is translated into.", "ids"),
        Column("fallback_locale", "Language for people whose own is not among them."),
        Column("channel", "The channel: email, sms, mobile_push, whatsapp, web."),
        Column("metadata", "What Klaviyo keeps with it, whole.", "json"),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        *(
            Column(f"{name.replace('-', '_')}_id", about, declared_source=RelatedId(name))
            for name, about in (
                ("campaign-variation", "The variation of a campaign's message that it is of."),
                ("flow-message", "The message of a flow that it is of."),
                ("template", "The template that it is of."),
                ("template-universal-content", "The shared content that it is of."),
                ("consent-page", "The consent page that it is of."),
            )
        ),
    ),
)
