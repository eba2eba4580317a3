"""How much of a table one read may take away before it is confirmed.

What belongs here: the rule, and the error that it raises before a commit. What does not: reading a
second time, and whether somebody has confirmed it (`sync`).
"""

from dataclasses import dataclass
from datetime import datetime

from klaviyo_assets.errors import ShrinkError

FEW_ROWS = 5
"""Fewer missing rows than this need no confirmation where a second read missed them as well.

Of tables with a handful of lists or segments people delete half in an afternoon, and a run that
is red until somebody confirms it would be the rule; answers that lie mostly leave out more.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkGuard:
    """Refuses a commit that drops or marks more than `limit`, a share of the rows there are.

    `since` (UTC) is where the read began, by the cursor: what lies before was not looked for, and
    does not count. With `spares_few` a few rows may go whatever their share, unless no row is left:
    an account loses its last list less often than a server answers with nothing.
    """

    limit: float
    since: datetime | None = None
    spares_few: bool = False

    def overlooks(self, highest: datetime | None) -> bool:
        """Tell whether rows up to this cursor (UTC) were not looked for."""
        return self.since is not None and highest is not None and highest < self.since

    def check(self, *, before: int, missing: int, stream: str) -> None:
        """Compare the `missing` rows with those `before`, both without rows marked earlier.

        Raises:
            ShrinkError: too many are missing.
        """
        if missing <= self.limit * before:
            return
        if self.spares_few and missing < min(FEW_ROWS, before):
            return
        raise ShrinkError(
            f"{missing:,} of {before:,} rows would go",
            stream=stream,
            rows_before=before,
            rows_now=before - missing,
        )
