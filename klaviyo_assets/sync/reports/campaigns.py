"""Campaigns as the `campaigns` table has them: what is known beforehand of when they were sent.

What belongs here: reading the few columns that tell. What does not: what follows from them
(`sending`).
"""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import cast

from klaviyo_assets.lake import Lake
from klaviyo_assets.sync.reports.sending import Campaign

TABLE = "campaigns"

CHANNELS: Mapping[str, str] = {"mobile_push": "push-notification"}
"""What reports call a channel, where the campaigns' filter has another word."""

_COLUMNS = (
    "id",
    "status",
    "channel",
    "send_time",
    "send_strategy_method",
    "send_strategy_datetime",
    "send_strategy_date",
    "send_strategy_options_is_local",
    "send_strategy_options_send_past_recipients_immediately",
    "scheduled_at",
    "send_strategy_throttle_percentage",
    "updated_at",
    "campaign_message_ids",
)


def stored_campaigns(lake: Lake) -> Mapping[str, Campaign]:
    """Return every stored campaign by id; none where the table was never read.

    Raises:
        CorruptFileError: a file of the table is missing or damaged.
    """
    if lake.state(TABLE) is None:
        return {}
    rows = lake.keys(TABLE, _COLUMNS).to_pylist()
    return {each.id: each for each in map(campaign_of, cast("Iterable[dict[str, object]]", rows))}


def campaign_of(row: Mapping[str, object]) -> Campaign:
    """Return the facts of one row of the table."""
    channel = cast("str | None", row["channel"])
    return Campaign(
        id=cast("str", row["id"]),
        status=cast("str | None", row["status"]),
        channel=CHANNELS.get(channel, channel) if channel is not None else None,
        send_time=cast("datetime | None", row["send_time"]),
        method=cast("str | None", row["send_strategy_method"]),
        planned_at=cast("datetime | None", row["send_strategy_datetime"]),
        planned_on=cast("date | None", row["send_strategy_date"]),
        scheduled_at=cast("datetime | None", row["scheduled_at"]),
        is_local=bool(row["send_strategy_options_is_local"]),
        waits_a_day=row["send_strategy_options_send_past_recipients_immediately"] is False,
        throttle_percentage=cast("int | None", row["send_strategy_throttle_percentage"]),
        updated_at=cast("datetime | None", row["updated_at"]),
        message_ids=tuple(cast("list[str] | None", row["campaign_message_ids"]) or ()),
    )
