"""What fails, and what goes on: each failure names the stream, what came back, and what to do."""

import threading

import pytest

from klaviyo_assets.model.stream import Collection
from klaviyo_assets.sandbox.account.config import DEFAULT_KEY, PrivateApiKey
from klaviyo_assets.streams import DEFAULT_COLLECTIONS
from klaviyo_assets_tests.crash_hooks import run_at_crash_point
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home

ASKING = tuple(
    stream.name
    for stream in DEFAULT_COLLECTIONS
    if isinstance(stream.source, Collection) and not stream.read_first
)
"""Streams whose first sync asks Klaviyo something, whatever became of others in the run."""


MAX_FRAMES = 12
"""Half of them are Dagster's own."""

pytestmark = pytest.mark.usefixtures("fast_retries")


def home_with(open_home: StartHome, *scopes: str) -> Home:
    """Return a home whose key has only the scopes to read these."""
    named = frozenset(f"{each}:read" for each in scopes)
    return open_home(keys=(PrivateApiKey(value=DEFAULT_KEY, scopes=named),))


def test_one_failing_stream_leaves_the_others(home: Home) -> None:
    """A path that fails for ever fails its stream alone, in bounded tries, saying what and how."""
    with home.account.inject_fault("error", match={"path": "/api/flows"}, status=500):
        run = home.sync()
    assert not run.success
    assert list(run.failures) == ["flows"]
    assert "flows: GET /api/flows" in run.failures["flows"]
    assert "500" in run.failures["flows"]
    assert "Given up after 6 tries" in run.failures["flows"]
    assert set(run.materializations) == set(home.relation_names())
    assert set(ASKING) - set(run.materializations) == {"flows"}
    # Two parts of the collection, six tries each, once more by Dagster.
    assert run.attempts["flows"] == 2
    assert home.account.request_counts()["/api/flows"] <= 2 * 2 * 6
    assert home.sync("flows").success
    assert sorted(home.ids("flows")) == sorted(home.account.true_ids("flows"))


def test_campaigns_wait_for_their_messages(home: Home) -> None:
    """Where messages cannot be read campaigns are not either, say so, and stay as they were."""
    assert home.sync("campaigns").success
    shown = "SELECT id, name, status, send_time FROM campaigns ORDER BY id"
    before = home.query(shown)
    home.account.advance_clock(hours=1)
    home.account.mutate(campaign=before[0][0], set={"name": "Renamed"})
    match = {"path": "/api/campaign-messages"}
    with home.account.inject_fault("error", match=match, status=500):
        run = home.sync("campaigns")
    assert "campaign_messages: GET /api/campaign-messages" in run.failures["campaigns"]
    assert "campaigns shows what campaign_messages says" in run.failures["campaigns"]
    assert home.query(shown) == before
    assert home.sync("campaigns").success
    assert ("Renamed",) in home.query("SELECT name FROM campaigns")


def test_what_ends_a_run_before_its_first_page_ends_its_readers(
    open_home: StartHome,
) -> None:
    """A run cancelled while it awaits the first response sends no further request."""
    home = open_home(events=6_000, latency_ms=300, future_events=0)

    def fail_as_cancelled() -> None:
        raise RuntimeError

    with run_at_crash_point("before awaiting the first page", fail_as_cancelled):
        assert "RuntimeError" in home.sync("events").failures["events"]
    for thread in threading.enumerate():
        if thread.name.removeprefix("klaviyo-").isdigit():
            thread.join(300)
    # One a Dagster attempt; to read on would be six more each.
    assert home.account.request_counts()["/api/events"] <= 2


def test_what_depends_on_a_failed_stream_waits_for_it(home: Home) -> None:
    """A stream made of one that failed is not tried on what is not there, and comes next time."""
    with home.account.inject_fault("error", match={"path": "/api/events"}, status=400):
        run = home.sync("events", "metrics", "events_detailed")
    assert list(run.failures) == ["events"]
    assert set(run.materializations) == {"metrics"}
    assert home.sync("events", "metrics", "events_detailed").success
    assert sorted(home.ids("events_detailed")) == sorted(home.account.true_ids("events"))


def test_a_permanent_error_is_not_tried_again(home: Home) -> None:
    """A 400 fails at once: one request, one attempt, Klaviyo's own words."""
    with home.account.inject_fault(
        "error", match={"path": "/api/lists"}, status=400, detail="No such sort"
    ):
        run = home.sync("lists")
    assert "400" in run.failures["lists"]
    assert "No such sort" in run.failures["lists"]
    assert home.account.request_counts()["/api/lists"] == 1
    assert run.attempts["lists"] == 1


def test_a_refused_key_costs_one_request_a_stream(home: Home) -> None:
    """With a key that Klaviyo refuses, each stream sends one request and says what to do."""
    with home.account.inject_fault("error", match={}, status=401):
        run = home.sync()
    assert set(run.failures) == set(ASKING)
    assert home.account.request_counts().total() <= len(ASKING)
    assert {run.attempts[stream] for stream in ASKING} == {1}
    for stream in ASKING:
        assert "401" in run.failures[stream]
        assert "set KLAVIYO_API_KEY to a live private key" in run.failures[stream]
        assert home.account.key not in run.failures[stream]
        # What the operator mends is one error in the UI, and its traceback is short.
        (frames,) = run.tracebacks[stream]
        assert frames <= MAX_FRAMES


def test_a_key_revoked_on_the_way_costs_nothing_that_was_read(open_home: StartHome) -> None:
    """What came before a 401 in mid-sync is stored; a new key reads only the rest."""
    home = open_home(events=6_000, future_events=0)
    match = {"path": "/api/events", "from": 4}
    with home.account.inject_fault("error", match=match, status=401):
        broken = home.sync("events")
    assert "401" in broken.failures["events"]
    stored = home.lake_ids("events")
    assert 0 < len(stored) == len(set(stored)) < len(home.account.true_ids("events"))
    home.account.clear_journal()
    assert home.sync("events").success
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))
    again = set(home.account.shown_record_counts("/api/events")) & set(stored)
    assert len(again) <= len(stored) / 10


def test_a_missing_scope_skips_the_stream(open_home: StartHome) -> None:
    """A stream that the key may not read is skipped in a green run that names the scope."""
    home = home_with(open_home, "accounts", "lists", "segments")
    run = home.sync("flows", "lists", "segments")
    assert run.success
    assert set(run.materializations) == {"lists", "segments"}
    assert "flows is skipped: the key lacks the scope flows:read" in run.warnings
    (seen,) = run.observations["flows"]
    assert seen["klaviyo/missing_scope"] == "flows:read"
    assert "klaviyo/cursor" not in seen
    assert "flows" not in home.relation_names()


def test_a_missing_scope_skips_what_is_made_of_it(open_home: StartHome) -> None:
    """Without metrics:read the views made of metrics are skipped as well, and events come in."""
    home = home_with(open_home, "accounts", "events")
    run = home.sync("events", "metrics", "events_detailed")
    assert run.success
    assert set(run.materializations) == {"events"}
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


def test_a_key_that_may_not_know_its_account_syncs_all_the_same(open_home: StartHome) -> None:
    """Without accounts:read the key's hash stands for the account, logged, and rows come in."""
    home = home_with(open_home, "profiles", "lists")
    first = home.sync("accounts", "profiles")
    assert first.success
    assert "the key lacks accounts:read: its hash stands for the account" in first.warnings
    assert set(first.materializations) == {"profiles"}
    second = home.sync("profiles")
    assert second.success
    assert sorted(home.ids("profiles")) == sorted(home.account.true_ids("profiles"))
    assert home.account.key not in first.warnings


def test_a_storm_on_predictive_analytics_ends_with_advice(home: Home) -> None:
    """When only predictive_analytics fails, the failure names the setting that leaves it out."""
    match = {"path": "/api/profiles", "query": "predictive_analytics"}
    with home.account.inject_fault("error", match=match, status=503):
        run = home.sync("profiles", "lists")
        assert set(run.failures) == {"profiles"}
        assert set(run.materializations) == {"lists"}
        assert "503" in run.failures["profiles"]
        assert "KLAVIYO_DISABLE_PREDICTIVE_ANALYTICS=true" in run.failures["profiles"]
        advised = home.sync("profiles", disable_predictive_analytics="true")
    assert advised.success
    assert sorted(home.ids("profiles")) == sorted(home.account.true_ids("profiles"))


def test_a_storm_elsewhere_gives_no_wrong_advice(home: Home) -> None:
    """With predictive_analytics disabled, an overload does not recommend to disable it."""
    with home.account.inject_fault("error", match={"path": "/api/profiles"}, status=503):
        run = home.sync("profiles", "global_exclusions", disable_predictive_analytics="true")
    assert set(run.failures) == {"profiles", "global_exclusions"}
    assert "PREDICTIVE" not in "".join(run.failures.values())


def test_a_broken_table_stops_only_its_own_stream(home: Home) -> None:
    """A damaged log of one table is warned of by the others, which are stored and shown."""
    home.sync("lists")
    (commit,) = (home.data_dir / "lake" / "lists" / "_delta_log").glob("*.json")
    commit.write_text("{\n".join(commit.read_text().splitlines()))
    run = home.sync("segments", "lists")
    assert set(run.materializations) == {"segments"}
    assert "lists" in run.failures["lists"]
    assert "klaviyo.duckdb does without a table that cannot be read" in run.warnings
    assert home.relation_names() == {"segments"}


def test_the_lake_of_another_account_is_left_alone(home: Home, open_home: StartHome) -> None:
    """A key of another account is refused with both accounts and the way out, nothing written."""
    home.sync("lists", "profiles")
    before = home.data_files()
    other = open_home(seed=2)
    other.settings["KLAVIYO_DATA_DIR"] = str(home.data_dir)
    run = other.sync("lists", "events")
    assert not run.success
    (mine,) = home.account.true_ids("accounts")
    (theirs,) = other.account.true_ids("accounts")
    for stream in ("lists", "events"):
        assert mine in run.failures[stream]
        assert theirs in run.failures[stream]
        assert "Give each account its own KLAVIYO_DATA_DIR" in run.failures[stream]
        assert run.attempts[stream] == 1
    assert home.data_files() == before
    del other.settings["KLAVIYO_DATA_DIR"]
    assert other.sync("lists").success
    assert sorted(other.ids("lists")) == sorted(other.account.true_ids("lists"))
