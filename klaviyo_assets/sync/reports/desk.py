"""What a fetch of reports works with, and what it takes from the lake before it begins.

What belongs here: putting the parts together. What does not: what is done with them (`fetch`,
`cost`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

from klaviyo_assets.api.client import Client
from klaviyo_assets.lake import Lake
from klaviyo_assets.model.report import Days, Report
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.sync.reports.campaigns import stored_campaigns
from klaviyo_assets.sync.reports.learned import Learned, learned_from_json
from klaviyo_assets.sync.reports.place import Knowledge
from klaviyo_assets.sync.reports.sending import Campaign, Sending, Spread, Unknown, sending_of
from klaviyo_assets.sync.reports.walk import Terms
from klaviyo_assets.sync.reports.zone import end_of, is_final, last_over

LEARNED = "learned"
"""The key of a report table's state that holds what was learned of messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """The days of an account: its zone, the time at the start (UTC), the first day wanted.

    `window_days` is how long numbers move after the day they belong to: the attribution window.
    """

    zone: ZoneInfo
    now: datetime
    first: date
    window_days: int

    @property
    def bounds(self) -> Days | None:
        """Return the days that may be asked for; None while the first of them is not over."""
        last = last_over(self.now, self.zone)
        return Days(self.first, last) if self.first <= last else None

    def is_final(self, day: date, fetched_at: datetime) -> bool:
        """Return whether a day's numbers had stopped moving at an instant."""
        return is_final(day, fetched_at, zone=self.zone, window_days=self.window_days)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportDesk:
    """Everything a fetch of one report works with."""

    stream: Stream
    report: Report
    client: Client
    lake: Lake
    base_url: str
    account: str
    calendar: Calendar
    clock: Callable[[], datetime]
    say: Callable[[str], None]
    """Takes a sentence for the operator: what was unexpected and what is done about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What is known before the first request: when campaigns were sent, what reports have shown."""

    learned: Learned
    campaigns: Mapping[str, Campaign] = field(default_factory=dict[str, Campaign])


def background_of(stream: Stream, report: Report, lake: Lake) -> Background:
    """Return what the lake knows that helps to place totals; nothing where the report is a series.

    Raises:
        LakeError: a table cannot be read.
    """
    if report.interval is not None:
        return Background(learned=Learned())
    return Background(learned=stored_learned(stream.name, lake), campaigns=stored_campaigns(lake))


def stored_learned(name: str, lake: Lake) -> Learned:
    """Return what the newest commit of a report knows of when messages were sent.

    Raises:
        LakeError: the table cannot be read.
    """
    known = lake.state(name)
    return learned_from_json(known.state.get(LEARNED) if known is not None else None)


def terms_of(report: Report, bounds: Days, background: Background, calendar: Calendar) -> Terms:
    """Return what holds for every metric of a fetch."""
    if report.interval is not None:
        return Terms(report=report, bounds=bounds, knowledge=None)
    sending: dict[str, Sending] = {
        each.id: sending_of(each, calendar.zone) for each in background.campaigns.values()
    }
    knowledge = Knowledge(
        subject_field=f"{report.subject}_id",
        message_field=report.message_field,
        sending=lambda campaign_id: sending.get(campaign_id, Unknown()),
        learned=background.learned,
        is_settled=partial(calendar.is_final, fetched_at=calendar.now),
        # What was sent just before midnight is counted a little later.
        lasting=last_over(calendar.now - timedelta(days=1), calendar.zone),
        spread={
            (message_id, each.channel or ""): days
            for each in background.campaigns.values()
            if (days := _spread(sending[each.id])) is not None
            for message_id in each.message_ids
        },
    )
    return Terms(report=report, bounds=bounds, knowledge=knowledge)


def _spread(sending: Sending) -> Days | None:
    return sending.days if isinstance(sending, Spread) else None


def is_over_at(day: date, moment: datetime, calendar: Calendar) -> bool:
    """Return whether a day was over at an instant."""
    return moment >= end_of(day, calendar.zone)
