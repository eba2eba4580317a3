"""The command: `make bench`, also `python -m klaviyo_assets_tests.benchmarks`.

Options to cases, runs in turn, a table on the screen and in a dated file of `results/`.
"""

import argparse
import sys

from klaviyo_assets_tests.benchmarks.measured import BenchmarkError
from klaviyo_assets_tests.benchmarks.readings import READINGS, Measured, measure
from klaviyo_assets_tests.benchmarks.report import document, keep
from klaviyo_assets_tests.benchmarks.scenes import SCENES, Line


class Options(argparse.Namespace):
    """The parsed options, by their types."""

    quick: bool
    runs: int
    only: str
    alone: bool
    dry: bool


def options() -> Options:
    """Return what the command line asks for."""
    found = argparse.ArgumentParser(prog="make bench", description=__doc__)
    found.add_argument("--quick", action="store_true", help="smaller cases, one run of each")
    found.add_argument("--runs", type=int, default=0, help="runs of each case (3; quick: 1)")
    found.add_argument("--only", default="", help="cases whose name has this in it")
    found.add_argument("--alone", action="store_true", help="without the yardsticks")
    found.add_argument("--dry", action="store_true", help="write no file")
    return found.parse_args(namespace=Options())


def main() -> int:
    """Run what was asked for; 1 where a program failed."""
    wanted = options()
    runs = wanted.runs or (1 if wanted.quick else 3)
    cases: list[Measured] = []
    lines: list[Line] = []
    try:
        for reading in READINGS:
            if wanted.only in reading.name:
                print(f"{reading.name} ...", file=sys.stderr, flush=True)
                cases.append(
                    measure(reading, runs=runs, quick=wanted.quick, beside=not wanted.alone)
                )
        for name, scene in SCENES.items():
            if wanted.only in name:
                print(f"{name} ...", file=sys.stderr, flush=True)
                lines.extend(scene(quick=wanted.quick))
    except BenchmarkError as problem:
        print(problem, file=sys.stderr)
        return 1
    command = " ".join(["make bench", *(f"BENCH_ARGS='{' '.join(sys.argv[1:])}'",) * wanted.quick])
    text = document(command, runs, cases, lines)
    print(text)
    if not wanted.dry:
        print(f"kept in {keep(text, 'quick' if wanted.quick else 'full').name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
