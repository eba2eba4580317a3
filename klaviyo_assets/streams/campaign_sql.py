"""The SQL of what campaigns were told of until 2026-07-15, over the messages that tell it since.

`own` is a row of campaigns, `part` one of campaign_messages, and `total` has the columns of
`MESSAGE_TOTALS` for all messages of a campaign. The rules are those of docs/campaigns.md.
"""

from collections.abc import Mapping

from klaviyo_assets.model.column import ColumnType
from klaviyo_assets.model.stream import REVISION_COLUMN

JULY, OCTOBER = "2026-07-15", "2026-10-15"
"""The revisions between which campaigns took another shape."""

IS_OCTOBER = f"own.{REVISION_COLUMN.name} >= '{OCTOBER}'"
"""Whether a row's values are on its messages. A row of July may be NULL where these have one."""


def agreed_value(column: str) -> str:
    """Return the SQL of the value that all messages of a campaign have; NULL where they differ."""
    is_agreed = f"count(DISTINCT {column}) = 1 AND count({column}) = count(*)"
    return f"CASE WHEN {is_agreed} THEN any_value({column}) END"


def earliest_send_time() -> str:
    """Return the SQL of the time at which the first message is sent, drafts left out.

    A draft may have a time, but is not going to be sent: `send_time` was always NULL then.
    """
    texts = "json_extract_string(part.send_options_send_times, '$.*')"
    zoned = "CASE WHEN regexp_matches(each, 'T[0-9:.]+$') THEN each || 'Z' ELSE each END"
    times = f"list_transform({texts}, lambda each: TRY_CAST({zoned} AS TIMESTAMP WITH TIME ZONE))"
    first = f"list_min(list_append({times}, part.send_options_send_time))"
    return (
        f"min(coalesce({first}, part.send_options_send_time)) "
        "FILTER (part.status IS DISTINCT FROM 'draft')"
    )


def in_order(value: str) -> str:
    """Return the SQL of a list of a value of each message, the first created first."""
    return f"list({value} ORDER BY part.created, part.id)"


def utc_text(column: str) -> str:
    """Return the SQL of a time as Klaviyo writes it."""
    return f"strftime(timezone('UTC', part.{column}), '%Y-%m-%dT%H:%M:%S.%f+00:00')"


def json_members(prefix: str, names: tuple[str, ...], *, json: str = "") -> str:
    """Return the SQL of an object of columns with a prefix; the column `json` is JSON text."""
    members = [
        f"'{name}', CAST(part.{prefix}{name} AS JSON)"
        if name == json
        else f"'{name}', {utc_text(prefix + name)}"
        if name == "send_time"
        else f"'{name}', part.{prefix}{name}"
        for name in names
    ]
    return f"json_object({', '.join(members)})"


MESSAGE_OBJECT = f"""json_object(
'type', 'campaign-message', 'id', part.id,
'campaign_audience_id', part.campaign_audience_id,
'attributes', json_object(
'created', {utc_text("created")}, 'updated', {utc_text("updated")},
'definition', json_object('name', part.name, 'status', part.status,
'send_options', {
    json_members(
        "send_options_",
        (
            "send_time",
            "send_times",
            "send_strategy",
            "recipient_percentage",
            "throttling_type",
            "throttle_unit",
            "is_ignoring_unsubscribes",
        ),
        json="send_times",
    )
},
'tracking_options', {
    json_members(
        "tracking_options_",
        (
            "is_add_utm",
            "is_tracking_clicks",
            "is_tracking_opens",
            "tracking_params",
        ),
        json="tracking_params",
    )
},
'ab_test', {
    json_members(
        "ab_test_",
        (
            "winner_metric",
            "winner_percentage",
            "winner_wait_hours",
        ),
    )
})),
'campaign_variations', CAST(part.campaign_variations AS JSON))""".replace("\n", " ")
"""The SQL of a message as one JSON object, its variations inside."""

IS_LIVE = "part.status IS DISTINCT FROM 'cancelled'"
STATUS_OF_MESSAGES = f"""CASE WHEN count(part.status) = 0 THEN NULL
WHEN count(*) FILTER ({IS_LIVE}) = 0 THEN 'Cancelled'
WHEN count(DISTINCT coalesce(part.status, '')) FILTER ({IS_LIVE}) = 1
THEN upper(left(any_value(part.status) FILTER ({IS_LIVE}), 1))
|| substr(any_value(part.status) FILTER ({IS_LIVE}), 2)
WHEN bool_or(part.status IN ('sending', 'sent')) THEN 'Sending'
WHEN bool_or(part.status = 'scheduled') THEN 'Scheduled' ELSE 'Draft' END""".replace("\n", " ")
"""The SQL of a campaign's status: that of its messages, those that were cancelled left out."""

VARIATION_CHANNELS = (
    "list_transform(json_extract_string(part.campaign_variations, "
    "'$[*].attributes.definition.details.channel'), "
    "lambda each: CASE each WHEN 'push' THEN 'mobile_push' ELSE each END)"
)


def distinct_texts(texts: str) -> str:
    """Return the SQL of the distinct texts of a list in order, NULL where there are none."""
    return f"nullif(list_sort(list_distinct({texts})), CAST([] AS VARCHAR[]))"


JULY_CHANNELS = (
    "coalesce("
    + distinct_texts(
        "json_extract_string(own.campaign_messages, '$[*].attributes.definition.channel')"
    )
    + ", CASE WHEN own.channel IS NOT NULL THEN [own.channel] END)"
)
"""A campaign that Klaviyo lists for several channels is stored once; its messages name them."""

AUDIENCE_LISTS = (
    "list_transform(json_extract(own.campaign_audiences, '$[*]'), lambda each: "
    "coalesce(json_extract_string(each, '$.attributes.definition.{side}[*]'), []))"
)
"""The SQL of the ids on one side of each audience, a list of lists."""


def audience_ids(side: str, rule: str) -> str:
    """Return the SQL of ids on a side of all audiences, NULL where none has such a list."""
    lists = AUDIENCE_LISTS.format(side=side)
    has_any = (
        f"list_contains(list_transform(json_extract(own.campaign_audiences, '$[*]'), lambda each: "
        f"json_type(each, '$.attributes.definition.{side}')), 'ARRAY')"
    )
    return f"CASE WHEN {has_any} THEN {rule.format(lists=lists)} END"


INCLUDED_BY_ANY = (
    "list_filter(flatten({lists}), lambda each, place: "
    "list_position(flatten({lists}), each) = place)"
)
EXCLUDED_BY_ALL = (
    "list_filter(({lists})[1], lambda one: "
    "len(list_filter({lists}, lambda each: NOT list_contains(each, one))) = 0)"
)

MESSAGE_TOTALS: tuple[tuple[str, ColumnType, str], ...] = (
    ("status", "string", STATUS_OF_MESSAGES),
    ("send_time", "timestamp", earliest_send_time()),
    (
        "only_send_time",
        "timestamp",
        "CASE WHEN count(*) = 1 THEN min(part.send_options_send_time) END",
    ),
    ("strategy", "string", agreed_value("part.send_options_send_strategy")),
    ("is_add_utm", "boolean", agreed_value("part.tracking_options_is_add_utm")),
    ("tracking_params", "json", agreed_value("part.tracking_options_tracking_params")),
    ("is_tracking_clicks", "boolean", agreed_value("part.tracking_options_is_tracking_clicks")),
    ("is_tracking_opens", "boolean", agreed_value("part.tracking_options_is_tracking_opens")),
    ("channels", "ids", distinct_texts(f"flatten({in_order(VARIATION_CHANNELS)})")),
    ("variation_ids", "ids", f"flatten({in_order('part.campaign_variation_ids')})"),
    ("messages", "json", f"to_json({in_order(MESSAGE_OBJECT)})"),
)
"""What the messages of a campaign say together: name, type and SQL."""

OCTOBER_VALUES: Mapping[str, str] = {
    "status": "total.status",
    "send_time": "total.send_time",
    "channel": "CASE WHEN len(total.channels) = 1 THEN total.channels[1] END",
    "audiences_included": audience_ids("included", INCLUDED_BY_ANY),
    "audiences_excluded": audience_ids("excluded", EXCLUDED_BY_ALL),
    "send_strategy_method": "CASE total.strategy WHEN 'local_timezone' THEN 'static' "
    "WHEN 'send_time_optimization' THEN 'smart_send_time' ELSE total.strategy END",
    "send_strategy_datetime": "total.only_send_time",
    "send_strategy_options_is_local": "CASE total.strategy WHEN 'local_timezone' THEN true "
    "WHEN 'static' THEN false END",
    "send_strategy_options_send_past_recipients_immediately": "CASE total.strategy "
    "WHEN 'local_timezone' THEN own.send_settings_send_passed_rltz_immediately END",
    "tracking_options_add_tracking_params": "total.is_add_utm",
    "tracking_options_custom_tracking_params": "total.tracking_params",
    "tracking_options_is_tracking_clicks": "total.is_tracking_clicks",
    "tracking_options_is_tracking_opens": "total.is_tracking_opens",
    "campaign_messages": "total.messages",
}
"""The SQL of the columns that campaigns had until 2026-07-15, for a row of a later revision."""

MESSAGE_OF_CAMPAIGN = """part.campaign_id = own.id AND CASE
WHEN own.deleted_at IS NOT NULL
THEN own.campaign_message_ids IS NULL OR list_contains(own.campaign_message_ids, part.id)
ELSE part.deleted_at IS NULL AND (own.campaign_message_ids IS NULL
OR list_contains(own.campaign_message_ids, part.id) OR part.synced_at > own.synced_at) END"""
"""Whether a message counts for a campaign.

One that has gone from its campaign does not, even before a full read has missed it; one that was
read later than the campaign does, since a new message need not change the campaign.
"""
