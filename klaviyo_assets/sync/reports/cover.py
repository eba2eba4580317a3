"""The fewest requests for the days wanted of one metric.

What belongs here: choosing time frames, pure. What does not: who wants which days, and whether an
answer is there already (`fetch`).

A request costs one whatever its length, so each is made as long as it may be: its answer is kept
and serves sibling runs, into which Dagster may have cut the same backfill day by day.
"""

from collections.abc import Collection, Iterator
from datetime import date, timedelta

from klaviyo_assets.model.report import Days


def cover(
    wanted: Collection[date],
    *,
    bounds: Days,
    most_days: int,
    among: Collection[date] = (),
    widens: bool = True,
) -> tuple[Days, ...]:
    """Return the time frames to ask for, newest first; together they hold every day wanted.

    Each has at most `most_days` days and lies within `bounds`; days wanted outside of those are
    left out. No smaller number of time frames would do. `among` are days that sibling runs want:
    every sibling that is told the same ones, and has its own among them, gets its part of one
    common set of time frames. `widens` tells to make each as long as it may be.

        bounds ───────[═════════════════════════════════════════]────▶ days
        wanted               x   x                     x x
        asked          [──────────────]      [──────────────────]
    """
    own = {day for day in wanted if day in bounds}
    together = sorted(own | {day for day in among if day in bounds})
    frames = _frames(together, bounds=bounds, most_days=most_days, widens=widens)
    return tuple(frame for frame in frames if any(day in frame for day in own))


def hull(days: Collection[date]) -> Days:
    """Return the shortest time frame that holds all days.

    Raises:
        ValueError: there is none.
    """
    return Days(min(days), max(days))


def runs(days: Collection[date]) -> Iterator[Days]:
    """Yield the stretches without a gap, newest first."""
    rest = sorted(days, reverse=True)
    while rest:
        length = 1
        while length < len(rest) and rest[length] == rest[0] - timedelta(days=length):
            length += 1
        yield Days(rest[length - 1], rest[0])
        rest = rest[length:]


def _frames(ascending: list[date], *, bounds: Days, most_days: int, widens: bool) -> Iterator[Days]:
    """Yield time frames greedily from the newest day on, each moved into its surroundings."""
    days = ascending
    newest_allowed = bounds.last
    while days:
        oldest_reached = days[-1] - timedelta(days=most_days - 1)
        needed = hull([day for day in days if day >= oldest_reached])
        frame = needed
        if widens:
            frame = _widened(needed, Days(bounds.first, newest_allowed), most_days=most_days)
        if widens and len(frame) < most_days:
            # Nothing older is left; newer days may be asked for twice, they cost nothing.
            frame = _widened(frame, bounds, most_days=most_days)
        yield frame
        days = [day for day in days if day < frame.first]
        newest_allowed = frame.first - timedelta(days=1)


def _widened(needed: Days, bounds: Days, *, most_days: int) -> Days:
    """Return the longest allowed time frame around `needed`, as even as `bounds` permit."""
    spare = most_days - len(needed)
    older = min(spare - spare // 2, (needed.first - bounds.first).days)
    newer = min(spare - older, (bounds.last - needed.last).days)
    older = min(spare - newer, (needed.first - bounds.first).days)
    return Days(needed.first - timedelta(days=older), needed.last + timedelta(days=newer))
