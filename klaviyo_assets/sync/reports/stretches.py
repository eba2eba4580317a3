"""The fewest time frames that tell the days of several messages apart.

What belongs here: the choice of time frames, pure. What does not: which days those are (`learned`).

A total over a stretch in which a message was sent on one day only is that day's number, whatever
else the stretch holds. So days known to be the only ones are not asked for one by one.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import date, timedelta
from typing import TypeVar

from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.cover import hull

Name = TypeVar("Name")


def stretches(
    sent: Mapping[Name, Collection[date]], wanted: Mapping[Name, Iterable[date]]
) -> tuple[tuple[Days, dict[Name, date]], ...]:
    """Return time frames, newest first, each with the day that every name in it is asked for.

    `sent` has all days on which something of a name was sent, `wanted` those of interest. A time
    frame holds one day of each name that it is asked for, and time frames do not overlap; there are
    as few of them as that permits.

        a      x         x
        b          x   x
        ───────[───][────]──▶ days: two time frames for four pairs
    """
    by_day: dict[date, list[Name]] = {}
    for name, days in wanted.items():
        for day in days:
            by_day.setdefault(day, []).append(name)
    found: list[dict[Name, date]] = []
    asked: dict[Name, date] = {}
    for day in sorted(by_day, reverse=True):
        together = asked | dict.fromkeys(by_day[day], day)
        frame = Days(day, max([day, *asked.values()]))
        is_told_apart = all(sum(each in frame for each in sent[name]) == 1 for name in together)
        if asked and not is_told_apart:
            found.append(asked)
            together = dict.fromkeys(by_day[day], day)
        asked = together
    if asked:
        found.append(asked)
    return tuple((hull(each.values()), each) for each in found)


def pieces(
    frame: Days, sent: Mapping[Name, Collection[date]], wanted: Collection[date]
) -> tuple[Days, ...]:
    """Return the fewest time frames that make up `frame` and tell the days wanted, newest first.

    None of them holds a day wanted of a name together with another of its days in `sent`.

        a      x         x
        b          x   x
        [──────────][──────────] days: totals over both tell all four
    """
    names: dict[date, list[Name]] = {}
    for name, days in sent.items():
        for day in days:
            if day in frame:
                names.setdefault(day, []).append(name)
    found: list[Days] = []
    last, inside = frame.last, dict[Name, bool]()
    for day in sorted(names, reverse=True):
        is_wanted = day in wanted
        if any(name in inside and (is_wanted or inside[name]) for name in names[day]):
            found.append(Days(day + timedelta(days=1), last))
            last, inside = day, {}
        inside |= {name: is_wanted or inside.get(name, False) for name in names[day]}
    return (*found, Days(frame.first, last))
