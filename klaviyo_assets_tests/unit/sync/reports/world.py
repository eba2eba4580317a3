"""A shop whose truth is known, and which answers questions as a values report does.

What each message sent on each day is the truth; an answer is the sum over a time frame. What the
campaigns claim may be vaguer than that, or wrong.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.halving import Part
from klaviyo_assets.sync.reports.learned import Learned
from klaviyo_assets.sync.reports.place import Knowledge, Placing
from klaviyo_assets.sync.reports.sending import Sending, Unknown
from klaviyo_assets.sync.reports.units import TimedRow, by_unit
from klaviyo_assets.tables.report_answers import ReportRow

FIRST = date(2026, 1, 1)
ASKED = datetime(2027, 6, 1, tzinfo=UTC)


def day(number: int) -> date:
    """Return the day of the year 2026 with this number, from 0."""
    return FIRST + timedelta(days=number)


def days(first: int, last: int) -> Days:
    """Return a stretch of days by their numbers, both ends inclusive."""
    return Days(day(first), day(last))


@dataclass(slots=True)
class World:
    """Recipients by message and day, what the campaigns claim, and every question so far."""

    sent: Mapping[str, Mapping[date, int]]
    claims: Mapping[str, Sending]
    questions: list[Part] = field(default_factory=list[Part])

    def row(self, message: str, when: Iterable[date]) -> TimedRow | None:
        """Return a message's row over some days, as one that was sent to somebody has it."""
        recipients = sum(self.sent[message].get(each, 0) for each in when)
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
        return TimedRow(ReportRow(day=None, groupings=groupings, statistics=statistics), ASKED)

    def rows(self, when: Days, messages: Iterable[str] = ()) -> list[TimedRow]:
        """Return an answer."""
        found = (self.row(each, when) for each in messages or self.sent)
        return [row for row in found if row is not None]

    def answer(self, part: Part) -> list[TimedRow]:
        """Return an answer, and remember that it was asked for."""
        assert len(part.message_ids) <= 100
        self.questions.append(part)
        return self.rows(part.days, part.message_ids)

    def knowledge(self, learned: Learned | None = None, *, is_settled: bool = True) -> Knowledge:
        """Return what the campaigns claim."""
        return Knowledge(
            subject_field="campaign_id",
            message_field="campaign_message_id",
            sending=lambda campaign: self.claims.get(campaign, Unknown()),
            learned=learned if learned is not None else Learned(),
            is_settled=lambda _: is_settled,
            lasting=day(10_000),
        )

    def place(self, when: Days, wanted: Iterable[date], knowledge: Knowledge) -> Placing:
        """Return a time frame placed to the end; every answer is the truth."""
        placing = Placing(when, self.rows(when), wanted=set(wanted), knowledge=knowledge)
        run(placing, self)
        return placing

    def truth(self, when: date) -> dict[str, TimedRow]:
        """Return the rows of a day by message."""
        found = {message: self.row(message, [when]) for message in self.sent}
        return {message: row for message, row in found.items() if row is not None}


def run(placing: Placing, world: World) -> dict[date, dict[str, TimedRow]]:
    """Answer every question; return the finished days with their rows by message.

    Each day must come once, unless something was noted.
    """
    finished = placing.finished()
    questions = placing.questions()
    part = next(questions, None)
    while part is not None:
        try:
            part = questions.send(by_unit(world.answer(part), "campaign_message_id"))
        except StopIteration:
            part = None
        ready = placing.finished()
        assert placing.board.notes or not ready.keys() & finished.keys()
        finished |= ready
    return {
        when: {row.row.groupings["campaign_id"] or "": row for row in rows}
        for when, rows in finished.items()
    }
