"""Tunes the allocators and the garbage collector of a sync process.

The freed memory of pages goes back to the system, and the collector costs next to nothing. What
other settings took: docs/decisions/0010-a-process-is-tuned-only-if-it-is-ours.md. Returned memory
has to be faulted in again for the next pages, at 3 us for each 4 KiB, so it is not returned below
what the process needs anyway: with a threshold of 285 MiB instead of 320 MiB, 200,000 events came
a tenth slower. Source: mallopt(3), malloc_trim(3).
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
"""Constants of glibc's <malloc.h>."""

MMAP_THRESHOLD_BYTES = 4 * 1024 * 1024
"""Blocks from this size on are mapped by themselves, and unmapped when freed.

The text of a usual page is smaller, so the next page reuses its block.
"""

TRIM_THRESHOLD_BYTES = 64 * 1024 * 1024
"""Free memory at the top of the heap that is kept for the next pages."""

MALLOC_ARENA_COUNT = 1
"""One heap for all threads: with more, memory freed in one of them is not reused by the others."""

HEAP_TRIM_RSS_BYTES = 320 * 1024 * 1024
"""Resident memory of the process above which free blocks are returned to the system."""

GC_THRESHOLD_OBJECTS = 50_000
"""New containers before the collector searches them for cycles; Python's default is 700.

Most containers of a page are freed without it, by their reference counts.
"""


ARROWS_OWN = pa.default_memory_pool()
"""The pool that Arrow's C++ code uses whatever Python sets, e.g. for the pages of Parquet files."""


def tune_process() -> None:
    """Set the allocators and the collector of this process; safe to call again.

    Arrow's own allocator keeps the memory that writing a file once needed: with 500,000 events
    438 MiB resident and growing, against a constant 335 MiB with the system's allocator.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    configure_malloc()
    freeze_garbage_collector()


def configure_malloc() -> None:
    """Make glibc return every large block, such as the text of an unusual page, when it is freed.

    By default glibc takes large blocks from the heaps of the threads after it has freed a few, and
    never returns those that lie between smaller blocks in use. On other systems than glibc nothing
    happens. Safe to call again.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
        mallopt(_M_ARENA_MAX, MALLOC_ARENA_COUNT)


def trim_heap() -> None:
    """Return free memory between used blocks to the system, once this process is large.

    It takes some milliseconds. Without it the free part of the heap grows throughout a sync.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        if pages * PAGESIZE > HEAP_TRIM_RSS_BYTES:
            ctypes.CDLL(None).malloc_trim(0)
            ARROWS_OWN.release_unused()


def freeze_garbage_collector() -> None:
    """Keep the collector from traversing objects that live as long as this process.

    Dagster's modules and definitions are 170,000 containers. The collector traversed them twice
    during 200,000 events and twice more at the end of the process, which took 1.1 of 4.0 seconds:
    45,000 events a second before, 65,000 after. Safe to call again; a later call changes nothing.

    If DuckDB was imported before the first sync, nothing is frozen: objects that DuckDB makes at
    import would be reported as leaks when the process ends.
    """
    # Counting the frozen objects would traverse them: 10 ms, for each stream of a job.
    if gc.get_threshold()[0] == GC_THRESHOLD_OBJECTS:
        return
    gc.set_threshold(GC_THRESHOLD_OBJECTS, 20, 50)
    if "duckdb" not in sys.modules:
        gc.freeze()
