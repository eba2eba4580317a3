"""What a fetch costs, told beforehand: the same walk, answered from what is known.

What belongs here: imagined answers, and counting. What does not: the walk itself (`walk`), the
quota (`api/ledger.py`).

A series costs exactly what is told. So do totals, as long as it is known on which days the
campaigns among them were sent. Where it is not, there are two numbers: as if each had been sent on
one day only, and as if on every day on which it can have been. Messages that no campaign tells of
(WhatsApp, deleted ones) are not in them until a report has shown them once.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from math import ceil

from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.asking import Answered, Kept, Turn, View
from klaviyo_assets.sync.reports.halving import Part
from klaviyo_assets.sync.reports.learned import Learned, UnitKey, learned_from_json
from klaviyo_assets.sync.reports.sending import Campaign, Sending, SentOn, Spread
from klaviyo_assets.sync.reports.units import TimedRow
from klaviyo_assets.sync.reports.walk import Terms, Wish, walk
from klaviyo_assets.tables.report_answers import ReportRow

UNSENT = ("Draft", "Scheduled", "Preparing to schedule", "Unknown")
"""Statuses of campaigns of which no report has a row yet."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Requests: `least` if nothing is spread that need not be, `most` if all of it is."""

    least: int
    most: int


Sent = tuple[str, Mapping[date, float]]
"""A campaign, and the recipients of one of its messages by day."""


class Imagined:
    """Answers as they would be if messages were sent as `sent` has it."""

    def __init__(
        self, sent: Mapping[UnitKey, Sent], kept: Iterable[Kept], frames: set[Days]
    ) -> None:
        """Take what was sent by unit, the answers that are there already, and asked time frames."""
        self.sent = sent
        self.kept = list(kept)
        self.frames = frames
        self.requests = 0

    def ask(self, choose: Callable[[View], Turn]) -> tuple[Turn, Answered]:
        """Return an answer, and count what it would cost."""
        turn = choose(View(self.kept, self.frames))
        part = turn.part
        is_kept = any(
            (each.days, each.message_ids) == (part.days, part.message_ids)
            and each.fetched_at > turn.newer_than
            for each in self.kept
        )
        fetched_at = turn.newer_than + timedelta(seconds=1)
        if not is_kept:
            self.requests += 1
            self.kept.append(Kept(part.days, fetched_at, part.message_ids))
        if not part.message_ids:
            self.frames.add(part.days)
        rows = self._rows(part, fetched_at)
        return turn, Answered(rows=rows, fetched_at=fetched_at, requests=int(not is_kept))

    def paid(self, turn: Turn) -> Iterator[tuple[Part, Sequence[TimedRow]]]:
        """Yield the answers kept about parts of a turn's time frame, as they would be."""
        for each in self.kept:
            is_inside = each.days.first in turn.part.days and each.days.last in turn.part.days
            if is_inside and each.fetched_at > turn.newer_than:
                part = Part(each.days, each.message_ids)
                yield part, self._rows(part, each.fetched_at)

    def alone(self) -> AbstractContextManager[None]:
        """Return a block that keeps nobody out: nothing is asked."""
        return nullcontext()

    def _rows(self, part: Part, fetched_at: datetime) -> list[TimedRow]:
        return [
            TimedRow(_row(unit, campaign, count), fetched_at)
            for unit, (campaign, sent) in self.sent.items()
            if not part.message_ids or unit[0] in part.message_ids
            if (count := sum(sent[day] for day in sent if day in part.days))
        ]


class Estimate:
    """Costs of wishes one after the other: what an earlier one teaches spares the later ones."""

    def __init__(
        self,
        terms: Terms,
        campaigns: Iterable[Campaign],
        *,
        days_of: Callable[[Days], Collection[date]],
        frames: Collection[Days] = (),
    ) -> None:
        """Take what is known; `days_of` tells on which of some days a spread message was sent.

        `frames` are the time frames that any metric was asked about lately.
        """
        self._terms = terms
        self._frames = set(frames)
        self._sent: Mapping[UnitKey, Sent] = {}
        if terms.knowledge is not None:
            learned = learned_from_json(terms.knowledge.learned.to_json())
            self._terms = replace(terms, knowledge=replace(terms.knowledge, learned=learned))
            self._sent = _sent(campaigns, terms.knowledge.sending, learned, days_of)

    def add(self, wish: Wish, kept: Iterable[Kept] = ()) -> int:
        """Return the requests of one more wish, given the usable answers about its metric."""
        imagined = Imagined(self._sent, kept, self._frames)
        for _ in walk(wish, self._terms, imagined):
            pass
        return imagined.requests


def cost_of(
    wishes: Sequence[Wish],
    terms: Terms,
    *,
    kept: Mapping[str, Sequence[Kept]],
    campaigns: Iterable[Campaign] = (),
    frames: Collection[Days] = (),
) -> Cost:
    """Return what the wishes cost in this order; `kept` has the usable answers by metric."""
    known = list(campaigns)
    counts: list[int] = []
    for days_of in (one_day, every_day):
        estimate = Estimate(terms, known, days_of=days_of, frames=frames)
        counts.append(sum(estimate.add(wish, kept.get(wish.metric_id, ())) for wish in wishes))
    return Cost(min(counts), max(counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast requests can go: `left` now, `limit` in 24 hours, `a_minute` in a minute."""

    left: int
    limit: int
    a_minute: int

    def minutes(self, requests: int) -> int:
        """Return how many minutes of asking that many requests are."""
        return ceil(requests / self.a_minute)

    def days(self, requests: int) -> int:
        """Return how many times the quota has to become free before the last of them; 0: today."""
        return ceil(max(0, requests - self.left) / self.limit)

    def done_at(self, requests: int, now: datetime) -> datetime:
        """Return when the last of them can have been made, UTC."""
        days = self.days(requests)
        of_last_day = requests if not days else requests - self.left - (days - 1) * self.limit
        return now + timedelta(days=days, minutes=self.minutes(of_last_day))


def _sent(
    campaigns: Iterable[Campaign],
    sending: Callable[[str], Sending],
    learned: Learned,
    days_of: Callable[[Days], Collection[date]],
) -> dict[UnitKey, Sent]:
    """Return what was sent by unit: as learned, else as the campaign tells."""
    sent: dict[UnitKey, Sent] = {}
    for campaign in campaigns:
        if campaign.status in UNSENT:
            continue
        for message_id in campaign.message_ids:
            match sending(campaign.id):
                case SentOn(day):
                    days: Collection[date] = (day,)
                case Spread(stretch):
                    none = learned.none((message_id, campaign.channel or ""))
                    days = [
                        day for day in days_of(stretch) if not any(day in each for each in none)
                    ]
                case _:
                    continue
            sent[message_id, campaign.channel or ""] = (campaign.id, dict.fromkeys(days, 1.0))
    for unit in learned.units():
        if learned.sent(unit):
            campaign_id, _ = sent.get(unit, ("", {}))
            sent[unit] = (campaign_id, learned.sent(unit))
    return sent


def one_day(stretch: Days) -> Collection[date]:
    """Return the days of a message that is not spread after all."""
    return (stretch.last,)


def every_day(stretch: Days) -> Collection[date]:
    """Return the days of a message that is spread as far as it can be."""
    return stretch


def _row(unit: UnitKey, campaign: str, recipients: float) -> ReportRow:
    message_id, channel = unit
    return ReportRow(
        day=None,
        groupings={
            "campaign_id": campaign,
            "campaign_message_id": message_id,
            "send_channel": channel,
        },
        statistics={"recipients": recipients, "delivered": recipients},
    )
