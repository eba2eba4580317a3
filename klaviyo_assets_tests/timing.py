"""What must be quick, on a machine that has other work as well."""

import os
from collections.abc import Callable


def scale_to_load(seconds: float) -> float:
    """Return how long something may take on this machine now that takes so long on an idle one.

    Where several processes share a processor, as many times as long: with the workers of the suite
    about twice, and more where the machine has other work.
    """
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def takes_less_than(seconds: float, measure: Callable[[], float]) -> bool:
    """Return whether one of three attempts took less than that, as `measure` returns it."""
    return any(measure() < scale_to_load(seconds) for _ in range(3))
