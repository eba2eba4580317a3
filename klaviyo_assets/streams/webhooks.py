"""Webhooks: what Klaviyo tells other systems. Klaviyo API reference, section "Webhooks"."""

from klaviyo_assets.model.column import Column, RelatedIds
from klaviyo_assets.model.stream import TIER_XS, Collection, Stream

WEBHOOKS = Stream(
    name="webhooks",
    description="One row per webhook.",
    section="Webhooks",
    # Klaviyo sends the ids of a to-many relationship only with `include`; it costs no request.
    source=Collection(path="/api/webhooks", page_size=None, include=("webhook-topics",)),
    tier=TIER_XS,
    scopes=("webhooks:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("name", "The webhook's name."),
        Column("description", "What it is for."),
        Column("endpoint_url", "Where it sends to; Klaviyo masks it."),
        Column("enabled", "Whether it sends.", "boolean"),
        Column("created_at", "When it was created.", "timestamp"),
        Column("updated_at", "When it last changed.", "timestamp"),
        Column(
            "webhook_topic_ids",
            "What it sends.",
            "ids",
            declared_source=RelatedIds("webhook-topics"),
        ),
    ),
)

WEBHOOK_TOPICS = Stream(
    name="webhook_topics",
    description="One row per topic that a webhook can have: its id says all.",
    section="Webhooks",
    source=Collection(path="/api/webhook-topics", page_size=None),
    tier=TIER_XS,
    scopes=("webhooks:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(),
)
