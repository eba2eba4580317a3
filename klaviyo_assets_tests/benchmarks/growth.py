"""Cost as work grows: one lake of events, larger step by step; `--growth` of the command.

What belongs here: the steps, their figures, and the plot (matplotlib comes with the extra `bench`
alone). What does not: single syncs (`readings`).
"""

import importlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klaviyo_assets_tests.benchmarks.measured import OPENED, BenchmarkError, asked_of, pages
from klaviyo_assets_tests.benchmarks.readings import home
from klaviyo_assets_tests.benchmarks.report import markdown
from klaviyo_assets_tests.benchmarks.scenes import files, moment

SIZES = (200_000, 1_000_000, 5_000_000, 10_000_000)
QUICK = (200_000, 400_000, 800_000)
PAGE = 1_000
SPLITS = 100
"""Requests that windows read side by side may cost beyond their pages."""

AGAIN = 20_000
"""Events that are read again at each size: all of them known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A size of the lake: how fast it was reached, and what it costs to go on from there.

    `again` is the time net of a sync that brings `AGAIN` known events; seconds, bytes.
    """

    stored: int
    rate: float
    again: float
    opened: float
    files: int
    peak_bytes: int


def steps(sizes: Sequence[int]) -> Iterator[Step]:
    """Let one lake grow, and yield what each size showed.

    Raises:
        BenchmarkError: a sync failed, or read much that was there already.
    """
    before = 0
    with home() as place:
        for size in sizes:
            with pages(f"events={size}") as server:
                grown = place.sync(server, "events")
                again = place.sync(server, "events", start=moment(size - AGAIN))
            if grown.requests > 1.1 * (size - before) / PAGE + SPLITS:
                raise BenchmarkError(f"{grown.requests} requests for {size - before:,} new events")
            opened = asked_of(OPENED, str(place.folder / "data" / "klaviyo.duckdb"))
            yield Step(
                stored=size,
                rate=(size - before) / grown.net,
                again=again.net,
                opened=float(opened),
                files=len(files(place)),
                peak_bytes=grown.peak_bytes,
            )
            before = size


def growth_table(found: Sequence[Step]) -> str:
    """Return the steps as a table."""
    headings = ("stored", "events/s", "s for 20,000 again", "s to open and count", "files", "MiB")
    rows = [
        (
            f"{step.stored:,}",
            f"{step.rate:,.0f}",
            f"{step.again:.2f}",
            f"{step.opened:.2f}",
            f"{step.files:,}",
            f"{step.peak_bytes / 2**20:.0f}",
        )
        for step in found
    ]
    return markdown(headings, rows)


def plot(found: Sequence[Step], target: Path) -> Path:
    """Draw the curves into an SVG file; none of them may bend upward.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    # By name, because only the benchmarks' environment has it.
    drawing: Any = importlib.import_module("matplotlib.pyplot")
    figure, (left, right) = drawing.subplots(1, 2, figsize=(10, 4))
    millions = [step.stored / 1e6 for step in found]
    left.plot(millions, [step.rate for step in found], marker="o")
    left.set(xlabel="million events stored", ylabel="events a second, net", ylim=(0, None))
    right.plot(millions, [step.again for step in found], marker="o", label="20,000 known again")
    right.plot(millions, [step.opened for step in found], marker="o", label="open and count")
    right.set(xlabel="million events stored", ylabel="seconds", ylim=(0, None))
    right.legend()
    figure.suptitle(f"Cost as the lake grows, {time.strftime('%Y-%m-%d')}")
    figure.savefig(target, metadata={"Date": None})
    return target
