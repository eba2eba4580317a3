"""Streams with requests of their own: recipient estimates, profile counts, suppressed profiles."""

from urllib.parse import unquote_plus

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import SandboxAccount

ESTIMATIONS = "/api/campaign-recipient-estimations/"


def list_estimate_requests(account: SandboxAccount) -> list[str]:
    """Return the campaigns whose estimate was requested since `clear_journal`, with repeats."""
    requested = account.request_counts()
    return sorted(
        path.removeprefix(ESTIMATIONS)
        for path in requested.elements()
        if path.startswith(ESTIMATIONS)
    )


def test_an_estimate_that_is_not_there_is_null(home: Home) -> None:
    """Recipient estimates are stored as Klaviyo has them: 404 becomes NULL, a real 0 stays 0."""
    estimates = home.account.attributes("campaign-recipient-estimation")
    nobody = min(estimates)
    home.account.set_recipient_estimate(nobody, 0)
    assert home.sync("campaigns", "campaigns_detailed").success
    stored = dict(
        home.query("SELECT id, estimated_recipient_count FROM klaviyo.campaigns_detailed")
    )
    known = home.account.attributes("campaign-recipient-estimation")
    expected = {each: (known.get(each) or {}) for each in home.account.true_ids("campaigns")}
    assert stored == {k: v.get("estimated_recipient_count") for k, v in expected.items()}
    assert stored[nobody] == 0
    assert None in stored.values()


def test_only_new_or_changed_campaigns_are_requested_again(home: Home) -> None:
    """A later sync requests the estimates of a new and of a changed campaign, and of no other."""
    home.sync("campaigns", "campaigns_detailed")
    home.account.advance_clock(hours=1)
    changed = home.account.mutate(campaign=min(home.ids("campaigns")), set={"name": "Renamed"})
    new = home.account.mutate(create="campaign", set={"name": "New"})
    home.account.clear_journal()
    home.sync("campaigns", "campaigns_detailed")
    assert list_estimate_requests(home.account) == sorted([changed, new])
    home.account.clear_journal()
    home.sync("campaigns", "campaigns_detailed")
    assert list_estimate_requests(home.account) == []
    rows = home.query(f"SELECT name FROM klaviyo.campaigns_detailed WHERE id = '{changed}'")
    assert rows == [("Renamed",)]
    assert sorted(home.ids("campaigns_detailed")) == sorted(home.account.true_ids("campaigns"))


def test_a_full_refresh_asks_for_every_estimate(home: Home) -> None:
    """An estimate that changed without its campaign is found by a full refresh."""
    home.sync("campaigns", "campaigns_detailed")
    some = min(home.account.attributes("campaign-recipient-estimation"))
    home.account.set_recipient_estimate(some, 4711)
    home.sync("campaigns_detailed")
    known = f"SELECT estimated_recipient_count FROM klaviyo.campaigns_detailed WHERE id = '{some}'"
    assert home.query(known) != [(4711,)]
    home.account.clear_journal()
    home.sync("campaigns_detailed", config={"sync_mode": "full_refresh_overwrite"})
    assert list_estimate_requests(home.account) == sorted(home.account.true_ids("campaigns"))
    assert home.query(known) == [(4711,)]


def test_profile_counts_are_those_of_the_members(home: Home) -> None:
    """Every sync requests each list's profile count: members change without a trace in the list."""
    home.sync("lists", "lists_detailed")
    some = min(home.ids("lists"))
    outside = sorted(home.account.true_ids("profiles") - home.account.list_member_ids(some))[:3]
    home.account.mutate(list=some, add=outside)
    home.sync("lists", "lists_detailed")
    stored = dict(home.query("SELECT id, profile_count FROM klaviyo.lists_detailed"))
    assert stored == {
        each: len(home.account.list_member_ids(each)) for each in home.account.true_ids("lists")
    }


def test_a_list_deleted_meanwhile_is_skipped(home: Home) -> None:
    """A list deleted between the two streams is skipped, later marked as deleted, not requested."""
    home.sync("lists")
    gone = home.account.mutate(list=min(home.ids("lists")), delete=True)
    run = home.sync("lists_detailed")
    assert run.success
    assert run.metadata_number("lists_detailed", "vanished") == 1
    assert "1 of 5 lists" in run.warnings
    assert run.metadata_number("lists_detailed", "records_read") == 4
    home.sync("lists", "lists_detailed")
    assert set(home.deletion_times("lists_detailed")) == {gone}
    assert sorted(home.live_ids("lists_detailed")) == sorted(home.account.true_ids("lists"))
    other = home.account.mutate(list=min(home.live_ids("lists")), delete=True)
    last = home.sync("lists", "lists_detailed")
    assert last.materializations["lists_detailed"]["dagster/row_count"] == 5
    assert last.metadata_number("lists_detailed", "vanished") == 0
    assert last.metadata_number("lists_detailed", "requests") == 3
    counted = "SELECT id FROM klaviyo.lists_detailed WHERE profile_count IS NOT NULL"
    assert {each for (each,) in home.query(counted)} == {other, *home.account.true_ids("lists")}


def test_a_detail_without_its_parent_says_what_to_do(home: Home) -> None:
    """A stream whose parent was never read fails before any request, and names what to read."""
    home.sync("accounts")
    home.account.clear_journal()
    run = home.sync("lists_detailed", "campaigns_detailed", "events_detailed")
    assert not run.success
    for stream, parent in (
        ("lists_detailed", "lists"),
        ("campaigns_detailed", "campaigns"),
        ("events_detailed", "events"),
    ):
        assert f"materialize klaviyo/{parent} first" in run.failures[stream]
    assert home.account.request_counts().total() == 0


def test_suppressed_profiles_come_by_klaviyos_own_filter(home: Home) -> None:
    """Only suppressed profiles are sent: each request filters by the time of the suppression."""
    run = home.sync("global_exclusions")
    assert run.success
    requested = [unquote_plus(each) for each in home.account.queries("/api/profiles")]
    assert requested
    assert all("subscriptions.email.marketing.suppression.timestamp" in each for each in requested)
    shown = set(home.account.shown_record_counts("/api/profiles"))
    assert shown == home.account.true_ids("global_exclusions")
    assert shown < home.account.true_ids("profiles")
    assert run.metadata_number("global_exclusions", "records_read") == len(shown)
    rows = home.query(
        "SELECT count(*) FROM klaviyo.global_exclusions WHERE suppressed_at IS NULL "
        "OR json_array_length(suppressions) = 0"
    )
    assert rows == [(0,)]


def test_a_new_suppression_arrives_and_a_lifted_one_leaves_on_a_full_refresh(home: Home) -> None:
    """Lifted suppressions leave when the weekly schedule reads from the beginning, not before."""
    home.sync("global_exclusions")
    suppressed = home.account.true_ids("global_exclusions")
    lifted = home.account.mutate(profile=min(suppressed), lift_suppression=True)
    free = min(home.account.true_ids("profiles") - suppressed)
    when = home.account.now.isoformat()
    home.account.mutate(profile=free, suppress={"reason": "USER_SUPPRESSED", "timestamp": when})
    home.account.advance_clock(hours=1)
    home.sync("global_exclusions")
    assert set(home.ids("global_exclusions")) == suppressed | {free}
    weekly = home.run_schedule("klaviyo_lifted_suppressions", home.account.now)
    assert weekly.success
    assert (
        weekly.materializations["global_exclusions"]["klaviyo/sync_mode"]
        == "full_refresh_overwrite"
    )
    assert sorted(home.ids("global_exclusions")) == sorted(suppressed - {lifted} | {free})


def test_the_job_of_lifted_suppressions_reads_from_the_beginning_by_hand_too(home: Home) -> None:
    """Launched as it is, without the schedule, the job is the full refresh that its name says."""
    home.sync("global_exclusions")
    lifted = min(home.account.true_ids("global_exclusions"))
    home.account.mutate(profile=lifted, lift_suppression=True)
    home.account.advance_clock(hours=1)
    defs = home.load_definitions()
    run = home.execute(
        lambda instance: defs.resolve_job_def("klaviyo_lifted_suppressions").execute_in_process(
            instance=instance, raise_on_error=False
        )
    )
    assert run.success
    assert lifted not in home.ids("global_exclusions")


KINDS = ("profiles", "lists", "segments", "campaigns", "templates", "flows", "objects")
ALWAYS_THERE = {
    *("accounts", "tracking_settings", "tags", "tag_groups"),
    *("metrics", "custom_metrics", "mapped_metrics"),
}
"""Streams of which every account of the sandbox has records."""


def test_an_empty_account_has_empty_relations(open_home: StartHome) -> None:
    """Without anything in Klaviyo every relation has its columns, no rows, and can be joined."""
    numbers = dict.fromkeys(KINDS, 0)
    home = open_home(events=0, future_events=0, **numbers)
    run = home.sync()
    assert run.success
    empty = set(run.materializations) - ALWAYS_THERE
    assert {home.row_count(each) for each in empty} == {0}
    joined = "SELECT e.datetime, p.email FROM klaviyo.events_detailed e JOIN klaviyo.profiles p "
    assert home.query(joined + "ON e.profile_id = p.id") == []
    again = home.sync()
    assert again.success
    assert again.cursor("events") is None
