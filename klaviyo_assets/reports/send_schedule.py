"""Knows on which days messages were sent: from stored campaigns and from earlier responses.

Send days do not depend on the conversion metric, and those in the past do not change. So once they
are found, no other metric and no later fetch has to spend requests on them. Every total checks them
again: if a message was sent on a further day since, the recipients no longer add up to the total.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from math import ceil
from typing import Any, cast
from zoneinfo import ZoneInfo

from klaviyo_assets.errors import ConfigError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import ONE_DAY, DateRange, merge_ranges
from klaviyo_assets.reports.calendar import local_date

MAX_SEND_DURATION = timedelta(hours=2)
"""How long sending everything at once may take, from the planned time to the last message.

Klaviyo speaks of "several minutes or more", slower on the hour and for large audiences (help
centre, "campaign schedule and send options"). Unverified how long at most: a send due within this
margin of midnight counts as spread, until reports have shown its days.
"""

MAX_AHEAD_OF_UTC, MAX_BEHIND_UTC = timedelta(hours=14), timedelta(hours=12)
"""How far local clocks are ahead of and behind UTC: UTC+14 to UTC-12, 26 hours in all."""

MAX_AB_TEST_DURATION = timedelta(days=3)
"""How long after its start an A/B test may send the winner; the API does not have the duration."""

MAX_SEND_DELAY = timedelta(days=3)
"""How much later than planned a campaign may send: one that is not, or not simply, sent."""

SENT_STATUS = "Sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignSchedule:
    """The schedule of one campaign, from the table `campaigns`; instants in UTC.

    `is_next_day_if_passed`: recipients in zones where the local send time has already passed get
    the message on the next day. `updated_at`: the last change of anything; finishing the send is
    one. `message_ids`: what reports may call its messages. `message_times`: when each is sent,
    where that was set for each.
    """

    id: str
    status: str | None = None
    channel: str | None = None
    send_time: datetime | None = None
    send_method: str | None = None
    planned_at: datetime | None = None
    planned_on: date | None = None
    scheduled_at: datetime | None = None
    is_local_time: bool = False
    is_next_day_if_passed: bool = False
    throttle_percentage: int | None = None
    updated_at: datetime | None = None
    message_ids: tuple[str, ...] = ()
    message_times: Mapping[str, datetime] = field(default_factory=dict[str, datetime])


SendInterval = tuple[datetime, datetime]


def derive_possible_days(campaign: CampaignSchedule, zone: ZoneInfo) -> DateRange | None:
    """Return the days of the zone on which the campaign's messages may have been sent.

    None if the campaign has no time: they may have been sent on any day.
    """
    times = campaign.message_times.values()
    interval = (min(times), max(times)) if times else _send_interval(campaign)
    if interval is None:
        return None
    first, last = interval
    first, last = _full_hour(first), last + MAX_SEND_DURATION
    if campaign.status != SENT_STATUS:
        last += MAX_SEND_DELAY
    elif campaign.updated_at is not None and last < campaign.updated_at <= last + MAX_SEND_DELAY:
        # This change may have been the end of the send, whatever the send method says. A change
        # later than the longest delay was not.
        last = campaign.updated_at
    return DateRange(local_date(first, zone), local_date(last, zone))


def derive_message_days(campaign: CampaignSchedule, zone: ZoneInfo) -> dict[str, DateRange]:
    """Return the days of the zone on which messages with a time of their own may have been sent."""
    delay = timedelta() if campaign.status == SENT_STATUS else MAX_SEND_DELAY
    return {
        message_id: DateRange(
            local_date(_full_hour(at), zone), local_date(at + MAX_SEND_DURATION + delay, zone)
        )
        for message_id, at in campaign.message_times.items()
    }


def _full_hour(moment: datetime) -> datetime:
    # Reports count by full hours of UTC, and in some zones midnight is within such an hour.
    return moment.replace(minute=0, second=0, microsecond=0)


def _send_interval(campaign: CampaignSchedule) -> SendInterval | None:
    """Return the first and last instant at which sending is due; None without any time."""
    start = campaign.send_time or campaign.planned_at
    if campaign.send_method == "smart_send_time" and campaign.planned_on is not None:
        return _smart_send_interval(campaign.planned_on, campaign.send_time)
    if start is None:
        return None
    match campaign.send_method, campaign.is_local_time:
        case "static", True:
            return _local_time_interval(campaign, campaign.planned_at or start)
        case "immediate" | "static", _:
            return start, start
        case "throttled", _:
            return start, start + _throttled_duration(campaign.throttle_percentage or 0)
        case "ab_test_campaign" | "content_variation", _:
            return start, start + MAX_AB_TEST_DURATION
        case "smart_send_time", _:
            return start - MAX_AHEAD_OF_UTC, start + ONE_DAY + MAX_BEHIND_UTC
        case _:
            return start - MAX_AHEAD_OF_UTC, start + MAX_SEND_DELAY


def _local_time_interval(campaign: CampaignSchedule, due: datetime) -> SendInterval:
    # The time is that of the recipients' clocks, whatever UTC offset Klaviyo writes with it.
    first, last = due - MAX_AHEAD_OF_UTC, due + MAX_BEHIND_UTC
    if campaign.is_next_day_if_passed and (
        campaign.scheduled_at is None or campaign.scheduled_at > first
    ):
        # Where the time had passed when the campaign was scheduled, it is sent a day later.
        last += ONE_DAY
    sent = campaign.send_time or due
    return min(first, sent), max(last, sent)


def _throttled_duration(percentage: int) -> timedelta:
    """Return how long sending takes with so much of the audience an hour."""
    if not 0 < percentage <= 100:  # noqa: PLR2004 - a percentage
        return MAX_SEND_DELAY
    return timedelta(hours=ceil(100 / percentage))


def _smart_send_interval(planned_on: date, send_time: datetime | None) -> SendInterval:
    """Return the interval of one day in every zone: each recipient gets it at an hour of theirs."""
    midnight = datetime.combine(planned_on, time(), tzinfo=UTC)
    start = send_time or midnight
    # Unverified whether a recipient's day is counted from the send time or from midnight.
    last = max(midnight, start) + ONE_DAY + MAX_BEHIND_UTC
    return min(start, midnight - MAX_AHEAD_OF_UTC), last


CAMPAIGNS_TABLE = "campaigns"

REPORT_CHANNELS: Mapping[str, str] = {"mobile_push": "push-notification"}
"""The name of a channel in reports, if it is not the one in the campaigns' filter."""

_SCHEDULE_COLUMNS = (
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
    "campaign_variation_ids",
    "campaign_messages",
)


def read_campaign_schedules(lake: Lake) -> list[CampaignSchedule]:
    """Return every stored campaign; none if the table was never synced.

    Raises:
        StorageError: a file of the table is missing or damaged.
    """
    if lake.read_table_state(CAMPAIGNS_TABLE) is None:
        return []
    rows = lake.read_relation_columns(CAMPAIGNS_TABLE, _SCHEDULE_COLUMNS).to_pylist()
    return [parse_campaign_row(row) for row in cast("Iterable[dict[str, object]]", rows)]


SEND_TIME_TEST, THROTTLED = "ab_send_time_test", "throttled"
"""Send methods of which the messages say more than the campaign."""


def parse_campaign_row(row: Mapping[str, object]) -> CampaignSchedule:
    """Return the schedule in a row of the relation."""
    channel, method = (
        cast("str | None", row[each]) for each in ("channel", "send_strategy_method")
    )
    variation_ids = cast("list[str] | None", row["campaign_variation_ids"])
    message_ids = cast("list[str] | None", row["campaign_message_ids"])
    options = list(_message_options(row)) if method in (SEND_TIME_TEST, THROTTLED) else []
    percentage = cast("int | None", row["send_strategy_throttle_percentage"])
    return CampaignSchedule(
        id=cast("str", row["id"]),
        status=cast("str | None", row["status"]),
        channel=REPORT_CHANNELS.get(channel, channel) if channel is not None else None,
        send_time=cast("datetime | None", row["send_time"]),
        send_method=method,
        planned_at=cast("datetime | None", row["send_strategy_datetime"]),
        planned_on=cast("date | None", row["send_strategy_date"]),
        scheduled_at=cast("datetime | None", row["scheduled_at"]),
        is_local_time=bool(row["send_strategy_options_is_local"]),
        is_next_day_if_passed=row["send_strategy_options_send_past_recipients_immediately"]
        is False,
        throttle_percentage=_hourly_percentage(options) if percentage is None else percentage,
        updated_at=cast("datetime | None", row["updated_at"]),
        message_ids=tuple(variation_ids or message_ids or ()),
        message_times=_parse_send_times(options) if method == SEND_TIME_TEST else {},
    )


def _message_options(row: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yield what each message of a campaign says of how it is sent, where messages say it."""
    messages = json.loads(cast("str | None", row["campaign_messages"]) or "[]")
    for message in cast("list[dict[str, Any]]", messages):
        options = message.get("attributes", {}).get("definition", {}).get("send_options")
        if isinstance(options, dict):
            yield cast("dict[str, object]", options)


def _hourly_percentage(options: Iterable[Mapping[str, object]]) -> int | None:
    """Return the least share of its recipients that a message is sent to in an hour."""
    rates = [
        percentage * (60 if each.get("throttle_unit") == "minute" else 1)
        for each in options
        if isinstance(percentage := each.get("recipient_percentage"), int)
    ]
    return min(100, *rates) if rates else None


def _parse_send_times(options: Iterable[Mapping[str, object]]) -> dict[str, datetime]:
    """Return when each variation is sent, by its id; texts that are no time are left out."""
    found: dict[str, datetime] = {}
    for each in options:
        times = each.get("send_times")
        for name, text in cast(
            "dict[str, object]", times if isinstance(times, dict) else {}
        ).items():
            with suppress(ValueError):
                moment = datetime.fromisoformat(str(text))
                found[name] = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return found


MessageChannel = tuple[str, str]
"""A message id and the channel it was sent through."""

SEND_DAYS_KEY = "learned"
"""The key of the send days in the state of a report's table."""


class SendDays:
    """Recipients by day, and ranges without any, of messages that reports were queried for."""

    def __init__(self) -> None:
        """Start empty."""
        self.forgotten_keys: set[MessageChannel] = set()
        self._recipients: dict[MessageChannel, dict[date, float]] = {}
        self._ranges_without_sends: dict[MessageChannel, tuple[DateRange, ...]] = {}

    def message_keys(self) -> list[MessageChannel]:
        """Return the messages that something is known of, in order."""
        return sorted({*self._recipients, *self._ranges_without_sends})

    def recipients_by_day(self, key: MessageChannel) -> Mapping[date, float]:
        """Return the days known to have recipients, with their number."""
        return self._recipients.get(key, {})

    def ranges_without_sends(self, key: MessageChannel) -> tuple[DateRange, ...]:
        """Return the ranges known to have no recipients, ascending, with gaps between them."""
        return self._ranges_without_sends.get(key, ())

    def record_recipients(
        self, key: MessageChannel, date_range: DateRange, recipients: float
    ) -> None:
        """Record the recipients of a range; a number above 0 counts only for a single day."""
        sent, none = dict(self.recipients_by_day(key)), self.ranges_without_sends(key)
        if recipients <= 0:
            sent = {day: count for day, count in sent.items() if day not in date_range}
            none = tuple(merge_ranges((*none, date_range)))
        elif len(date_range) == 1:
            sent[date_range.first] = recipients
            none = tuple(part for each in none for part in _exclude_day(each, date_range.first))
        self._recipients[key], self._ranges_without_sends[key] = sent, none

    def forget(self, key: MessageChannel) -> None:
        """Drop what is known of a message, because it turned out wrong."""
        self._recipients.pop(key, None)
        self._ranges_without_sends.pop(key, None)
        self.forgotten_keys.add(key)

    def merge(self, other: "SendDays") -> None:
        """Forget what `other` forgot and add what it knows; for a day that both know, it wins."""
        for key in other.forgotten_keys:
            self.forget(key)
        for key in other.message_keys():
            for day, recipients in other.recipients_by_day(key).items():
                self.record_recipients(key, DateRange(day, day), recipients)
            for days in other.ranges_without_sends(key):
                self.record_recipients(key, days, 0)

    def to_json(self) -> dict[str, object]:
        """Return the JSON object that the state of the report's table holds."""
        return {
            f"{message_id}/{channel}": {
                "sent": {
                    day.isoformat(): recipients
                    for day, recipients in sorted(
                        self.recipients_by_day((message_id, channel)).items()
                    )
                },
                "none": [
                    [each.first.isoformat(), each.last.isoformat()]
                    for each in self.ranges_without_sends((message_id, channel))
                ],
            }
            for message_id, channel in self.message_keys()
        }


def send_days_from_json(json_value: object) -> SendDays:
    """Return the send days that `to_json` wrote; none for None.

    Raises:
        ConfigError: it was not written by this version.
    """
    send_days = SendDays()
    if json_value is None:
        return send_days
    try:
        for name, facts in cast("Mapping[str, Mapping[str, object]]", json_value).items():
            message_id, _, channel = name.rpartition("/")
            key = (message_id, channel)
            for day, recipients in cast("Mapping[str, float]", facts["sent"]).items():
                send_days.record_recipients(key, _parse_range(day, day), float(recipients))
            for first, last in cast("list[list[str]]", facts["none"]):
                send_days.record_recipients(key, _parse_range(first, last), 0)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "what the lake knows of when messages were sent cannot be read "
            f"({type(error).__name__}); was it written by another version of klaviyo_assets?"
        ) from error
    return send_days


def load_send_days(report_name: str, lake: Lake) -> SendDays:
    """Return the send days in the newest commit of a report's table.

    Raises:
        LakeError: the table cannot be read.
    """
    known = lake.read_table_state(report_name)
    return send_days_from_json(known.state.get(SEND_DAYS_KEY) if known is not None else None)


def _parse_range(first: str, last: str) -> DateRange:
    return DateRange(date.fromisoformat(first), date.fromisoformat(last))


def _exclude_day(date_range: DateRange, day: date) -> tuple[DateRange, ...]:
    if day not in date_range:
        return (date_range,)
    before = (date_range.first, day - ONE_DAY)
    after = (day + ONE_DAY, date_range.last)
    return tuple(DateRange(*each) for each in (before, after) if each[0] <= each[1])
