"""Events that the shop keeps back, as tests wish: some are still counted, others are gone.

What a server under load leaves out of its pages is counted by the aggregates all the same; what was
redacted is in neither.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """Events of [start, end) in seconds: of one metric (an ordinal) or all, each `every`-th one."""

    start: int
    end: int
    metric: int | None
    every: int
    is_counted: bool

    def holds(self, *, seconds: int, metric: int | None, ordinal: int) -> bool:
        """Whether an event is among them."""
        is_of_metric = self.metric is None or metric == self.metric
        return self.start <= seconds < self.end and is_of_metric and ordinal % self.every == 0


class Book(Protocol):
    """What tells of an event by its ordinal, and which events are kept back."""

    hidden: list[Hidden]

    def seconds(self, ordinal: int) -> int:
        """The event's own time."""
        ...

    def metric(self, ordinal: int) -> int | None:
        """The ordinal of its metric."""
        ...


def unhidden(walk: Iterator[int], book: Book, *, counting: bool) -> Iterator[int]:
    """Those of a walk that are not kept back from who reads pages, or from who counts."""
    if not book.hidden:
        return walk
    return filter(lambda ordinal: not is_kept_back(ordinal, book, counting=counting), walk)


def is_kept_back(ordinal: int, book: Book, *, counting: bool) -> bool:
    """Whether an event stays away."""
    seconds, metric = book.seconds(ordinal), book.metric(ordinal)
    return any(
        each.holds(seconds=seconds, metric=metric, ordinal=ordinal)
        for each in book.hidden
        if not (counting and each.is_counted)
    )
