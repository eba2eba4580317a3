"""The figures as a table: printed, and kept in a dated file that the README quotes."""

import os
import platform
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from klaviyo_assets_tests.benchmarks.cases import PRODUCT, CaseResult
from klaviyo_assets_tests.benchmarks.measurement import RunCost
from klaviyo_assets_tests.benchmarks.scenarios import ScenarioResult

RESULTS_FOLDER = Path(__file__).parent / "results"
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


def format_spread(
    costs: Sequence[RunCost], of: Callable[[RunCost], float], form: str = ",.2f"
) -> str:
    """Return the median, and least to greatest where they differ, of something of each run."""
    values = sorted(map(of, costs))
    middle, low, high = (format(one, form) for one in (median(values), values[0], values[-1]))
    return middle if low == high else f"{middle} ({low} to {high})"


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def median_rate(measured: CaseResult, who: str) -> float:
    """Return the median of records a second, net of the start."""
    return median(measured.records / cost.net_seconds for cost in measured.costs[who])


def format_goals(measured: CaseResult) -> str:
    """Return the goals of a case, each with whether it is met."""
    reading, costs = measured.case, measured.costs[PRODUCT]
    words: list[str] = []
    if reading.goal is not None:
        is_met = median_rate(measured, PRODUCT) >= reading.goal
        words.append(f"{reading.goal:,}/s: {goal_word(is_met=is_met)}")
    for who, times in reading.baselines.items():
        if times is not None and who in measured.costs:
            is_met = median_rate(measured, PRODUCT) >= times * median_rate(measured, who)
            words.append(f"{times:g} x {who}: {goal_word(is_met=is_met)}")
    if reading.peak_mib is not None:
        is_met = median(cost.peak_bytes for cost in costs) <= reading.peak_mib * MIB
        words.append(f"{reading.peak_mib} MiB: {goal_word(is_met=is_met)}")
    return "; ".join(words)


def goal_word(*, is_met: bool) -> str:
    """Return whether a goal is met, as a word."""
    return "met" if is_met else "**missed**"


def table_rows(measured: CaseResult) -> Iterator[tuple[str, ...]]:
    """Yield a row for the road, and one for each yardstick."""
    for who, costs in measured.costs.items():
        ratios = ("", "")
        if who == PRODUCT:
            ratios = tuple(
                f"{median_rate(measured, PRODUCT) / median_rate(measured, other):.1f}"
                if other in measured.costs
                else ""
                for other in ("loop", "dlt")
            )
        yield (
            measured.case.name if who == PRODUCT else "",
            who,
            format_spread(costs, lambda cost: measured.records / cost.net_seconds, ",.0f"),
            format_spread(costs, lambda cost: cost.net_seconds),
            format_spread(costs, lambda cost: cost.wall_seconds),
            format_spread(costs, lambda cost: cost.cpu_seconds),
            format_spread(costs, lambda cost: cost.peak_bytes / MIB, ",.0f"),
            format_spread(costs, lambda cost: cost.requests, ",.0f"),
            *ratios,
            format_goals(measured) if who == PRODUCT else "",
        )


def markdown_table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    marks = ["---"] * len(headings)
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, marks, *lines))


def describe_machine() -> str:
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


def render_report(
    command: str,
    *,
    runs: int,
    cases: Sequence[CaseResult],
    lines: Sequence[ScenarioResult],
    more: str = "",
) -> str:
    """Return the whole report as Markdown; `more` ends it."""
    load = os.getloadavg()[0]
    how = (
        f"{describe_machine()}. Command: `{command}`. Medians of {runs} runs, each in a fresh "
        "process, "
        f"in brackets the least and the greatest; load average at the end {load:.1f}."
    )
    parts = [
        f"# Benchmarks of {date.today().isoformat()}",  # noqa: DTZ011 - the reader's day
        how,
        "Net: from the first request to the end of the process. MiB: greatest resident memory.",
    ]
    if cases:
        parts.append(markdown_table(HEADINGS, [row for case in cases for row in table_rows(case)]))
    if lines:
        outcome_lines = [
            (line.name, line.figure, line.goal, goal_word(is_met=line.is_met)) for line in lines
        ]
        parts.append(markdown_table(("case", "figure", "goal", "met"), outcome_lines))
    if more:
        parts.append(more)
    return "\n\n".join(parts) + "\n"


def report_path(name: str, kind: str) -> Path:
    """Return where a report of today lies; one of the same day and name is replaced."""
    RESULTS_FOLDER.mkdir(exist_ok=True)
    return RESULTS_FOLDER / f"{date.today().isoformat()}-{name}.{kind}"  # noqa: DTZ011 - the reader's day
