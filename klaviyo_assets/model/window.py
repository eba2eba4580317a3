"""Half-open windows of time, and the set of windows that has been read so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

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
