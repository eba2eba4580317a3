"""Events: what people did and what was done to them. Klaviyo API reference, section "Events"."""

from klaviyo_assets.model.column import Column, FieldPath, FirstIncludedId, Included, RelatedId
from klaviyo_assets.model.stream import (
    POSITION_COLUMN,
    TIER_XL,
    Collection,
    Cursor,
    Join,
    ParentReference,
    Stream,
    Unnest,
    ViewColumn,
)


def attributed_id_column(name: str, description: str) -> Column:
    """Return the column `attributed_<name>_id`, read from the first attribution of an event."""
    related = {"event": "attributed-event"}.get(name, name.replace("_", "-"))
    return Column(
        f"attributed_{name}_id",
        description,
        declared_source=FirstIncludedId("attributions", related),
    )


def event_property(name: str) -> str:
    """Return the SQL of a member of the event's properties, as text."""
    return f"json_extract_string(event_properties, '$.\"{name}\"')"


_MACHINE_FLAGS = ", ".join(
    f"lower({event_property(name)})" for name in ("machine_open", "Apple Privacy Open")
)

EVENT_VIEW_COLUMNS = (
    ViewColumn(
        column=Column("value", "What it is worth: $value of its properties, a number.", "number"),
        sql=f"TRY_CAST({event_property('$value')} AS DOUBLE)",
    ),
    ViewColumn(
        column=Column("value_currency", "Currency of value: $value_currency of its properties."),
        sql=event_property("$value_currency"),
    ),
    ViewColumn(
        column=Column(
            "is_machine_open",
            "Whether a machine opened the email, or may have; NULL where Klaviyo does not say.",
            "boolean",
        ),
        sql=f"CASE WHEN 'true' IN ({_MACHINE_FLAGS}) THEN true "
        f"WHEN 'false' IN ({_MACHINE_FLAGS}) THEN false END",
    ),
)
"""Properties that are asked for most. Readers of the Delta table find them in the JSON."""

EVENTS = Stream(
    name="events",
    description="One row per event recorded on a profile.",
    section="Events",
    source=Collection(
        path="/api/events",
        page_size=1000,
        # Since revision 2024-10-15 attributions are only sent with `include`. The documentation
        # promises a metric's id only with `include`, though recorded responses always had it.
        include=("metric", "attributions"),
        has_metric_filter=True,
    ),
    cursor=Cursor(column="datetime", field="datetime", is_version=False, has_lookback=True),
    partitioning="day",
    tier=TIER_XL,
    scopes=("events:read",),
    view_columns=EVENT_VIEW_COLUMNS,
    columns=(
        Column("timestamp", "When it happened, in whole seconds since 1970 UTC.", "integer"),
        Column(
            "datetime",
            "When it happened; taken from timestamp where Klaviyo leaves it out.",
            "timestamp",
            declared_source=FieldPath("datetime", epoch_seconds_path="timestamp"),
        ),
        Column("uuid", "Klaviyo's universally unique identifier of the event."),
        Column(
            "event_properties",
            "Everything sent along; differs by metric.",
            "json",
            is_free_form=True,
        ),
        Column("metric_id", "What kind of event it is.", declared_source=RelatedId("metric")),
        Column(
            "profile_id",
            "Whom it belongs to; NULL once deleted.",
            declared_source=RelatedId("profile"),
        ),
        Column(
            "attributions",
            "The messages Klaviyo credits the event to, whole.",
            "json",
            declared_source=Included("attributions"),
        ),
        attributed_id_column("campaign", "Campaign of the first attribution."),
        attributed_id_column("campaign_message", "Campaign message of the first attribution."),
        attributed_id_column("flow", "Flow of the first attribution."),
        attributed_id_column("flow_message", "Flow message of the first attribution."),
        attributed_id_column(
            "event", "The open, click or receipt that earned the first attribution."
        ),
    ),
)


def related_column(name: str, description: str) -> Column:
    """Return the column with the id that an attribution relates to under its column's name."""
    relationship = name.removesuffix("_id").replace("_", "-")
    return Column(
        name, description, declared_source=FieldPath(f"relationships.{relationship}.data.id")
    )


EVENT_ATTRIBUTIONS = Stream(
    name="event_attributions",
    description="One row per event and message that Klaviyo credits it to.",
    section="Events",
    source=Unnest(
        parent="events",
        array="attributions",
        parent_columns={
            "event_id": "id",
            "event_datetime": "datetime",
            "event_metric_id": "metric_id",
            "event_profile_id": "profile_id",
        },
        reference=ParentReference(
            column="attributed_event_id",
            columns={
                "attributed_event_datetime": "datetime",
                "attributed_event_metric_id": "metric_id",
            },
        ),
    ),
    tier=None,
    scopes=("events:read",),
    key=("event_id", POSITION_COLUMN),
    columns=(
        Column("event_id", "The event that is credited."),
        Column(
            POSITION_COLUMN, "Place among the event's attributions, 1 for the first.", "integer"
        ),
        Column(
            "attribution_id", "Klaviyo's id of the attribution.", declared_source=FieldPath("id")
        ),
        Column("event_datetime", "When the credited event happened.", "timestamp"),
        Column("event_metric_id", "What kind of event the credited one is."),
        Column("event_profile_id", "Whom the credited event belongs to; NULL once deleted."),
        related_column("campaign_id", "Campaign that is given the credit; NULL for a flow."),
        related_column("campaign_message_id", "Message of the campaign."),
        related_column("flow_id", "Flow that is given the credit; NULL for a campaign."),
        related_column("flow_message_id", "Message of the flow."),
        related_column("flow_message_variation_id", "Variation of the flow's message, in a test."),
        related_column("attributed_event_id", "The open, click or receipt that earned the credit."),
        Column(
            "attributed_event_datetime",
            "When that open, click or receipt happened; NULL if it is not stored.",
            "timestamp",
        ),
        Column(
            "attributed_event_metric_id",
            "What kind of event earned the credit; NULL if not stored.",
        ),
    ),
)

EVENTS_DETAILED = Stream(
    name="events_detailed",
    description="One row per event: all of events, and the name of its metric as it is now.",
    section="Events",
    source=Join(
        left="events",
        right="metrics",
        join_column="metric_id",
        columns={"metric_name": "name", "metric_integration_name": "integration.name"},
    ),
    tier=None,
    scopes=("events:read", "metrics:read"),
    columns=(
        Column("metric_name", "Name of the metric, as the metrics table has it now."),
        Column("metric_integration_name", "Name of the integration that the metric comes from."),
    ),
    view_columns=(
        ViewColumn(
            column=Column(
                "date",
                "Its day in the account's zone; NULL where accounts is not stored.",
                "date",
            ),
            # A zone that DuckDB does not know would be an error of every query.
            sql="timezone((SELECT max(timezone) FROM {table} WHERE timezone IN "
            "(SELECT name FROM pg_timezone_names())), datetime)",
            table="accounts",
        ),
    ),
)
