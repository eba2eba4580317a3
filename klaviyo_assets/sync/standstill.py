"""Paging that goes on and gets nowhere: links that are new each time, and nothing new behind them.

What belongs here: telling it from a crowd of records at one moment. What does not: links that lead
back to a page already read (`api.protocol`).
"""

from datetime import datetime
from typing import cast

from klaviyo_assets.errors import RepeatedPageError
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.tables.decode import Page

MOST_PAGES = 300
"""Pages in a row that bring nothing new; a handful of empty ones in a row is known of Klaviyo."""

MOST_AT_ONE_MOMENT = 10_000
"""Pages in a row whose records are new but lie no further: a crowd of 100,000 in a second, and
that at ten records a page."""


MOST_IDS = 200_000
"""Ids remembered; beyond that only those of the newest page are."""


class Standstill:
    """Watches the pages of one walk. The usual page costs one comparison of moments."""

    def __init__(self, stream: Stream) -> None:
        """Begin before the first page."""
        self._stream = stream
        self._position: datetime | None = None
        self._idle = 0
        """Pages since the last one that brought something new."""
        self._here = 0
        """Pages in a row that end at the position."""
        self._ids: set[int] = set()
        """Hashes of the ids that came since then."""

    def note(self, page: Page) -> None:
        """Take in a page that another one is to follow.

        Raises:
            RepeatedPageError: too many in a row brought nothing new, or got no further.
        """
        if page.highest is not None and (self._position is None or page.highest > self._position):
            self._position, self._idle, self._here = page.highest, 0, 0
            self._ids.clear()
            return
        key = cast("list[object]", page.batch[self._stream.key[0]].to_pylist())
        ids = set(map(hash, key))
        self._idle = self._idle + 1 if ids <= self._ids else 0
        self._ids = ids if len(self._ids) > MOST_IDS else self._ids | ids
        # Records that lie before the position are no crowd at it: the order is another one.
        is_here = self._position is not None and page.highest == self._position
        self._here = self._here + 1 if is_here else 0
        if self._idle >= MOST_PAGES or self._here >= MOST_AT_ONE_MOMENT:
            at = f" after {self._position.isoformat()}" if self._position is not None else ""
            raise RepeatedPageError(
                f"Klaviyo's paging does not end: {max(self._idle, self._here):,} pages in a row "
                f"named a next page and brought nothing{at}. Run it again, and tell Klaviyo's "
                "support if it stays so.",
                stream=self._stream.name,
            )
