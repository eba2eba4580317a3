"""Derives from the stored campaigns on which days their messages can have been sent.

On which days a message was sent has nothing to do with the conversion metric, and what was sent on
a day that is over stays as it is: found out once, it spares every other metric, and every later
fetch, the requests. A sum proves it anew each time: were more sent since, the total would differ.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import ceil
from typing import cast
from zoneinfo import ZoneInfo

from klaviyo_assets.errors import ConfigError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import ONE_DAY, DateRange, merge_ranges
from klaviyo_assets.reports.calendar import local_date

MAX_SEND_DURATION = timedelta(hours=2)
"""How long a send in one go may take, from when it was due to its last message.

Klaviyo speaks of "several minutes or more", slower on the hour and for large audiences (help
centre, "campaign schedule and send options"). Unverified how long at most: a send due within this
margin of midnight counts as spread, until reports have shown its days.
"""

MAX_AHEAD_OF_UTC, MAX_BEHIND_UTC = timedelta(hours=14), timedelta(hours=12)
"""How far local clocks are ahead of and behind UTC: UTC+14 to UTC-12, 26 hours in all."""

MAX_AB_TEST_DURATION = timedelta(days=3)
"""How long after its beginning an A/B test may send the winner; Klaviyo does not tell the API."""

MAX_SEND_DELAY = timedelta(days=3)
"""What a campaign may still have before it that is not, or no longer, plainly sent."""

SENT_STATUS = "Sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignSchedule:
    """What the `campaigns` table knows of one campaign; instants in UTC."""

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
    """Local only: whether those whose time has passed get it on the following day."""
    throttle_percentage: int | None = None
    updated_at: datetime | None = None
    """When anything of it changed last: that it was sent to the end is such a change."""
    message_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SentOnDay:
    """All of it on one day of the account's zone."""

    day: date


@dataclass(frozen=True, slots=True)
class SpreadOverDays:
    """On some of these days, and on no other if the campaign tells the truth."""

    date_range: DateRange


@dataclass(frozen=True, slots=True)
class UnknownSendDays:
    """On any day."""


SendTiming = SentOnDay | SpreadOverDays | UnknownSendDays
"""Everything that can be known beforehand of when a message was sent; the set is closed."""


def campaign_days(send_timing: SendTiming) -> frozenset[date]:
    """Return the days that a campaign tells of; none where it tells nothing."""
    match send_timing:
        case SentOnDay(day):
            return frozenset({day})
        case SpreadOverDays(days):
            return frozenset(days)
        case UnknownSendDays():
            return frozenset()


SendInterval = tuple[datetime, datetime]


def derive_send_timing(campaign: CampaignSchedule, zone: ZoneInfo) -> SendTiming:
    """Return on which days of the zone the campaign's messages can have been sent."""
    span = _INTERVAL_RULES.get(campaign.send_method or "", _unknown_method_interval)(campaign)
    if span is None:
        return UnknownSendDays()
    first, last = span
    # Reports count by the hour of UTC; midnight is not at one in every zone.
    first, last = first.replace(minute=0, second=0, microsecond=0), last + MAX_SEND_DURATION
    if campaign.status != SENT_STATUS:
        last += MAX_SEND_DELAY
    elif campaign.updated_at is not None and last < campaign.updated_at <= last + MAX_SEND_DELAY:
        # It may have taken so long, whatever it says of how it was sent. What changed it later
        # still was no end of a send.
        last = campaign.updated_at
    days = DateRange(local_date(first, zone), local_date(last, zone))
    return SentOnDay(days.first) if len(days) == 1 else SpreadOverDays(days)


def _planned_start(campaign: CampaignSchedule) -> datetime | None:
    return campaign.send_time or campaign.planned_at


def _immediate_interval(campaign: CampaignSchedule) -> SendInterval | None:
    begin = _planned_start(campaign)
    return (begin, begin) if begin is not None else None


def _static_interval(campaign: CampaignSchedule) -> SendInterval | None:
    if not campaign.is_local_time:
        return _immediate_interval(campaign)
    due = campaign.planned_at or campaign.send_time
    if due is None:
        return None
    # What is given is the time on the recipients' clocks, whatever offset is written behind it.
    first, last = due - MAX_AHEAD_OF_UTC, due + MAX_BEHIND_UTC
    if campaign.is_next_day_if_passed and (
        campaign.scheduled_at is None or campaign.scheduled_at > first
    ):
        # For some the time had passed when it was scheduled: they get it a day later.
        last += timedelta(days=1)
    return _include_send_time(campaign, (first, last))


def _throttled_interval(campaign: CampaignSchedule) -> SendInterval | None:
    begin = _planned_start(campaign)
    if begin is None:
        return None
    percentage = campaign.throttle_percentage or 0
    if not 0 < percentage <= 100:  # noqa: PLR2004 - a percentage
        return (begin, begin + MAX_SEND_DELAY)
    return (begin, begin + timedelta(hours=ceil(100 / percentage)))


def _smart_send_interval(campaign: CampaignSchedule) -> SendInterval | None:
    """Through one day of each recipient, at the hour at which they usually open."""
    if campaign.planned_on is None:
        begin = _planned_start(campaign)
        if begin is None:
            return None
        return (begin - MAX_AHEAD_OF_UTC, begin + timedelta(days=1) + MAX_BEHIND_UTC)
    midnight = datetime.combine(campaign.planned_on, time(), tzinfo=UTC)
    begin = campaign.send_time or midnight
    # Unverified whether a recipient's day is counted from the send time or from midnight.
    last = max(midnight, begin) + timedelta(days=1) + MAX_BEHIND_UTC
    return min(begin, midnight - MAX_AHEAD_OF_UTC), last


def _ab_test_interval(campaign: CampaignSchedule) -> SendInterval | None:
    begin = _planned_start(campaign)
    return (begin, begin + MAX_AB_TEST_DURATION) if begin is not None else None


def _unknown_method_interval(campaign: CampaignSchedule) -> SendInterval | None:
    """A way of sending that we do not know: about when it was due."""
    begin = _planned_start(campaign)
    return (begin - MAX_AHEAD_OF_UTC, begin + MAX_SEND_DELAY) if begin is not None else None


def _include_send_time(campaign: CampaignSchedule, interval: SendInterval) -> SendInterval:
    if campaign.send_time is None:
        return interval
    return min(interval[0], campaign.send_time), max(interval[1], campaign.send_time)


_INTERVAL_RULES: dict[str, Callable[[CampaignSchedule], SendInterval | None]] = {
    "immediate": _immediate_interval,
    "static": _static_interval,
    "throttled": _throttled_interval,
    "smart_send_time": _smart_send_interval,
    "ab_test_campaign": _ab_test_interval,
}


CAMPAIGNS_TABLE = "campaigns"

REPORT_CHANNELS: Mapping[str, str] = {"mobile_push": "push-notification"}
"""What reports call a channel, where the campaigns' filter has another word."""

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
)


def read_campaign_schedules(lake: Lake) -> Mapping[str, CampaignSchedule]:
    """Return every stored campaign by id; none where the table was never read.

    Raises:
        CorruptFileError: a file of the table is missing or damaged.
    """
    if lake.read_table_state(CAMPAIGNS_TABLE) is None:
        return {}
    rows = lake.read_columns(CAMPAIGNS_TABLE, _SCHEDULE_COLUMNS).to_pylist()
    return {
        each.id: each for each in map(parse_campaign_row, cast("Iterable[dict[str, object]]", rows))
    }


def parse_campaign_row(row: Mapping[str, object]) -> CampaignSchedule:
    """Return the facts of one row of the table."""
    channel = cast("str | None", row["channel"])
    return CampaignSchedule(
        id=cast("str", row["id"]),
        status=cast("str | None", row["status"]),
        channel=REPORT_CHANNELS.get(channel, channel) if channel is not None else None,
        send_time=cast("datetime | None", row["send_time"]),
        send_method=cast("str | None", row["send_strategy_method"]),
        planned_at=cast("datetime | None", row["send_strategy_datetime"]),
        planned_on=cast("date | None", row["send_strategy_date"]),
        scheduled_at=cast("datetime | None", row["scheduled_at"]),
        is_local_time=bool(row["send_strategy_options_is_local"]),
        is_next_day_if_passed=row["send_strategy_options_send_past_recipients_immediately"]
        is False,
        throttle_percentage=cast("int | None", row["send_strategy_throttle_percentage"]),
        updated_at=cast("datetime | None", row["updated_at"]),
        message_ids=tuple(cast("list[str] | None", row["campaign_message_ids"]) or ()),
    )


MessageChannel = tuple[str, str]
"""A message and the channel it went through."""


class SendDays:
    """Recipients by day, and stretches without any, of messages that had to be asked about."""

    def __init__(self) -> None:
        """Know nothing."""
        self.forgotten_keys: set[MessageChannel] = set()
        self._recipients: dict[MessageChannel, dict[date, float]] = {}
        self._ranges_without_sends: dict[MessageChannel, tuple[DateRange, ...]] = {}

    def message_keys(self) -> list[MessageChannel]:
        """Return everything that something is known of, in order."""
        return sorted({*self._recipients, *self._ranges_without_sends})

    def recipients_by_day(self, key: MessageChannel) -> Mapping[date, float]:
        """Return the days known to have recipients, with their number."""
        return self._recipients.get(key, {})

    def ranges_without_sends(self, key: MessageChannel) -> tuple[DateRange, ...]:
        """Return the stretches of days known to have none, ascending and apart."""
        return self._ranges_without_sends.get(key, ())

    def record_recipients(
        self, key: MessageChannel, date_range: DateRange, recipients: float
    ) -> None:
        """Remember what was sent in a stretch; recipients are only of use for a single day."""
        sent, none = dict(self.recipients_by_day(key)), self.ranges_without_sends(key)
        if recipients <= 0:
            sent = {day: count for day, count in sent.items() if day not in date_range}
            none = tuple(merge_ranges((*none, date_range)))
        elif len(date_range) == 1:
            sent[date_range.first] = recipients
            none = tuple(part for each in none for part in _exclude_day(each, date_range.first))
        self._recipients[key], self._ranges_without_sends[key] = sent, none

    def forget(self, key: MessageChannel) -> None:
        """Know nothing of a unit any more: it turned out wrong."""
        self._recipients.pop(key, None)
        self._ranges_without_sends.pop(key, None)
        self.forgotten_keys.add(key)

    def merge(self, other: "SendDays") -> None:
        """Add what `other` knows, forget what it forgot; where both know a day, it counts."""
        for key in other.forgotten_keys:
            self.forget(key)
        for key in other.message_keys():
            for day, recipients in other.recipients_by_day(key).items():
                self.record_recipients(key, DateRange(day, day), recipients)
            for days in other.ranges_without_sends(key):
                self.record_recipients(key, days, 0)

    def to_json(self) -> dict[str, object]:
        """Return it as a JSON object."""
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
    """Return what `to_json` wrote; nothing for None.

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


def _parse_range(first: str, last: str) -> DateRange:
    return DateRange(date.fromisoformat(first), date.fromisoformat(last))


def _exclude_day(date_range: DateRange, day: date) -> tuple[DateRange, ...]:
    if day not in date_range:
        return (date_range,)
    before = (date_range.first, day - ONE_DAY)
    after = (day + ONE_DAY, date_range.last)
    return tuple(DateRange(*each) for each in (before, after) if each[0] <= each[1])
