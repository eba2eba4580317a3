"""Memory that pages took goes back to the system, and looking for garbage costs next to nothing.

What belongs here: the settings of this process's allocator and collector. What does not: how many
pages there may be at once (`pace`), and Arrow's own allocator, which is chosen before Arrow is
imported (in `defs`).

Measured, MiB resident at the most and seconds of CPU in the kernel:

                                        as it comes   256 KiB, 2 arenas   4 MiB, 1 arena
    200,000 events                      428, 0.9 s    337, 1.3 s          369, 0.8 s
    50,000 profiles, 150 ms a page      566           338, 0.9 s          358, 0.7 s
    50,000 events, one in 500 of 5 MB                 393, 1.7 s          354, 1.8 s

Below the threshold a page's buffers are used again; above it each costs 450 page faults a time.
Source: mallopt(3).
"""

import ctypes
import gc
import sys
from contextlib import suppress

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""Numbers of glibc's <malloc.h>."""

LARGE_BYTES = 4 * 1024 * 1024
ARENAS = 1


def give_large_blocks_back() -> None:
    """Let every block larger than a usual page go back to the system as soon as it is freed.

    By itself glibc takes all blocks from heaps, one a thread, after it has freed a few: what lies
    between smaller ones that live on is never given back. Elsewhere than on glibc nothing happens;
    safe to call again.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_ARENA_MAX, ARENAS)


YOUNG_OBJECTS = 50_000
"""New containers before the collector looks for circles among them; 700 as it comes.

A page of events makes some 10,000 that are gone again without it.
"""


def spare_what_lives_on() -> None:
    """Keep the collector from walking again and again through what this process will keep anyway.

    Dagster's modules and definitions are half a million objects. Walked through twice in 200,000
    events and twice more at the end of the process, they took 1.3 of 4.0 seconds: 45,000 events a
    second before, 65,000 after. Safe to call again; a later call changes nothing.
    """
    if not gc.get_freeze_count():
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS, 20, 50)
