"""Finds the unknown send days of messages by bisection, two ranges with one query.

    A                   B                     two ranges, each with messages of its own
    [══════╪══════] · · [══════╪══════]
           └───────────────────┘              one query: the newer half of A, the older half of B

This works only if no message of A or B has sends in the rest of the queried range. That has to be
checked: a message whose days are not all wanted may also have been sent outside its range.
"""

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from klaviyo_assets.api.requests import MAX_FILTER_IDS
from klaviyo_assets.model.report import ONE_DAY, DateRange
from klaviyo_assets.reports.allocation_state import (
    SEND_STATISTICS,
    AllocationState,
    TimedRow,
    describe_mismatch,
    find_sum_mismatches,
    is_empty_row,
)
from klaviyo_assets.reports.calendar import bounding_range
from klaviyo_assets.reports.send_schedule import MessageChannel


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

    def ranges_outside(self, inner_range: DateRange) -> Iterator[DateRange]:
        """Yield the days before and after a part of the range."""
        if self.date_range.first < inner_range.first:
            yield DateRange(self.date_range.first, inner_range.first - ONE_DAY)
        if inner_range.last < self.date_range.last:
            yield DateRange(inner_range.last + ONE_DAY, self.date_range.last)


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
    """Assign a single day; narrow a range to its wanted days; drop a range without any."""
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
    """Exclude days for messages: inside a queried part without rows, or outside a full one."""
    for key, row in search_range.rows.items():
        if key not in found.rows:
            state.exclude_days(key, found.date_range)
        elif not find_sum_mismatches([found.rows[key]], row, SEND_STATISTICS):
            for outside in search_range.ranges_outside(found.date_range):
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
    """Query half of a range, and half of an older one with it; return all halves."""
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
