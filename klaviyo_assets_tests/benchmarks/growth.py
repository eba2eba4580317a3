"""Cost as work grows: one lake of events, larger step by step; `--growth` of the command."""

import importlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klaviyo_assets_tests.benchmarks.cases import temporary_home
from klaviyo_assets_tests.benchmarks.measurement import (
    OPEN_SCRIPT,
    BenchmarkError,
    run_page_server,
    run_python,
)
from klaviyo_assets_tests.benchmarks.report import markdown_table
from klaviyo_assets_tests.benchmarks.scenarios import event_time, list_current_files

LAKE_SIZES = (200_000, 1_000_000, 5_000_000, 10_000_000)
QUICK_LAKE_SIZES = (200_000, 400_000, 800_000)
PAGE_SIZE = 1_000
MAX_SPLIT_REQUESTS = 100
"""Requests that windows read side by side may cost beyond their pages."""

REREAD_EVENTS = 20_000
"""Events that are read again at each size: all of them known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthStep:
    """A size of the lake: how fast it was reached, and what it costs to go on from there.

    `reread_seconds` is the time net of a sync that brings `REREAD_EVENTS` known events; seconds,
    bytes.
    """

    stored_events: int
    events_per_second: float
    reread_seconds: float
    open_seconds: float
    files: int
    peak_bytes: int


def measure_growth(sizes: Sequence[int]) -> Iterator[GrowthStep]:
    """Let one lake grow, and yield what each size showed.

    Raises:
        BenchmarkError: a sync failed, or read much that was there already.
    """
    before = 0
    with temporary_home() as place:
        for size in sizes:
            with run_page_server(f"events={size}") as server:
                grown = place.sync(server, "events")
                again = place.sync(server, "events", start=event_time(size - REREAD_EVENTS))
            if grown.requests > 1.1 * (size - before) / PAGE_SIZE + MAX_SPLIT_REQUESTS:
                raise BenchmarkError(f"{grown.requests} requests for {size - before:,} new events")
            opened = run_python(OPEN_SCRIPT, str(place.folder / "data" / "klaviyo.duckdb"))
            yield GrowthStep(
                stored_events=size,
                events_per_second=(size - before) / grown.net_seconds,
                reread_seconds=again.net_seconds,
                open_seconds=float(opened),
                files=len(list_current_files(place)),
                peak_bytes=grown.peak_bytes,
            )
            before = size


def growth_table(steps: Sequence[GrowthStep]) -> str:
    """Return the steps as a table."""
    headings = ("stored", "events/s", "s for 20,000 again", "s to open and count", "files", "MiB")
    rows = [
        (
            f"{step.stored_events:,}",
            f"{step.events_per_second:,.0f}",
            f"{step.reread_seconds:.2f}",
            f"{step.open_seconds:.2f}",
            f"{step.files:,}",
            f"{step.peak_bytes / 2**20:.0f}",
        )
        for step in steps
    ]
    return markdown_table(headings, rows)


def plot_growth(steps: Sequence[GrowthStep], target: Path) -> Path:
    """Draw the curves into an SVG file; none of them may bend upward.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    # By name, because only the benchmarks' environment has it.
    drawing: Any = importlib.import_module("matplotlib.pyplot")
    figure, (left, right) = drawing.subplots(1, 2, figsize=(10, 4))
    millions = [step.stored_events / 1e6 for step in steps]
    left.plot(millions, [step.events_per_second for step in steps], marker="o")
    left.set(xlabel="million events stored", ylabel="events a second, net", ylim=(0, None))
    right.plot(
        millions, [step.reread_seconds for step in steps], marker="o", label="20,000 known again"
    )
    right.plot(millions, [step.open_seconds for step in steps], marker="o", label="open and count")
    right.set(xlabel="million events stored", ylabel="seconds", ylim=(0, None))
    right.legend()
    figure.suptitle(f"Cost as the lake grows, {time.strftime('%Y-%m-%d')}")
    figure.savefig(target, metadata={"Date": None})
    return target
