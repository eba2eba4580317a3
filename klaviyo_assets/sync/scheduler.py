"""Which window an idle worker reads: one that waits, or the later part of one being read.

A split may cost a request: the last page before the seam brings records from beyond it, which the
new window brings as well, and the new window may turn out to be empty. Where records lie is known
only once they are read, so two things are kept apart.

What is *likely* decides which window is split, and where. Its records are taken to lie on as they
have lain so far (`density`). A part that then brings less than a quarter of what was expected
refutes that: the records so far were a crowd, an import or a send. From then on the window is
taken to hold as much again as it has brought, the end of the crowd is looked for on a scale of
doublings, by one part at a time, and after each refutation only once the window has brought twice
as many pages.

What is *certain* decides how often windows are split. A split costs one request at most, that of
a last page which is not full; what is known of last pages that were read already is given back. A
split is made only while all of these together stay within 10 requests and 10 % of the pages read.
So a sync never asks for more than `1.1 x pages + 10`, wherever its records lie.

No clock, no threads and no requests here: `pool` calls this under one lock.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil, floor, sqrt

from klaviyo_assets.sync.density import SECOND
from klaviyo_assets.sync.walk import Walk

MOST_WASTED = 10
"""Requests beyond its pages that a sync may spend on reading windows side by side..."""

WASTED_SHARE = 0.1
"""... and this share of its pages."""

WORTH_SPLITTING = 3.0
"""Pages that a window must still promise before an idle worker takes a part of it."""

WORTH_READING = 1.5
"""Pages that a part should promise where a window is cut into several at once."""

REFUTED_BELOW = 0.25
"""Share of what a part promised below which it refutes the density that promised it."""

PLAUSIBLE_PAGES = 2000
"""Pages from which on a promise is put to the test by one part before more are cut off.

Half a million events an hour are a crowd rather than an account. Where an account is as large as
that, one page's time at the start is nothing beside the rest; where fewer pages are promised, so
many parts are cut off at once that all of them together are about as many.
"""

MOST_UNANSWERED = 10
"""Parts of one window that may wait for their first page."""

_ROUNDING = 1e-6
"""Sums of parts of pages may be off by as much."""


@dataclass(slots=True)
class _Family:
    """The windows of one slice: those of the plan and all that was cut off them."""

    splits: int
    """Windows beyond the first one."""
    last_pages: float = 0.0
    """How full the last pages of those were that were read to their end, in pages."""

    @property
    def at_risk(self) -> int:
        """Return how many requests more than its pages it may come to.

        Each window makes a request for each full page and one for its last page, which is full in
        part, or empty: `full + splits + 1` in all. Its pages are `full` and as many as all these
        parts fill. What is never split asks for what one reader asks for.
        """
        return self.splits + 1 - ceil(self.last_pages - _ROUNDING) if self.splits else 0


@dataclass(slots=True, eq=False)
class _Reading:
    """A window and what became of the parts that were cut off it."""

    walk: Walk
    family: _Family
    parent: "_Reading | None" = None
    promised: float = 0.0
    """Pages that its parent's density promised."""
    pages: float = 0.0
    """Its pages that are counted already."""
    quota: int = 0
    """Parts that may be cut off it before the first of them is answered; 0 before its own page."""
    unanswered: int = 0
    """Parts cut off it whose first page has not come."""
    refuted: int = 0
    """Parts in a row that brought far less than promised."""

    @property
    def promise(self) -> float:
        """Return how many pages the rest of the window is likely to bring."""
        if not self.quota:
            return self.promised
        if not self.refuted:
            return self.walk.pages_left
        return min(self.walk.pages_left, self.walk.pages)

    @property
    def parts(self) -> int:
        """Return how many parts it may give up now."""
        has_waited = not self.refuted or self.walk.requests >= 2 ** (self.refuted + 1)
        if not self.quota or not has_waited or self.promise < WORTH_SPLITTING:
            return 0
        if not self.walk.is_splittable:
            return 0
        return (1 if self.refuted else self.quota) - self.unanswered

    def note(self) -> None:
        """Take in a page: the first one says whether the parent's density was right."""
        promise = self.walk.pages_left
        self.quota = max(1, min(MOST_UNANSWERED, floor(PLAUSIBLE_PAGES / max(promise, 1.0))))
        parent, self.parent = self.parent, None
        if parent is None:
            return
        parent.unanswered -= 1
        is_refuted = self.walk.pages + promise < REFUTED_BELOW * self.promised
        parent.refuted = parent.refuted + 1 if is_refuted else 0


@dataclass(slots=True)
class WindowScheduler:
    """Hands out windows; to be called by one thread at a time."""

    waiting: list[Walk]
    pages: float = 0.0
    """Full pages that all windows have brought."""
    _readings: dict[Walk, _Reading] = field(default_factory=dict[Walk, _Reading])
    _families: dict[str, _Family] = field(default_factory=dict[str, _Family])
    """By their slice's name."""
    _unread: Counter[str] = field(default_factory=Counter[str])
    """Windows that are not read to their end, by their slice's name."""
    _given_up: set[str] = field(default_factory=set[str])
    """Names of slices of which a window could not be read."""

    @classmethod
    def of(cls, walks: Sequence[Walk]) -> "WindowScheduler":
        """Return the scheduler of the plan's windows."""
        windows = Counter(walk.slice.name for walk in walks)
        families = {name: _Family(count - 1) for name, count in windows.items()}
        return cls(list(walks), _families=families, _unread=windows)

    @property
    def is_over(self) -> bool:
        """Return whether nothing waits and nothing is being read."""
        return not self.waiting and not self._readings

    @property
    def reading(self) -> int:
        """Return how many windows are being read."""
        return len(self._readings)

    def next_walk(self, *, idle: int, windows: int) -> Walk | None:
        """Return a window to read; None where none waits and none is worth splitting now.

        `idle` workers have nothing to read, this one among them; `windows` are worth reading at
        once.
        """
        if self.waiting:
            walk = self.waiting.pop(0)
            self._readings[walk] = _Reading(walk, self._families[walk.slice.name])
            return walk
        # Most calls end here, and each page makes one: nothing dear before it.
        room = min(idle, windows - self.reading)
        return self._later_part(min(room, self._affordable)) if room > 0 else None

    def note(self, walk: Walk) -> None:
        """Take in that the walk has brought a page."""
        reading = self._readings[walk]
        self.pages += walk.pages - reading.pages
        reading.pages = walk.pages
        reading.note()

    def finish(self, walk: Walk) -> bool:
        """Take in that the walk is at its end; return whether all of its slice has been read."""
        reading = self._readings.pop(walk)
        reading.family.last_pages += walk.last_page
        self._unread[walk.slice.name] -= 1
        self._read_again(walk, reading.family)
        return not self._unread[walk.slice.name] and walk.slice.name not in self._given_up

    def _read_again(self, walk: Walk, family: _Family) -> None:
        """Have a window that came out of order read whole, once all of its parts have ended."""
        again = walk.again()
        parts = (each.origin for each in self._readings)
        if again is None or walk.origin in parts or walk.slice.name in self._given_up:
            return
        self.waiting.append(again)
        self._unread[walk.slice.name] += 1
        family.splits += 1

    def give_up(self, walk: Walk) -> None:
        """Take in that the walk cannot be read, so that its slice is not read to its end now.

        Its windows that wait are dropped; those being read bring what they can.
        """
        reading = self._readings.pop(walk)
        if reading.parent is not None:
            reading.parent.unanswered -= 1
        self._given_up.add(walk.slice.name)
        self.waiting = [each for each in self.waiting if each.slice.name != walk.slice.name]

    def _later_part(self, room: int) -> Walk | None:
        """Cut off a part of the busiest window that may give one up; `room` are wanted in all."""
        givers = [each for each in self._readings.values() if each.parts > 0] if room > 0 else []
        if not givers:
            return None
        busiest = max(givers, key=lambda each: each.promise)
        promise = busiest.promise
        share = sum(each.promise for each in self._readings.values()) / (self.reading + room)
        parts = min(
            room, busiest.parts, round(promise / share) - 1, int(promise / WORTH_READING) - 1
        )
        return self._cut_off(busiest, max(1, parts))

    @property
    def _affordable(self) -> int:
        """Return how many more splits are certain to stay within bounds."""
        at_risk = sum(each.at_risk for each in self._families.values())
        return floor(MOST_WASTED + WASTED_SHARE * self.pages - at_risk + _ROUNDING)

    def _cut_off(self, giver: _Reading, parts: int) -> Walk | None:
        """Cut off the last of `parts` equal parts, beside the one that the window keeps."""
        walk, promise = giver.walk, giver.promise
        lower, upper = walk.position, walk.upper
        if lower is None or upper is None:
            return None
        at = _seam(lower, upper, ahead=_ahead(giver, upper - lower, parts))
        part = walk.split(at) if at is not None else None
        if at is None or part is None:
            return None
        promised = promise * ((upper - at) / (upper - lower))
        giver.unanswered += 1
        giver.family.splits += 1
        self._unread[part.slice.name] += 1
        self._readings[part] = _Reading(part, giver.family, parent=giver, promised=promised)
        return part


def _ahead(giver: _Reading, left: timedelta, parts: int) -> timedelta:
    """Return how much of the time that is left stays with the window.

    Where its records are a crowd, the mean of how long that has lasted and of what is left, on a
    scale of doublings: halfway, if the crowd is as likely to last twice as long as ten times.
    """
    if not giver.refuted:
        return left * (parts / (parts + 1))
    doublings = SECOND * sqrt((giver.walk.span / SECOND) * (left / SECOND))
    return min(doublings, left / 2)


def _seam(lower: datetime, upper: datetime, *, ahead: timedelta) -> datetime | None:
    """Return the whole second nearest below `lower + ahead` that lies between the two."""
    if upper - lower < 4 * SECOND:
        return None
    at = (lower + ahead).replace(microsecond=0)
    return at if at > lower else at + SECOND
