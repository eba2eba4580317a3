"""When a campaign's messages were sent, as far as the campaign itself tells.

What belongs here: from a row of the `campaigns` table to the days on which it can have been sent.
What does not: what reports say of it (`place`). In doubt a campaign counts as spread: that costs
requests, never a wrong number.
Source: https://developers.klaviyo.com/en/reference/campaigns_api_overview, revision 2026-07-15.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import ceil
from zoneinfo import ZoneInfo

from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.zone import day_of

LONG_SEND = timedelta(hours=2)
"""How long a send in one go may take, from when it was due to its last message.

Klaviyo speaks of "several minutes or more", slower on the hour and for large audiences (help
centre, "campaign schedule and send options"). Unverified how long at most: a send due within this
margin of midnight counts as spread, until reports have shown its days.
"""

EARLIEST_ZONE, LATEST_ZONE = timedelta(hours=14), timedelta(hours=12)
"""How far local clocks are ahead of and behind UTC: UTC+14 to UTC-12, 26 hours in all."""

WINNER = timedelta(days=3)
"""How long after its beginning an A/B test may send the winner; Klaviyo does not tell the API."""

HELD_UP = timedelta(days=3)
"""What a campaign may still have before it that is not, or no longer, plainly sent."""

SENT = "Sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What the `campaigns` table knows of one campaign; instants in UTC."""

    id: str
    status: str | None = None
    channel: str | None = None
    send_time: datetime | None = None
    method: str | None = None
    planned_at: datetime | None = None
    planned_on: date | None = None
    scheduled_at: datetime | None = None
    is_local: bool = False
    waits_a_day: bool = False
    """Local only: whether those whose time has passed get it on the following day."""
    throttle_percentage: int | None = None
    updated_at: datetime | None = None
    """When anything of it changed last: that it was sent to the end is such a change."""
    message_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SentOn:
    """All of it on one day of the account's zone."""

    day: date


@dataclass(frozen=True, slots=True)
class Spread:
    """On some of these days, and on no other if the campaign tells the truth."""

    days: Days


@dataclass(frozen=True, slots=True)
class Unknown:
    """On any day."""


Sending = SentOn | Spread | Unknown
"""Everything that can be known beforehand of when a message was sent; the set is closed."""


def claimed_days(sending: Sending) -> frozenset[date]:
    """Return the days that a campaign tells of; none where it tells nothing."""
    match sending:
        case SentOn(day):
            return frozenset({day})
        case Spread(days):
            return frozenset(days)
        case Unknown():
            return frozenset()


Span = tuple[datetime, datetime]


def sending_of(campaign: Campaign, zone: ZoneInfo) -> Sending:
    """Return on which days of the zone the campaign's messages can have been sent."""
    span = _RULES.get(campaign.method or "", _other)(campaign)
    if span is None:
        return Unknown()
    first, last = span
    # Reports count by the hour of UTC; midnight is not at one in every zone.
    first, last = first.replace(minute=0, second=0, microsecond=0), last + LONG_SEND
    if campaign.status != SENT:
        last += HELD_UP
    elif campaign.updated_at is not None and last < campaign.updated_at <= last + HELD_UP:
        # It may have taken so long, whatever it says of how it was sent. What changed it later
        # still was no end of a send.
        last = campaign.updated_at
    days = Days(day_of(first, zone), day_of(last, zone))
    return SentOn(days.first) if len(days) == 1 else Spread(days)


def _begin(campaign: Campaign) -> datetime | None:
    return campaign.send_time or campaign.planned_at


def _at_once(campaign: Campaign) -> Span | None:
    begin = _begin(campaign)
    return (begin, begin) if begin is not None else None


def _static(campaign: Campaign) -> Span | None:
    if not campaign.is_local:
        return _at_once(campaign)
    due = campaign.planned_at or campaign.send_time
    if due is None:
        return None
    # What is given is the time on the recipients' clocks, whatever offset is written behind it.
    first, last = due - EARLIEST_ZONE, due + LATEST_ZONE
    if campaign.waits_a_day and (campaign.scheduled_at is None or campaign.scheduled_at > first):
        # For some the time had passed when it was scheduled: they get it a day later.
        last += timedelta(days=1)
    return _with_send_time(campaign, (first, last))


def _throttled(campaign: Campaign) -> Span | None:
    begin = _begin(campaign)
    if begin is None:
        return None
    percentage = campaign.throttle_percentage or 0
    if not 0 < percentage <= 100:  # noqa: PLR2004 - a percentage
        return (begin, begin + HELD_UP)
    return (begin, begin + timedelta(hours=ceil(100 / percentage)))


def _smart(campaign: Campaign) -> Span | None:
    """Through one day of each recipient, at the hour at which they usually open."""
    if campaign.planned_on is None:
        begin = _begin(campaign)
        if begin is None:
            return None
        return (begin - EARLIEST_ZONE, begin + timedelta(days=1) + LATEST_ZONE)
    midnight = datetime.combine(campaign.planned_on, time(), tzinfo=UTC)
    begin = campaign.send_time or midnight
    # Unverified whether a recipient's day is counted from the send time or from midnight.
    last = max(midnight, begin) + timedelta(days=1) + LATEST_ZONE
    return min(begin, midnight - EARLIEST_ZONE), last


def _tested(campaign: Campaign) -> Span | None:
    begin = _begin(campaign)
    return (begin, begin + WINNER) if begin is not None else None


def _other(campaign: Campaign) -> Span | None:
    """A way of sending that we do not know: about when it was due."""
    begin = _begin(campaign)
    return (begin - EARLIEST_ZONE, begin + HELD_UP) if begin is not None else None


def _with_send_time(campaign: Campaign, span: Span) -> Span:
    if campaign.send_time is None:
        return span
    return min(span[0], campaign.send_time), max(span[1], campaign.send_time)


_RULES: dict[str, Callable[[Campaign], Span | None]] = {
    "immediate": _at_once,
    "static": _static,
    "throttled": _throttled,
    "smart_send_time": _smart,
    "ab_test_campaign": _tested,
}
