"""What must be quick, on a machine that has other work as well."""

from collections.abc import Callable


def best_time_of_three(measure: Callable[[], float], *, max_seconds: float) -> float:
    """Return what an attempt took, in seconds: the first of three within bounds, else the best."""
    took: list[float] = []
    while not took or (min(took) >= max_seconds and len(took) < 3):
        took.append(measure())
    return min(took)
