"""Memory that pages took goes back to the system.

What belongs here: the allocator's settings of this process. What does not: how many pages there may
be at once (`pace`), and Arrow's own allocator, which is chosen before Arrow is imported (in
`defs`). Measured with 50,000 profiles at 150 ms a page and sixteen threads: 566 MiB
resident as the system comes, 371 with both settings, for no CPU time that could be told from noise.
Source: mallopt(3).
"""

import ctypes
import sys
from contextlib import suppress

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""Numbers of glibc's <malloc.h>."""

LARGE_BYTES = 256 * 1024
ARENAS = 2


def give_large_blocks_back() -> None:
    """Let every block of the size of a page's text go back to the system as soon as it is freed.

    By itself glibc takes such blocks from heaps, one a thread, after it has freed a few: what lies
    between smaller ones that live on is never given back. Elsewhere than on glibc nothing happens;
    safe to call again.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_ARENA_MAX, ARENAS)
