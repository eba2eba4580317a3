"""Runs at the same time: of one stream, where the commit is the fence, and of all streams."""

from collections.abc import Mapping

import pytest

from klaviyo_assets_tests.crash_hooks import run_at_crash_point
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.processes import fork_parallel_sync, fork_sync
from klaviyo_assets_tests.e2e.run_log import RunResult

pytestmark = pytest.mark.usefixtures("fast_retries")

SIDE_BY_SIDE = (
    "campaigns",
    "campaigns_detailed",
    "event_attributions",
    "events",
    "lists",
    "profiles",
)


def run_and_lose_the_race(
    home: Home, stream: str, config: Mapping[str, str]
) -> tuple[RunResult, RunResult]:
    """Let a run be overtaken by a whole other one right before its first commit; return both."""
    others = list[RunResult]()

    def sync() -> None:
        others.append(home.sync(stream))

    # So small a stream is staged as it is committed.
    with run_at_crash_point("before staging rows", sync, count=1):
        run = home.sync(stream, config=config)
    return run, others[0]


@pytest.mark.parametrize(
    ("stream", "mode"),
    [
        ("profiles", "incremental_deduped"),
        ("lists", "incremental_deduped"),
        ("lists", "full_refresh_overwrite"),
    ],
)
def test_a_run_that_is_overtaken_starts_over(home: Home, stream: str, mode: str) -> None:
    """The later of two runs of one stream is refused its commit, says so, and starts over.

    Every run of lists replaces the table, so none can tell what the other's took away.
    """
    home.sync(stream)
    home.account.advance_clock(days=1)
    run, other = run_and_lose_the_race(home, stream, {"sync_mode": mode})
    assert other.success
    assert "another run committed" in run.retries[stream]
    assert run.success
    assert run.attempts[stream] == 2
    assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))


def test_a_full_refresh_that_an_increment_overtakes_goes_on(home: Home) -> None:
    """It is stored at its first attempt, beside what the increment brought, and says so."""
    home.sync("profiles")
    home.account.advance_clock(days=1)
    run, other = run_and_lose_the_race(home, "profiles", {"sync_mode": "full_refresh_overwrite"})
    assert other.success
    assert run.success
    assert run.attempts["profiles"] == 1
    assert "rows that other runs stored meanwhile were kept" in message(run)
    assert sorted(home.ids("profiles")) == sorted(home.account.true_ids("profiles"))


def message(run: RunResult) -> str:
    """Return all that a run said, a line each."""
    return "\n".join(text for _, text in run.log)


def test_two_first_syncs_in_two_processes_make_one_table(open_home: StartHome) -> None:
    """Two processes that begin the same first sync at once leave every event once."""
    home = open_home(events=4_000, latency_ms=150, future_events=0)
    runs = [fork_sync(home, "events"), fork_sync(home, "events")]
    assert all(child.has_ended(within=300) for child in runs)
    assert {child.exit_code for child in runs} == {0}
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))
    assert home.account.request_counts()["/api/events"] > 4


@pytest.mark.takes(12)
def test_streams_side_by_side_lose_no_view(home: Home) -> None:
    """The first-sync job, a process a stream and four at a time, publishes every relation whole.

    Six streams, two of them views of others: each process costs seconds.
    """
    child = fork_parallel_sync(home, *SIDE_BY_SIDE, has_own_server=True)
    assert child.has_ended(within=300)
    assert child.exit_code == 0
    # Campaigns bring their messages, and the views of both.
    parts = {"campaign_messages", "campaign_audiences", "campaign_variations"}
    assert home.relation_names() - parts == set(SIDE_BY_SIDE)
    for stream in SIDE_BY_SIDE:
        if stream == "event_attributions":
            continue
        truth = home.account.true_ids(stream.removesuffix("_detailed"))
        assert sorted(home.ids(stream)) == sorted(truth)
