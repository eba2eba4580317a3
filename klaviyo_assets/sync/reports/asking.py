"""What is asked about one metric, and what answers: Klaviyo and answers kept, or an estimate.

What belongs here: the words between the order of questions (`walk`) and those who answer
(`paying`, `cost`). What does not: either of them.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.halving import Part
from klaviyo_assets.sync.reports.units import TimedRow


@dataclass(frozen=True, slots=True)
class Kept:
    """The question of an answer that was paid for already, and its time; no message ids: of all."""

    days: Days
    fetched_at: datetime
    message_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What was paid for lately: answers about the metric, time frames asked of any, unfiltered."""

    kept: Sequence[Kept]
    frames: Collection[Days] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """What to ask next; an answer that was given after `newer_than` (UTC) will do."""

    part: Part
    newer_than: datetime
    days: frozenset[date]
    """The days wanted that the answer is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer with all its pages. `requests` were spent on it now: 0 if it was there already."""

    rows: Sequence[TimedRow]
    fetched_at: datetime
    requests: int


class Asking(Protocol):
    """What answers: Klaviyo and the answers kept, or an estimate."""

    def ask(self, choose: Callable[[View], Turn]) -> tuple[Turn, Answered]:
        """Return an answer to what is chosen in view of what was paid for, and what was chosen.

        While it is chosen and asked, no other process asks for the same metric.
        """
        ...

    def paid(self, turn: Turn) -> Iterable[tuple[Part, Sequence[TimedRow]]]:
        """Yield the answers kept about parts of a turn's time frame that will do for it."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Return the block in which totals are placed: one process at a time, on what all know.

        For a series it is open to everybody.
        """
        ...
