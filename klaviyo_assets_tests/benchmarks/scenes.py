"""The cases of several steps: what a second sync costs when much is stored already.

What belongs here: the steps, and one line of figures for each. What does not: reading a collection
into an empty lake (`readings`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from klaviyo_assets_tests.benchmarks.measured import OPENED, Home, asked_of, pages
from klaviyo_assets_tests.benchmarks.pages import A_YEAR
from klaviyo_assets_tests.benchmarks.readings import home
from klaviyo_assets_tests.benchmarks.shelf import FIRST, YEAR

HOURLY = "klaviyo_collections"

SHOP = ("lists=200", "campaigns=1000", "templates=300", "segments=20", "flows=150", "metrics=20")

FILES = """
import sys, deltalake
print("\\n".join(sorted(deltalake.DeltaTable(sys.argv[1]).file_uris())))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one scene showed."""

    name: str
    figure: str
    goal: str
    is_met: bool


def hourly_job(*, quick: bool) -> Iterator[Line]:
    """Run the hourly job twice; the second finds nothing new."""
    events = 2_000 if quick else 20_000
    with home() as place, pages(f"events={events}", "profiles=2000", *SHOP) as server:
        first = place.job(server, HOURLY)
        second = place.job(server, HOURLY)
    yield Line(
        name="hourly job, nothing new",
        figure=f"{second.wall:.1f} s in all, {second.requests} requests, {second.cpu:.1f} s CPU "
        f"(the first sync: {first.wall:.1f} s, {first.requests} requests)",
        goal="15 s",
        is_met=second.wall <= 15,
    )


def second_sync(*, quick: bool) -> Iterator[Line]:
    """Bring new events, a tenth of them known, into ten times as many; then one late event."""
    stored = 200_000 if quick else 2_000_000
    brought = stored // 10
    start = moment(stored - brought // 10)
    with home() as place, home() as empty:
        with pages(f"events={stored}") as server:
            place.sync(server, "events")
        with pages(f"events={stored + brought - brought // 10}") as server:
            alone = empty.sync(server, "events", start=start)
            beside = place.sync(server, "events", start=start)
        more = beside.net - alone.net
        yield Line(
            name=f"{brought:,} events, {brought // 10:,} known, into {stored:,}",
            figure=f"{more:+.2f} s beyond the same into an empty lake ({alone.net:.2f} s)",
            goal="2 s",
            is_met=more <= 2,
        )
        yield from late_event(place, stored)


def late_event(place: Home, stored: int) -> Iterator[Line]:
    """Read one old day again, as the late-arrivals schedule does: every row comes back newer."""
    before = files(place)
    day = FIRST + timedelta(days=20)
    window = {"start": day.isoformat(), "end": (day + timedelta(days=1)).isoformat()}
    with pages(f"events={stored}") as server:
        cost = place.sync(server, "events", **window)
    changed = files(place) ^ before
    days = {path.split("day=")[1][:10] for path in changed}
    yield Line(
        name="a late event in an old day",
        figure=f"{len(changed)} files changed, of {sorted(days)}; {cost.net:.2f} s",
        goal="that day's file alone",
        is_met=days == {str(day.date())},
    )


def full_refresh(*, quick: bool) -> Iterator[Line]:
    """Replace a table of profiles by a full refresh."""
    count = 50_000 if quick else 1_000_000
    with home() as place, pages(f"profiles={count}") as server:
        place.sync(server, "profiles")
        cost = place.sync(server, "profiles", sync_mode="full_refresh_overwrite")
        size = sum(path.stat().st_size for path in map(Path, files(place, "profiles")))
    ratio = cost.written_bytes / size
    yield Line(
        name=f"full refresh of {count:,} profiles",
        figure=f"wrote {ratio:.2f} x the table; {count / cost.net:,.0f} a second, "
        f"{cost.peak_bytes / 2**20:.0f} MiB",
        goal="2 x: written, and rewritten once at most",
        is_met=ratio <= 2,
    )


def files(place: Home, stream: str = "events") -> set[str]:
    """Return the files of a table's current version."""
    table = place.folder / "data" / "lake" / stream
    return set(asked_of(FILES, str(table)).splitlines())


def moment(position: int) -> str:
    """Return when the record at a position happened."""
    return (FIRST + timedelta(seconds=position * YEAR // A_YEAR)).isoformat()


def many_files(*, quick: bool) -> Iterator[Line]:
    """Read two events a day into a file a day, and open what came of it in DuckDB."""
    days = 2_000 if quick else 10_000
    with home() as place, pages(f"events={2 * days}", "--a-year", "720") as server:
        place.sync(server, "events")
        seconds = float(asked_of(OPENED, str(place.folder / "data" / "klaviyo.duckdb")))
        count = len(files(place))
    yield Line(
        name=f"a lake of {count:,} files",
        figure=f"{seconds:.2f} s to open klaviyo.duckdb and count the events, in a new process",
        goal="2 s",
        is_met=seconds <= 2,
    )


Scene = Callable[..., Iterator[Line]]

SCENES: Mapping[str, Scene] = MappingProxyType(
    {"hourly": hourly_job, "second": second_sync, "refresh": full_refresh, "files": many_files}
)
