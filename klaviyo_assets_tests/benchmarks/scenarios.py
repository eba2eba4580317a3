"""The cases of several steps: what a second sync costs when much is stored already."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from klaviyo_assets_tests.benchmarks.cases import temporary_home
from klaviyo_assets_tests.benchmarks.dataset import FIRST_TIME, YEAR_SECONDS
from klaviyo_assets_tests.benchmarks.measurement import (
    OPEN_SCRIPT,
    BenchmarkHome,
    run_page_server,
    run_python,
)
from klaviyo_assets_tests.benchmarks.page_server import RECORDS_PER_YEAR

HOURLY_JOB = "klaviyo_collections"

ACCOUNT_OPTIONS = (
    "lists=200",
    "campaigns=1000",
    "templates=300",
    "segments=20",
    "flows=150",
    "metrics=20",
)

LIST_FILES_SCRIPT = """
import sys, deltalake
print("\\n".join(sorted(deltalake.DeltaTable(sys.argv[1]).file_uris())))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioResult:
    """What one scene showed."""

    name: str
    figure: str
    goal: str
    is_met: bool


def measure_hourly_job(*, quick: bool) -> Iterator[ScenarioResult]:
    """Run the hourly job twice; the second finds nothing new."""
    events = 2_000 if quick else 20_000
    with (
        temporary_home() as place,
        run_page_server(f"events={events}", "profiles=2000", *ACCOUNT_OPTIONS) as server,
    ):
        first = place.run_job(server, HOURLY_JOB)
        second = place.run_job(server, HOURLY_JOB)
    yield ScenarioResult(
        name="hourly job, nothing new",
        figure=(
            f"{second.wall_seconds:.1f} s in all, {second.requests} requests, "
            f"{second.cpu_seconds:.1f} s CPU (the first sync: {first.wall_seconds:.1f} s, "
            f"{first.requests} requests)"
        ),
        goal="15 s",
        is_met=second.wall_seconds <= 15,
    )


def measure_second_sync(*, quick: bool) -> Iterator[ScenarioResult]:
    """Bring new events, a tenth of them known, into ten times as many; then one late event."""
    stored = 200_000 if quick else 2_000_000
    brought = stored // 10
    start = event_time(stored - brought // 10)
    with temporary_home() as place, temporary_home() as empty:
        with run_page_server(f"events={stored}") as server:
            place.sync(server, "events")
        with run_page_server(f"events={stored + brought - brought // 10}") as server:
            alone = empty.sync(server, "events", start=start)
            beside = place.sync(server, "events", start=start)
        more = beside.net_seconds - alone.net_seconds
        yield ScenarioResult(
            name=f"{brought:,} events, {brought // 10:,} known, into {stored:,}",
            figure=f"{more:+.2f} s beyond the same into an empty lake ({alone.net_seconds:.2f} s)",
            goal="2 s",
            is_met=more <= 2,
        )
        yield from measure_late_event(place, stored)


def measure_late_event(home: BenchmarkHome, stored: int) -> Iterator[ScenarioResult]:
    """Read one old day again, as the late-arrivals schedule does: no row has changed."""
    before = list_current_files(home)
    day = FIRST_TIME + timedelta(days=20)
    window = {"start": day.isoformat(), "end": (day + timedelta(days=1)).isoformat()}
    with run_page_server(f"events={stored}") as server:
        cost = home.sync(server, "events", **window)
    changed = list_current_files(home) ^ before
    yield ScenarioResult(
        name="an old day again, unchanged",
        figure=f"{len(changed)} files changed; {cost.net_seconds:.2f} s",
        goal="no file",
        is_met=not changed,
    )


def measure_full_refresh(*, quick: bool) -> Iterator[ScenarioResult]:
    """Replace a table of profiles by a full refresh."""
    count = 50_000 if quick else 1_000_000
    with temporary_home() as place, run_page_server(f"profiles={count}") as server:
        place.sync(server, "profiles")
        cost = place.sync(server, "profiles", sync_mode="full_refresh_overwrite")
        size = sum(path.stat().st_size for path in map(Path, list_current_files(place, "profiles")))
    ratio = cost.written_bytes / size
    yield ScenarioResult(
        name=f"full refresh of {count:,} profiles",
        figure=f"wrote {ratio:.2f} x the table; {count / cost.net_seconds:,.0f} a second, "
        f"{cost.peak_bytes / 2**20:.0f} MiB",
        goal="2 x: written, and rewritten once at most",
        is_met=ratio <= 2,
    )


def list_current_files(home: BenchmarkHome, stream: str = "events") -> set[str]:
    """Return the files of a table's current version."""
    table = home.folder / "data" / "lake" / stream
    return set(run_python(LIST_FILES_SCRIPT, str(table)).splitlines())


def event_time(position: int) -> str:
    """Return when the record at a position happened."""
    return (FIRST_TIME + timedelta(seconds=position * YEAR_SECONDS // RECORDS_PER_YEAR)).isoformat()


def measure_many_files(*, quick: bool) -> Iterator[ScenarioResult]:
    """Read two events a day into a file a day, open what came of it in DuckDB, and read on.

    So many files have tens of millions of events in practice: 30 million of our records in 5,715.
    """
    days = 2_000 if quick else 10_000
    with temporary_home() as place:
        with run_page_server(f"events={2 * days}", "--a-year", "720") as server:
            first = place.sync(server, "events")
        seconds = float(run_python(OPEN_SCRIPT, str(place.folder / "data" / "klaviyo.duckdb")))
        count = len(list_current_files(place))
        with run_page_server(f"events={2 * days + 20}", "--a-year", "720") as server:
            second = place.sync(server, "events")
    yield ScenarioResult(
        name=f"a lake of {count:,} files",
        figure=f"{seconds:.2f} s to open klaviyo.duckdb and count the events, in a new process",
        goal="2 s",
        is_met=seconds <= 2,
    )
    peak = max(first.peak_bytes, second.peak_bytes) / 2**20
    yield ScenarioResult(
        name=f"a sync of 20 events into {count:,} files",
        figure=f"{peak:.0f} MiB, {second.cpu_seconds:.1f} s of CPU",
        goal="400 MiB",
        is_met=peak <= 400,
    )


Scenario = Callable[..., Iterator[ScenarioResult]]

SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "hourly": measure_hourly_job,
        "second": measure_second_sync,
        "refresh": measure_full_refresh,
        "files": measure_many_files,
    }
)
