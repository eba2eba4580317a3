"""Half-open windows of time, and what the syncs of a stream have read so far.

Each commit stores that progress: the windows that were read, and the cursors.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import cast

from klaviyo_assets.errors import ConfigError

_MIN_INSTANT = datetime.min.replace(tzinfo=UTC)
_MAX_INSTANT = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """`[start, end)` in UTC; None leaves that side open.

                start                     end
    ──────────────┼────────────────────────┼──────▶ UTC
    inside ───────[════════════════════════)──────▶
    """

    start: datetime | None = None
    end: datetime | None = None

    @property
    def floor(self) -> datetime:
        """Return the start; the earliest datetime where it is open."""
        return _MIN_INSTANT if self.start is None else self.start

    @property
    def ceiling(self) -> datetime:
        """Return the end; the latest datetime where it is open."""
        return _MAX_INSTANT if self.end is None else self.end

    @property
    def is_empty(self) -> bool:
        """Return whether no instant lies inside."""
        return self.floor >= self.ceiling


def _window_between(floor: datetime, ceiling: datetime) -> Window:
    return Window(
        None if floor == _MIN_INSTANT else floor,
        None if ceiling == _MAX_INSTANT else ceiling,
    )


@dataclass(frozen=True, slots=True)
class Coverage:
    """What has been read completely: windows that neither overlap nor touch, ascending."""

    windows: tuple[Window, ...] = ()

    def add(self, window: Window) -> "Coverage":
        """Return the union with `window`; windows that touch become one."""
        if window.is_empty:
            return self
        floor, ceiling = window.floor, window.ceiling
        apart: list[Window] = []
        for other in self.windows:
            if other.ceiling < floor or ceiling < other.floor:
                apart.append(other)
            else:
                floor, ceiling = min(floor, other.floor), max(ceiling, other.ceiling)
        return Coverage(
            tuple(sorted([*apart, _window_between(floor, ceiling)], key=lambda each: each.floor))
        )

    def union(self, other: "Coverage") -> "Coverage":
        """Return the union of both."""
        united = self
        for window in other.windows:
            united = united.add(window)
        return united

    def subtract(self, window: Window) -> "Coverage":
        """Return the coverage without `window`."""
        kept = [
            part
            for own in self.windows
            for part in (
                _window_between(own.floor, min(own.ceiling, window.floor)),
                _window_between(max(own.floor, window.ceiling), own.ceiling),
            )
            if not part.is_empty
        ]
        return Coverage(tuple(kept))

    def gaps(self, wanted: Window) -> tuple[Window, ...]:
        """Return the parts of `wanted` that have not been read, ascending."""
        rest = Coverage((wanted,)) if not wanted.is_empty else Coverage()
        for own in self.windows:
            rest = rest.subtract(own)
        return rest.windows

    def contiguous_end(self, start: datetime | None) -> datetime | None:
        """Return the end of what has been read without a gap from `start` on, None if nothing."""
        floor = Window(start).floor
        for own in self.windows:
            if own.floor <= floor < own.ceiling:
                return own.end
        return None


def coverage_to_json(coverage: Coverage) -> list[list[str | None]]:
    """Return the windows as pairs of ISO 8601 texts, None for an open side."""
    return [
        [side.isoformat() if side else None for side in (window.start, window.end)]
        for window in coverage.windows
    ]


def coverage_from_json(pairs: Sequence[Sequence[str | None]]) -> Coverage:
    """Return the coverage that `coverage_to_json` wrote.

    Raises:
        ValueError: a text is not an ISO 8601 instant with an offset, or a pair is not a pair.
    """
    coverage = Coverage()
    for start, end in pairs:
        coverage = coverage.add(Window(parse_instant(start), parse_instant(end)))
    return coverage


def parse_instant(text: str | None) -> datetime | None:
    """Return the UTC instant that an ISO 8601 text names; None for None.

    Raises:
        ValueError: the text is not ISO 8601 or has no offset.
    """
    if text is None:
        return None
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC")
    return value.astimezone(UTC)


MAX_QUARANTINE_TRIES = 8
"""How often a window is read again: at once, then 1, 2, 4, ... hours later, five days in all."""

FIRST_QUARANTINE_RETRY_WAIT = timedelta(hours=1)
"""The wait after the first try; doubled after each further one."""

MAX_RETRY_WINDOWS = 200
"""Most windows stored for one slice; beyond that the two closest ones become one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRetry:
    """A window of one slice to read again from `due_at` (UTC) on, after `tries` tries."""

    slice_name: str
    window: Window
    tries: int
    due_at: datetime


@dataclass(slots=True)
class QuarantineRetries:
    """The windows of one stream with records that could not be stored, which are read again.

    A sync calls `select_due` first, then `add` for each page with such a record, and `finish_slice`
    for each slice that it has read to the end: that drops the windows it read again without finding
    such a record.
    """

    entries: list[QuarantineRetry] = field(default_factory=list[QuarantineRetry])
    _selected: list[QuarantineRetry] = field(default_factory=list[QuarantineRetry])
    """Windows that this sync reads again, in the state that remains if it does not finish."""

    def select_due(self, now: datetime, active: Collection[str] | None = None) -> None:
        """Select the windows that are due, and set when each is due next if this sync fails.

        `active`: names of the slices that this sync reads, None for all; windows of others wait.
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
        """Return the windows of a slice that this sync reads again."""
        return tuple(each.window for each in self._selected if each.slice_name == slice_name)

    def add(self, slice_name: str, window: Window, now: datetime) -> None:
        """Add `window`, in which a page had a record that cannot be stored.

        Windows that touch become one, with the highest of their tries.
        """
        merged = QuarantineRetry(slice_name=slice_name, window=window, tries=0, due_at=now)
        apart: list[QuarantineRetry] = []
        for each in self.entries:
            # A window without tries left is only waiting to be dropped, and is not merged.
            is_over = each.tries >= MAX_QUARANTINE_TRIES and each not in self._selected
            if (
                each.slice_name == slice_name
                and not is_over
                and _is_touching(each.window, merged.window)
            ):
                merged = replace(
                    merged,
                    window=_bounding_window(merged.window, each.window),
                    tries=max(merged.tries, each.tries),
                    due_at=max(merged.due_at, each.due_at),
                )
            else:
                apart.append(each)
        self.entries = [*apart, merged]
        self._selected = [each for each in self._selected if each in apart]
        own = [each for each in self.entries if each.slice_name == slice_name]
        if len(own) > MAX_RETRY_WINDOWS:
            self.add(slice_name, _find_narrowest_gap([each.window for each in own]), now)

    def share(self, slice_name: str, others: Iterable[str]) -> None:
        """Read the windows of one slice again in other slices as well."""
        of_one = [each for each in self.entries if each.slice_name == slice_name]
        self.entries += [replace(each, slice_name=name) for name in others for each in of_one]

    def extend(self, others: "QuarantineRetries") -> None:
        """Add the windows of `others`, each once."""
        self.entries += [each for each in others.entries if each not in self.entries]

    def finish_slice(self, slice_name: str) -> None:
        """Drop the selected windows of a slice that has been read to its end."""
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
    """Return the windows in the form that a commit stores."""
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
    """Return the windows that a commit stored; unreadable entries are skipped."""
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
"""The key, in a commit's state, of the windows with records that could not be stored."""


@dataclass(frozen=True, slots=True)
class SliceProgress:
    """The progress of one slice: what was read, and the highest stored cursor that counts."""

    coverage: Coverage = field(default_factory=Coverage)
    max_cursor: datetime | None = None

    def high_water_mark(self, start: datetime | None) -> datetime | None:
        """Return the high-water mark: nothing between `start` and it is unread; data reaches it."""
        reach = self.coverage.contiguous_end(start)
        if reach is None or self.max_cursor is None:
            return None
        return min(reach, self.max_cursor)

    def add_window(self, window: Window | None, max_cursor: datetime | None) -> "SliceProgress":
        """Return the progress after `window` was read to its end with that highest cursor."""
        coverage = self.coverage if window is None else self.coverage.add(window)
        return SliceProgress(coverage, latest_instant(self.max_cursor, max_cursor))

    def cap_at(self, cap: datetime) -> "SliceProgress":
        """Return the progress without anything at or after `cap`."""
        highest = None if self.max_cursor is None else min(self.max_cursor, cap)
        return SliceProgress(self.coverage.subtract(Window(cap, None)), highest)


@dataclass(slots=True)
class SyncProgress:
    """The progress of one stream: that of each slice, and the slices this sync has finished."""

    start: datetime | None
    slices: dict[str, SliceProgress]
    active_slices: tuple[str, ...]
    finished_slices: set[str] = field(default_factory=set[str])
    previous_cursor: datetime | None = None
    """The high-water mark before this sync; the new one is never lower."""
    metadata_cursor: datetime | None = None
    """The cursor in asset metadata: it stays there if the run is killed after the next commit."""
    retries: QuarantineRetries = field(default_factory=QuarantineRetries)
    """Windows with records that could not be stored, to be read again."""

    def record_window(
        self,
        slice_name: str,
        window: Window | None,
        max_cursor: datetime | None,
        unproven_window: Window | None = None,
    ) -> None:
        """Record that `window` was read completely and stored, and the highest cursor in it.

        `unproven_window`: a window recorded earlier that may not have been read after all.
        """
        known = self.slices.get(slice_name, SliceProgress())
        if unproven_window is not None:
            known = replace(known, coverage=known.coverage.subtract(unproven_window))
        self.slices[slice_name] = known.add_window(window, max_cursor)

    def finish_slice(self, slice_name: str) -> None:
        """Record that the slice was read to its end; after its high-water mark it stays unread."""
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
        """Add what other syncs read while this one read everything, and their cursor (UTC).

        Only their coverage after the end of ours counts: before that, the table has only what was
        read here. Windows with records that they could not store are added too.

                     start                   our reach           theirs
        ─────────────┼───────────────────────────┼──────────────────┼──────▶ UTC
        read here ───[═══════════════════════════)
        added ───────────────────────────────────[══════════════════)
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
        """Return the stream's high-water mark, UTC: up to it, every slice was read without a gap.

        A slice that was read to its end does not hold it back, even if it was empty.
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
    """Return the JSON object that a commit of the lake stores.

    During a sync it also contains `behind`, the cursor that asset metadata has until it is updated:
    it stays there if the run is killed between the commit and the update.
    """
    is_under_way = not progress.finished_slices.issuperset(progress.active_slices)
    behind = (
        progress.metadata_cursor
        if is_under_way and progress.metadata_cursor != progress.high_water_mark
        else None
    )
    return {
        "cursor": progress.high_water_mark.isoformat() if progress.high_water_mark else None,
        "slices": slices_to_json(progress.slices),
        **({"behind": behind.isoformat()} if behind is not None else {}),
        **(
            {QUARANTINE_RETRIES_KEY: retries_to_json(progress.retries)}
            if progress.retries.entries
            else {}
        ),
    }


def slices_to_json(slices: Mapping[str, SliceProgress]) -> dict[str, object]:
    """Return the slices' progress as the JSON object that a commit stores."""
    return {
        name: {
            "windows": coverage_to_json(each.coverage),
            "highest": each.max_cursor.isoformat() if each.max_cursor else None,
        }
        for name, each in slices.items()
    }


def slices_from_json(state: Mapping[str, object]) -> dict[str, SliceProgress]:
    """Return the slices' progress that a commit stored.

    Raises:
        ConfigError: it is not in the form that this version writes; or it has a cursor without
            windows, with which everything would be read again without a word.
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
            f"the cursor in the lake's last commit cannot be read ({type(error).__name__}); reset "
            "it with sync_mode: full_refresh_overwrite"
        ) from error
    if not known and state.get("cursor") is not None:
        raise ConfigError(
            "the cursor in the lake's last commit does not say which windows were read; reset it "
            "with sync_mode: full_refresh_overwrite"
        )
    return known


def cursor_from_json(state: Mapping[str, object], key: str = "cursor") -> datetime | None:
    """Return the cursor that a commit stored; with the key `behind`, that of asset metadata.

    Raises:
        ConfigError: the text is not an instant.
    """
    try:
        return parse_instant(cast("str | None", state.get(key)))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "the cursor in the lake's last commit cannot be read; reset it with sync_mode: "
            "full_refresh_overwrite"
        ) from error
