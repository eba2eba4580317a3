"""Holds what is known of each message's send days, and finds unknown ones by bisection.

One query halves two ranges at once:

    A                   B                     two ranges, each with messages of its own
    [══════╪══════] · · [══════╪══════]
           └───────────────────┘              one query: the newer half of A, the older half of B

This works only if no message of A or B has sends in the rest of the queried range. That has to be
checked: a message whose days are not all wanted may also have been sent outside its range.
"""

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from klaviyo_assets.api.requests import MAX_FILTER_IDS
from klaviyo_assets.decode.reports import ReportRow
from klaviyo_assets.errors import MalformedPageError
from klaviyo_assets.model.report import ONE_DAY, DateRange, contiguous_ranges
from klaviyo_assets.reports.calendar import bounding_range
from klaviyo_assets.reports.send_schedule import MessageChannel, SendDays

ADDITIVE_STATISTICS = ("recipients", "delivered", "conversions", "conversion_value")
"""Statistics that add up over days, since everybody gets a message once: no uniques, no rates."""

SEND_STATISTICS = ("recipients", "delivered")
"""Statistics that show the send days of a message; others may change between two responses."""

STATISTIC_TOLERANCE = 0.005
"""Allowed difference per summand, half a cent: Klaviyo rounds values; counts are whole."""


@dataclass(frozen=True, slots=True)
class TimedRow:
    """A row of a response, and when Klaviyo sent it, UTC."""

    row: ReportRow
    fetched_at: datetime


@dataclass(slots=True)
class MessageTotals:
    """The total of a message over a timeframe, and the rows found for single days.

    `open_days`: days that may have sends but have no row yet. `is_proven`: exactly the open days
    have sends, because their recipients in `SendDays` add up to the total. `has_unknown_days`:
    neither the campaign nor `SendDays` names the days, so they have to be searched.
    `has_mismatch`: its rows once did not add up to the total.
    """

    key: MessageChannel
    total: TimedRow
    open_days: set[date]
    is_proven: bool = False
    has_unknown_days: bool = False
    is_checked: bool = False
    has_mismatch: bool = False
    rows_by_day: dict[date, TimedRow] = field(default_factory=dict[date, TimedRow])

    def can_have_sends(self, date_range: DateRange) -> bool:
        """Return whether the message was, or may have been, sent on some of the days."""
        return any(day in self.open_days or day in self.rows_by_day for day in date_range)


class AllocationState:
    """The messages of one timeframe; what is found about send days also goes into `send_days`."""

    def __init__(self, send_days: SendDays, *, latest_settled_day: date) -> None:
        """Start without messages; days without sends are recorded up to `latest_settled_day`."""
        self.messages: dict[MessageChannel, MessageTotals] = {}
        self.send_days = send_days
        self.warnings: list[str] = []
        self._latest_settled_day = latest_settled_day

    def assign_row(self, key: MessageChannel, day: date, row: TimedRow | None) -> None:
        """Set the exact row of a message on a day; None where it has none.

        If its rows now add up to its total, no day of it is open any more.
        """
        message = self.messages[key]
        message.open_days.discard(day)
        self.record_recipients(key, DateRange(day, day), statistic_value(row, "recipients"))
        if row is not None:
            message.rows_by_day[day] = row
        if message.rows_by_day and not find_sum_mismatches(
            message.rows_by_day.values(), message.total, SEND_STATISTICS
        ):
            message.open_days.clear()

    def exclude_days(self, key: MessageChannel, date_range: DateRange) -> None:
        """Record that a message was not sent on these days."""
        self.messages[key].open_days.difference_update(date_range)
        self.record_recipients(key, date_range, 0)

    def record_recipients(
        self, key: MessageChannel, date_range: DateRange, recipients: float
    ) -> None:
        """Record the recipients of a range of days.

        That there were none is recorded only up to the latest settled day, because Klaviyo may
        still count recipients of later days.
        """
        settled = self._latest_settled_day
        if recipients > 0 or date_range.last <= settled:
            self.send_days.record_recipients(key, date_range, recipients)
        elif date_range.first <= settled:
            self.send_days.record_recipients(key, DateRange(date_range.first, settled), 0)

    def take_warnings(self) -> tuple[str, ...]:
        """Return the warnings since the last call."""
        taken = tuple(self.warnings)
        self.warnings.clear()
        return taken

    def open_days(self) -> set[date]:
        """Return the days on which a row may still be missing."""
        return {day for message in self.messages.values() for day in message.open_days}

    def rows_of_day(self, day: date) -> tuple[TimedRow, ...]:
        """Return the rows found for a day so far."""
        found = (message.rows_by_day.get(day) for message in self.messages.values())
        return tuple(row for row in found if row is not None)


def group_by_message(
    rows: Iterable[TimedRow], message_field: str
) -> dict[MessageChannel, TimedRow]:
    """Return the rows of one response by message and channel, without duplicates.

    Raises:
        MalformedPageError: two rows of one message and channel differ.
    """
    found: dict[MessageChannel, TimedRow] = {}
    for timed in rows:
        groupings = timed.row.groupings
        key = (groupings.get(message_field) or "", groupings.get("send_channel") or "")
        if found.setdefault(key, timed).row != timed.row:
            raise MalformedPageError(
                f"the response has two rows for message {key[0]!a} and channel {key[1]!a} that "
                "differ: tell the developers of klaviyo_assets"
            )
    return found


def statistic_value(timed: TimedRow | None, statistic: str) -> float:
    """Return a statistic, 0 where there is none."""
    return (timed.row.statistics.get(statistic) or 0.0) if timed is not None else 0.0


def is_same_count(one: float, other: float) -> bool:
    """Return whether two counts are the same."""
    return abs(one - other) < 0.5  # noqa: PLR2004 - counts are whole


def is_empty_row(timed: TimedRow | None) -> bool:
    """Return whether all additive statistics are 0, so that the row shows no send day."""
    return not any(statistic_value(timed, each) for each in ADDITIVE_STATISTICS)


def find_sum_mismatches(
    rows: Iterable[TimedRow | None], total: TimedRow, statistics: Iterable[str]
) -> Mapping[str, tuple[float, float]]:
    """Return the statistics whose sum over `rows` is not the total, each as (sum, total)."""
    found = list(rows)
    sums = {each: sum(statistic_value(row, each) for row in found) for each in statistics}
    allowed = STATISTIC_TOLERANCE * (len(found) + 1)
    return {
        each: (added, statistic_value(total, each))
        for each, added in sums.items()
        if abs(added - statistic_value(total, each)) > allowed + 1e-9 * abs(added)
    }


def describe_mismatch(
    key: MessageChannel, mismatches: Mapping[str, tuple[float, float]], date_range: DateRange
) -> str:
    """Return the sentence about rows that do not add up to their total over `date_range`."""
    listed = ", ".join(
        f"{name} {sums:g}, not {total:g}" for name, (sums, total) in mismatches.items()
    )
    return (
        f"message {key[0]!a} ({key[1]}), {date_range.first} to {date_range.last}: days "
        f"add up to {listed}"
    )


@dataclass(frozen=True, slots=True)
class ReportQuery:
    """A timeframe, and the messages to filter by; none means all."""

    date_range: DateRange
    message_ids: tuple[str, ...]


RowsByMessage = Mapping[MessageChannel, TimedRow]
"""The rows of a response, one for each message and channel, totals over the queried timeframe."""

QueryGenerator = Generator[ReportQuery, RowsByMessage, None]
"""Yields queries, and is sent the rows of each response."""


@dataclass(frozen=True, slots=True)
class SearchRange:
    """A range of days, and the totals over it of the messages searched there."""

    date_range: DateRange
    rows: RowsByMessage

    @property
    def newer_half_start(self) -> date:
        """Return the first day of the newer half."""
        return self.date_range.first + timedelta(days=len(self.date_range) // 2)

    @property
    def older_half(self) -> DateRange:
        """Return the older half."""
        return DateRange(self.date_range.first, self.newer_half_start - ONE_DAY)

    @property
    def newer_half(self) -> DateRange:
        """Return the newer half, the longer one of an odd number of days."""
        return DateRange(self.newer_half_start, self.date_range.last)


def build_report_query(
    date_range: DateRange, message_keys: Iterable[MessageChannel]
) -> ReportQuery:
    """Return the query for some messages; for all of them where a filter cannot hold them.

    Several requests with a filter would cost more than one without.
    """
    ids = tuple(sorted({message_id for message_id, _ in message_keys}))
    return ReportQuery(date_range, ids if len(ids) <= MAX_FILTER_IDS and all(ids) else ())


def select_nonempty_rows(
    rows: RowsByMessage, message_keys: Iterable[MessageChannel]
) -> dict[MessageChannel, TimedRow]:
    """Return the rows of these messages that have values."""
    return {key: rows[key] for key in message_keys if not is_empty_row(rows.get(key))}


def bisect_days(
    state: AllocationState,
    rows: RowsByMessage,
    date_range: DateRange,
    *,
    wanted_days: Collection[date],
) -> QueryGenerator:
    """Query until every message of `rows`, totals over `date_range`, has rows on the wanted days.

    Messages are searched together: those in one range share its query, and two ranges share one. If
    one half has the whole total of a message, the other half is not searched. Days that are known
    to have no sends, those not in `open_days`, are not queried again.
    """
    search_ranges = _initial_search_ranges(state, rows, date_range)
    while search_ranges:
        narrow: list[SearchRange] = []
        for search_range in search_ranges:
            narrow += yield from _narrow_search_range(state, search_range, wanted_days)
        halves: list[SearchRange] = []
        for pair in _pair_search_ranges(state, narrow):
            halves += yield from _query_half(state, *pair, wanted_days=wanted_days)
        search_ranges = halves


def _initial_search_ranges(
    state: AllocationState, rows: RowsByMessage, date_range: DateRange
) -> list[SearchRange]:
    """Return a range for each group of messages with the same possible days."""
    together: dict[DateRange, dict[MessageChannel, TimedRow]] = {}
    for key, row in rows.items():
        within = [day for day in state.messages[key].open_days if day in date_range]
        together.setdefault(bounding_range(within) if within else date_range, {})[key] = row
    return [SearchRange(each, found) for each, found in together.items()]


def _narrow_search_range(
    state: AllocationState, search_range: SearchRange, wanted_days: Collection[date]
) -> Generator[ReportQuery, RowsByMessage, list[SearchRange]]:
    """Narrow a range to its wanted days; return no range if it has none or is a single day.

    The rows of a single day are assigned to it.
    """
    inside = [day for day in search_range.date_range if day in wanted_days]
    if not search_range.rows or not inside:
        return []
    if len(search_range.date_range) == 1:
        for key, row in search_range.rows.items():
            state.assign_row(key, search_range.date_range.first, row)
        return []
    narrowed = bounding_range(inside)
    if narrowed == search_range.date_range:
        return [search_range]
    found = SearchRange(
        narrowed,
        select_nonempty_rows(
            (yield build_report_query(narrowed, search_range.rows)), search_range.rows
        ),
    )
    _exclude_days_beside(state, search_range, found)
    return (yield from _narrow_search_range(state, found, wanted_days))


def _exclude_days_beside(
    state: AllocationState, search_range: SearchRange, found: SearchRange
) -> None:
    """Exclude the days that a query over a part of the range rules out for each message.

    They are those of the part if it has no row of the message, and those beside the part if its
    row has the message's whole total.
    """
    for key, row in search_range.rows.items():
        if key not in found.rows:
            state.exclude_days(key, found.date_range)
        elif not find_sum_mismatches([found.rows[key]], row, SEND_STATISTICS):
            for outside in contiguous_ranges(set(search_range.date_range) - set(found.date_range)):
                state.exclude_days(key, outside)


def _pair_search_ranges(
    state: AllocationState, search_ranges: Iterable[SearchRange]
) -> Iterator[tuple[SearchRange, SearchRange | None]]:
    """Yield pairs of ranges that can share a query, the newer first; None where one cannot."""
    waiting: SearchRange | None = None
    for search_range in sorted(search_ranges, key=lambda each: each.date_range, reverse=True):
        if waiting is None:
            waiting = search_range
        elif _can_share_query(state, search_range, waiting):
            yield waiting, search_range
            waiting = None
        else:
            yield waiting, None
            waiting = search_range
    if waiting is not None:
        yield waiting, None


def _can_share_query(state: AllocationState, older: SearchRange, newer: SearchRange) -> bool:
    """Return whether one query serves both: each message has sends only in its own half of it."""
    if older.date_range.last >= newer.date_range.first:
        return False
    messages = {message_id for message_id, _ in (*older.rows, *newer.rows)}
    before = DateRange(older.newer_half_start, newer.date_range.first - ONE_DAY)
    after = DateRange(older.date_range.last + ONE_DAY, newer.newer_half_start - ONE_DAY)
    return (
        len(messages) <= MAX_FILTER_IDS
        and not any(state.messages[key].can_have_sends(before) for key in newer.rows)
        and not any(state.messages[key].can_have_sends(after) for key in older.rows)
    )


def _query_half(
    state: AllocationState,
    search_range: SearchRange,
    other: SearchRange | None,
    *,
    wanted_days: Collection[date],
) -> Generator[ReportQuery, RowsByMessage, list[SearchRange]]:
    """Query half of a range, together with half of an older one if given; return all halves."""
    if other is None:
        found = yield build_report_query(search_range.newer_half, search_range.rows)
        return (
            yield from _build_halves(
                state, search_range, search_range.newer_half, found, wanted_days
            )
        )
    queried_range = DateRange(other.newer_half_start, search_range.newer_half_start - ONE_DAY)
    found = yield build_report_query(queried_range, [*search_range.rows, *other.rows])
    own_halves = yield from _build_halves(
        state, search_range, search_range.older_half, found, wanted_days
    )
    return own_halves + (
        yield from _build_halves(state, other, other.newer_half, found, wanted_days)
    )


def _build_halves(
    state: AllocationState,
    search_range: SearchRange,
    queried_range: DateRange,
    found_rows: RowsByMessage,
    wanted_days: Collection[date],
) -> Generator[ReportQuery, RowsByMessage, list[SearchRange]]:
    """Return both halves of a range, given the rows found in one of them."""
    rest = (
        search_range.older_half
        if queried_range == search_range.newer_half
        else search_range.newer_half
    )
    in_queried = select_nonempty_rows(found_rows, search_range.rows)
    in_rest: dict[MessageChannel, TimedRow] = {}
    in_both: list[MessageChannel] = []
    for key, row in search_range.rows.items():
        if key not in in_queried:
            state.exclude_days(key, queried_range)
            in_rest[key] = row
        elif find_sum_mismatches([in_queried[key]], row, SEND_STATISTICS):
            in_both.append(key)
        else:
            state.exclude_days(key, rest)
    if in_both and any(day in wanted_days for day in rest):
        there = select_nonempty_rows((yield build_report_query(rest, in_both)), in_both)
        for key in in_both:
            if wrong := find_sum_mismatches(
                [in_queried[key], there.get(key)], search_range.rows[key], SEND_STATISTICS
            ):
                state.warnings.append(describe_mismatch(key, wrong, search_range.date_range))
            if key not in there:
                state.exclude_days(key, rest)
        in_rest |= there
    return [SearchRange(queried_range, in_queried), SearchRange(rest, in_rest)]
