"""How densely the records of a window lie in time, by all that was read of it so far.

Pure arithmetic on moments. Which window is split is decided in `scheduler`.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

SECOND = timedelta(seconds=1)
"""Klaviyo's filters know whole seconds; records of one second cannot be told apart by them."""


@dataclass(slots=True, kw_only=True)
class Density:
    """Pages over time. `since` is where counting begins; None: at the first record that comes.

    A window that was made by a split counts from its start: the time before its first record was
    expected to hold records, so its emptiness says something. A window of the plan may begin years
    before the account did, which says nothing.
    """

    since: datetime | None = None
    position: datetime | None = None
    """The greatest cursor read so far, UTC."""
    pages: float = 0.0
    """Full pages with records; a part of one counts as that part."""
    _first: datetime | None = None
    _widest: timedelta = field(default_factory=timedelta)
    _count: int = 0

    def note(self, lowest: datetime | None, highest: datetime | None, *, pages: float) -> None:
        """Take in one page: its least and greatest cursor, and its size.

        Without rows they are None, and the page says nothing.
        """
        if lowest is None or highest is None:
            return
        self.pages += pages
        self._count += 1
        if self._first is None:
            self._first = lowest
        before = self.position if self.position is not None else lowest
        self.position = max(before, highest)
        self._widest = max(self._widest, self.position - before)

    @property
    def span(self) -> timedelta:
        """Return the time that was read, at least a second."""
        begin = self.since if self.since is not None else self._first
        if begin is None or self.position is None:
            return SECOND
        return max(self.position - begin, SECOND)

    def pages_until(self, end: datetime) -> float:
        """Return how many pages lie between the position and `end` if all goes on like this.

        In a window of the plan the widest page is left out, once there are two: a decade without
        records before the data begins is no density.
        """
        if self.position is None or not self.pages or end <= self.position:
            return 0.0
        span, pages = self.span, self.pages
        if self.since is None and self._count > 1 and pages > 1:
            span, pages = max(span - self._widest, SECOND), pages - 1
        return pages * ((end - self.position) / span)
