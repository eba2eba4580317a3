"""Children read parent by parent: what a kill or a failure leaves is not requested again."""

import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.sync import plan, sync_run
from klaviyo_assets.sync.plan import PARENTS_READ_KEY
from klaviyo_assets_tests.crash_hooks import KillAt, run_at_crash_point
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.processes import fork_sync
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account

AFTER_TWO_COMMITS = KillAt("after a table commit", count=2)
FULL = {"sync_mode": "full_refresh_overwrite"}


@pytest.fixture
def home(tmp_path: Path, dagster_template: Path) -> Iterator[Home]:
    """A home with flows and lists, whose steps and members are read by parent."""
    with open_sandbox_account(profiles=120, events=0, lists=8, flows=8, segments=0) as account:
        home = Home(
            account=account,
            root=tmp_path,
            dagster_template=dagster_template,
            settings={"KLAVIYO_STREAMS": "flow_actions,flow_definitions,list_members"},
        )
        assert home.sync("flows", "lists").success
        yield home


def parents_read(home: Home, stream: str) -> set[str]:
    """Return the parents that the last commit of an unfinished read says were read."""
    state = Lake(home.data_dir, clock=lambda: home.account.now).read_table_state(stream)
    assert state is not None
    found = cast("Mapping[str, Mapping[str, object]]", state.state.get(PARENTS_READ_KEY, {}))
    return set(found.get("slices", {}))


def parents_requested(home: Home) -> Counter[str]:
    """Return how many requests there were for the children of each parent."""
    counts = home.account.request_counts()
    return Counter({path.split("/")[3]: n for path, n in counts.items() if path.count("/") == 4})


def kill_a_sync(home: Home, stream: str, config: Mapping[str, str] | None = None) -> set[str]:
    """Have a sync killed by the system after two commits; return the parents it has read.

    A commit holds the parents that were read meanwhile: two or a few more of the eight.
    """
    child = fork_sync(home, stream, config=config, commit_bytes=1, kill_at=AFTER_TWO_COMMITS)
    assert child.has_ended(within=300)
    assert child.exit_code == -signal.SIGKILL
    home.account.clear_journal()
    read = parents_read(home, stream)
    assert 2 <= len(read) < 8
    return read


def step_of(home: Home, flow: str) -> str:
    """Return a step of a flow."""
    steps = home.query(f"SELECT min(id) FROM flow_actions WHERE flow_id = '{flow}'")
    return str(steps[0][0])


def living_steps(home: Home) -> set[str]:
    """Return the steps that Klaviyo has."""
    return set(home.account.attributes("flow-action"))


def test_a_killed_first_read_goes_on_with_the_other_parents(home: Home) -> None:
    """After a kill only the parents without a commit are requested, and every child is there."""
    read = kill_a_sync(home, "flow_actions")
    run = home.sync("flow_actions")
    assert run.success
    assert parents_requested(home) == dict.fromkeys(home.account.true_ids("flows") - read, 1)
    assert sorted(home.ids("flow_actions")) == sorted(living_steps(home))
    assert not home.deletion_times("flow_actions")
    assert f"{len(read)} of 8 parents were read" in run.warnings
    home.account.clear_journal()
    assert home.sync("flow_actions").success
    assert parents_requested(home) == dict.fromkeys(home.account.true_ids("flows"), 1)


def test_what_is_gone_is_marked_by_the_run_that_ends_the_read(home: Home) -> None:
    """Children that left before a kill and after it are marked once the read is whole."""
    assert home.sync("flow_actions").success
    flows = home.account.true_ids("flows")
    gone = {step_of(home, each) for each in flows}
    home.account.advance_clock(hours=1)
    for each in gone:
        home.account.mutate(**{"flow-action": each}, delete=True)
    read = kill_a_sync(home, "flow_actions")
    assert not home.deletion_times("flow_actions")
    home.account.advance_clock(hours=1)
    assert home.sync("flow_actions").success
    assert parents_requested(home) == dict.fromkeys(flows - read, 1)
    assert set(home.deletion_times("flow_actions")) == gone
    assert set(home.live_ids("flow_actions")) == living_steps(home)


def test_a_killed_full_read_of_members_goes_on(home: Home) -> None:
    """Leaves are known and joins are not read twice, as if the full read had not been killed."""
    assert home.sync("list_members").success
    members = sorted(home.account.true_members("list"))
    leaving = [next(each for each in members if each[0] == group) for group, _ in members]
    leaving = sorted(set(leaving))
    home.account.advance_clock(hours=1)
    for group, profile in leaving:
        home.account.mutate(list=group, remove=[profile])
    read = kill_a_sync(home, "list_members", config=FULL)
    assert home.query("SELECT count(*) FROM list_members WHERE left_at IS NOT NULL") == [(0,)]
    assert home.sync("list_members", config=FULL).success
    assert set(parents_requested(home)) == home.account.true_ids("lists") - read
    left = home.query("SELECT list_id, profile_id FROM list_members WHERE left_at IS NOT NULL")
    assert sorted(left) == sorted(leaving)
    home.account.clear_journal()
    assert home.sync("list_members").success
    assert parents_requested(home) == dict.fromkeys(home.account.true_ids("lists"), 1)
    queries = [
        query
        for group in home.account.true_ids("lists")
        for query in home.account.queries(f"/api/lists/{group}/profiles")
    ]
    assert all("greater" in each for each in queries)


def definitions_requested(home: Home) -> Counter[str]:
    """Return how many requests there were for the definition of each flow."""
    counts = home.account.request_counts()
    return Counter(
        {path.rsplit("/", 1)[1]: n for path, n in counts.items() if path.count("/") == 3}
    )


@pytest.mark.parametrize("between", ["nothing", "an increment"])
def test_a_killed_full_refresh_of_details_goes_on(home: Home, between: str) -> None:
    """Flows without a commit are requested alone, and what is gone leaves with the last commit."""
    assert home.sync("flow_definitions").success
    flows = home.account.true_ids("flows")
    home.account.advance_clock(hours=1)
    began = home.account.now
    read = kill_a_sync(home, "flow_definitions", config=FULL)
    gone = home.account.mutate(flow=min(read), delete=True)
    assert home.sync("flows", config=FULL).success
    assert between == "nothing" or home.sync("flow_definitions").success
    home.account.clear_journal()
    run = home.sync("flow_definitions", config=FULL)
    assert run.success
    assert definitions_requested(home) == dict.fromkeys(flows - read, 1)
    assert f"{len(read)} parents were read since" in run.warnings
    lake = Lake(home.data_dir, clock=lambda: home.account.now)
    rows = lake.read_columns("flow_definitions", ["id", "definition", "synced_at"]).to_pylist()
    assert sorted(row["id"] for row in rows) == sorted(flows - {gone})
    assert all(row["definition"] and row["synced_at"] >= began for row in rows)
    assert not parents_read(home, "flow_definitions")
    home.account.clear_journal()
    assert home.sync("flow_definitions", config=FULL).success
    assert definitions_requested(home) == dict.fromkeys(flows - {gone}, 1)


@pytest.mark.parametrize("stream", ["flow_actions", "flow_definitions"])
def test_a_refresh_in_parts_is_whole_and_repairs_a_damaged_table(
    home: Home, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    """The last commit has the rows of those before; where files are damaged it has all of them."""
    assert home.sync(stream).success
    before = sorted(home.ids(stream))
    monkeypatch.setattr(sync_run, "COMMIT_BYTES", 1)
    assert home.sync(stream, config=FULL).success
    assert sorted(map(str, home.lake_ids(stream))) == before
    for file in (home.data_dir / "lake" / stream).glob("*.parquet"):
        file.write_bytes(b"damaged")
    assert home.sync(stream, config=FULL).success
    assert sorted(map(str, home.lake_ids(stream))) == before


def one_worker(*_: object) -> int:
    """Return how many windows are read in parallel."""
    return 1


def test_a_failed_read_is_continued(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run has read before its key was refused is stored, and not requested again."""
    flows = home.account.true_ids("flows")
    match = {"path": "/api/flows/*/flow-actions", "from": 5}
    with (
        monkeypatch.context() as patched,
        home.account.inject_fault("error", match=match, status=401),
    ):
        # One reader: of several, one may be refused before the others have their responses.
        patched.setattr(sync_run, "count_workers", one_worker)
        assert not home.sync("flow_actions").success
    read = parents_read(home, "flow_actions")
    assert len(read) == 4
    home.account.clear_journal()
    assert home.sync("flow_actions").success
    assert parents_requested(home) == dict.fromkeys(flows - read, 1)
    assert set(home.live_ids("flow_actions")) == living_steps(home)


@pytest.mark.parametrize("reason", ["the next day", "another privacy setting"])
def test_an_unfinished_read_is_not_continued_later_or_otherwise(
    home: Home, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """A read of all takes over nothing that is a day old, or was stored with other settings."""
    assert home.sync("flow_actions").success
    home.account.advance_clock(hours=1)
    kill_a_sync(home, "flow_actions")
    excluded = ""
    if reason == "the next day":
        monkeypatch.setattr(plan, "MAX_PARENT_ROUND_AGE", timedelta(0))
    else:
        excluded = "flow_actions.definition"
    assert home.sync("flow_actions", exclude_columns=excluded).success
    assert parents_requested(home) == dict.fromkeys(home.account.true_ids("flows"), 1)
    assert set(home.live_ids("flow_actions")) == living_steps(home)
    texts = home.query("SELECT count(*) FROM flow_actions WHERE definition IS NOT NULL")
    assert texts == [(0 if excluded else len(living_steps(home)),)]


@pytest.mark.usefixtures("fast_retries")
def test_another_run_that_commits_meanwhile_does_no_harm(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two reads of all side by side leave every child once; the one overtaken is tried again."""
    monkeypatch.setattr(sync_run, "COMMIT_BYTES", 1)
    results: list[bool] = []

    def sync_beside() -> None:
        results.append(home.sync("flow_actions").success)

    with run_at_crash_point("before a table commit", sync_beside, count=2):
        results.append(home.sync("flow_actions").success)
    assert results == [True, True]
    assert sorted(home.live_ids("flow_actions")) == sorted(living_steps(home))
    assert not parents_read(home, "flow_actions")
    assert not home.deletion_times("flow_actions")
