"""Chooses the fewest timeframes to request for the wanted days.

A request costs the same whatever its timeframe, so each timeframe is made as long as Klaviyo
allows: the cached response then serves sibling runs, since Dagster may have split one backfill into
a run for each day.

If a message was sent on only one day of a timeframe, its total over the timeframe is the number of
that day. So days that are known to isolate a message are not requested one by one.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date, timedelta
from typing import TypeVar

from klaviyo_assets.model.report import ONE_DAY, DateRange


def choose_timeframes(
    wanted_days: Collection[date],
    *,
    bounds: DateRange,
    max_days: int,
    sibling_days: Collection[date] = (),
    should_widen: bool = True,
) -> tuple[DateRange, ...]:
    """Return the fewest timeframes that hold all wanted days, newest first.

    Each has at most `max_days` days and lies within `bounds`; wanted days outside are ignored.
    `sibling_days` are the days that sibling runs want. Siblings that pass the same ones, with their
    own among them, all choose from the same timeframes, so that they share responses.
    `should_widen`: make each timeframe as long as allowed.

        bounds ───────[═════════════════════════════════════════]────▶ days
        wanted               x   x                     x x
        requested      [──────────────]      [──────────────────]
    """
    own_days = {day for day in wanted_days if day in bounds}
    together = sorted(own_days | {day for day in sibling_days if day in bounds})
    timeframes = _choose_timeframes(
        together, bounds=bounds, max_days=max_days, should_widen=should_widen
    )
    return tuple(timeframe for timeframe in timeframes if any(day in timeframe for day in own_days))


def bounding_range(days: Collection[date]) -> DateRange:
    """Return the shortest range that holds all days.

    Raises:
        ValueError: there are no days.
    """
    return DateRange(min(days), max(days))


def _choose_timeframes(
    ascending_days: list[date], *, bounds: DateRange, max_days: int, should_widen: bool
) -> Iterator[DateRange]:
    """Yield timeframes greedily from the newest day on, each widened if `should_widen`."""
    days = ascending_days
    newest_allowed = bounds.last
    while days:
        oldest_reached = days[-1] - timedelta(days=max_days - 1)
        needed = bounding_range([day for day in days if day >= oldest_reached])
        timeframe = needed
        if should_widen:
            timeframe = _widen_timeframe(
                needed, DateRange(bounds.first, newest_allowed), max_days=max_days
            )
        if should_widen and len(timeframe) < max_days:
            # No older days are left. Requesting newer days a second time costs nothing.
            timeframe = _widen_timeframe(timeframe, bounds, max_days=max_days)
        yield timeframe
        days = [day for day in days if day < timeframe.first]
        newest_allowed = timeframe.first - ONE_DAY


def _widen_timeframe(needed: DateRange, bounds: DateRange, *, max_days: int) -> DateRange:
    """Return the longest allowed timeframe around `needed`, centred as far as `bounds` permit."""
    spare = max_days - len(needed)
    older = min(spare - spare // 2, (needed.first - bounds.first).days)
    newer = min(spare - older, (bounds.last - needed.last).days)
    older = min(spare - newer, (needed.first - bounds.first).days)
    return DateRange(needed.first - timedelta(days=older), needed.last + timedelta(days=newer))


_NameT = TypeVar("_NameT")


def choose_isolating_timeframes(
    send_days: Mapping[_NameT, Collection[date]], wanted_days: Mapping[_NameT, Iterable[date]]
) -> tuple[tuple[DateRange, dict[_NameT, date]], ...]:
    """Return timeframes, newest first, each with the one day that it isolates of each name.

    `send_days` has all days on which a name was sent, `wanted_days` those to isolate. A timeframe
    holds one send day of each of its names, so that a total over it is that day's number.
    Timeframes do not overlap, and there are as few as that permits.

        a      x         x
        b          x   x
        ───────[───][────]──▶ days: two timeframes for four pairs of name and day
    """
    by_day: dict[date, list[_NameT]] = {}
    for name, days in wanted_days.items():
        for day in days:
            by_day.setdefault(day, []).append(name)
    found: list[dict[_NameT, date]] = []
    isolated: dict[_NameT, date] = {}
    for day in sorted(by_day, reverse=True):
        together = isolated | dict.fromkeys(by_day[day], day)
        timeframe = DateRange(day, max([day, *isolated.values()]))
        is_isolating = all(
            sum(each in timeframe for each in send_days[name]) == 1 for name in together
        )
        if isolated and not is_isolating:
            found.append(isolated)
            together = dict.fromkeys(by_day[day], day)
        isolated = together
    if isolated:
        found.append(isolated)
    return tuple((bounding_range(each.values()), each) for each in found)


def split_timeframe(
    timeframe: DateRange,
    send_days: Mapping[_NameT, Collection[date]],
    wanted_days: Collection[date],
) -> tuple[DateRange, ...]:
    """Return the fewest parts of `timeframe` that isolate the wanted days, newest first.

    No part holds a wanted day of a name together with another of its days in `send_days`.

        a      x         x
        b          x   x
        [──────────][──────────] days: the totals over both parts give all four numbers
    """
    names: dict[date, list[_NameT]] = {}
    for name, days in send_days.items():
        for day in days:
            if day in timeframe:
                names.setdefault(day, []).append(name)
    found: list[DateRange] = []
    last, inside = timeframe.last, dict[_NameT, bool]()
    for day in sorted(names, reverse=True):
        is_wanted = day in wanted_days
        if any(name in inside and (is_wanted or inside[name]) for name in names[day]):
            found.append(DateRange(day + ONE_DAY, last))
            last, inside = day, {}
        inside |= {name: is_wanted or inside.get(name, False) for name in names[day]}
    return (*found, DateRange(timeframe.first, last))
