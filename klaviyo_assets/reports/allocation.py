"""Allocates totals over a timeframe to days: queries still needed, and the rows of each day.

All statistics of a report go by the day a message was sent. So a total over a year brings every
message, and a message that was sent on one day has its numbers for that day. The others are asked
for again: day by day, or, if no campaign tells when, by halving.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from klaviyo_assets.api.requests import MAX_FILTER_IDS
from klaviyo_assets.model.report import DateRange, contiguous_ranges
from klaviyo_assets.reports.allocation_state import (
    ADDITIVE_STATISTICS,
    SEND_STATISTICS,
    AllocationState,
    MessageTotals,
    TimedRow,
    describe_mismatch,
    find_sum_mismatches,
    group_by_message,
    is_empty_row,
    is_same_count,
    statistic_value,
)
from klaviyo_assets.reports.bisect import (
    QueryGenerator,
    RowsByMessage,
    bisect_days,
    build_report_query,
    select_nonempty_rows,
)
from klaviyo_assets.reports.calendar import choose_isolating_timeframes
from klaviyo_assets.reports.send_schedule import (
    MessageChannel,
    SendDays,
    SendTiming,
    SentOnDay,
    UnknownSendDays,
    campaign_days,
)

MAX_SEND_TAIL = timedelta(days=3)
"""How long after the last day that it was seen on a message may have gone on being sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendKnowledge:
    """What is known of when messages were sent, apart from the totals.

    `sending` takes the id of a campaign; `is_final_day` tells of a day whether its numbers have
    stopped moving. `latest_settled_day` is the newest day of which it may be remembered that
    nothing was sent: what is counted late has been counted by now. `spread_messages` are the
    messages of listed campaigns that may have been sent on several days. `send_days` is added to.
    """

    subject_field: str
    message_field: str
    send_timing_of: Callable[[str], SendTiming]
    send_days: SendDays
    is_final_day: Callable[[date], bool]
    latest_settled_day: date
    spread_messages: Mapping[MessageChannel, DateRange] = field(
        default_factory=dict[MessageChannel, DateRange]
    )


class DayAllocator:
    """One time frame of one metric being placed on the days wanted."""

    def __init__(
        self,
        days: DateRange,
        rows: Sequence[TimedRow],
        *,
        wanted: Collection[date],
        knowledge: SendKnowledge,
    ) -> None:
        """Take the totals over `date_range`, one row a message and channel."""
        self.date_range = days
        self._all_days = frozenset(days)
        self.wanted_days = self._all_days.intersection(wanted)
        self.state = AllocationState(
            knowledge.send_days, latest_settled_day=knowledge.latest_settled_day
        )
        self._knowledge = knowledge
        self._delivered_days: set[date] = set()
        blank = 0
        for key, row in group_by_message(rows, knowledge.message_field).items():
            message = self._build_message_totals(key, row)
            blank += message.has_unknown_days and is_empty_row(row)
            if not (message.has_unknown_days and is_empty_row(row)):
                self.state.messages[message.key] = message
        self._record_absent_messages()
        if blank:
            self.state.warnings.append(
                f"{blank} messages without a recipient and a campaign that tells their day are "
                f"left out, {days.first} to {days.last}"
            )

    def _record_absent_messages(self) -> None:
        """Learn of the messages that could be in the total, and are not: nothing was sent."""
        for key, days in self._knowledge.spread_messages.items():
            first, last = (
                max(days.first, self.date_range.first),
                min(days.last, self.date_range.last),
            )
            if key not in self.state.messages and first <= last:
                self.state.record_recipients(key, DateRange(first, last), 0)

    def take_finished_days(self) -> dict[date, tuple[TimedRow, ...]]:
        """Return the days wanted whose rows are complete since it was last asked, newest first.

        A day comes again if a campaign turns out to have been sent on other days than it claims.
        """
        self._check_all_totals()
        ready = self.wanted_days - self.state.open_days() - self._delivered_days
        self._delivered_days |= ready
        return {day: self.state.rows_of_day(day) for day in sorted(ready, reverse=True)}

    def generate_queries(self) -> QueryGenerator:
        """Yield what to ask, take the answers; at the end every day wanted is finished."""
        while True:
            yield from self._query_single_days()
            yield from self._search_unknown_days()
            yield from self._query_isolating_timeframes()
            self._check_all_totals()
            if not self.wanted_days & self.state.open_days():
                return

    def _build_message_totals(self, key: MessageChannel, row: TimedRow) -> MessageTotals:
        """Return what is known of a unit before anything more is asked."""
        message = MessageTotals(key, row, set())
        sent = self._known_recipients(key)
        sending = self._knowledge.send_timing_of(
            row.row.groupings[self._knowledge.subject_field] or ""
        )
        if sent and is_same_count(sum(sent.values()), statistic_value(row, "recipients")):
            message.open_days, message.is_proven = set(sent), True
        elif isinstance(sending, SentOnDay) and not sent:
            message.open_days = {sending.day} & self._all_days
            self._record_campaign_day(message)
        elif not isinstance(sending, UnknownSendDays):
            message.open_days = self._candidate_days(key, sending, sent)
        if len(self.date_range) == 1:
            message.open_days = set(self.date_range)
        if len(message.open_days) == 1:
            message.rows_by_day[message.open_days.pop()] = row
        elif not message.open_days:
            message.open_days, message.has_unknown_days = (
                set(self._all_days - self._days_without_sends(key)),
                True,
            )
        return message

    def _record_campaign_day(self, message: MessageTotals) -> None:
        """Remember what a message had when only the day that it claims was there, or few more.

        If it goes on being sent, the next total will differ, and its days are asked for.
        """
        for day in message.open_days:
            if self.date_range.last - day < MAX_SEND_TAIL:
                self.state.record_recipients(
                    message.key, DateRange(day, day), statistic_value(message.total, "recipients")
                )

    def _known_recipients(self, key: MessageChannel) -> Mapping[date, float]:
        sent = self._knowledge.send_days.recipients_by_day(key)
        return {day: recipients for day, recipients in sent.items() if day in self.date_range}

    def _days_without_sends(self, key: MessageChannel) -> set[date]:
        return {
            day
            for date_range in self._knowledge.send_days.ranges_without_sends(key)
            for day in date_range
        }

    def _candidate_days(
        self, key: MessageChannel, send_timing: SendTiming, known_days: Iterable[date]
    ) -> set[date]:
        """Return the days of the time frame on which a message can have been sent.

        While a day that its campaign tells of has not been seen yet, these days are enough.
        """
        seen, without = set(known_days), self._days_without_sends(key)
        claimed = set(campaign_days(send_timing) & self._all_days) - without
        if not seen or seen < claimed:
            return claimed
        around = DateRange(min(seen), max(seen) + MAX_SEND_TAIL)
        return ((claimed | set(around)) & self._all_days) - without

    def _messages_needed(
        self, *, has_unknown_days: bool, is_proven: bool = False
    ) -> Iterator[tuple[MessageTotals, set[date]]]:
        """Yield the units of a kind that days wanted still wait for, and those days."""
        for message in self.state.messages.values():
            days = message.open_days & self.wanted_days
            if days and (message.has_unknown_days, message.is_proven) == (
                has_unknown_days,
                is_proven,
            ):
                yield message, days

    def _search_unknown_days(self) -> QueryGenerator:
        """Find the units of which nobody tells the days; those with parts, beside these."""
        lost = {unit.key: unit for unit, _ in self._messages_needed(has_unknown_days=True)}
        known = {key: set(unit.rows_by_day) for key, unit in lost.items()}
        fresh = {key: unit.total for key, unit in lost.items() if not unit.rows_by_day}
        days = {day for key in fresh for day in lost[key].open_days} & self.wanted_days
        yield from bisect_days(self.state, fresh, self.date_range, wanted_days=days)
        for run, keys in self._open_ranges(lost.keys() - fresh.keys()):
            again = [key for key in keys if not lost[key].open_days.isdisjoint(run)]
            found = (
                select_nonempty_rows((yield build_report_query(run, again)), again) if again else {}
            )
            for key in set(again) - found.keys():
                self.state.exclude_days(key, run)
            yield from bisect_days(self.state, found, run, wanted_days=self.wanted_days)
        for message in lost.values():
            message.has_unknown_days = False
            if message.has_mismatch:
                # These days may have been given without it.
                self._delivered_days -= message.rows_by_day.keys() - known[message.key]

    def _open_ranges(
        self, keys: Iterable[MessageChannel]
    ) -> list[tuple[DateRange, list[MessageChannel]]]:
        """Return stretches without a part of the units that they are asked for, newest first."""
        together: dict[DateRange, list[MessageChannel]] = {}
        for key in sorted(keys):
            for days in contiguous_ranges(self.state.messages[key].open_days & self.wanted_days):
                together.setdefault(days, []).append(key)
        return sorted(together.items(), reverse=True)

    def _query_single_days(self) -> QueryGenerator:
        """Ask for each day on which something can have been sent, for all units of it together."""
        while days := [
            day for _, each in self._messages_needed(has_unknown_days=False) for day in each
        ]:
            day = max(days)
            messages = self._messages_to_query(day)
            found = yield build_report_query(DateRange(day, day), messages)
            for key in messages:
                row = found.get(key)
                self.state.assign_row(key, day, None if is_empty_row(row) else row)

    def _messages_to_query(self, day: date) -> list[MessageChannel]:
        """Return the units to ask for on a day: lost ones too, as far as the filter has room."""
        messages = [message for message in self.state.messages.values() if day in message.open_days]
        certain = [unit.key for unit in messages if not unit.has_unknown_days]
        room = MAX_FILTER_IDS - len({message_id for message_id, _ in certain})
        lost = [unit.key for unit in messages if unit.has_unknown_days]
        return certain + lost[: max(0, room)]

    def _query_isolating_timeframes(self) -> QueryGenerator:
        """Ask for the days that are known to be the only ones, several in one time frame."""
        wanted = {
            message.key: days
            for message, days in self._messages_needed(has_unknown_days=False, is_proven=True)
        }
        sent = {key: self._known_recipients(key) for key in wanted}
        for days, names in choose_isolating_timeframes(sent, wanted):
            found = yield build_report_query(days, names)
            for key, day in names.items():
                row = found.get(key)
                if is_same_count(statistic_value(row, "recipients"), sent[key][day]):
                    self.state.assign_row(key, day, row)
                else:
                    self._retract_send_days(
                        key, self._candidate_days(key, UnknownSendDays(), sent[key])
                    )

    def _retract_send_days(self, key: MessageChannel, days: set[date]) -> None:
        """Take back what was learned of a unit: it is asked for day by day."""
        message = self.state.messages[key]
        message.is_proven, message.open_days = False, days
        message.rows_by_day.clear()

    def _check_all_totals(self) -> None:
        """Compare each unit's parts with its total, once, when all of them are there."""
        for message in self.state.messages.values():
            if not message.is_checked and not message.open_days:
                message.is_checked = True
                self._check_totals(message)

    def _check_totals(self, message: MessageTotals) -> None:
        wrong = find_sum_mismatches(
            message.rows_by_day.values(), message.total, ADDITIVE_STATISTICS
        )
        if not wrong:
            return
        self.state.warnings.append(describe_mismatch(message.key, wrong, self.date_range))
        if wrong.keys() & set(SEND_STATISTICS):
            self._knowledge.send_days.forget(message.key)
            for day, row in message.rows_by_day.items():
                self.state.assign_row(message.key, day, row)
            message.has_unknown_days, message.has_mismatch, message.is_proven = True, True, False
            message.open_days = set(self._all_days - message.rows_by_day.keys())
        elif message.is_proven and all(map(self._knowledge.is_final_day, message.rows_by_day)):
            # Nothing moves any more, so it is not the time between the answers.
            self._retract_send_days(message.key, set(message.rows_by_day))


def apply_cached_rows(
    state: AllocationState,
    date_range: DateRange,
    message_ids: Collection[str],
    rows: RowsByMessage,
    *,
    wanted_days: Collection[date],
) -> None:
    """Take what an answer over `date_range` about these messages tells; none means all messages."""
    for message in list(state.messages.values()):
        if not message.open_days.isdisjoint(date_range) and (
            not message_ids or message.key[0] in message_ids
        ):
            _apply_row(state, message, date_range, rows, wanted_days=wanted_days)


def _single_possible_day(message: MessageTotals, date_range: DateRange) -> date | None:
    """Return the one day in which all of a stretch must lie, None where there are several.

    Of a unit that is looked for everywhere, what is not open and no part is known to be nothing.
    """
    inside = message.open_days.intersection(date_range)
    is_known = (
        message.has_unknown_days
        and len(inside) == 1
        and message.rows_by_day.keys().isdisjoint(date_range)
    )
    return next(iter(inside)) if is_known else None


def _apply_row(
    state: AllocationState,
    message: MessageTotals,
    date_range: DateRange,
    rows: RowsByMessage,
    *,
    wanted_days: Collection[date],
) -> None:
    row = rows.get(message.key)
    if len(date_range) == 1:
        state.assign_row(message.key, date_range.first, None if is_empty_row(row) else row)
    elif message.is_proven:
        sent = state.send_days.recipients_by_day(message.key)
        inside = [day for day in sent if day in date_range]
        if len(inside) == 1 and is_same_count(statistic_value(row, "recipients"), sent[inside[0]]):
            state.assign_row(message.key, inside[0], row)
    elif is_empty_row(row):
        state.exclude_days(message.key, date_range)
    elif (day := _single_possible_day(message, date_range)) and day in wanted_days:
        # On other days nothing is placed: known in part, they would part the totals of other
        # metrics where these do not tell the days.
        state.assign_row(message.key, day, row)
    elif not find_sum_mismatches([row], message.total, SEND_STATISTICS):
        for beside in contiguous_ranges(
            [day for day in message.open_days if day not in date_range]
        ):
            state.exclude_days(message.key, beside)
