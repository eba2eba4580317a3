"""Placing totals on days: what to ask again so that each message's numbers get their day.

What belongs here: the decisions for one time frame of one metric, pure: a total in, the next
question out. What does not: sending it (`fetch`), counting it (`cost`).

All statistics of a report go by the day a message was sent. So a total over a year brings every
message, and a message that was sent on one day has its numbers for that day. The others are asked
for again: day by day, or, if no campaign tells when, by halving.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from klaviyo_assets.api.reports import MOST_IDS
from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.cover import runs
from klaviyo_assets.sync.reports.halving import Questions, halve, part_of, present
from klaviyo_assets.sync.reports.learned import Learned, UnitKey
from klaviyo_assets.sync.reports.sending import Sending, SentOn, Unknown, claimed_days
from klaviyo_assets.sync.reports.stretches import stretches
from klaviyo_assets.sync.reports.units import (
    PLACING,
    SUMS,
    Board,
    TimedRow,
    Unit,
    by_unit,
    differences,
    is_blank,
    is_same,
    told,
    value,
)

AFTERWARDS = timedelta(days=3)
"""How long after the last day that it was seen on a message may have gone on being sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What is known of when messages were sent, apart from the totals.

    `sending` takes the id of a campaign; `is_settled` tells of a day whether its numbers have
    stopped moving. `lasting` is the newest day of which it may be remembered that nothing was sent:
    what is counted late has been counted by now. `spread` are the messages of listed campaigns that
    may have been sent on several days. `learned` is added to.
    """

    subject_field: str
    message_field: str
    sending: Callable[[str], Sending]
    learned: Learned
    is_settled: Callable[[date], bool]
    lasting: date
    spread: Mapping[UnitKey, Days] = field(default_factory=dict[UnitKey, Days])


class Placing:
    """One time frame of one metric being placed on the days wanted."""

    def __init__(
        self,
        days: Days,
        rows: Sequence[TimedRow],
        *,
        wanted: Collection[date],
        knowledge: Knowledge,
    ) -> None:
        """Take the totals over `days`, one row a message and channel."""
        self.days = days
        self._all_days = frozenset(days)
        self.wanted = self._all_days.intersection(wanted)
        self.board = Board(knowledge.learned, lasting=knowledge.lasting)
        self._knowledge = knowledge
        self._given: set[date] = set()
        blank = 0
        for key, row in by_unit(rows, knowledge.message_field).items():
            unit = self._unit(key, row)
            blank += unit.is_lost and is_blank(row)
            if not (unit.is_lost and is_blank(row)):
                self.board.units[unit.key] = unit
        self._note_absent()
        if blank:
            self.board.notes.append(
                f"{blank} messages without a recipient and a campaign that tells their day are "
                f"left out, {days.first} to {days.last}"
            )

    def _note_absent(self) -> None:
        """Learn of the messages that could be in the total, and are not: nothing was sent."""
        for key, days in self._knowledge.spread.items():
            first, last = max(days.first, self.days.first), min(days.last, self.days.last)
            if key not in self.board.units and first <= last:
                self.board.note(key, Days(first, last), 0)

    def finished(self) -> dict[date, tuple[TimedRow, ...]]:
        """Return the days wanted whose rows are complete since it was last asked, newest first.

        A day comes again if a campaign turns out to have been sent on other days than it claims.
        """
        self._check_all()
        ready = self.wanted - self.board.open_days() - self._given
        self._given |= ready
        return {day: self.board.rows_of(day) for day in sorted(ready, reverse=True)}

    def questions(self) -> Questions:
        """Yield what to ask, take the answers; at the end every day wanted is finished."""
        while True:
            yield from self._day_by_day()
            yield from self._locate()
            yield from self._in_stretches()
            self._check_all()
            if not self.wanted & self.board.open_days():
                return

    def _unit(self, key: UnitKey, row: TimedRow) -> Unit:
        """Return what is known of a unit before anything more is asked."""
        unit = Unit(key, row, set())
        sent = self._sent(key)
        sending = self._knowledge.sending(row.row.groupings[self._knowledge.subject_field] or "")
        if sent and is_same(sum(sent.values()), value(row, "recipients")):
            unit.open, unit.is_exact = set(sent), True
        elif isinstance(sending, SentOn) and not sent:
            unit.open = {sending.day} & self._all_days
            self._note_claim(unit)
        elif not isinstance(sending, Unknown):
            unit.open = self._candidates(key, sending, sent)
        if len(self.days) == 1:
            unit.open = set(self.days)
        if len(unit.open) == 1:
            unit.parts[unit.open.pop()] = row
        elif not unit.open:
            unit.open, unit.is_lost = set(self._all_days - self._without(key)), True
        return unit

    def _note_claim(self, unit: Unit) -> None:
        """Remember what a message had when only the day that it claims was there, or few more.

        If it goes on being sent, the next total will differ, and its days are asked for.
        """
        for day in unit.open:
            if self.days.last - day < AFTERWARDS:
                self.board.note(unit.key, Days(day, day), value(unit.total, "recipients"))

    def _sent(self, key: UnitKey) -> Mapping[date, float]:
        sent = self._knowledge.learned.sent(key)
        return {day: recipients for day, recipients in sent.items() if day in self.days}

    def _without(self, key: UnitKey) -> set[date]:
        return {day for stretch in self._knowledge.learned.none(key) for day in stretch}

    def _candidates(self, key: UnitKey, sending: Sending, sent: Iterable[date]) -> set[date]:
        """Return the days of the time frame on which a message can have been sent.

        While a day that its campaign tells of has not been seen yet, these days are enough.
        """
        seen, without = set(sent), self._without(key)
        claimed = set(claimed_days(sending) & self._all_days) - without
        if not seen or seen < claimed:
            return claimed
        around = Days(min(seen), max(seen) + AFTERWARDS)
        return ((claimed | set(around)) & self._all_days) - without

    def _needed(self, *, is_lost: bool, is_exact: bool = False) -> Iterator[tuple[Unit, set[date]]]:
        """Yield the units of a kind that days wanted still wait for, and those days."""
        for unit in self.board.units.values():
            days = unit.open & self.wanted
            if days and (unit.is_lost, unit.is_exact) == (is_lost, is_exact):
                yield unit, days

    def _locate(self) -> Questions:
        """Find the units of which nobody tells the days; those with parts, beside these."""
        lost = {unit.key: unit for unit, _ in self._needed(is_lost=True)}
        known = {key: set(unit.parts) for key, unit in lost.items()}
        fresh = {key: unit.total for key, unit in lost.items() if not unit.parts}
        days = {day for key in fresh for day in lost[key].open} & self.wanted
        yield from halve(self.board, fresh, self.days, wanted=days)
        for run, keys in self._runs(lost.keys() - fresh.keys()):
            again = [key for key in keys if not lost[key].open.isdisjoint(run)]
            found = present((yield part_of(run, again)), again) if again else {}
            for key in set(again) - found.keys():
                self.board.clear(key, run)
            yield from halve(self.board, found, run, wanted=self.wanted)
        for unit in lost.values():
            unit.is_lost = False
            if unit.is_wrong:
                # These days may have been given without it.
                self._given -= unit.parts.keys() - known[unit.key]

    def _runs(self, keys: Iterable[UnitKey]) -> list[tuple[Days, list[UnitKey]]]:
        """Return stretches without a part of the units that they are asked for, newest first."""
        together: dict[Days, list[UnitKey]] = {}
        for key in sorted(keys):
            for run in runs(self.board.units[key].open & self.wanted):
                together.setdefault(run, []).append(key)
        return sorted(together.items(), reverse=True)

    def _day_by_day(self) -> Questions:
        """Ask for each day on which something can have been sent, for all units of it together."""
        while days := [day for _, each in self._needed(is_lost=False) for day in each]:
            day = max(days)
            units = self._asked_with(day)
            found = yield part_of(Days(day, day), units)
            for key in units:
                row = found.get(key)
                self.board.settle(key, day, None if is_blank(row) else row)

    def _asked_with(self, day: date) -> list[UnitKey]:
        """Return the units to ask for on a day: lost ones too, as far as the filter has room."""
        units = [unit for unit in self.board.units.values() if day in unit.open]
        certain = [unit.key for unit in units if not unit.is_lost]
        room = MOST_IDS - len({message_id for message_id, _ in certain})
        lost = [unit.key for unit in units if unit.is_lost]
        return certain + lost[: max(0, room)]

    def _in_stretches(self) -> Questions:
        """Ask for the days that are known to be the only ones, several in one time frame."""
        wanted = {unit.key: days for unit, days in self._needed(is_lost=False, is_exact=True)}
        sent = {key: self._sent(key) for key in wanted}
        for days, names in stretches(sent, wanted):
            found = yield part_of(days, names)
            for key, day in names.items():
                row = found.get(key)
                if is_same(value(row, "recipients"), sent[key][day]):
                    self.board.settle(key, day, row)
                else:
                    self._doubt(key, self._candidates(key, Unknown(), sent[key]))

    def _doubt(self, key: UnitKey, days: set[date]) -> None:
        """Take back what was learned of a unit: it is asked for day by day."""
        unit = self.board.units[key]
        unit.is_exact, unit.open = False, days
        unit.parts.clear()

    def _check_all(self) -> None:
        """Compare each unit's parts with its total, once, when all of them are there."""
        for unit in self.board.units.values():
            if not unit.is_checked and not unit.open:
                unit.is_checked = True
                self._check(unit)

    def _check(self, unit: Unit) -> None:
        wrong = differences(unit.parts.values(), unit.total, SUMS)
        if not wrong:
            return
        self.board.notes.append(told(unit.key, wrong, self.days))
        if wrong.keys() & set(PLACING):
            self._knowledge.learned.forget(unit.key)
            for day, row in unit.parts.items():
                self.board.settle(unit.key, day, row)
            unit.is_lost, unit.is_wrong, unit.is_exact = True, True, False
            unit.open = set(self._all_days - unit.parts.keys())
        elif unit.is_exact and all(map(self._knowledge.is_settled, unit.parts)):
            # Nothing moves any more, so it is not the time between the answers.
            self._doubt(unit.key, set(unit.parts))
