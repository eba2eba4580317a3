"""Metrics: the kinds of events. Klaviyo API reference, section "Metrics"."""

from klaviyo_assets.model.column import Column
from klaviyo_assets.model.stream import TIER_M, Collection, Stream

METRICS = Stream(
    name="metrics",
    description="One row per metric: a kind of event, from one integration.",
    section="Metrics",
    # Pages have up to 200 records, and `page[size]` is refused. Nothing is included, because that
    # may need another scope, and all events are joined to this table.
    source=Collection(path="/api/metrics", page_size=None),
    tier=TIER_M,
    scopes=("metrics:read",),
    is_exempt_from_start_date=True,
    columns=(
        Column("name", "The metric's name; not unique."),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        # Published as free-form; recorded responses have object, id, key, name and category, the
        # last as text or as an object.
        Column("integration", "Where its events come from: id, key, name, category.", "json"),
    ),
)
