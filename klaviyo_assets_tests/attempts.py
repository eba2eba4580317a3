"""What must be quick, on a machine that has other work as well.

What belongs here: giving such a thing several attempts. What does not: how long it may take.
A fault of ours shows in each attempt; a machine that stands still for a moment does not.
"""

from collections.abc import Callable


def quickest(attempt: Callable[[], float], *, within: float) -> float:
    """Return what an attempt took, in seconds: the first of three within bounds, else the best."""
    took: list[float] = []
    while not took or (min(took) >= within and len(took) < 3):
        took.append(attempt())
    return min(took)
