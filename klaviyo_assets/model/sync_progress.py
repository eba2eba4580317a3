"""What a stream's syncs have read so far, as each commit carries it: windows and cursors."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import cast

from klaviyo_assets.errors import ConfigError
from klaviyo_assets.model.window import (
    Coverage,
    Window,
    coverage_from_json,
    coverage_to_json,
    parse_instant,
)

MAX_QUARANTINE_TRIES = 8
"""Syncs that ask for a window again: at once, then 1, 2, 4, ... hours later, five days in all."""

FIRST_QUARANTINE_RETRY_WAIT = timedelta(hours=1)
"""After the first try; doubled after each."""

MAX_RETRY_WINDOWS = 200
"""Windows remembered of one slice; beyond that the two that lie closest become one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRetry:
    """A window of one slice that is asked for again from `due_at` (UTC) on; `tries` were made."""

    slice_name: str
    window: Window
    tries: int
    due_at: datetime


@dataclass(slots=True)
class QuarantineRetries:
    """Those of one stream. `select_due` comes first.

    Then `add` as pages come, `finish_slice` as slices end.

    A window leaves once its slice was read to the end without a broken record in it.
    """

    entries: list[QuarantineRetry] = field(default_factory=list[QuarantineRetry])
    _selected: list[QuarantineRetry] = field(default_factory=list[QuarantineRetry])
    """Windows that this sync asks for again, as they are from now on if it is cut short."""

    def select_due(self, now: datetime, active: Collection[str] | None = None) -> None:
        """Choose the windows that are due, and say when each is next if nothing comes of it.

        `active` are the names of the slices that are read, None for all: those of others wait.
        """
        waiting = [
            each for each in self.entries if active is not None and each.slice_name not in active
        ]
        not_due = [each for each in self.entries if each in waiting or each.due_at > now]
        self._selected = [
            replace(
                each, tries=each.tries + 1, due_at=now + FIRST_QUARANTINE_RETRY_WAIT * 2**each.tries
            )
            for each in self.entries
            if each not in waiting and each.due_at <= now and each.tries < MAX_QUARANTINE_TRIES
        ]
        self.entries = not_due + self._selected

    def windows_of_slice(self, slice_name: str) -> tuple[Window, ...]:
        """Return what is to be asked for again of a slice now."""
        return tuple(each.window for each in self._selected if each.slice_name == slice_name)

    def add(self, slice_name: str, window: Window, now: datetime) -> None:
        """Take in that a page in `window` held a record that cannot be stored.

        It becomes one with those that it touches; the most tries of them count.
        """
        merged = QuarantineRetry(slice_name=slice_name, window=window, tries=0, due_at=now)
        apart: list[QuarantineRetry] = []
        for each in self.entries:
            # One whose tries are over waits to be forgotten, and takes no other along.
            is_over = each.tries >= MAX_QUARANTINE_TRIES and each not in self._selected
            if (
                each.slice_name == slice_name
                and not is_over
                and _is_touching(each.window, merged.window)
            ):
                due = max(merged.due_at, each.due_at)
                tries, bounding_window = (
                    max(merged.tries, each.tries),
                    _bounding_window(merged.window, each.window),
                )
                merged = replace(merged, window=bounding_window, tries=tries, due_at=due)
            else:
                apart.append(each)
        self.entries = [*apart, merged]
        self._selected = [each for each in self._selected if each in apart]
        own = [each for each in self.entries if each.slice_name == slice_name]
        if len(own) > MAX_RETRY_WINDOWS:
            self.add(slice_name, _find_narrowest_gap([each.window for each in own]), now)

    def share(self, slice_name: str, others: Iterable[str]) -> None:
        """Have what one slice could not store asked for again in others as well."""
        of_one = [each for each in self.entries if each.slice_name == slice_name]
        self.entries += [replace(each, slice_name=name) for name in others for each in of_one]

    def extend(self, others: "QuarantineRetries") -> None:
        """Remember the windows of others as well, each once."""
        self.entries += [each for each in others.entries if each not in self.entries]

    def finish_slice(self, slice_name: str) -> None:
        """Forget the windows asked for again of a slice that has been read to its end."""
        done = [each for each in self._selected if each.slice_name == slice_name]
        self._selected = [each for each in self._selected if each not in done]
        self.entries = [each for each in self.entries if each not in done]


def _is_touching(one: Window, other: Window) -> bool:
    return one.floor <= other.ceiling and other.floor <= one.ceiling


def _find_narrowest_gap(windows: list[Window]) -> Window:
    """Return the smallest gap between two of the windows, which do not touch."""
    ordered = sorted(windows, key=lambda one: one.floor)
    gaps = [Window(one.end, other.start) for one, other in pairwise(ordered)]
    return min(gaps, key=lambda gap: gap.ceiling - gap.floor)


def _bounding_window(*windows: Window) -> Window:
    first, last = min(windows, key=lambda one: one.floor), max(windows, key=lambda one: one.ceiling)
    return Window(first.start, last.end)


def retries_to_json(retries: QuarantineRetries) -> list[dict[str, object]]:
    """Return the windows as a commit carries them."""
    return [
        {
            "slice": each.slice_name,
            "start": _format_instant(each.window.start),
            "end": _format_instant(each.window.end),
            "tries": each.tries,
            "due": _format_instant(each.due_at),
        }
        for each in retries.entries
    ]


def retries_from_json(json_value: object) -> QuarantineRetries:
    """Return the windows that a commit carries; what cannot be read is no reason to stop."""
    rows = cast("Iterable[object]", json_value) if isinstance(json_value, list) else ()
    read: list[QuarantineRetry] = []
    for row in rows:
        try:
            each = cast("Mapping[str, str | None]", row)
            due = parse_instant(each["due"])
            if due is not None:
                window = Window(parse_instant(each["start"]), parse_instant(each["end"]))
                tries = int(str(each["tries"]))
                name = str(each["slice"])
                read.append(
                    QuarantineRetry(slice_name=name, window=window, tries=tries, due_at=due)
                )
        except (KeyError, TypeError, ValueError):
            continue
    return QuarantineRetries(read)


def _format_instant(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


QUARANTINE_RETRIES_KEY = "quarantine_retries"
"""The key of a commit's state that holds the windows with records that could not be stored."""


@dataclass(frozen=True, slots=True)
class SliceProgress:
    """Of one slice: what was read, and the greatest cursor stored that may count as a mark."""

    coverage: Coverage = field(default_factory=Coverage)
    max_cursor: datetime | None = None

    def high_water_mark(self, start: datetime | None) -> datetime | None:
        """Return the high-water mark: no gap before it from `start` on, and not past the data."""
        reach = self.coverage.contiguous_end(start)
        if reach is None or self.max_cursor is None:
            return None
        return min(reach, self.max_cursor)

    def add_window(self, window: Window | None, max_cursor: datetime | None) -> "SliceProgress":
        """Return the progress with `window` read to its end and `max_cursor` seen."""
        coverage = self.coverage if window is None else self.coverage.add(window)
        return SliceProgress(coverage, latest_instant(self.max_cursor, max_cursor))

    def cap_at(self, cap: datetime) -> "SliceProgress":
        """Return the progress without anything at or after `mark`."""
        highest = None if self.max_cursor is None else min(self.max_cursor, cap)
        return SliceProgress(self.coverage.subtract(Window(cap, None)), highest)


@dataclass(slots=True)
class SyncProgress:
    """Of one stream: every slice's progress, and which slices this sync has read to the end."""

    start: datetime | None
    slices: dict[str, SliceProgress]
    active_slices: tuple[str, ...]
    finished_slices: set[str] = field(default_factory=set[str])
    previous_cursor: datetime | None = None
    """The mark before this sync; the new one is never lower."""
    metadata_cursor: datetime | None = None
    """The mark in asset metadata: what stays there if the run ends right after the next commit."""
    retries: QuarantineRetries = field(default_factory=QuarantineRetries)
    """Windows with records that could not be stored."""

    def record_window(
        self,
        slice_name: str,
        window: Window | None,
        max_cursor: datetime | None,
        unproven_window: Window | None = None,
    ) -> None:
        """Take in that `window` was read completely and stored, and the greatest cursor in it.

        `unproven_window` is what was said to be read before, and turned out not to be for sure.
        """
        known = self.slices.get(slice_name, SliceProgress())
        if unproven_window is not None:
            known = replace(known, coverage=known.coverage.subtract(unproven_window))
        self.slices[slice_name] = known.add_window(window, max_cursor)

    def finish_slice(self, slice_name: str) -> None:
        """Take in that the slice was read to its end; what lies past its mark is asked again."""
        known = self.slices.get(slice_name, SliceProgress())
        high_water_mark = known.high_water_mark(self.start)
        if high_water_mark is not None:
            known = replace(known, coverage=known.coverage.subtract(Window(high_water_mark, None)))
        self.slices[slice_name] = known
        self.finished_slices.add(slice_name)
        self.retries.finish_slice(slice_name)

    def merge(
        self,
        others: Mapping[str, SliceProgress],
        cursor: datetime | None,
        retries: QuarantineRetries,
    ) -> None:
        """Take in what others read while this read everything, and the mark that they left, UTC.

        Of theirs only what follows on ours counts: before that, only what was read here is there.
        What they could not store is asked for again, as they would have done.

                     start                   our reach           theirs
        ─────────────┼───────────────────────────┼──────────────────┼──────▶ UTC
        read here ───[═══════════════════════════)
        taken in ────────────────────────────────[══════════════════)
        """
        for name in self.active_slices:
            known, other = self.slices.get(name), others.get(name)
            reach = None if known is None else known.coverage.contiguous_end(self.start)
            if known is None or other is None or reach is None:
                continue
            further = other.coverage.subtract(Window(None, reach))
            highest = latest_instant(known.max_cursor, other.max_cursor)
            self.slices[name] = SliceProgress(known.coverage.union(further), highest)
        self.previous_cursor = latest_instant(self.previous_cursor, cursor)
        self.retries.extend(retries)

    @property
    def high_water_mark(self) -> datetime | None:
        """Return the stream's high-water mark, UTC: the end of the prefix without a gap.

        A slice that was read to its end holds nothing back, even if it was empty.
        """
        marks = {name: self._slice_high_water_mark(name) for name in self.active_slices}
        behind = [marks[name] for name in self.active_slices if name not in self.finished_slices]
        if None in behind:
            return self.previous_cursor
        known = [each for each in marks.values() if each is not None]
        if not known:
            return self.previous_cursor
        held_back = [each for each in behind if each is not None]
        return latest_instant(self.previous_cursor, min([max(known), *held_back]))

    def _slice_high_water_mark(self, name: str) -> datetime | None:
        return self.slices.get(name, SliceProgress()).high_water_mark(self.start)


def latest_instant(*instants: datetime | None) -> datetime | None:
    """Return the latest of the instants that are known, None if none is."""
    return max((each for each in instants if each is not None), default=None)


def progress_to_json(progress: SyncProgress) -> dict[str, object]:
    """Return the JSON object that the lake's commit carries.

    In the midst of a sync it also says which mark asset metadata has until it hears of the commit,
    `behind`: a run that is killed between the two leaves it there.
    """
    is_under_way = not progress.finished_slices.issuperset(progress.active_slices)
    behind = (
        progress.metadata_cursor
        if is_under_way and progress.metadata_cursor != progress.high_water_mark
        else None
    )
    return {
        "cursor": progress.high_water_mark.isoformat() if progress.high_water_mark else None,
        "slices": {
            name: {
                "windows": coverage_to_json(each.coverage),
                "highest": each.max_cursor.isoformat() if each.max_cursor else None,
            }
            for name, each in progress.slices.items()
        },
        **({"behind": behind.isoformat()} if behind is not None else {}),
        **(
            {QUARANTINE_RETRIES_KEY: retries_to_json(progress.retries)}
            if progress.retries.entries
            else {}
        ),
    }


def slices_from_json(state: Mapping[str, object]) -> dict[str, SliceProgress]:
    """Return what a commit of ours says of the slices.

    Raises:
        ConfigError: the text is not what this version writes; nor is a mark without windows, by
            which everything would be asked for again in silence.
    """
    try:
        slices = cast("Mapping[str, Mapping[str, object]]", state.get("slices", {}))
        known = {
            name: SliceProgress(
                coverage_from_json(cast("list[list[str | None]]", each["windows"])),
                parse_instant(cast("str | None", each["highest"])),
            )
            for name, each in slices.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "the mark in the lake's last commit cannot be read "
            f"({type(error).__name__}); reset it with sync_mode: full_refresh_overwrite"
        ) from error
    if not known and state.get("cursor") is not None:
        raise ConfigError(
            "the mark in the lake's last commit does not tell which windows were read; "
            "reset it with sync_mode: full_refresh_overwrite"
        )
    return known


def cursor_from_json(state: Mapping[str, object], key: str = "cursor") -> datetime | None:
    """Return the mark that a commit of ours carries, or with `behind` that of asset metadata.

    Raises:
        ConfigError: the text is not an instant.
    """
    try:
        return parse_instant(cast("str | None", state.get(key)))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "the mark in the lake's last commit cannot be read; "
            "reset it with sync_mode: full_refresh_overwrite"
        ) from error
