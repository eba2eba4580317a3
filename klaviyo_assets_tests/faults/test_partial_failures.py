"""One member that cannot be read, a parent, a metric, a slice, costs itself and no other."""

import pytest

from klaviyo_assets.sandbox.account.records import RecordCollection
from klaviyo_assets.settings import SUPPORTED_REVISIONS
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.faults.assertions import assert_complete, stored_ids

JULY = SUPPORTED_REVISIONS[0]
"""The revision that has a slice of campaigns for each channel."""

EVENTS = "/api/events"
LISTS = "/api/lists"

pytestmark = pytest.mark.usefixtures("fast_retries")


@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_a_parent_without_an_answer_costs_itself_alone(open_home: StartHome, status: int) -> None:
    """Of thirty lists one fails: the others are stored, and it is requested again."""
    home = open_home(lists=30)
    assert home.sync("lists").success
    bad = sorted(home.ids("lists"))[3]
    match = {"path": f"{LISTS}/{bad}"}
    with home.account.inject_fault("error", match=match, status=status):
        run = home.sync("lists_detailed")
    assert run.success
    assert stored_ids(home, "lists_detailed") == sorted(home.account.true_ids("lists") - {bad})
    if status == 404:
        assert run.metadata_number("lists_detailed", "vanished") == 1
    else:
        assert run.metadata_number("lists_detailed", "unanswered") == 1
        assert "no response for 1 of 30 lists" in run.warnings
        assert "the next run requests these again" in run.warnings
    assert home.sync("lists_detailed").success
    assert stored_ids(home, "lists_detailed") == sorted(home.account.true_ids("lists"))


def test_an_answer_about_a_parent_that_is_no_record_costs_itself_alone(
    open_home: StartHome,
) -> None:
    """A parent whose record cannot be stored is quarantined; the others come."""
    home = open_home(lists=12)
    assert home.sync("lists").success
    bad = sorted(home.ids("lists"))[3]
    with home.account.inject_fault(
        "text_body", match={"path": f"{LISTS}/{bad}"}, text='{"data": 7}'
    ):
        run = home.sync("lists_detailed")
    assert run.success
    assert "no response for 1 of 12 lists (the response cannot be read)" in run.warnings
    assert stored_ids(home, "lists_detailed") == sorted(home.account.true_ids("lists") - {bad})


def test_a_full_refresh_keeps_the_row_of_a_parent_without_an_answer(open_home: StartHome) -> None:
    """Its row stays, but for newly masked columns; the row of a deleted parent leaves."""
    home, full = open_home(lists=30), {"sync_mode": "full_refresh_overwrite"}
    assert home.sync("lists", "lists_detailed").success
    bad, gone = sorted(home.ids("lists"))[3:5]
    home.account.mutate(list=gone, delete=True)
    with home.account.inject_fault("error", match={"path": f"{LISTS}/{bad}"}, status=500):
        run = home.sync("lists_detailed", config=full)
    assert run.success
    assert "no response for 1 of 30 lists" in run.warnings
    assert set(home.lake_ids("lists_detailed")) == home.account.true_ids("lists")
    count = f"SELECT profile_count FROM klaviyo.lists_detailed WHERE id = '{bad}'"
    assert home.query(count) == [(len(home.account.list_member_ids(bad)),)]
    with home.account.inject_fault("error", match={"path": f"{LISTS}/{bad}"}, status=500):
        hidden = "lists_detailed.profile_count"
        assert home.sync("lists_detailed", config=full, exclude_columns=hidden).success
    assert set(home.lake_ids("lists_detailed")) == home.account.true_ids("lists")
    assert home.query(count) == [(None,)]
    assert home.sync("lists", "lists_detailed").success
    assert home.query(count) == [(len(home.account.list_member_ids(bad)),)]


def test_parents_that_are_all_refused_fail_after_a_few(open_home: StartHome) -> None:
    """If the endpoint refuses every parent, the stream fails after a few requests.

    Nothing is lost by it: a later run asks about all of them.
    """
    home = open_home(lists=60)
    assert home.sync("lists").success
    home.account.clear_journal()
    with home.account.inject_fault("error", match={"path": f"{LISTS}/*"}, status=400):
        run = home.sync("lists_detailed")
    assert "400" in run.failures["lists_detailed"]
    assert home.account.request_counts().total() <= 16
    assert home.sync("lists_detailed").success
    assert stored_ids(home, "lists_detailed") == sorted(home.account.true_ids("lists"))


def test_many_parents_without_an_answer_fail_at_the_end(open_home: StartHome) -> None:
    """More than a hundred, and more than one in a hundred: red, with all others stored."""
    home = open_home(lists=240)
    assert home.sync("lists").success
    with home.account.inject_fault("error", match={"path": f"{LISTS}/*", "every": 2}, status=400):
        run = home.sync("lists_detailed")
    assert "no response for 120 of 240 records" in run.failures["lists_detailed"]
    assert "status 400: invalid" in run.failures["lists_detailed"]
    assert len(stored_ids(home, "lists_detailed")) == 120
    assert home.sync("lists_detailed").success
    assert stored_ids(home, "lists_detailed") == sorted(home.account.true_ids("lists"))


def test_a_metric_id_that_klaviyo_refuses_costs_itself_alone(home: Home) -> None:
    """Of four ids one is unknown: the run is red and names it, the others are there and go on."""
    metrics = sorted(home.account.attributes("metric"))[:3]
    ids = ",".join([metrics[0], "UnKnOwN", *metrics[1:]])
    refusal = {"status": 400, "detail": "Invalid metric_id"}
    match = {"path": EVENTS, "query": "UnKnOwN"}
    written: set[str] = set()
    for _ in range(2):
        written |= home.account.add_events(
            *({"metric": each, "datetime": home.account.now.isoformat()} for each in metrics)
        )
        home.account.advance_clock(hours=1)
        home.account.clear_journal()
        with home.account.inject_fault("error", match=match, **refusal):
            run = home.sync("events", event_metric_ids=ids)
        assert list(run.failures) == ["events"]
        assert "KLAVIYO_EVENT_METRIC_IDS names 'UnKnOwN'" in run.failures["events"]
        assert "All but 'UnKnOwN' was read" in run.failures["events"]
        assert run.attempts["events"] == 1
        assert written <= set(stored_ids(home, "events"))
        assert home.account.request_counts()[EVENTS] <= 6
    assert home.sync("events", event_metric_ids=",".join(metrics)).success
    assert written <= set(stored_ids(home, "events"))


def test_a_slice_that_klaviyo_cannot_answer_costs_itself_alone(open_home: StartHome) -> None:
    """Campaigns of one channel fail for ever: those of the others are stored, the run is red."""
    home = open_home(campaigns=60)
    with home.account.inject_fault(
        "error", match={"path": "/api/campaigns", "query": "sms"}, status=500
    ):
        run = home.sync("campaigns", "lists", revision=JULY)
    assert list(run.failures) == ["campaigns"]
    assert (
        "All but 'sms, archived=false', 'sms, archived=true' was read" in run.failures["campaigns"]
    )
    sms = {k for k, each in channels(home).items() if each == "sms"}
    assert sms
    assert stored_ids(home, "campaigns") == sorted(home.account.true_ids("campaigns") - sms)
    assert home.sync("campaigns", revision=JULY).success
    assert_complete(home, "campaigns")


def test_a_slice_that_the_plan_lacks_costs_itself_alone(open_home: StartHome) -> None:
    """An account without SMS: its other campaigns are stored, and Klaviyo's sentence is logged."""
    home = open_home(campaigns=60)
    words = "Your plan does not include SMS campaigns: upgrade to see them."
    match = {"path": "/api/campaigns", "query": "sms"}
    with home.account.inject_fault(
        "error", match=match, status=403, code="forbidden", detail=words
    ):
        run = home.sync("campaigns", revision=JULY)
    sms = {k for k, each in channels(home).items() if each == "sms"}
    assert stored_ids(home, "campaigns") == sorted(home.account.true_ids("campaigns") - sms)
    assert "Your plan does not include SMS" in run.failures["campaigns"]
    assert (
        "All but 'sms, archived=false', 'sms, archived=true' was read" in run.failures["campaigns"]
    )


def test_a_stream_that_the_plan_lacks_in_all_slices_is_skipped(open_home: StartHome) -> None:
    """A stream refused in all slices is skipped, and does not count as read."""
    home = open_home(campaigns=6)
    words = "Your plan does not include campaigns."
    match = {"path": "/api/campaigns"}
    with home.account.inject_fault(
        "error", match=match, status=403, code="forbidden", detail=words
    ):
        run = home.sync("campaigns")
    assert run.success
    assert "campaigns is skipped" in run.warnings
    assert "was read" not in run.warnings


def channels(home: Home) -> dict[str, str]:
    """Return the channel of every campaign of the account."""
    shelf = home.account.sandbox.store.collections["campaign"]
    assert isinstance(shelf, RecordCollection)
    return {
        shelf.id_of(k): str(shelf.records[k].filter_only_values["messages.channel"])
        for k in shelf.sorted_ordinals("id")
    }
