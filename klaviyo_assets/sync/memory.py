"""Memory that pages took goes back to the system, and looking for garbage costs next to nothing.

What belongs here: the settings of this process's allocator and collector. What does not: how many
pages there may be at once (`pace`), and Arrow's own allocator, which is chosen before Arrow is
imported (in `defs`).

Measured, MiB resident at the most, 200,000 and 1,000,000 events, and page faults of the latter:

    blocks from        free blocks given back     200,000     1,000,000   faults
    4 MiB              never                      337         396         0.2 million
    2 MiB              never                      337         378         0.2
    1 MiB              never                      327         347         1.4
    256 KiB, 2 arenas  never                      330         345         1.7
    4 MiB              every 16 MiB, from 280     333, 334    362, 370    1.0
    1.5 MiB            every 64 MiB               334         371, 374    0.6
    1.5 MiB            every 16 MiB, from 280     324, 332    356, 361    1.1

With a commit every 192 MiB, a bounded backlog (`pace`) and without pandas, blocks from 1.5 MiB,
given back every 16 MiB of rows; medians of three runs of a million and five of 200,000, in turn:

    free blocks given back     200,000     1,000,000   thousands of the latter a second
    above 270 MiB                278         298         85
    above 285 MiB                279         296         88
    above 300 MiB                281         307         93
    above 330 MiB                281         311         97
    never                        284         306         90

With DuckDB in memory from the first page on, 12 MiB that came at the end before, medians of three
and five in turn, in an hour in which the machine was slow:

    above 285 MiB                295         296         53
    above 300 MiB                299         301         56
    above 320 MiB                302         303         57

What is given back is faulted in again by the next pages; but a million events may take no more than
a tenth above 200,000.

As it comes, glibc's allocator took 428 MiB for 200,000 events, and 566 for 50,000 profiles at
150 ms a page. A page fault costs 3 us. Source: mallopt(3), malloc_trim(3).
"""

import ctypes
import gc
import sys
from contextlib import suppress
from mmap import PAGESIZE
from pathlib import Path

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""Numbers of glibc's <malloc.h>."""

LARGE_BYTES = 1536 * 1024
"""From here on a block is the system's own; the text of a usual page of events is larger."""

ARENAS = 1
"""Heaps: one, however many threads there are."""

LARGE_PROCESS_BYTES = 320 * 1024 * 1024
"""Memory of a process, resident, above which free blocks are given back."""

YOUNG_OBJECTS = 50_000
"""New containers before the collector looks for circles among them; 700 as it comes.

Most of a page's are gone again without it.
"""


def give_large_blocks_back() -> None:
    """Let every large block, a usual page's text among them, go back as soon as it is freed.

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


def give_free_blocks_back() -> None:
    """Give the system what is free between blocks that live on, once this process is large.

    Some milliseconds of work; without it the free part of the heap grows as long as a sync goes on.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        if pages * PAGESIZE > LARGE_PROCESS_BYTES:
            ctypes.CDLL(None).malloc_trim(0)


def spare_what_lives_on() -> None:
    """Keep the collector from walking again and again through what this process will keep anyway.

    Dagster's modules and definitions are 170,000 containers. Walked through twice in 200,000
    events and twice more at the end of the process, they took 1.1 of 4.0 seconds: 45,000 events a
    second before, 65,000 after. Safe to call again; a later call changes nothing.

    Where somebody imported DuckDB before the first sync, all is walked through as ever: what
    DuckDB makes at its import would be reported as leaks when the process ends.
    """
    # To ask how much is spared already walks through it: 10 ms, for each stream of a job.
    if gc.get_threshold()[0] == YOUNG_OBJECTS:
        return
    gc.set_threshold(YOUNG_OBJECTS, 20, 50)
    if "duckdb" not in sys.modules:
        gc.freeze()
