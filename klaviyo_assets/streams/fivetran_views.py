"""The five sources of the dbt package `fivetran/klaviyo`, as views of our relations.

Columns and types are those that release 1.4.1 of https://github.com/fivetran/dbt_klaviyo selects
(`macros/staging`). It casts times to TIMESTAMP, so they are naive here, in UTC: a time with a zone
would be shifted by the zone of the session.
"""

from collections.abc import Mapping

from klaviyo_assets.model.column import ColumnType
from klaviyo_assets.model.view import MappedColumn, MappedSchema, MappedView

LEGACY_METRIC_NAMES: Mapping[str, str] = {
    "Received Text Message": "Received SMS",
    "Clicked Text Message": "Clicked SMS",
    "Sent Text Message": "Sent SMS",
    "Unsubscribed from Email Marketing": "Unsubscribed",
    "Unsubscribed from Text Messaging Marketing": "Unsubscribed from SMS",
}
"""Metrics that Klaviyo renamed in July 2026, and the names that the package's variables have."""

MERGED_AT, DELETED, SYNCED = "noticed_at", "_fivetran_deleted", "_fivetran_synced"


def naive_utc(column: str) -> str:
    """Return the SQL of a time with a zone as one without, in UTC."""
    return f"timezone('UTC', {column})"


def json_text(value: str, path: str) -> str:
    """Return the SQL of a text inside a JSON value."""
    return f"json_extract_string({value}, '{path}')"


def copied(name: str, description: str, column: str = "") -> MappedColumn:
    """Return a text column of the source under its new name."""
    return MappedColumn(name, "VARCHAR", f"s.{column or name}", description)


def moment(name: str, description: str, column: str = "") -> MappedColumn:
    """Return a time of the source, in UTC without a zone."""
    return MappedColumn(name, "TIMESTAMP", naive_utc(f"s.{column or name}"), description)


def bookkeeping(*, deleted: str = "s.deleted_at", changed: str = "") -> tuple[MappedColumn, ...]:
    """Return the two columns that every source has."""
    times = ", ".join(filter(None, ("s.synced_at", deleted, changed)))
    return (
        MappedColumn(
            DELETED,
            "BOOLEAN",
            f"{deleted} IS NOT NULL" if deleted else "false",
            "Whether a complete read missed it.",
        ),
        MappedColumn(
            SYNCED,
            "TIMESTAMP",
            naive_utc(f"greatest({times})"),
            "When the row was last read, marked as deleted or merged, in UTC.",
        ),
    )


_BOOKKEEPING_INPUTS: Mapping[str, ColumnType] = {
    "synced_at": "timestamp",
    "deleted_at": "timestamp",
}

_FLOW = json_text("event_properties", '$."$flow"')
_MESSAGE = json_text("event_properties", '$."$message"')
_CAMPAIGN_NAME = json_text("event_properties", '$."Campaign Name"')
_PARENT = json_text("attribution", '$.relationships."attributed-event".data.id')
_FLOW_MESSAGE = json_text("c.attribution", '$.relationships."flow-message".data.id')

_TYPE_CASES = " ".join(
    f"WHEN '{now}' THEN '{before}'" for now, before in LEGACY_METRIC_NAMES.items()
)

_EVENT_STEPS: Mapping[str, str] = {
    # The map has two survivors of one profile where its events went to two.
    "merges": "SELECT old_id, arg_max(survivor_id, noticed_at) AS survivor_id, "
    "max(noticed_at) AS noticed_at FROM profile_merges GROUP BY old_id",
    "chains": "SELECT old_id, survivor_id, noticed_at, 1 AS hops FROM merges UNION ALL "
    "SELECT c.old_id, m.survivor_id, greatest(c.noticed_at, m.noticed_at), c.hops + 1 "
    "FROM chains AS c JOIN merges AS m ON m.old_id = c.survivor_id WHERE c.hops < 10",
    "survivors": "SELECT old_id, arg_max(survivor_id, hops) AS survivor_id, "
    "arg_max(noticed_at, hops) AS noticed_at FROM chains GROUP BY old_id",
    # An event has a message's or a variation's id; old ones have that of the campaign itself.
    "messages": "SELECT message_id, any_value(campaign_id) AS campaign_id FROM (SELECT id AS "
    "campaign_id, unnest(list_concat([id], campaign_message_ids, campaign_variation_ids)) AS "
    "message_id FROM campaigns) GROUP BY message_id",
    "touches": "SELECT e.*, CASE WHEN e.own_flow_id IS NULL AND e.campaign_name IS NOT NULL "
    "THEN coalesce(m.campaign_id, e.message_id) END AS own_campaign_id FROM (SELECT *, "
    f"{_FLOW} AS own_flow_id, {_MESSAGE} AS message_id, "
    f"{_CAMPAIGN_NAME} AS campaign_name FROM events) AS e "
    "LEFT JOIN messages AS m ON m.message_id = e.message_id",
    "credits": f"SELECT event_id, position, attribution, {_PARENT} AS parent_id "
    "FROM (SELECT id AS event_id, unnest(json_extract(attributions, '$[*]')) AS attribution, "
    "unnest(range(CAST(json_array_length(attributions) AS BIGINT))) AS position FROM events "
    "WHERE json_array_length(attributions) > 0)",
    "parents": "SELECT id, datetime, coalesce(own_campaign_id, own_flow_id) AS touch_id "
    "FROM touches WHERE id IN (SELECT parent_id FROM credits)",
    # The package takes campaign and flow from the stored parent; without one, from the columns.
    "last_credits": "SELECT c.event_id, c.attribution, p.touch_id IS NULL AS is_parentless, "
    f"{json_text('c.attribution', '$.relationships.campaign.data.id')} AS campaign_id, "
    f"{json_text('c.attribution', '$.relationships.flow.data.id')} AS flow_id, "
    f"{_FLOW_MESSAGE} AS flow_message_id "
    "FROM credits AS c LEFT JOIN parents AS p ON p.id = c.parent_id QUALIFY row_number() OVER "
    "(PARTITION BY c.event_id ORDER BY p.datetime DESC NULLS LAST, c.position DESC) = 1",
}

_IS_CREDITED = "s.own_campaign_id IS NULL AND s.own_flow_id IS NULL AND c.is_parentless"

EVENT_VIEW = MappedView(
    name="event",
    description="One row per event. Its person is the survivor of merges, its attribution the last "
    "touch that Klaviyo credits.",
    inputs={
        "events": {
            "id": "string",
            "timestamp": "integer",
            "datetime": "timestamp",
            "uuid": "string",
            "event_properties": "json",
            "metric_id": "string",
            "profile_id": "string",
            "attributions": "json",
            "value": "number",
            "synced_at": "timestamp",
        },
        "metrics": {"id": "string", "name": "string"},
        "campaigns": {
            "id": "string",
            "campaign_message_ids": "ids",
            "campaign_variation_ids": "ids",
        },
        "profile_merges": {
            "old_id": "string",
            "survivor_id": "string",
            "noticed_at": "timestamp",
        },
    },
    steps=_EVENT_STEPS,
    source="touches AS s LEFT JOIN last_credits AS c ON c.event_id = s.id "
    "LEFT JOIN metrics AS k ON k.id = s.metric_id "
    "LEFT JOIN survivors AS p ON p.old_id = s.profile_id",
    columns=(
        copied("id", "Klaviyo's id of the event."),
        MappedColumn(
            "timestamp",
            "TIMESTAMP",
            f"coalesce({naive_utc('to_timestamp(s.timestamp)')}, {naive_utc('s.datetime')})",
            "When it happened, in whole seconds, UTC.",
        ),
        moment("datetime", "When it happened, UTC."),
        MappedColumn(
            "type",
            "VARCHAR",
            f"CASE k.name {_TYPE_CASES} ELSE k.name END",
            "Name of its metric; of those that Klaviyo renamed in July 2026 the former name, which "
            "the package's variables have.",
        ),
        copied("metric_id", "Its metric."),
        MappedColumn(
            "person_id",
            "VARCHAR",
            "coalesce(p.survivor_id, s.profile_id)",
            "Whom it belongs to; of a merged profile the survivor.",
        ),
        MappedColumn(
            "campaign_id",
            "VARCHAR",
            f"coalesce(s.own_campaign_id, CASE WHEN {_IS_CREDITED} THEN c.campaign_id END)",
            "Campaign whose message it is about; of a conversion only where the event that earned "
            "the credit is not stored.",
        ),
        MappedColumn(
            "flow_id",
            "VARCHAR",
            f"coalesce(s.own_flow_id, CASE WHEN {_IS_CREDITED} AND c.campaign_id IS NULL "
            "THEN c.flow_id END)",
            "Flow whose message it is about; of a conversion as for campaign_id.",
        ),
        MappedColumn(
            "flow_message_id",
            "VARCHAR",
            "CASE WHEN s.own_flow_id IS NOT NULL THEN s.message_id "
            f"WHEN {_IS_CREDITED} AND c.campaign_id IS NULL THEN c.flow_message_id END",
            "Message of that flow.",
        ),
        MappedColumn(
            "_variation",
            "VARCHAR",
            json_text("s.event_properties", '$."$variation"'),
            "Variation of that message: $variation of the properties.",
        ),
        copied("uuid", "Klaviyo's universally unique identifier of the event."),
        MappedColumn(
            "property_value",
            "DECIMAL(28, 6)",
            "CASE WHEN TRY_CAST(s.value AS DECIMAL(28, 6)) >= 0 "
            "THEN TRY_CAST(s.value AS DECIMAL(28, 6)) END",
            "$value of the properties. NULL where it is negative: the package drops the sign.",
        ),
        MappedColumn(
            "property_attribution",
            "VARCHAR",
            "CAST(c.attribution AS VARCHAR)",
            "Klaviyo's attribution as JSON; of several the one whose touch came last.",
        ),
        MappedColumn(
            "event_properties",
            "VARCHAR",
            "s.event_properties",
            "All properties as JSON, for klaviyo__event_pass_through_columns.",
        ),
        *bookkeeping(deleted="", changed=f"p.{MERGED_AT}"),
    ),
)

PERSON_VIEW = MappedView(
    name="person",
    description="One row per profile; one that was merged or deleted is marked as deleted.",
    inputs={
        "profiles": {
            "id": "string",
            **dict.fromkeys(
                ("email", "first_name", "last_name", "organization", "title", "phone_number"),
                "string",
            ),
            **dict.fromkeys(
                tuple(
                    f"location_{name}"
                    for name in (
                        "address1",
                        "address2",
                        "city",
                        "region",
                        "country",
                        "zip",
                        "timezone",
                    )
                ),
                "string",
            ),
            "location_latitude": "number",
            "location_longitude": "number",
            "created": "timestamp",
            "updated": "timestamp",
            "last_event_date": "timestamp",
            "properties": "json",
            **_BOOKKEEPING_INPUTS,
        }
    },
    steps={},
    source="profiles AS s",
    columns=(
        copied("id", "Klaviyo's id of the profile."),
        copied("email", "Email address."),
        copied("first_name", "First name."),
        copied("last_name", "Last name."),
        copied("organization", "The company the person works for."),
        copied("title", "Job title."),
        copied("phone_number", "Phone number in E.164 form."),
        copied("address_1", "Street address, first line.", "location_address1"),
        copied("address_2", "Street address, second line.", "location_address2"),
        copied("city", "City.", "location_city"),
        copied("region", "State or region within the country.", "location_region"),
        copied("country", "Country.", "location_country"),
        copied("zip", "Postal code.", "location_zip"),
        copied("timezone", "Time zone name.", "location_timezone"),
        MappedColumn("latitude", "DOUBLE", "s.location_latitude", "Latitude in degrees."),
        MappedColumn("longitude", "DOUBLE", "s.location_longitude", "Longitude in degrees."),
        moment("created", "When the profile was created, UTC."),
        moment("updated", "When it last changed, UTC."),
        moment("last_event_date", "When the latest event that changed it happened, UTC."),
        copied("properties", "Own properties, JSON, for klaviyo__person_pass_through_columns."),
        *bookkeeping(),
    ),
)

_CAMPAIGN_STEPS: Mapping[str, str] = {
    # Since revision 2026-10-15 the content is in the variations of a message, before in itself.
    "contents": "SELECT id, list_transform(CASE WHEN len(variations) > 0 THEN variations "
    "ELSE json_extract(campaign_messages, '$[*]') END, lambda part: json_object("
    "'content', coalesce(json_extract(part, '$.attributes.definition.details'), "
    "json_extract(part, '$.attributes.definition.content')), "
    "'template', json_extract_string(part, '$.relationships.template.data.id'))) AS parts "
    "FROM (SELECT id, campaign_messages, json_extract(campaign_messages, "
    "'$[*].campaign_variations[*]') AS variations FROM campaigns)",
    "emails": "SELECT id, coalesce(list_filter(parts, lambda part: "
    "json_extract_string(part, '$.content.subject') IS NOT NULL)[1], parts[1]) AS part "
    "FROM contents",
}


def content_column(name: str, member: str, description: str) -> MappedColumn:
    """Return a member of the content of the campaign's first email."""
    return MappedColumn(name, "VARCHAR", json_text("m.part", f"$.content.{member}"), description)


CAMPAIGN_VIEW = MappedView(
    name="campaign",
    description="One row per campaign, with subject and sender of its first email.",
    inputs={
        "campaigns": {
            "id": "string",
            "name": "string",
            "status": "string",
            "archived": "boolean",
            "channel": "string",
            "channels": "ids",
            "campaign_messages": "json",
            "created_at": "timestamp",
            "updated_at": "timestamp",
            "scheduled_at": "timestamp",
            "send_time": "timestamp",
            **_BOOKKEEPING_INPUTS,
        }
    },
    steps=_CAMPAIGN_STEPS,
    source="campaigns AS s LEFT JOIN emails AS m ON m.id = s.id",
    columns=(
        copied("id", "Klaviyo's id of the campaign."),
        copied("name", "The campaign's name."),
        MappedColumn(
            "campaign_type",
            "VARCHAR",
            "coalesce(s.channel, s.channels[1])",
            "Channel: email, sms, mobile_push or whatsapp; of several the first.",
        ),
        content_column("subject", "subject", "Subject of the email; NULL for a text message."),
        content_column("from_email", "from_email", "Address of the sender."),
        content_column("from_name", "from_label", "Name of the sender."),
        MappedColumn(
            "email_template_id",
            "VARCHAR",
            f"coalesce({json_text('m.part', '$.content.template_id')}, "
            f"{json_text('m.part', '$.template')})",
            "Template of the email.",
        ),
        MappedColumn("status", "VARCHAR", "lower(s.status)", "Its status, in lower case."),
        copied("status_label", "Its status as Klaviyo writes it.", "status"),
        MappedColumn("status_id", "VARCHAR", "NULL", "Klaviyo has no such id any more."),
        moment("created", "When it was created, UTC.", "created_at"),
        moment("updated", "When it last changed, UTC.", "updated_at"),
        moment("scheduled", "When somebody scheduled it, UTC.", "scheduled_at"),
        moment("send_time", "When it is or was sent, UTC."),
        MappedColumn(
            "sent_at",
            "TIMESTAMP",
            f"CASE WHEN lower(s.status) = 'sent' THEN {naive_utc('s.send_time')} END",
            "When it was sent, UTC; NULL until then.",
        ),
        MappedColumn("archived", "BOOLEAN", "s.archived", "Whether it has been archived."),
        *bookkeeping(),
    ),
)

FLOW_VIEW = MappedView(
    name="flow",
    description="One row per flow.",
    inputs={
        "flows": {
            "id": "string",
            "name": "string",
            "status": "string",
            "archived": "boolean",
            "created": "timestamp",
            "updated": "timestamp",
            "trigger_type": "string",
            **_BOOKKEEPING_INPUTS,
        }
    },
    steps={},
    source="flows AS s",
    columns=(
        copied("id", "Klaviyo's id of the flow."),
        copied("name", "The flow's name."),
        copied("status", "draft, manual or live."),
        moment("created", "When it was created, UTC."),
        moment("updated", "When it last changed, UTC."),
        MappedColumn("archived", "BOOLEAN", "s.archived", "Whether it has been archived."),
        copied("trigger_type", "What starts it."),
        *bookkeeping(),
    ),
)

METRIC_VIEW = MappedView(
    name="metric",
    description="One row per metric, under the name that it has now.",
    inputs={
        "metrics": {
            "id": "string",
            "name": "string",
            "created": "timestamp",
            "updated": "timestamp",
            "integration": "json",
            **_BOOKKEEPING_INPUTS,
        }
    },
    steps={},
    source="metrics AS s",
    columns=(
        copied("id", "Klaviyo's id of the metric."),
        copied("name", "Its name now."),
        moment("created", "When it was created, UTC."),
        moment("updated", "When it last changed, UTC."),
        MappedColumn(
            "integration_id", "VARCHAR", json_text("s.integration", "$.id"), "Its integration."
        ),
        MappedColumn(
            "integration_name",
            "VARCHAR",
            json_text("s.integration", "$.name"),
            "Name of the integration.",
        ),
        MappedColumn(
            "integration_category",
            "VARCHAR",
            f"coalesce({json_text('s.integration', '$.category.category')}, "
            f"{json_text('s.integration', '$.category')})",
            "Category of the integration; Klaviyo sends a text or an object.",
        ),
        *bookkeeping(),
    ),
)

FIVETRAN_SOURCES = MappedSchema(
    tool="fivetran/klaviyo, a package of dbt",
    schema="klaviyo",
    views=(EVENT_VIEW, PERSON_VIEW, CAMPAIGN_VIEW, FLOW_VIEW, METRIC_VIEW),
)
"""What Fivetran's connector calls these tables, and what the package reads."""
