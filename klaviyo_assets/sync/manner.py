"""How a sync writes: what becomes of the rows that come, and of those that do not.

What belongs here: the choice, and the session that carries it out. What does not: what is read
(`plan`), and when to commit (`pull`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from klaviyo_assets.lake import Lake, Session, ShrinkGuard, Sweep, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How the lake is to be written: which account's, replaced or merged, with history or not."""

    account: str
    replaces: bool
    sweeps: bool = False
    """Whether it is ids alone that come, and only marks are written."""
    marks_deleted: bool = False
    """Whether rows that a replacement or a sweep does not bring stay, and are marked."""
    since: datetime | None = None
    """Where a replacement begins to read, by the cursor; None: at the beginning."""
    hidden: frozenset[str] = frozenset()
    """Columns that rows which a replacement keeps lose: older than a setting of privacy."""
    keeps_history: bool
    moves_mark: bool
    started_at: datetime
    version: int | None
    """The table's version that was planned with; None where there was no table."""
    shrink_limit: float = 1.0
    """Share of the rows that a complete read may drop or mark without being confirmed."""
    confirms_shrink: bool = False
    """Whether somebody has confirmed that it may be more, once a second read says so too."""
    tunes_process: bool = True
    """Whether free memory is given back to the system while rows come in."""
    say: Callable[[str], None]
    """Takes a sentence for the operator."""
    hang_up: Callable[[], None]
    """Wakes every request that is waiting, so that a cancelled run ends at once."""

    @property
    def is_all_or_nothing(self) -> bool:
        """Return whether only what was read to its end is written, in one commit."""
        return self.replaces or self.sweeps

    def guard(self, *, is_second: bool) -> ShrinkGuard | None:
        """Return what a commit must not exceed, by the first or the second complete read."""
        if not self.is_all_or_nothing or (is_second and self.confirms_shrink):
            return None
        return ShrinkGuard(limit=self.shrink_limit, since=self.since, spares_few=is_second)


def opened(table: Table, lake: Lake, manner: Manner) -> Session | Sweep:
    """Return what the rows go into, to be closed.

    Raises:
        KlaviyoAssetsError: as `Lake.open` says.
    """
    if manner.sweeps:
        return Sweep(table, lake.root, account=manner.account, clock=lake.clock)
    session = lake.open(
        table,
        account=manner.account,
        mode="replace" if manner.replaces else "merge",
        with_history=manner.keeps_history,
        started_at=manner.started_at,
    )
    if manner.replaces and manner.version is not None:
        # What others committed since then, the commit puts beside what comes in.
        session.main.begin_from(manner.version)
    return session
