"""Metrics: the kinds of events. Klaviyo API reference, section "Metrics".

What belongs here: the streams of this section, as values. What does not: anything that acts.
Names repeat across integrations and change; the id is what stays.
Source: https://developers.klaviyo.com/en/reference/metrics_api_overview, revision 2026-07-15.
"""

from klaviyo_assets.model.column import Column
from klaviyo_assets.model.stream import Collection, Stream
from klaviyo_assets.model.tiers import M

METRICS = Stream(
    name="metrics",
    about="One row per metric: a kind of event, from one integration.",
    section="Metrics",
    # Pages of up to 200, and `page[size]` is refused. Nothing is included: every event is joined to
    # this table, so it must not need another scope than its own.
    source=Collection(path="/api/metrics", page_size=None),
    tier=M,
    scopes=("metrics:read",),
    ignores_start=True,
    columns=(
        Column("name", "The metric's name; not unique."),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        # Published as free-form; recorded answers hold object, id, key, name and category, the
        # last as a text or as an object.
        Column("integration", "Where its events come from: id, key, name, category.", "json"),
    ),
)
