"""An account whose truth is known, and which answers questions as a values report does.

What each message sent on each day is the truth; an answer is the sum over a time frame. What the
campaigns claim may be vaguer than that, or wrong.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from klaviyo_assets.decode.reports import ReportRow
from klaviyo_assets.model.report import DateRange
from klaviyo_assets.reports.allocation import DayAllocator, SendKnowledge
from klaviyo_assets.reports.bisect import ReportQuery, TimedRow, group_by_message
from klaviyo_assets.reports.send_schedule import SendDays

FIRST_DAY = date(2026, 1, 1)
REQUESTED_AT = datetime(2027, 6, 1, tzinfo=UTC)


def day_of_year(number: int) -> date:
    """Return the day of the year 2026 with this number, from 0."""
    return FIRST_DAY + timedelta(days=number)


def days_of_year(first: int, last: int) -> DateRange:
    """Return a stretch of days by their numbers, both ends inclusive."""
    return DateRange(day_of_year(first), day_of_year(last))


@dataclass(slots=True)
class SimulatedAccount:
    """Recipients by message and day, what the campaigns claim, and every question so far."""

    recipients_by_day: Mapping[str, Mapping[date, int]]
    possible_days: Mapping[str, DateRange | None]
    requests: list[ReportQuery] = field(default_factory=list[ReportQuery])

    def build_row(self, message: str, days: Iterable[date]) -> TimedRow | None:
        """Return a message's row over some days, as one that was sent to somebody has it."""
        recipients = sum(self.recipients_by_day[message].get(each, 0) for each in days)
        if not recipients:
            return None
        statistics: dict[str, float | None] = {
            "recipients": recipients,
            "delivered": recipients,
            "conversions": 3 * recipients,
            "conversion_value": 1.25 * recipients,
            "open_rate": 1 / recipients,
        }
        groupings = {
            "campaign_id": message,
            "campaign_message_id": message,
            "send_channel": "email",
        }
        return TimedRow(
            ReportRow(day=None, groupings=groupings, statistics=statistics), REQUESTED_AT
        )

    def build_rows(self, days: DateRange, messages: Iterable[str] = ()) -> list[TimedRow]:
        """Return an answer."""
        found = (self.build_row(each, days) for each in messages or self.recipients_by_day)
        return [row for row in found if row is not None]

    def respond(self, part: ReportQuery) -> list[TimedRow]:
        """Return an answer, and remember that it was asked for."""
        assert len(part.message_ids) <= 100
        self.requests.append(part)
        return self.build_rows(part.date_range, part.message_ids)

    def build_knowledge(
        self, learned: SendDays | None = None, *, is_settled: bool = True
    ) -> SendKnowledge:
        """Return what the campaigns claim."""
        return SendKnowledge(
            subject_field="campaign_id",
            message_field="campaign_message_id",
            possible_days_of=self.possible_days.get,
            send_days=learned if learned is not None else SendDays(),
            is_final_day=lambda _: is_settled,
            latest_settled_day=day_of_year(10_000),
        )

    def start_allocation(
        self, timeframe: DateRange, wanted: Iterable[date], knowledge: SendKnowledge
    ) -> DayAllocator:
        """Return a time frame placed to the end; every answer is the truth."""
        placing = DayAllocator(
            timeframe, self.build_rows(timeframe), wanted=set(wanted), knowledge=knowledge
        )
        run_allocation(placing, self)
        return placing

    def true_rows(self, day: date) -> dict[str, TimedRow]:
        """Return the rows of a day by message."""
        found = {message: self.build_row(message, [day]) for message in self.recipients_by_day}
        return {message: row for message, row in found.items() if row is not None}


def take_days_once(placing: DayAllocator, finished: dict[date, tuple[TimedRow, ...]]) -> None:
    """Add the days that became complete; none that was complete before, unless it was noted."""
    ready = placing.take_finished_days()
    assert placing.state.warnings or not ready.keys() & finished.keys()
    finished |= ready


def run_allocation(
    placing: DayAllocator, account: SimulatedAccount
) -> dict[date, dict[str, TimedRow]]:
    """Answer every question; return the finished days with their rows by message.

    Each day must come once, unless something was noted.
    """
    finished = placing.take_finished_days()
    questions = placing.generate_queries()
    part = next(questions, None)
    while part is not None:
        try:
            part = questions.send(group_by_message(account.respond(part), "campaign_message_id"))
        except StopIteration:
            part = None
        take_days_once(placing, finished)
    # What is known may place the rest without a question.
    take_days_once(placing, finished)
    return {
        when: {row.row.groupings["campaign_id"] or "": row for row in rows}
        for when, rows in finished.items()
    }
