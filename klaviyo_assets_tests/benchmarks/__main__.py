"""The command: `make bench`, also `python -m klaviyo_assets_tests.benchmarks`.

Options to cases, runs in turn, a table on the screen and in a dated file of `results/`.
"""

import argparse
import sys
from collections.abc import Iterator

from klaviyo_assets_tests.benchmarks.bursts import bursty_accounts
from klaviyo_assets_tests.benchmarks.growth import QUICK, SIZES, Step, growth_table, plot, steps
from klaviyo_assets_tests.benchmarks.measured import BenchmarkError
from klaviyo_assets_tests.benchmarks.readings import READINGS, Measured, measure
from klaviyo_assets_tests.benchmarks.report import document, path_of
from klaviyo_assets_tests.benchmarks.scenes import SCENES, Line


class Options(argparse.Namespace):
    """The parsed options, by their types."""

    quick: bool
    runs: int
    only: str
    alone: bool
    growth: bool
    dry: bool


def options() -> Options:
    """Return what the command line asks for."""
    found = argparse.ArgumentParser(prog="make bench", description=__doc__)
    found.add_argument("--quick", action="store_true", help="smaller cases, one run of each")
    found.add_argument("--runs", type=int, default=0, help="runs of each case (3; quick: 1)")
    found.add_argument("--only", default="", help="cases whose name has this in it")
    found.add_argument("--alone", action="store_true", help="without the yardsticks")
    found.add_argument("--growth", action="store_true", help="one lake, larger step by step")
    found.add_argument("--dry", action="store_true", help="write no file")
    return found.parse_args(namespace=Options())


def readings(wanted: Options, runs: int) -> Iterator[Measured]:
    """Measure the cases that read one collection."""
    for reading in READINGS:
        if wanted.only in reading.name:
            print(f"{reading.name} ...", file=sys.stderr, flush=True)
            yield measure(reading, runs=runs, quick=wanted.quick, beside=not wanted.alone)


def scenes(wanted: Options) -> Iterator[Line]:
    """Play the cases of several steps."""
    for name, scene in {**SCENES, "bursts": bursty_accounts}.items():
        if wanted.only in name:
            print(f"{name} ...", file=sys.stderr, flush=True)
            yield from scene(quick=wanted.quick)


def main() -> int:
    """Run what was asked for; 1 where a program failed."""
    wanted = options()
    runs = wanted.runs or (1 if wanted.quick else 3)
    name = "growth" if wanted.growth else "quick" if wanted.quick else "full"
    grown: list[Step] = []
    try:
        if wanted.growth:
            grown = list(steps(QUICK if wanted.quick else SIZES))
            text = document(said(), runs=1, cases=(), lines=(), more=growth_table(grown))
        else:
            cases, lines = list(readings(wanted, runs)), list(scenes(wanted))
            text = document(said(), runs=runs, cases=cases, lines=lines)
    except BenchmarkError as problem:
        print(problem, file=sys.stderr)
        return 1
    print(text)
    if not wanted.dry:
        path_of(name, "md").write_text(text, encoding="utf-8")
        if grown:
            plot(grown, path_of(name, "svg"))
    return 0


def said() -> str:
    """Return the command as a user gives it."""
    words = " ".join(sys.argv[1:])
    return f"make bench BENCH_ARGS='{words}'" if words else "make bench"


if __name__ == "__main__":
    sys.exit(main())
