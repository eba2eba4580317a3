"""What a sync has read so far, per slice, and the mark that follows from it.

What belongs here: the arithmetic between windows read, cursors seen and the high-water mark, and
its JSON form in the lake's commit. What does not: deciding what to read next (`plan`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import cast

from klaviyo_assets.errors import ConfigError
from klaviyo_assets.model.window import (
    Coverage,
    Window,
    coverage_from_json,
    coverage_to_json,
    instant,
)
from klaviyo_assets.sync.quarantine_retries import QuarantineRetries, retries_to_json

RETRIES = "quarantine_retries"
"""The key of a commit's state that holds the windows with records that could not be stored."""


@dataclass(frozen=True, slots=True)
class SliceProgress:
    """Of one slice: what was read, and the greatest cursor stored that may count as a mark."""

    coverage: Coverage = field(default_factory=Coverage)
    highest: datetime | None = None

    def mark(self, start: datetime | None) -> datetime | None:
        """Return the high-water mark: no gap before it from `start` on, and not past the data."""
        reach = self.coverage.reach(start)
        if reach is None or self.highest is None:
            return None
        return min(reach, self.highest)

    def read(self, window: Window | None, highest: datetime | None) -> "SliceProgress":
        """Return the progress with `window` read to its end and `highest` seen."""
        coverage = self.coverage if window is None else self.coverage.add(window)
        return SliceProgress(coverage, latest(self.highest, highest))

    def lowered_to(self, mark: datetime) -> "SliceProgress":
        """Return the progress without anything at or after `mark`."""
        highest = None if self.highest is None else min(self.highest, mark)
        return SliceProgress(self.coverage.without(Window(mark, None)), highest)


@dataclass(slots=True)
class Progress:
    """Of one stream: every slice's progress, and which slices this sync has read to the end."""

    start: datetime | None
    slices: dict[str, SliceProgress]
    active: tuple[str, ...]
    finished: set[str] = field(default_factory=set[str])
    former: datetime | None = None
    """The mark before this sync; the new one is never lower."""
    shown: datetime | None = None
    """The mark in asset metadata: what stays there if the run ends right after the next commit."""
    retries: QuarantineRetries = field(default_factory=QuarantineRetries)
    """Windows with records that could not be stored."""

    def note(
        self,
        slice_name: str,
        window: Window | None,
        highest: datetime | None,
        unread: Window | None = None,
    ) -> None:
        """Take in that `window` was read completely and stored, and the greatest cursor in it.

        `unread` is what was said to be read before, and turned out not to be for sure.
        """
        known = self.slices.get(slice_name, SliceProgress())
        if unread is not None:
            known = replace(known, coverage=known.coverage.without(unread))
        self.slices[slice_name] = known.read(window, highest)

    def finish(self, slice_name: str) -> None:
        """Take in that the slice was read to its end; what lies past its mark is asked again."""
        known = self.slices.get(slice_name, SliceProgress())
        mark = known.mark(self.start)
        if mark is not None:
            known = replace(known, coverage=known.coverage.without(Window(mark, None)))
        self.slices[slice_name] = known
        self.finished.add(slice_name)
        self.retries.finish(slice_name)

    def unite(
        self,
        others: Mapping[str, SliceProgress],
        mark: datetime | None,
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
        for name in self.active:
            known, other = self.slices.get(name), others.get(name)
            reach = None if known is None else known.coverage.reach(self.start)
            if known is None or other is None or reach is None:
                continue
            further = other.coverage.without(Window(None, reach))
            highest = latest(known.highest, other.highest)
            self.slices[name] = SliceProgress(known.coverage.union(further), highest)
        self.former = latest(self.former, mark)
        self.retries.take_over(retries)

    @property
    def mark(self) -> datetime | None:
        """Return the stream's high-water mark, UTC: the end of the prefix without a gap.

        A slice that was read to its end holds nothing back, even if it was empty.
        """
        marks = {name: self._mark_of(name) for name in self.active}
        behind = [marks[name] for name in self.active if name not in self.finished]
        if None in behind:
            return self.former
        known = [each for each in marks.values() if each is not None]
        if not known:
            return self.former
        held_back = [each for each in behind if each is not None]
        return latest(self.former, min([max(known), *held_back]))

    def _mark_of(self, name: str) -> datetime | None:
        return self.slices.get(name, SliceProgress()).mark(self.start)


def latest(*instants: datetime | None) -> datetime | None:
    """Return the latest of the instants that are known, None if none is."""
    return max((each for each in instants if each is not None), default=None)


def progress_to_json(progress: Progress) -> dict[str, object]:
    """Return the JSON object that the lake's commit carries.

    In the midst of a sync it also says which mark asset metadata has until it hears of the commit,
    `behind`: a run that is killed between the two leaves it there.
    """
    is_under_way = not progress.finished.issuperset(progress.active)
    behind = progress.shown if is_under_way and progress.shown != progress.mark else None
    return {
        "cursor": progress.mark.isoformat() if progress.mark else None,
        "slices": {
            name: {
                "windows": coverage_to_json(each.coverage),
                "highest": each.highest.isoformat() if each.highest else None,
            }
            for name, each in progress.slices.items()
        },
        **({"behind": behind.isoformat()} if behind is not None else {}),
        **({RETRIES: retries_to_json(progress.retries)} if progress.retries.windows else {}),
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
                instant(cast("str | None", each["highest"])),
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


def mark_from_json(state: Mapping[str, object], name: str = "cursor") -> datetime | None:
    """Return the mark that a commit of ours carries, or with `behind` that of asset metadata.

    Raises:
        ConfigError: the text is not an instant.
    """
    try:
        return instant(cast("str | None", state.get(name)))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "the mark in the lake's last commit cannot be read; "
            "reset it with sync_mode: full_refresh_overwrite"
        ) from error
