"""Named moments between two effects of the product, at which a test may end the process.

Without a hook, to reach one does nothing. Only tests set a hook: a kill at each of these moments
must lose no row, store none twice, and repeat at most one paid request.
"""

from collections.abc import Callable
from typing import Literal

CrashPoint = Literal[
    "before awaiting the first page",
    # A request. "Reserved" means booked in the rate limit store that all processes share.
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
