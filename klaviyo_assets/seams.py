"""What tests may take over: the time, and named moments at which a process may end.

Without a hook, to reach such a moment does nothing. Only tests set a hook: a kill at each of these
moments, between two effects, must lose no row, store none twice, and repeat at most one paid
request.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

CrashPoint = Literal[
    "before awaiting the first page",
    # A request is reserved in the rate limit store, which all processes share, before it is sent.
    "before reserving a request",
    "after reserving a request",
    # A commit of one table, in this order.
    "before staging rows",
    "before writing a row group",
    "after writing a row group",
    "after staging rebased rows",
    "before merging a partition",
    "before rewriting files",
    "before marking missing rows",
    "before searching duplicate keys",
    "before moving a file",
    "after moving files",
    "before a table commit",
    "after a table commit",
    # After a commit: what Dagster and readers see.
    "before observing a commit",
    "after observing a commit",
    "before building the database",
    "before starting the file grace",
    "before swapping the database",
    "after swapping the database",
    "before deleting files",
    "after writing an output",
    # A report.
    "before requesting a report",
    "before caching a response",
    "after caching a response",
    "after storing partitions",
    "after recording partitions",
    # An erasure.
    "before writing the quarantine",
    "before removing old versions",
    "before finishing a receipt",
]

_hook: Callable[[CrashPoint], None] | None = None


def reach_crash_point(point: CrashPoint) -> None:
    """Do nothing, unless a test has set a hook: then call it with the point."""
    if _hook is not None:
        _hook(point)


def set_crash_hook(hook: Callable[[CrashPoint], None] | None) -> None:
    """Have `hook` called at every point that this process reaches, in any thread; None: no more."""
    global _hook  # noqa: PLW0603 - a global, so that a point costs no more than a look at it
    _hook = hook


_replacements: list[Callable[[], datetime]] = []
"""Clocks in place of this machine's; the last one counts."""


def utc_now() -> datetime:
    """Return the time of this machine, UTC, or of the clock that `use_clock` put in its place."""
    return _replacements[-1]() if _replacements else datetime.now(tz=UTC)


@contextmanager
def use_clock(clock: Callable[[], datetime]) -> Generator[None]:
    """Have `utc_now` return the time of another clock, UTC, in all threads until the block ends.

    For tests: what takes weeks, or a wrong clock, is tried without waiting and without naming the
    modules that look at the clock.
    """
    _replacements.append(clock)
    try:
        yield
    finally:
        _replacements.pop()
