"""Metrics: the kinds of events. Klaviyo API reference, section "Metrics"."""

from klaviyo_assets.model.column import Column, RelatedId, RelatedIds, attribute_column
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.stream import (
    PARENT_ID,
    TIER_M,
    TIER_S,
    TIER_XS,
    AdditionalField,
    Children,
    Collection,
    Stream,
    ViewColumn,
)

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

CUSTOM_METRICS = Stream(
    name="custom_metrics",
    description="One row per custom metric: one that the account made out of others.",
    section="Metrics",
    # Klaviyo sends the ids of a to-many relationship only with `include`; it costs no request.
    source=Collection(path="/api/custom-metrics", page_size=None, include=("metrics",)),
    tier=TIER_S,
    scopes=("metrics:read",),
    is_exempt_from_start_date=True,
    has_soft_deletes=True,
    columns=(
        Column("name", "The metric's name."),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        attribute_column("definition.aggregation_method", "What is summed up: count or value."),
        attribute_column("definition.metric_groups", "The metrics and their filters.", "json"),
        Column("metric_ids", "Its metrics.", "ids", declared_source=RelatedIds("metrics")),
    ),
)

MAPPED_METRICS = Stream(
    name="mapped_metrics",
    description="One row per meaning, such as revenue, and the metric that has it.",
    section="Metrics",
    # Klaviyo sends the ids only with `include`; it costs no request.
    source=Collection(
        path="/api/mapped-metrics", page_size=None, include=("custom-metric", "metric")
    ),
    tier=TIER_S,
    scopes=("metrics:read",),
    is_exempt_from_start_date=True,
    has_soft_deletes=True,
    columns=(
        Column("updated", "When the account last chose.", "timestamp"),
        Column("metric_id", "The metric.", declared_source=RelatedId("metric")),
        Column(
            "custom_metric_id",
            "The custom metric, where it is one.",
            declared_source=RelatedId("custom-metric"),
        ),
    ),
)

METRIC_PROPERTIES = Stream(
    name="metric_properties",
    description="One row per property that events of a metric have.",
    section="Metrics",
    source=Children(
        parent="metrics",
        path="/api/metrics/{id}/metric-properties",
        page_size=None,
        additional_fields=(AdditionalField(resource="metric-property", name="sample_values"),),
    ),
    # 15 requests a minute: 200 metrics take 14 minutes.
    tier=TIER_XS,
    scopes=("metrics:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("metric_id", "The metric.", declared_source=PARENT_ID),
        Column("label", "The property as people see it."),
        Column("property", "Its name in event_properties."),
        Column("inferred_type", "The type that Klaviyo took it for."),
        Column("sample_values", "Some of its values.", "json", is_free_form=True),
    ),
)

AGGREGATE_MEASUREMENTS: dict[str, str] = {
    "count": "Events.",
    "sum_value": "Sum of the events' values.",
    "unique": "Profiles with an event; in SQL the name needs double quotes.",
}
"""What metric aggregates measure, with what it counts."""

AGGREGATE_DIMENSIONS = (
    "$attributed_channel",
    "$attributed_flow",
    "$attributed_message",
    "$message",
)
"""By what each metric is counted beside its total, each at a request of a metric and year; Klaviyo
offers more, such as `Email Domain` and `URL`. Orders are credited to a message, while opens and
clicks are of one: `$message`."""

METRIC_AGGREGATES = Stream(
    name="metric_aggregates",
    description="One row per day, metric, dimension and value of it: events by when they happened, "
    "in total and by what they are credited to.",
    section="Metrics",
    source=ReportEndpoint(
        path="/api/metric-aggregates",
        type="metric-aggregate",
        subject="metric",
        metric="event",
        interval="day",
        max_days=364,
        group_by=("dimension", "dimension_value"),
        dimensions=AGGREGATE_DIMENSIONS,
        statistics=tuple(AGGREGATE_MEASUREMENTS),
    ),
    key=("date", "metric_id", "dimension", "dimension_value"),
    partitioning="metric and month",
    tier=TIER_S,
    scopes=("metrics:read",),
    columns=(
        Column("date", "The day of the events, in the account's time zone.", "date"),
        Column("metric_id", "The metric of the events."),
        Column("dimension", "By what the row groups, as Klaviyo names it; total: by nothing."),
        Column("dimension_value", "The value of the dimension; empty: events without one."),
        *(
            Column(
                name,
                f"{about} {'Not to be added up.' if name == 'unique' else 'Days add up.'}",
                "number",
                is_additive=name != "unique",
            )
            for name, about in AGGREGATE_MEASUREMENTS.items()
        ),
        Column("is_final", "Whether late events were no longer expected.", "boolean"),
        Column("fetched_at", "When Klaviyo computed the row, UTC.", "timestamp"),
    ),
    view_columns=(
        ViewColumn(
            column=Column("metric_name", "The metric's name, as `metrics` has it now."),
            sql="name",
            table="metrics",
            joined_on="metric_id",
        ),
    ),
    is_opt_in=True,
)
