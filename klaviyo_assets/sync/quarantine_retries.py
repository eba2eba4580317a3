"""Windows that held records which could not be stored, to be asked for again by later syncs.

What belongs here: which windows, when again, and their JSON form in the lake's commit. What does
not: judging records (`tables`) and reading windows (`pool`). The mark does not wait for them: a
record that stays broken would hold up all that come after it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import cast

from klaviyo_assets.model.window import Window, instant

MOST_TRIES = 8
"""Syncs that ask for a window again: at once, then 1, 2, 4, ... hours later, five days in all."""

FIRST_WAIT = timedelta(hours=1)
"""After the first try; doubled after each."""

MOST_WINDOWS = 200
"""Windows remembered of one slice; beyond that the two that lie closest become one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRetry:
    """A window of one slice that is asked for again from `due` (UTC) on; `tries` were made."""

    slice: str
    window: Window
    tries: int
    due: datetime


@dataclass(slots=True)
class QuarantineRetries:
    """Those of one stream. `begin` comes first; then `note` as pages come, `finish` as slices end.

    A window leaves once its slice was read to the end without a broken record in it.
    """

    windows: list[QuarantineRetry] = field(default_factory=list[QuarantineRetry])
    _asked: list[QuarantineRetry] = field(default_factory=list[QuarantineRetry])
    """Windows that this sync asks for again, as they are from now on if it is cut short."""

    def begin(self, now: datetime, active: Collection[str] | None = None) -> None:
        """Choose the windows that are due, and say when each is next if nothing comes of it.

        `active` are the names of the slices that are read, None for all: those of others wait.
        """
        waiting = [each for each in self.windows if active is not None and each.slice not in active]
        kept = [each for each in self.windows if each in waiting or each.due > now]
        self._asked = [
            replace(each, tries=each.tries + 1, due=now + FIRST_WAIT * 2**each.tries)
            for each in self.windows
            if each not in waiting and each.due <= now and each.tries < MOST_TRIES
        ]
        self.windows = kept + self._asked

    def of_slice(self, slice_name: str) -> tuple[Window, ...]:
        """Return what is to be asked for again of a slice now."""
        return tuple(each.window for each in self._asked if each.slice == slice_name)

    def note(self, slice_name: str, window: Window, now: datetime) -> None:
        """Take in that a page in `window` held a record that cannot be stored.

        It becomes one with those that it touches; the most tries of them count.
        """
        merged = QuarantineRetry(slice=slice_name, window=window, tries=0, due=now)
        apart: list[QuarantineRetry] = []
        for each in self.windows:
            # One whose tries are over waits to be forgotten, and takes no other along.
            is_over = each.tries >= MOST_TRIES and each not in self._asked
            if each.slice == slice_name and not is_over and _touch(each.window, merged.window):
                due = max(merged.due, each.due)
                tries, hull = max(merged.tries, each.tries), _hull(merged.window, each.window)
                merged = replace(merged, window=hull, tries=tries, due=due)
            else:
                apart.append(each)
        self.windows = [*apart, merged]
        self._asked = [each for each in self._asked if each in apart]
        own = [each for each in self.windows if each.slice == slice_name]
        if len(own) > MOST_WINDOWS:
            self.note(slice_name, _narrowest_gap([each.window for each in own]), now)

    def share(self, slice_name: str, others: Iterable[str]) -> None:
        """Have what one slice could not store asked for again in others as well."""
        of_one = [each for each in self.windows if each.slice == slice_name]
        self.windows += [replace(each, slice=name) for name in others for each in of_one]

    def take_over(self, others: "QuarantineRetries") -> None:
        """Remember the windows of others as well, each once."""
        self.windows += [each for each in others.windows if each not in self.windows]

    def finish(self, slice_name: str) -> None:
        """Forget the windows asked for again of a slice that has been read to its end."""
        done = [each for each in self._asked if each.slice == slice_name]
        self._asked = [each for each in self._asked if each not in done]
        self.windows = [each for each in self.windows if each not in done]


def _touch(one: Window, other: Window) -> bool:
    return one.floor <= other.ceiling and other.floor <= one.ceiling


def _narrowest_gap(windows: list[Window]) -> Window:
    """Return the smallest gap between two of the windows, which do not touch."""
    ordered = sorted(windows, key=lambda one: one.floor)
    gaps = [Window(one.end, other.start) for one, other in pairwise(ordered)]
    return min(gaps, key=lambda gap: gap.ceiling - gap.floor)


def _hull(*windows: Window) -> Window:
    first, last = min(windows, key=lambda one: one.floor), max(windows, key=lambda one: one.ceiling)
    return Window(first.start, last.end)


def retries_to_json(retries: QuarantineRetries) -> list[dict[str, object]]:
    """Return the windows as a commit carries them."""
    return [
        {
            "slice": each.slice,
            "start": _text(each.window.start),
            "end": _text(each.window.end),
            "tries": each.tries,
            "due": _text(each.due),
        }
        for each in retries.windows
    ]


def retries_from_json(found: object) -> QuarantineRetries:
    """Return the windows that a commit carries; what cannot be read is no reason to stop."""
    rows = cast("Iterable[object]", found) if isinstance(found, list) else ()
    read: list[QuarantineRetry] = []
    for row in rows:
        try:
            each = cast("Mapping[str, str | None]", row)
            due = instant(each["due"])
            if due is not None:
                window = Window(instant(each["start"]), instant(each["end"]))
                tries = int(str(each["tries"]))
                name = str(each["slice"])
                read.append(QuarantineRetry(slice=name, window=window, tries=tries, due=due))
        except (KeyError, TypeError, ValueError):
            continue
    return QuarantineRetries(read)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
