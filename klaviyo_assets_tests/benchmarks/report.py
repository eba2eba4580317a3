"""The figures as a table: printed, and kept in a dated file that the README quotes.

What belongs here: medians, ratios, words. What does not: measuring.
"""

import os
import platform
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from klaviyo_assets_tests.benchmarks.measured import Cost
from klaviyo_assets_tests.benchmarks.readings import ROAD, Measured
from klaviyo_assets_tests.benchmarks.scenes import Line

RESULTS = Path(__file__).parent / "results"
MIB = 2**20
PACKAGES = ("dagster", "deltalake", "duckdb", "pyarrow", "msgspec")

HEADINGS = (
    "case",
    "who",
    "records/s net",
    "s net",
    "s in all",
    "CPU s",
    "peak MiB",
    "requests",
    "x loop",
    "x dlt",
    "goal",
)


def spread(costs: Sequence[Cost], of: Callable[[Cost], float], form: str = ",.2f") -> str:
    """Return the median, and least to greatest where they differ, of something of each run."""
    values = sorted(map(of, costs))
    middle, low, high = (format(one, form) for one in (median(values), values[0], values[-1]))
    return middle if low == high else f"{middle} ({low} to {high})"


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def rate(measured: Measured, who: str) -> float:
    """Return the median of records a second, net of the start."""
    return median(measured.records / cost.net for cost in measured.costs[who])


def goals(measured: Measured) -> str:
    """Return the goals of a case, each with whether it is met."""
    reading, costs = measured.reading, measured.costs[ROAD]
    words: list[str] = []
    if reading.goal is not None:
        is_met = rate(measured, ROAD) >= reading.goal
        words.append(f"{reading.goal:,}/s: {said(is_met=is_met)}")
    for who, times in reading.yardsticks.items():
        if times is not None and who in measured.costs:
            is_met = rate(measured, ROAD) >= times * rate(measured, who)
            words.append(f"{times:g} x {who}: {said(is_met=is_met)}")
    if reading.peak_mib is not None:
        is_met = median(cost.peak_bytes for cost in costs) <= reading.peak_mib * MIB
        words.append(f"{reading.peak_mib} MiB: {said(is_met=is_met)}")
    return "; ".join(words)


def said(*, is_met: bool) -> str:
    """Return whether a goal is met, as a word."""
    return "met" if is_met else "**missed**"


def rows(measured: Measured) -> Iterator[tuple[str, ...]]:
    """Yield a row for the road, and one for each yardstick."""
    for who, costs in measured.costs.items():
        ratios = ("", "")
        if who == ROAD:
            ratios = tuple(
                f"{rate(measured, ROAD) / rate(measured, other):.1f}"
                if other in measured.costs
                else ""
                for other in ("loop", "dlt")
            )
        yield (
            measured.reading.name if who == ROAD else "",
            who,
            spread(costs, lambda cost: measured.records / cost.net, ",.0f"),
            spread(costs, lambda cost: cost.net),
            spread(costs, lambda cost: cost.wall),
            spread(costs, lambda cost: cost.cpu),
            spread(costs, lambda cost: cost.peak_bytes / MIB, ",.0f"),
            spread(costs, lambda cost: cost.requests, ",.0f"),
            *ratios,
            goals(measured) if who == ROAD else "",
        )


def markdown(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    marks = ["---"] * len(headings)
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, marks, *lines))


def machine() -> str:
    """Return what this was measured on."""
    model = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, {packages}"
    )


def document(
    command: str, *, runs: int, cases: Sequence[Measured], lines: Sequence[Line], more: str = ""
) -> str:
    """Return the whole report as Markdown; `more` ends it."""
    load = os.getloadavg()[0]
    how = (
        f"{machine()}. Command: `{command}`. Medians of {runs} runs, each in a fresh process, "
        f"in brackets the least and the greatest; load average at the end {load:.1f}."
    )
    parts = [
        f"# Benchmarks of {date.today().isoformat()}",  # noqa: DTZ011 - the reader's day
        how,
        "Net: from the first request to the end of the process. MiB: greatest resident memory.",
    ]
    if cases:
        parts.append(markdown(HEADINGS, [row for case in cases for row in rows(case)]))
    if lines:
        told = [(line.name, line.figure, line.goal, said(is_met=line.is_met)) for line in lines]
        parts.append(markdown(("case", "figure", "goal", "met"), told))
    if more:
        parts.append(more)
    return "\n\n".join(parts) + "\n"


def path_of(name: str, kind: str) -> Path:
    """Return where a report of today lies; one of the same day and name is replaced."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{date.today().isoformat()}-{name}.{kind}"  # noqa: DTZ011 - the reader's day
