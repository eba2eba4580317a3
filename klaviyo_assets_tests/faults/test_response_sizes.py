"""Weight: bodies and pages that are too large are refused while they come in, or requested smaller.

F79, and pages that give way to what a server can answer.
"""

from collections.abc import Mapping
from multiprocessing.connection import Connection
from resource import RUSAGE_SELF, getrusage

import pytest

from klaviyo_assets.api import retry
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.processes import SyncTask, build_sync_task, run_task
from klaviyo_assets_tests.e2e.run_log import RunResult, read_run
from klaviyo_assets_tests.faults.assertions import assert_complete, assert_sound_part, stored_ids
from klaviyo_assets_tests.forkserver import FORKSERVER

EVENTS = "/api/events"
LISTS = "/api/lists"
MIB = 2**20

pytestmark = pytest.mark.usefixtures("fast_retries")


def sizes(home: Home, path: str = EVENTS) -> list[int]:
    """Return the page size of each request of a path, in order of arrival."""
    texts = [query.partition("page%5Bsize%5D=")[2] for query in home.account.queries(path)]
    return [int(text.partition("&")[0]) for text in texts]


def sync_and_weigh(orders: SyncTask, report: Connection) -> None:
    """Sync; send by how many MiB this process grew at its peak."""
    retry.INITIAL_BACKOFF_SECONDS, retry.MAX_BACKOFF_SECONDS = 0.01, 0.02
    before = getrusage(RUSAGE_SELF).ru_maxrss
    run_task(orders)
    report.send((getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024)


def measure_sync_memory(home: Home, stream: str) -> tuple[RunResult, float]:
    """Return a sync in a process of its own, and the MiB that it took."""
    ours, theirs = FORKSERVER.Pipe()
    process = FORKSERVER.Process(
        target=sync_and_weigh, args=(build_sync_task(home, stream), theirs)
    )
    process.start()
    theirs.close()
    grown: float = ours.recv()
    process.join()
    with open_instance(home.dagster_home) as instance:
        (done,) = instance.get_runs(limit=1)
        return read_run(instance, done.run_id, success=done.is_success), grown


TOO_LARGE: dict[str, tuple[str, Mapping[str, object]]] = {
    "4 MB of gzip that unpack to 4 GB": ("gzip_bomb", {}),
    "2.2 GB, told by its length": ("flood", {}),
    "2.2 GB in chunks": ("flood", {"chunked": True}),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_f79_a_body_too_large_is_refused_while_it_comes_in(open_home: StartHome, case: str) -> None:
    """The error names page and setting, and memory stays within bounds.

    What came before is kept, and what comes later is read.
    """
    home = open_home(lists=35)
    home.settings["KLAVIYO_MAX_BODY_MIB"] = "64"
    kind, options = TOO_LARGE[case]
    with home.account.inject_fault(kind, match={"path": LISTS, "from": 2}, **options):
        run, grown = measure_sync_memory(home, "lists")
    message = run.failures["lists"]
    assert "GET /api/lists" in message
    assert "page[size]=1" in message
    assert "more than 64 MiB, which was refused while it came in" in message
    assert "KLAVIYO_MAX_BODY_MIB" in message
    assert grown < 400, f"{grown:.0f} MiB"
    assert sizes(home, LISTS)[:5] == [10, 10, 2, 1, 1]
    assert_sound_part(home, "lists")
    assert home.sync("lists").success
    assert_complete(home, "lists")


def test_f79_a_page_too_large_is_requested_smaller(home: Home) -> None:
    """Where fewer records do fit, they are requested, and all of them are stored."""
    heavy = {"at": 0, "count": 1000, "bytes": 20_000}
    with home.account.inject_fault("huge_string", match={"path": EVENTS}, **heavy):
        run = home.sync("events", max_body_mib="4")
    assert run.success
    assert sizes(home)[:3] == [1000, 250, 62]
    assert 1000 not in sizes(home)[1:]
    assert_complete(home, "events")


def test_heavy_records_are_requested_in_smaller_pages_and_light_ones_in_full(
    open_home: StartHome,
) -> None:
    """Pages of 100 kB a record stay near 16 MiB; when records are light again, pages are full."""
    home = open_home(events=9_000, future_events=0, gzip=False)
    heavy = {"at": 0, "count": 1000, "bytes": 100_000}
    with home.account.inject_fault("huge_string", match={"path": EVENTS, "to": 4}, **heavy):
        run = home.sync("events")
    assert run.success
    page_sizes = sizes(home)
    assert page_sizes[0] == 1000
    assert max(page_sizes[2:5]) <= 168
    assert page_sizes[-2] == 1000
    assert_complete(home, "events")


@pytest.mark.parametrize(("above", "status"), [(200, 504), (62, 503)])
def test_pages_that_a_server_cannot_answer_are_requested_smaller(
    open_home: StartHome, above: int, status: int
) -> None:
    """An endpoint with 504 for a thousand records but not for two hundred is read in smaller pages.

    The size that failed is tried again only now and then.
    """
    home = open_home(events=6_000, future_events=0)
    with home.account.inject_fault(
        "error", match={"path": EVENTS, "size_above": above}, status=status
    ):
        run = home.sync("events")
    assert run.success
    assert run.attempts["events"] == 1
    assert_complete(home, "events")
    page_sizes = sizes(home)
    assert page_sizes[:4] == [1000, 1000, 1000, 250]
    too_large = [size for size in page_sizes if size > above]
    assert len(too_large) < len(page_sizes) / 2
    home.account.clear_journal()
    home.account.advance_clock(hours=1)
    assert home.sync("events").success
    assert sizes(home)[0] == 1000


def test_a_next_link_whose_size_may_not_change_starts_the_window_again(
    open_home: StartHome,
) -> None:
    """If Klaviyo ties cursors to their page size, the window is read again from where it stood."""
    home = open_home(events=6_000, future_events=0)
    slow = {"path": EVENTS, "from": 3, "to": 5}
    tied = {"path": EVENTS, "query": "page%5Bsize%5D=250&", "nth": 1}
    with (
        home.account.inject_fault("error", match=slow, status=504),
        home.account.inject_fault("invalid_cursor", match=tied),
    ):
        run = home.sync("events")
    assert run.success
    assert_complete(home, "events")
    assert len(stored_ids(home, "events")) == len(home.account.true_ids("events"))


@pytest.mark.parametrize("first", [1, 3], ids=["the first page", "a next link"])
def test_a_page_size_that_klaviyo_refuses_is_halved(open_home: StartHome, first: int) -> None:
    """Should Klaviyo allow 200 events a page one day, or from some page on: all are read.

    Only as often as it takes to find out what is allowed, and never again in this sync.
    """
    home = open_home(events=6_000, future_events=0)
    match = {"path": EVENTS, "size_above": 200, "from": first}
    message = "page_size must be at most 200."
    with home.account.inject_fault("error", match=match, status=400, detail=message):
        run = home.sync("events")
    assert run.success
    assert_complete(home, "events")
    page_sizes = sizes(home)
    assert min(page_sizes) == 125
    at_once = 10
    assert sum(size > 200 for size in page_sizes) < first + 3 * at_once


def test_a_page_size_that_is_refused_however_small_ends_the_stream(open_home: StartHome) -> None:
    """After ten requests, with Klaviyo's own words."""
    home = open_home(events=600, future_events=0)
    match = {"path": EVENTS, "size_above": 0}
    with home.account.inject_fault("error", match=match, status=400, detail="Bad page size."):
        run = home.sync("events")
    assert "Bad page size" in run.failures["events"]
    assert sizes(home) == [1000, 500, 250, 125, 62, 31, 15, 7, 3, 1]
