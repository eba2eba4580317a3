"""The cases that read one collection: the road beside two yardsticks, all against one server.

What belongs here: the rows, and running them in turn. What does not: cases of several steps
(`scenes`), the table (`report`).
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from klaviyo_assets_tests.benchmarks.measured import BenchmarkError, Cost, Home, pages, stored

ROAD = "road"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One collection, read whole into an empty lake; `count` is that of the quick form as well.

    `goal` is in records a second, net of the start; `options` are the page server's.
    """

    name: str
    kind: str
    count: int
    quick: int
    goal: int | None = None
    peak_mib: int | None = None
    options: tuple[str, ...] = ()
    yardsticks: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Who else reads it, and how many times as fast the road is to be."""


READINGS = (
    Reading(
        name="events",
        kind="events",
        count=200_000,
        quick=200_000,
        goal=58_333,
        peak_mib=400,
        yardsticks={"loop": 8, "dlt": 20},
    ),
    Reading(
        name="events, gzip",
        kind="events",
        count=200_000,
        quick=200_000,
        goal=46_666,
        peak_mib=400,
        options=("--gzip",),
    ),
    Reading(
        name="events, 150 ms a page",
        kind="events",
        count=200_000,
        quick=200_000,
        goal=50_000,
        peak_mib=400,
        options=("--latency-ms", "150"),
    ),
    Reading(
        name="events, a million",
        kind="events",
        count=1_000_000,
        quick=400_000,
        peak_mib=400,
    ),
    Reading(
        name="events, one in 500 of 5 MB",
        kind="events",
        count=50_000,
        quick=20_000,
        peak_mib=400,
        options=("--huge-every", "500"),
    ),
    Reading(
        name="profiles",
        kind="profiles",
        count=50_000,
        quick=50_000,
        goal=20_000,
        peak_mib=400,
        yardsticks={"loop": None, "dlt": None},
    ),
    Reading(
        name="profiles, 150 ms a page",
        kind="profiles",
        count=50_000,
        quick=50_000,
        goal=7_500,
        peak_mib=400,
        options=("--latency-ms", "150"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The runs of a case, by who ran: the road, or a yardstick."""

    reading: Reading
    records: int
    costs: Mapping[str, Sequence[Cost]]


def measure(reading: Reading, *, runs: int, quick: bool, beside: bool) -> Measured:
    """Run a case `runs` times, the contestants in turn; yardsticks only where `beside`.

    Raises:
        BenchmarkError: a program failed, or the road lost or doubled a record.
    """
    records = reading.quick if quick else reading.count
    names = (ROAD, *(reading.yardsticks if beside else ()))
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    with pages(f"{reading.kind}={records}", *reading.options) as server:
        for _ in range(runs):
            for name in names:
                with home() as place:
                    if name == ROAD:
                        costs[name].append(place.sync(server, reading.kind))
                        check(place, reading, records)
                    else:
                        costs[name].append(place.yardstick(server, name, reading.kind))
    return Measured(reading=reading, records=records, costs=costs)


def check(place: Home, reading: Reading, records: int) -> None:
    """Refuse a run that did not store every record once."""
    rows = stored(place, reading.kind)
    if rows != records:
        raise BenchmarkError(f"{reading.name}: {rows} rows stored of {records}")


@contextmanager
def home() -> Generator[Home]:
    """Give a folder for one run, gone afterwards."""
    with TemporaryDirectory(prefix="klaviyo-bench-") as folder:
        yield Home(folder=Path(folder))
