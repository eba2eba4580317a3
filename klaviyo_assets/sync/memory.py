"""Memory that pages took goes back to the system, and looking for garbage costs next to nothing.

Measured in turn, MiB resident at the most for 200,000 and 1,000,000 events and for 50,000 profiles
at 150 ms a page, and thousands a second of 200,000 events, at once and at 150 ms a page; medians of
eight runs and of two:

    blocks from   kept at the top   free blocks back   MiB              thousands a second
    1.5 MiB       128 KiB           above 320 MiB      301  304  289    84.6  59.4
    4 MiB         64 MiB            above 320 MiB      310  315  318    87.6  63.6
    16 MiB        512 MiB           never              311  314         88.1

What is given back is faulted in again by the next pages, at 3 us each 4 KiB: 100,000 times in
200,000 events with the first line, 65,000 with the others. Given back above 285 MiB, which is less
than the process takes anyway, 200,000 events went at 77.7 thousand a second, and 86.5 above 320.

As it comes, glibc's allocator took 428 MiB for 200,000 events, and 566 for 50,000 profiles at
150 ms a page. Source: mallopt(3), malloc_trim(3).
"""

import ctypes
import gc
import sys
from contextlib import suppress
from mmap import PAGESIZE
from pathlib import Path

import pyarrow as pa

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""Numbers of glibc's <malloc.h>."""

MMAP_THRESHOLD_BYTES = 4 * 1024 * 1024
"""From here on a block is the system's own; the text of a usual page is smaller, and the next page
comes to lie where it lay."""

TRIM_THRESHOLD_BYTES = 64 * 1024 * 1024
"""Free memory at the top of the heap that is kept for the next pages."""

MALLOC_ARENA_COUNT = 1
"""Heaps: one, however many threads there are."""

HEAP_TRIM_RSS_BYTES = 320 * 1024 * 1024
"""Memory of a process, resident, above which free blocks are given back."""

GC_THRESHOLD_OBJECTS = 50_000
"""New containers before the collector looks for circles among them; 700 as it comes.

Most of a page's are gone again without it.
"""


ARROWS_OWN = pa.default_memory_pool()
"""What Arrow's C++ goes on with whatever Python sets, such as the pages of a Parquet file."""


def tune_process() -> None:
    """Set the allocators and the collector of this process; safe to call again.

    Arrow's own allocator keeps what writing files once took: with 500,000 events 438 MiB resident
    and growing, 335 and flat with the system's.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    configure_malloc()
    freeze_garbage_collector()


def configure_malloc() -> None:
    """Let every large block, the text of an unusual page, go back as soon as it is freed.

    By itself glibc takes all blocks from heaps, one a thread, after it has freed a few: what lies
    between smaller ones that live on is never given back. Elsewhere than on glibc nothing happens;
    safe to call again.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
        mallopt(_M_ARENA_MAX, MALLOC_ARENA_COUNT)


def trim_heap() -> None:
    """Give the system what is free between blocks that live on, once this process is large.

    Some milliseconds of work; without it the free part of the heap grows as long as a sync goes on.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        if pages * PAGESIZE > HEAP_TRIM_RSS_BYTES:
            ctypes.CDLL(None).malloc_trim(0)
            ARROWS_OWN.release_unused()


def freeze_garbage_collector() -> None:
    """Keep the collector from walking again and again through what this process will keep anyway.

    Dagster's modules and definitions are 170,000 containers. Walked through twice in 200,000
    events and twice more at the end of the process, they took 1.1 of 4.0 seconds: 45,000 events a
    second before, 65,000 after. Safe to call again; a later call changes nothing.

    Where somebody imported DuckDB before the first sync, all is walked through as ever: what
    DuckDB makes at its import would be reported as leaks when the process ends.
    """
    # To ask how much is spared already walks through it: 10 ms, for each stream of a job.
    if gc.get_threshold()[0] == GC_THRESHOLD_OBJECTS:
        return
    gc.set_threshold(GC_THRESHOLD_OBJECTS, 20, 50)
    if "duckdb" not in sys.modules:
        gc.freeze()
