"""A fetch of reports before it is made: what is wanted, what it costs, when it will be done.

What belongs here: the figures, from the lake and the ledger alone; no request is sent. What does
not: how requests are counted (`cost`), printing.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from math import ceil, floor

from klaviyo_assets.api.ledger import Ledger
from klaviyo_assets.api.quota import Quota
from klaviyo_assets.errors import SettingError
from klaviyo_assets.lake import Lake, MetricRefusal
from klaviyo_assets.model.report import Cell, Days, Report
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.reports.account_zone import remembered_zone, zone_without_asking
from klaviyo_assets.sync.reports.asking import Kept
from klaviyo_assets.sync.reports.cost import Cost, Pace, cost_of
from klaviyo_assets.sync.reports.desk import Calendar, background_of, terms_of
from klaviyo_assets.sync.reports.failing import FailedMetric, failed_metrics
from klaviyo_assets.sync.reports.metrics import remembered_revenue
from klaviyo_assets.sync.reports.paying import FRESH
from klaviyo_assets.sync.reports.walk import Wish
from klaviyo_assets.sync.reports.zone_changes import days_of_another_zone
from klaviyo_assets.wording import quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """The figures of one report; `refused` are metrics that are left out because Klaviyo did.

    `failed` are those whose report failed of late: their requests count as if it had not.
    """

    stream: str
    metrics: int
    days: Days
    wanted: int
    there: int
    cost: Cost
    pace: Pace
    now: datetime
    refused: Mapping[str, MetricRefusal]
    failed: Mapping[str, FailedMetric]


def days_to_plan(start: date, end: date, calendar: Calendar) -> Days:
    """Return the days of a plan, both ends inclusive: those that are over and have partitions.

    Raises:
        SettingError: none of the days is.
    """
    bounds = calendar.bounds
    first = max(start, calendar.first)
    last = min(end, bounds.last) if bounds is not None else end
    if bounds is None or last < first:
        raise no_day(start, end, first=calendar.first, zone=calendar.zone.key)
    return Days(first, last)


def no_day(start: date, end: date, *, first: date, zone: str) -> SettingError:
    """Return the error for days of which none can be fetched."""
    return SettingError(
        f"no day from {start} to {end} can be fetched: reports begin at {first} "
        f"(KLAVIYO_REPORT_START_DATE), and a day has to be over in {zone}"
    )


def calendar_without_asking(settings: Settings, lake: Lake, now: datetime) -> Calendar:
    """Return the account's calendar at an instant of this machine's clock; no request is sent.

    Raises:
        SettingError: the account's zone is not known, or not that of the settings.
        LakeError: the lake cannot be read.
    """
    return Calendar(
        zone=zone_without_asking(settings, lake, now=now),
        now=now,
        first=settings.first_report_day,
        window_days=settings.report_lookback_days,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Desktop:
    """What figures are made from: the lake, the ledger, the settings, and this machine's clock."""

    lake: Lake
    ledger: Ledger
    settings: Settings
    now: datetime

    @property
    def mapped_metric(self) -> str | None:
        """Return the metric that the account maps to revenue, where a sync of metrics asked."""
        return remembered_revenue(self.ledger)


def outlook_of(
    stream: Stream, report: Report, metrics: Sequence[str], days: Days, *, at: Desktop
) -> Outlook:
    """Return the figures for what is not stored yet of some metrics and days.

    Raises:
        SettingError: as for `calendar_without_asking`.
        LakeError: the lake cannot be read.
    """
    refused = at.lake.refused_metrics(stream.name)
    failed = failed_metrics(at.lake, stream.name)
    wishes = _wishes(stream.name, [each for each in metrics if each not in refused], days, at=at)
    wanted = len(wishes) * len(days)
    return Outlook(
        stream=stream.name,
        metrics=len(wishes),
        days=days,
        wanted=wanted,
        there=wanted - sum(len(wish.days) for wish in wishes),
        cost=_cost(stream, report, wishes, days, at=at),
        pace=pace_of(at.ledger.quota(stream.budgets()[0]), at.settings),
        now=at.now,
        refused={each: refused[each] for each in metrics if each in refused},
        failed={each: failed[each] for each in metrics if each in failed},
    )


def _wishes(name: str, metrics: Sequence[str], days: Days, *, at: Desktop) -> list[Wish]:
    """Return what a report lacks of each metric."""
    there = set(at.lake.cell_facts(name))
    return [
        Wish(metric_id=each, days=frozenset(day for day in days if Cell(each, day) not in there))
        for each in metrics
    ]


def _cost(
    stream: Stream, report: Report, wishes: Sequence[Wish], days: Days, *, at: Desktop
) -> Cost:
    """Return what the wishes cost now, given the answers that were paid for already."""
    calendar = calendar_without_asking(at.settings, at.lake, at.now)
    background = background_of(stream, report, at.lake)
    return cost_of(
        wishes,
        terms_of(report, calendar.bounds or days, background, calendar),
        kept=_kept(stream.name, [wish.metric_id for wish in wishes], at),
        campaigns=background.campaigns.values(),
        frames=at.lake.answers(stream.name).frames(within=FRESH),
    )


def pace_of(quota: Quota, settings: Settings) -> Pace:
    """Return how fast reports can be asked for."""
    a_minute = max(1, floor(2 * settings.rate_limit_scale))
    return Pace(left=quota.left, limit=quota.limit, a_minute=a_minute)


def _kept(name: str, metrics: Collection[str], at: Desktop) -> Mapping[str, Sequence[Kept]]:
    answers = at.lake.answers(name)
    since = at.now - FRESH
    return {
        each: [
            Kept(found.days, found.fetched_at, found.message_ids)
            for found in answers.kept(each, fresh_since=since)
        ]
        for each in metrics
    }


def told(outlook: Outlook) -> list[str]:
    """Return the figures as lines of a table."""
    pace, cost = outlook.pace, outlook.cost
    done = pace.done_at(cost.most, outlook.now)
    least = "" if cost.least == cost.most else f"  (at most; {cost.least:,} at least)"
    rows = [
        ("partitions wanted", f"{outlook.wanted:,}", _extent(outlook)),
        ("already there", f"{outlook.there:,}", ""),
        ("requests", f"{cost.most:,}", least),
        (f"minutes at {pace.a_minute} a minute", f"{pace.minutes(cost.most):,}", ""),
        (
            f"days at {pace.limit:,} a day",
            f"{ceil(cost.most / pace.limit):,}",
            f"  ({pace.left:,} requests left now)",
        ),
        ("done", f"{done:%Y-%m-%d}", ""),
    ]
    lines = [outlook.stream, *(_line(*row) for row in rows)]
    return lines + refused_lines(outlook.refused) + failed_lines(outlook.failed)


def _line(name: str, value: str, more: str) -> str:
    return f"  {name:<22} {value:>10}{more}"


def told_beside(name: str, outlook: Outlook) -> str:
    """Return what another choice of metrics is, as one line: its partitions and its requests."""
    cost, days = outlook.cost, len(outlook.days)
    requests = f"{cost.most:,}" if cost.least == cost.most else f"{cost.least:,} to {cost.most:,}"
    extent = f"{quantity(outlook.metrics, 'metric')} x {quantity(days, 'day')}"
    more = f"  partitions ({extent}), {requests} requests"
    return _line(f"with {name}", f"{outlook.wanted:,}", more)


def refused_lines(refused: Mapping[str, MetricRefusal]) -> list[str]:
    """Return the metrics that Klaviyo refused, a line each."""
    return [
        f"  {'refused by Klaviyo' if each.is_known else 'not in the account'}: {metric_id} "
        f"({each.on}){': ' * bool(each.reason)}{each.reason}"
        for metric_id, each in refused.items()
    ]


def failed_lines(failed: Mapping[str, FailedMetric]) -> list[str]:
    """Return the metrics whose report failed of late, a line each."""
    return [
        f"  {'failed of late' if each.tries_left else 'set aside'}: {metric_id}: {each.told()}; "
        f"what came back last: {each.reason}"
        for metric_id, each in failed.items()
    ]


def _extent(outlook: Outlook) -> str:
    days, metrics = outlook.days, quantity(outlook.metrics, "metric")
    return f"  ({metrics} x {quantity(len(days), 'day')}, {days.first} to {days.last})"


def standing(stream: Stream, *, at: Desktop) -> list[str]:
    """Return how far a report is, as lines: its partitions, refused metrics, its quota.

    Raises:
        LakeError: the lake cannot be read.
    """
    facts = at.lake.cell_facts(stream.name)
    final = sum(each.is_final for each in facts.values())
    newest = max((cell.day for cell in facts), default=None)
    quota = at.ledger.quota(stream.budgets()[0])
    free = f"{quota.next_free_at:%Y-%m-%d %H:%M}"
    zone = at.settings.timezone or remembered_zone(at.settings, at.lake)
    lines = [
        f"  days of {zone or 'a time zone that is not known: set KLAVIYO_TIMEZONE'}",
        f"  {quantity(len(facts), 'partition')}, {final:,} of them final, the newest day {newest}",
        f"  {quota.left:,} of {quota.limit:,} requests left; the next can go at {free} UTC",
    ]
    with suppress(SettingError):
        calendar = calendar_without_asking(at.settings, at.lake, at.now)
        mixed = days_of_another_zone(at.lake, stream.name, calendar)
        lines += [f"  {mixed}"] if mixed is not None else []
    refused = refused_lines(at.lake.refused_metrics(stream.name))
    return lines + refused + failed_lines(failed_metrics(at.lake, stream.name))
