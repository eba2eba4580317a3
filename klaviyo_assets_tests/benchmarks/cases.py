"""The cases that read one collection: the road beside two yardsticks, all against one server."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from klaviyo_assets_tests.benchmarks.measurement import (
    BenchmarkError,
    BenchmarkHome,
    RunCost,
    count_stored_rows,
    run_page_server,
)

PRODUCT = "road"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkCase:
    """One collection, read whole into an empty lake; `count` is that of the quick form as well.

    `goal` is in records a second, net of the start; `options` are the page server's.
    """

    name: str
    kind: str
    count: int
    quick_count: int
    goal: int | None = None
    peak_mib: int | None = None
    options: tuple[str, ...] = ()
    baselines: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Who else reads it, and how many times as fast the road is to be."""


CASES = (
    BenchmarkCase(
        name="events",
        kind="events",
        count=200_000,
        quick_count=200_000,
        goal=58_333,
        peak_mib=400,
        baselines={"loop": 8, "dlt": 20},
    ),
    BenchmarkCase(
        name="events, gzip",
        kind="events",
        count=200_000,
        quick_count=200_000,
        goal=46_666,
        peak_mib=400,
        options=("--gzip",),
    ),
    BenchmarkCase(
        name="events, 150 ms a page",
        kind="events",
        count=200_000,
        quick_count=200_000,
        goal=50_000,
        peak_mib=400,
        options=("--latency-ms", "150"),
    ),
    BenchmarkCase(
        name="events, a million",
        kind="events",
        count=1_000_000,
        quick_count=400_000,
        peak_mib=400,
    ),
    BenchmarkCase(
        name="events, one in 500 of 5 MB",
        kind="events",
        count=50_000,
        quick_count=20_000,
        peak_mib=400,
        options=("--huge-every", "500"),
    ),
    BenchmarkCase(
        name="profiles",
        kind="profiles",
        count=50_000,
        quick_count=50_000,
        goal=20_000,
        peak_mib=400,
        baselines={"loop": None, "dlt": None},
    ),
    BenchmarkCase(
        name="profiles, 150 ms a page",
        kind="profiles",
        count=50_000,
        quick_count=50_000,
        goal=7_500,
        peak_mib=400,
        options=("--latency-ms", "150"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """The runs of a case, by who ran: the road, or a yardstick."""

    case: BenchmarkCase
    records: int
    costs: Mapping[str, Sequence[RunCost]]


def run_case(case: BenchmarkCase, *, runs: int, quick: bool, with_baselines: bool) -> CaseResult:
    """Run a case `runs` times, the contestants in turn; yardsticks only where `with_baselines`.

    Raises:
        BenchmarkError: a program failed, or the road lost or doubled a record.
    """
    records = case.quick_count if quick else case.count
    names = (PRODUCT, *(case.baselines if with_baselines else ()))
    costs: dict[str, list[RunCost]] = {name: [] for name in names}
    with run_page_server(f"{case.kind}={records}", *case.options) as server:
        for _ in range(runs):
            for name in names:
                with temporary_home() as place:
                    if name == PRODUCT:
                        costs[name].append(place.sync(server, case.kind))
                        check_stored_rows(place, case, records)
                    else:
                        costs[name].append(place.run_baseline(server, name, case.kind))
    return CaseResult(case=case, records=records, costs=costs)


def check_stored_rows(place: BenchmarkHome, case: BenchmarkCase, records: int) -> None:
    """Refuse a run that did not store every record once."""
    rows = count_stored_rows(place, case.kind)
    if rows != records:
        raise BenchmarkError(f"{case.name}: {rows} rows stored of {records}")


@contextmanager
def temporary_home() -> Generator[BenchmarkHome]:
    """Give a folder for one run, gone afterwards."""
    with TemporaryDirectory(prefix="klaviyo-bench-") as folder:
        yield BenchmarkHome(folder=Path(folder))
