"""What a fetch of reports works with, and what it takes from the lake before it begins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import ONE_DAY, DateRange, ReportEndpoint
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.allocation import SendKnowledge
from klaviyo_assets.reports.calendar import ReportCalendar, last_complete_day
from klaviyo_assets.reports.planner import PlannerInputs
from klaviyo_assets.reports.send_schedule import (
    CampaignSchedule,
    SendDays,
    SendTiming,
    SpreadOverDays,
    UnknownSendDays,
    derive_send_timing,
    read_campaign_schedules,
    send_days_from_json,
)

SEND_DAYS_KEY = "learned"
"""The key of a report table's state that holds what was learned of messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContext:
    """Everything a fetch of one report works with."""

    stream: Stream
    report: ReportEndpoint
    client: KlaviyoClient
    lake: Lake
    base_url: str
    account: str
    calendar: ReportCalendar
    clock: Callable[[], datetime]
    warn: Callable[[str], None]
    """Takes a sentence for the operator: what was unexpected and what is done about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSendFacts:
    """What is known before the first request: when campaigns were sent, what reports have shown."""

    send_days: SendDays
    campaigns: Mapping[str, CampaignSchedule] = field(default_factory=dict[str, CampaignSchedule])


def load_send_facts(stream: Stream, report: ReportEndpoint, lake: Lake) -> StoredSendFacts:
    """Return what the lake knows that helps to place totals; nothing where the report is a series.

    Raises:
        LakeError: a table cannot be read.
    """
    if report.interval is not None:
        return StoredSendFacts(send_days=SendDays())
    return StoredSendFacts(
        send_days=load_send_days(stream.name, lake), campaigns=read_campaign_schedules(lake)
    )


def load_send_days(report_name: str, lake: Lake) -> SendDays:
    """Return what the newest commit of a report knows of when messages were sent.

    Raises:
        LakeError: the table cannot be read.
    """
    known = lake.read_table_state(report_name)
    return send_days_from_json(known.state.get(SEND_DAYS_KEY) if known is not None else None)


def build_planner_inputs(
    report: ReportEndpoint, bounds: DateRange, send_facts: StoredSendFacts, calendar: ReportCalendar
) -> PlannerInputs:
    """Return what holds for every metric of a fetch."""
    if report.interval is not None:
        return PlannerInputs(report=report, bounds=bounds, knowledge=None)
    sending: dict[str, SendTiming] = {
        each.id: derive_send_timing(each, calendar.zone) for each in send_facts.campaigns.values()
    }
    knowledge = SendKnowledge(
        subject_field=f"{report.subject}_id",
        message_field=report.message_field,
        send_timing_of=lambda campaign_id: sending.get(campaign_id, UnknownSendDays()),
        send_days=send_facts.send_days,
        is_final_day=partial(calendar.is_final, fetched_at=calendar.now),
        # What was sent just before midnight is counted a little later.
        latest_settled_day=last_complete_day(calendar.now - ONE_DAY, calendar.zone),
        spread_messages={
            (message_id, each.channel or ""): days
            for each in send_facts.campaigns.values()
            if (days := _spread_range(sending[each.id])) is not None
            for message_id in each.message_ids
        },
    )
    return PlannerInputs(report=report, bounds=bounds, knowledge=knowledge)


def _spread_range(send_timing: SendTiming) -> DateRange | None:
    return send_timing.date_range if isinstance(send_timing, SpreadOverDays) else None
