"""Allocates totals over a timeframe to days: which queries that takes, and the rows of each day.

Every statistic of a report counts on the day its message was sent. So a total over a year lists
every message, and for a message that was sent on one day it is that day's number. The other
messages are queried again: day by day, or by bisection if no campaign names their send days.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from klaviyo_assets.api.requests import MAX_FILTER_IDS
from klaviyo_assets.model.report import DateRange, contiguous_ranges
from klaviyo_assets.reports.bisect import (
    ADDITIVE_STATISTICS,
    SEND_STATISTICS,
    AllocationState,
    MessageTotals,
    QueryGenerator,
    RowsByMessage,
    TimedRow,
    bisect_days,
    build_report_query,
    describe_mismatch,
    find_sum_mismatches,
    group_by_message,
    is_empty_row,
    is_same_count,
    select_nonempty_rows,
    statistic_value,
)
from klaviyo_assets.reports.calendar import choose_isolating_timeframes
from klaviyo_assets.reports.send_schedule import (
    MessageChannel,
    SendDays,
)

MAX_SEND_TAIL = timedelta(days=3)
"""How long after its last known send day a message may still have been sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendKnowledge:
    """What is known about when messages were sent, apart from the totals.

    `possible_days_of` takes the id of a campaign, and returns the days on which its messages may
    have been sent, None for any day. `days_of_message`: those of messages that were given times of
    their own. `send_days` holds what earlier responses showed,
    and receives what the next ones show. `is_final_day` says whether the numbers of a day have
    stopped changing. `latest_settled_day`: up to this day a row without recipients proves that
    nothing was sent, because late recipients have been counted. `spread_messages`: the messages of
    stored campaigns that may have been sent on several days, each with those days.
    """

    subject_field: str
    message_field: str
    possible_days_of: Callable[[str], DateRange | None]
    send_days: SendDays
    is_final_day: Callable[[date], bool]
    latest_settled_day: date
    spread_messages: Mapping[MessageChannel, DateRange] = field(
        default_factory=dict[MessageChannel, DateRange]
    )
    days_of_message: Mapping[str, DateRange] = field(default_factory=dict[str, DateRange])

    def possible_days(self, message_id: str, campaign_id: str) -> DateRange | None:
        """Return the days on which a message may have been sent; None: on any day."""
        return self.days_of_message.get(message_id) or self.possible_days_of(campaign_id)


class DayAllocator:
    """Allocates the totals of one metric over one timeframe to the wanted days."""

    def __init__(
        self,
        date_range: DateRange,
        rows: Sequence[TimedRow],
        *,
        wanted: Collection[date],
        knowledge: SendKnowledge,
    ) -> None:
        """Take the totals over `date_range`, one row for each message and channel."""
        self.date_range = date_range
        self._all_days = frozenset(date_range)
        self.wanted_days = self._all_days.intersection(wanted)
        self.state = AllocationState(
            knowledge.send_days, latest_settled_day=knowledge.latest_settled_day
        )
        self._knowledge = knowledge
        self._delivered_days: set[date] = set()
        omitted = 0
        for key, row in group_by_message(rows, knowledge.message_field).items():
            message = self._build_message_totals(key, row)
            if message.has_unknown_days and is_empty_row(row):
                omitted += 1
            else:
                self.state.messages[key] = message
        self._record_absent_messages()
        if omitted:
            self.state.warnings.append(
                f"{omitted} messages without a recipient and a campaign that tells their day are "
                f"left out, {date_range.first} to {date_range.last}"
            )

    def _record_absent_messages(self) -> None:
        """Record that messages without a row had no recipients in the timeframe."""
        for key, days in self._knowledge.spread_messages.items():
            first = max(days.first, self.date_range.first)
            last = min(days.last, self.date_range.last)
            if key not in self.state.messages and first <= last:
                self.state.record_recipients(key, DateRange(first, last), 0)

    def apply_cached_rows(
        self, date_range: DateRange, message_ids: Collection[str], rows: RowsByMessage
    ) -> None:
        """Use a cached response over a part of the timeframe; without `message_ids` it has all."""
        for message in self.state.messages.values():
            is_included = not message_ids or message.key[0] in message_ids
            if is_included and not message.open_days.isdisjoint(date_range):
                self._apply_cached_row(message, date_range, rows.get(message.key))

    def take_finished_days(self) -> dict[date, tuple[TimedRow, ...]]:
        """Return the wanted days that became complete since the last call, newest first.

        A day is returned again if its message turns out to have been sent on other days than its
        campaign says.
        """
        self._check_all_totals()
        ready = self.wanted_days - self.state.open_days() - self._delivered_days
        self._delivered_days |= ready
        return {day: self.state.rows_of_day(day) for day in sorted(ready, reverse=True)}

    def generate_queries(self) -> QueryGenerator:
        """Yield queries, and receive the rows of each, until every wanted day is complete."""
        while True:
            yield from self._query_single_days()
            yield from self._search_unknown_days()
            yield from self._query_isolating_timeframes()
            self._check_all_totals()
            if not self.wanted_days & self.state.open_days():
                return

    def _build_message_totals(self, key: MessageChannel, row: TimedRow) -> MessageTotals:
        """Return what is known of a message before the first query."""
        message = MessageTotals(key, row, set())
        known_days = self._known_recipients(key)
        possible = self._knowledge.possible_days(
            key[0], row.row.groupings[self._knowledge.subject_field] or ""
        )
        if known_days and is_same_count(
            sum(known_days.values()), statistic_value(row, "recipients")
        ):
            message.open_days, message.is_proven = set(known_days), True
        elif possible is not None and len(possible) == 1 and not known_days:
            message.open_days = {possible.first} & self._all_days
            self._record_campaign_day(message)
        elif possible is not None:
            message.open_days = self._candidate_days(key, possible, known_days)
        if len(self.date_range) == 1:
            message.open_days = set(self.date_range)
        if len(message.open_days) == 1:
            message.rows_by_day[message.open_days.pop()] = row
        elif not message.open_days:
            message.open_days = set(self._all_days - self._days_without_sends(key))
            message.has_unknown_days = True
        return message

    def _record_campaign_day(self, message: MessageTotals) -> None:
        """Record the recipients of a message whose timeframe ends soon after its send day.

        If it is sent further, its next total differs, and its days are queried.
        """
        for day in message.open_days:
            if self.date_range.last - day < MAX_SEND_TAIL:
                self.state.record_recipients(
                    message.key, DateRange(day, day), statistic_value(message.total, "recipients")
                )

    def _known_recipients(self, key: MessageChannel) -> Mapping[date, float]:
        known_days = self._knowledge.send_days.recipients_by_day(key)
        return {day: count for day, count in known_days.items() if day in self.date_range}

    def _days_without_sends(self, key: MessageChannel) -> set[date]:
        ranges = self._knowledge.send_days.ranges_without_sends(key)
        return {day for each in ranges for day in each}

    def _candidate_days(
        self, key: MessageChannel, possible_days: Iterable[date], known_days: Iterable[date]
    ) -> set[date]:
        """Return the days of the timeframe to query for a message.

        They are the possible days of its campaign, as long as one of these is not known to have
        recipients. After that they include the days around the known ones.
        """
        known, without = set(known_days), self._days_without_sends(key)
        possible = set(self._all_days.intersection(possible_days)) - without
        if not known or known < possible:
            return possible
        around = DateRange(min(known), max(known) + MAX_SEND_TAIL)
        return (possible | self._all_days.intersection(around)) - without

    def _messages_needed(
        self, *, has_unknown_days: bool, is_proven: bool = False
    ) -> Iterator[tuple[MessageTotals, set[date]]]:
        """Yield the messages of a kind that have open wanted days, and those days."""
        kind = (has_unknown_days, is_proven)
        for message in self.state.messages.values():
            days = message.open_days & self.wanted_days
            if days and (message.has_unknown_days, message.is_proven) == kind:
                yield message, days

    def _search_unknown_days(self) -> QueryGenerator:
        """Find the send days of the messages for which nothing names them.

        Of messages with rows on some days, only the days between these rows are searched.
        """
        messages = {each.key: each for each, _ in self._messages_needed(has_unknown_days=True)}
        days_before = {key: set(each.rows_by_day) for key, each in messages.items()}
        new = {key: each.total for key, each in messages.items() if not each.rows_by_day}
        days = {day for key in new for day in messages[key].open_days} & self.wanted_days
        yield from bisect_days(self.state, new, self.date_range, wanted_days=days)
        for date_range, keys in self._open_ranges(messages.keys() - new.keys()):
            remaining = [key for key in keys if not messages[key].open_days.isdisjoint(date_range)]
            if not remaining:
                continue
            found = yield build_report_query(date_range, remaining)
            rows = select_nonempty_rows(found, remaining)
            for key in set(remaining) - rows.keys():
                self.state.exclude_days(key, date_range)
            yield from bisect_days(self.state, rows, date_range, wanted_days=self.wanted_days)
        for message in messages.values():
            message.has_unknown_days = False
            if message.has_mismatch:
                # These days may have been returned as complete without this message.
                self._delivered_days -= message.rows_by_day.keys() - days_before[message.key]

    def _open_ranges(
        self, keys: Iterable[MessageChannel]
    ) -> list[tuple[DateRange, list[MessageChannel]]]:
        """Return the ranges of open wanted days, each with its messages, newest first."""
        together: dict[DateRange, list[MessageChannel]] = {}
        for key in sorted(keys):
            for days in contiguous_ranges(self.state.messages[key].open_days & self.wanted_days):
                together.setdefault(days, []).append(key)
        return sorted(together.items(), reverse=True)

    def _query_single_days(self) -> QueryGenerator:
        """Query each day that may have sends, for all messages of that day together."""
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
        """Return the messages to query on a day; those of unknown days as far as the filter goes.

        The filter of a request holds a limited number of messages.
        """
        messages = [message for message in self.state.messages.values() if day in message.open_days]
        needed = [each.key for each in messages if not each.has_unknown_days]
        unknown = [each.key for each in messages if each.has_unknown_days]
        room = MAX_FILTER_IDS - len({message_id for message_id, _ in needed})
        return needed + unknown[: max(0, room)]

    def _query_isolating_timeframes(self) -> QueryGenerator:
        """Query the proven send days, several in one timeframe that isolates each of them."""
        wanted = {
            message.key: days
            for message, days in self._messages_needed(has_unknown_days=False, is_proven=True)
        }
        known_days = {key: self._known_recipients(key) for key in wanted}
        for timeframe, isolated in choose_isolating_timeframes(known_days, wanted):
            found = yield build_report_query(timeframe, isolated)
            for key, day in isolated.items():
                row = found.get(key)
                if is_same_count(statistic_value(row, "recipients"), known_days[key][day]):
                    self.state.assign_row(key, day, row)
                else:
                    self._retract_proof(key, self._candidate_days(key, (), known_days[key]))

    def _retract_proof(self, key: MessageChannel, days: set[date]) -> None:
        """Query a message on each of `days`, because its proven send days turned out wrong."""
        message = self.state.messages[key]
        message.is_proven, message.open_days = False, days
        message.rows_by_day.clear()

    def _check_all_totals(self) -> None:
        """Compare the rows of each message with its total, once, when no day of it is open."""
        for message in self.state.messages.values():
            if not message.is_checked and not message.open_days:
                message.is_checked = True
                self._check_total(message)

    def _check_total(self, message: MessageTotals) -> None:
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
            # Final numbers do not change between two responses, so the send days must be wrong.
            self._retract_proof(message.key, set(message.rows_by_day))

    def _apply_cached_row(
        self, message: MessageTotals, date_range: DateRange, row: TimedRow | None
    ) -> None:
        """Use the row of a cached response as far as it shows on which days a message was sent."""
        inside = message.open_days.intersection(date_range)
        if len(date_range) == 1:
            day = date_range.first
            self.state.assign_row(message.key, day, None if is_empty_row(row) else row)
        elif message.is_proven:
            known_days = self._knowledge.send_days.recipients_by_day(message.key)
            days = [day for day in known_days if day in date_range]
            if len(days) == 1 and is_same_count(
                statistic_value(row, "recipients"), known_days[days[0]]
            ):
                self.state.assign_row(message.key, days[0], row)
        elif is_empty_row(row):
            self.state.exclude_days(message.key, date_range)
        elif (
            # Of a message of unknown days, a day that is not open and has no row has no sends.
            message.has_unknown_days
            and len(inside) == 1
            and message.rows_by_day.keys().isdisjoint(date_range)
            # An unwanted day gets no row: a send day known alone would split the timeframes of
            # other metrics, although it does not isolate the message's other days.
            and inside <= self.wanted_days
        ):
            self.state.assign_row(message.key, inside.pop(), row)
        elif not find_sum_mismatches([row], message.total, SEND_STATISTICS):
            for beside in contiguous_ranges(message.open_days - inside):
                self.state.exclude_days(message.key, beside)
