"""Usage: what of the plan is used up. Klaviyo API reference, section "Usage"."""

from klaviyo_assets.model.column import Column
from klaviyo_assets.model.stream import TIER_M, Collection, Stream

BILLING_USAGE = Stream(
    name="billing_usage",
    description="One row per kind of usage that the plan limits: its id says which.",
    section="Usage",
    source=Collection(path="/api/billing-usage", page_size=None),
    tier=TIER_M,
    scopes=("usage:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    since="2026-10-15",
    # Not `as_of`: it is another at every read.
    history_columns=("usage_used", "usage_max", "unit", "period_start", "period_end"),
    columns=(
        Column("usage_used", "Used in this billing period so far.", "number"),
        Column("usage_max", "What the plan allows in the period; NULL: no limit.", "integer"),
        Column("unit", "What is counted: messages, credits, profiles, USD, ..."),
        Column("period_start", "When the billing period began.", "timestamp"),
        Column("period_end", "When the billing period ends, exclusive.", "timestamp"),
        Column("as_of", "When Klaviyo counted.", "timestamp"),
    ),
)
