"""F89: connections that stay open while the account is synced again and again."""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from time import sleep

import duckdb
import pytest

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets_tests.duckdb_releases import LIBRARY_RELEASES
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    FLOW_REPORT,
    add_metrics,
    report_metrics,
    run_partitions,
)
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.e2e.sandbox_account import NOON
from klaviyo_assets_tests.faults.test_upgrade import age, widenings
from klaviyo_assets_tests.held_connections import HeldConnection, QueryResult, hold_connection

RELEASES = (*LIBRARY_RELEASES, duckdb.__version__)

PAUSE_SECONDS = 0.5
"""Between two rounds: without it these processes take the CPU of the syncs that they watch."""

STREAMS = ("events", "events_detailed", "profiles", "lists", "metrics")
RELATIONS = (*STREAMS, FLOW_REPORT)


@dataclass(slots=True)
class Watched:
    """A connection that is asked over and over, and what it answered: distinct answers alone."""

    held: HeldConnection
    answers: dict[str, list[QueryResult]] = field(default_factory=dict[str, list[QueryResult]])
    errors: list[AssertionError] = field(default_factory=list[AssertionError])
    rounds: int = 0

    def wait_for_rounds(self, count: int) -> None:
        """Wait until everything was asked so many times in all, or an answer was an error."""
        while self.rounds < count and not self.errors:
            sleep(0.01)
        assert self.errors == []

    def query_everything(self) -> None:
        """Query each relation's whole content: what stands for its rows, and its columns."""
        for name in RELATIONS:
            content = self.held.query(
                f"SELECT count(*), bit_xor(hash(each)), min(typeof(each)) FROM {name} AS each"
            )
            assert isinstance(content, list), content
            known = self.answers.setdefault(name, [])
            if content not in known:
                known.append(content)
        self.rounds += 1


@contextmanager
def watch_connection(home: Home, release: str) -> Generator[Watched]:
    """Query a connection of that release again and again while the block runs."""
    stop = Event()

    def query_repeatedly() -> None:
        try:
            while not stop.wait(PAUSE_SECONDS):
                watching.query_everything()
        except AssertionError as error:
            watching.errors.append(error)

    with hold_connection(home.data_dir / "klaviyo.duckdb", release) as held:
        watching = Watched(held)
        watching.query_everything()
        thread = Thread(target=query_repeatedly)
        thread.start()
        try:
            yield watching
        finally:
            stop.set()
            thread.join()
        assert watching.errors == []


def upkeep_after_the_grace(home: Home) -> int:
    """Do the upkeep of a sync in two hours; return how many files went."""
    later = datetime.now(tz=UTC) + timedelta(hours=2)
    lake = Lake(home.data_dir, clock=lambda: later)
    return sum(lake.vacuum(name).files_removed for name in RELATIONS if name != "events_detailed")


def syncs(home: Home, metric: str) -> list[Callable[[], RunResult]]:
    """Return ten syncs of every kind that replaces what is there."""
    account, old = home.account, {"start": "2020-01-01"}

    def with_news(*streams: str) -> RunResult:
        account.advance_clock(hours=3)
        return home.sync(*(streams or STREAMS))

    def after_changes() -> RunResult:
        some = sorted(home.ids("profiles"))
        account.mutate(profile=some[0], set={"last_name": "Changed"})
        account.mutate(profile=some[1], delete=True)
        account.mutate(list=min(home.ids("lists")), delete=True)
        return with_news("profiles", "lists", "metrics")

    return [
        with_news,
        lambda: home.sync("events", config=old),
        after_changes,
        lambda: with_news("events", "metrics"),
        lambda: run_partitions(home, FLOW_REPORT, (metric, NOON.date().replace(day=1))).run,
        lambda: home.sync("events", config={"sync_mode": "full_refresh_overwrite"}),
        lambda: home.sync("profiles", config={"sync_mode": "full_refresh_overwrite"}),
        lambda: home.sync("lists", config={"sync_mode": "full_refresh_append"}),
        lambda: run_partitions(home, FLOW_REPORT, (metric, NOON.date().replace(day=2))).run,
        with_news,
    ]


@pytest.mark.takes(30)
def test_f89_connections_outlive_ten_syncs_and_the_grace(open_home: StartHome) -> None:
    """Old and new releases of DuckDB answer all along, each with the one version that it opened.

    Rows of old days are replaced meanwhile, rows are deleted, a table gets further columns, others
    are read from the beginning, and partitions of a report are fetched again; after each sync what
    was retired two hours ago is removed. A connection of now sees what there is now.
    """
    home = open_home(timezone="UTC", events=300, profiles=40, days=4)
    home.settings |= {"KLAVIYO_TIMEZONE": "UTC"}
    metric = report_metrics(home)[0] if home.sync(*STREAMS).success else ""
    add_metrics(home, [metric])
    assert run_partitions(home, FLOW_REPORT, (metric, NOON.date().replace(day=1))).run.success
    age(home, "profiles")
    assert home.sync("lists").success
    with ExitStack() as stack:
        watching = [stack.enter_context(watch_connection(home, each)) for each in RELEASES]
        removed = 0
        for sync in syncs(home, metric):
            rounds = [each.rounds for each in watching]
            assert sync().success
            removed += upkeep_after_the_grace(home)
            assert home.row_count("events") == len(home.lake_ids("events"))
            for each, count in zip(watching, rounds, strict=True):
                each.wait_for_rounds(count + 2)
    assert widenings(home, "profiles")
    assert removed > len(RELEASES)
    for each in watching:
        assert {name: len(seen) for name, seen in each.answers.items()} == dict.fromkeys(
            RELATIONS, 1
        )
    # Nobody has the first version open any more: its files go.
    assert upkeep_after_the_grace(home) > 0
    assert upkeep_after_the_grace(home) == 0
