"""The command: `make bench`, also `python -m klaviyo_assets_tests.benchmarks`.

Options to cases, runs in turn, a table on the screen and in a dated file of `results/`.
"""

import argparse
import sys
from collections.abc import Iterator

from klaviyo_assets_tests.benchmarks.bursts import run_burst_cases
from klaviyo_assets_tests.benchmarks.cases import CASES, CaseResult, run_case
from klaviyo_assets_tests.benchmarks.growth import (
    LAKE_SIZES,
    QUICK_LAKE_SIZES,
    GrowthStep,
    growth_table,
    measure_growth,
    plot_growth,
)
from klaviyo_assets_tests.benchmarks.measurement import BenchmarkError
from klaviyo_assets_tests.benchmarks.report import render_report, report_path
from klaviyo_assets_tests.benchmarks.scenarios import SCENARIOS, ScenarioResult


class Options(argparse.Namespace):
    """The parsed options, by their types."""

    quick: bool
    runs: int
    only: str
    alone: bool
    growth: bool
    sizes: list[int]
    dry: bool


def parse_options() -> Options:
    """Return what the command line asks for."""
    found = argparse.ArgumentParser(prog="make bench", description=__doc__)
    found.add_argument("--quick", action="store_true", help="smaller cases, one run of each")
    found.add_argument("--runs", type=int, default=0, help="runs of each case (3; quick: 1)")
    found.add_argument("--only", default="", help="cases whose name has this in it")
    found.add_argument("--alone", action="store_true", help="without the yardsticks")
    found.add_argument("--growth", action="store_true", help="one lake, larger step by step")
    found.add_argument(
        "--sizes", type=int, nargs="+", default=[], help="events stored at each step of --growth"
    )
    found.add_argument("--dry", action="store_true", help="write no file")
    return found.parse_args(namespace=Options())


def run_cases(options: Options, runs: int) -> Iterator[CaseResult]:
    """Measure the cases that read one collection."""
    for reading in CASES:
        if options.only in reading.name:
            print(f"{reading.name} ...", file=sys.stderr, flush=True)
            yield run_case(
                reading, runs=runs, quick=options.quick, with_baselines=not options.alone
            )


def run_scenarios(options: Options) -> Iterator[ScenarioResult]:
    """Play the cases of several steps."""
    for name, scene in {**SCENARIOS, "bursts": run_burst_cases}.items():
        if options.only in name:
            print(f"{name} ...", file=sys.stderr, flush=True)
            yield from scene(quick=options.quick)


def main() -> int:
    """Run what was requested; 1 where a program failed."""
    wanted = parse_options()
    runs = wanted.runs or (1 if wanted.quick else 3)
    name = "growth" if wanted.growth else "quick" if wanted.quick else "full"
    grown: list[GrowthStep] = []
    try:
        if wanted.growth:
            usual = QUICK_LAKE_SIZES if wanted.quick else LAKE_SIZES
            grown = list(measure_growth(wanted.sizes or usual))
            text = render_report(
                command_line(), runs=1, cases=(), lines=(), more=growth_table(grown)
            )
        else:
            cases, lines = list(run_cases(wanted, runs)), list(run_scenarios(wanted))
            text = render_report(command_line(), runs=runs, cases=cases, lines=lines)
    except BenchmarkError as problem:
        print(problem, file=sys.stderr)
        return 1
    print(text)
    if not wanted.dry:
        report_path(name, "md").write_text(text, encoding="utf-8")
        if grown:
            plot_growth(grown, report_path(name, "svg"))
    return 0


def command_line() -> str:
    """Return the command as a user gives it."""
    words = " ".join(sys.argv[1:])
    return f"make bench BENCH_ARGS='{words}'" if words else "make bench"


if __name__ == "__main__":
    sys.exit(main())
