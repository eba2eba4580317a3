"""Chooses the fewest timeframes to request for the days that are wanted.

A request costs one whatever its length, so each is made as long as it may be: its answer is kept
and serves sibling runs, into which Dagster may have cut the same backfill day by day.

A total over a stretch in which a message was sent on one day only is that day's number, whatever
else the stretch holds. So days known to be the only ones are not asked for one by one.
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
    """Return the time frames to ask for, newest first; together they hold every day wanted.

    Each has at most `max_days` days and lies within `bounds`; days wanted outside of those are
    left out. No smaller number of time frames would do. `sibling_days` are days that sibling runs
    want: every sibling that is told the same ones, and has its own among them, gets its part of one
    common set of time frames. `should_widen` tells to make each as long as it may be.

        bounds ───────[═════════════════════════════════════════]────▶ days
        wanted               x   x                     x x
        asked          [──────────────]      [──────────────────]
    """
    own = {day for day in wanted_days if day in bounds}
    together = sorted(own | {day for day in sibling_days if day in bounds})
    timeframes = _choose_timeframes(
        together, bounds=bounds, max_days=max_days, should_widen=should_widen
    )
    return tuple(timeframe for timeframe in timeframes if any(day in timeframe for day in own))


def bounding_range(days: Collection[date]) -> DateRange:
    """Return the shortest time frame that holds all days.

    Raises:
        ValueError: there is none.
    """
    return DateRange(min(days), max(days))


def _choose_timeframes(
    ascending_days: list[date], *, bounds: DateRange, max_days: int, should_widen: bool
) -> Iterator[DateRange]:
    """Yield time frames greedily from the newest day on, each moved into its surroundings."""
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
            # Nothing older is left; newer days may be asked for twice, they cost nothing.
            timeframe = _widen_timeframe(timeframe, bounds, max_days=max_days)
        yield timeframe
        days = [day for day in days if day < timeframe.first]
        newest_allowed = timeframe.first - ONE_DAY


def _widen_timeframe(needed: DateRange, bounds: DateRange, *, max_days: int) -> DateRange:
    """Return the longest allowed time frame around `needed`, as even as `bounds` permit."""
    spare = max_days - len(needed)
    older = min(spare - spare // 2, (needed.first - bounds.first).days)
    newer = min(spare - older, (bounds.last - needed.last).days)
    older = min(spare - newer, (needed.first - bounds.first).days)
    return DateRange(needed.first - timedelta(days=older), needed.last + timedelta(days=newer))


_NameT = TypeVar("_NameT")


def choose_isolating_timeframes(
    send_days: Mapping[_NameT, Collection[date]], wanted_days: Mapping[_NameT, Iterable[date]]
) -> tuple[tuple[DateRange, dict[_NameT, date]], ...]:
    """Return time frames, newest first, each with the day that every name in it is asked for.

    `send_days` has all days on which something of a name was sent, `wanted_days` those of interest.
    A time frame holds one day of each name that it is asked for, and time frames do not overlap;
    there are as few of them as that permits.

        a      x         x
        b          x   x
        ───────[───][────]──▶ days: two time frames for four pairs
    """
    by_day: dict[date, list[_NameT]] = {}
    for name, days in wanted_days.items():
        for day in days:
            by_day.setdefault(day, []).append(name)
    found: list[dict[_NameT, date]] = []
    asked: dict[_NameT, date] = {}
    for day in sorted(by_day, reverse=True):
        together = asked | dict.fromkeys(by_day[day], day)
        timeframe = DateRange(day, max([day, *asked.values()]))
        is_told_apart = all(
            sum(each in timeframe for each in send_days[name]) == 1 for name in together
        )
        if asked and not is_told_apart:
            found.append(asked)
            together = dict.fromkeys(by_day[day], day)
        asked = together
    if asked:
        found.append(asked)
    return tuple((bounding_range(each.values()), each) for each in found)


def split_timeframe(
    timeframe: DateRange,
    send_days: Mapping[_NameT, Collection[date]],
    wanted_days: Collection[date],
) -> tuple[DateRange, ...]:
    """Return the fewest timeframes that make up `timeframe` and tell the days wanted, newest first.

    None of them holds a day wanted of a name together with another of its days in `send_days`.

        a      x         x
        b          x   x
        [──────────][──────────] days: totals over both tell all four
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
