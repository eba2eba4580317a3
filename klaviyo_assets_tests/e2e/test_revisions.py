"""A lake that is filled at one revision of Klaviyo's API, then moved to another, and back."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from klaviyo_assets.settings import SUPPORTED_REVISIONS
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    assert_rows_match,
    days_between,
    report_metrics,
    run_partitions,
    set_metrics,
    stored_rows,
)
from klaviyo_assets_tests.e2e.sandbox_account import NOON, SandboxAccount, open_sandbox_account

JULY, OCTOBER = SUPPORTED_REVISIONS

SAME = (
    "id, name, status, archived, audiences_included, audiences_excluded, "
    "tracking_options_add_tracking_params, tracking_options_custom_tracking_params, "
    "tracking_options_is_tracking_clicks, tracking_options_is_tracking_opens, "
    "send_strategy_options_send_past_recipients_immediately, created_at, updated_at, send_time, "
    "channel, channels, tag_ids, deleted_at"
)
"""The columns of campaigns that keep their values."""

GONE = (
    "send_options_use_smart_sending, send_strategy_date, send_strategy_throttle_percentage, "
    "scheduled_at"
)
"""The columns that no later revision has values for."""

INEXACT = f"{GONE}, send_strategy_method, send_strategy_datetime, send_strategy_options_is_local"
"""Those, and the columns whose values are fewer or others."""


@contextmanager
def open_july_home(root: Path, dagster_template: Path) -> Generator[Home]:
    """Give a lake that was filled at July, with some campaigns deleted since."""
    with open_sandbox_account(campaigns=36, omni_campaigns=True) as account:
        home = Home(account=account, root=root, dagster_template=dagster_template)
        assert home.sync("campaigns", "campaigns_detailed", revision=JULY).success
        account.advance_clock(hours=1)
        account.mutate(campaign=sorted(account.true_ids("campaigns"))[7], delete=True)
        full = {"sync_mode": "full_refresh_overwrite"}
        assert home.sync("campaigns", config=full, revision=JULY).success
        account.advance_clock(hours=1)
        yield home


@pytest.fixture
def july_home(tmp_path: Path, dagster_template: Path) -> Iterator[Home]:
    """Give a lake of July of its own."""
    with open_july_home(tmp_path, dagster_template) as home:
        yield home


@pytest.fixture(scope="module")
def moved_home(tmp_path_factory: pytest.TempPathFactory, dagster_template: Path) -> Iterator[Home]:
    """Give a lake that was filled at July, and is read at any revision by the tests."""
    with open_july_home(tmp_path_factory.mktemp("moved"), dagster_template) as home:
        yield home


def rows(home: Home, columns: str, relation: str = "campaigns") -> dict[str, tuple[Any, ...]]:
    """Return the values of columns by the id of the row."""
    return {row[0]: row[1:] for row in home.query(f"SELECT id, {columns} FROM {relation}")}


def omni_ids(home: Home) -> set[str]:
    """Return the ids of the campaigns that July does not list."""
    more = home.account.sandbox.store.campaign_family.more
    assert more is not None
    return {each.id for each in more.campaigns.records}


def sorted_ids(account: SandboxAccount, kind: str) -> list[str]:
    """Return the ids of all records of a kind."""
    return sorted(account.attributes(kind))


def test_a_lake_moves_to_another_revision_and_back(july_home: Home) -> None:
    """The same rows and values, the parts of campaigns beside them; nothing is lost on the way."""
    home = july_home
    estimate = ("estimated_recipient_count", "campaigns_detailed")
    before, inexact, details = rows(home, SAME), rows(home, INEXACT), rows(home, *estimate)
    deleted = {key for key, values in before.items() if values[-1] is not None}
    assert deleted

    to_october = home.sync("campaigns", revision=OCTOBER)
    assert to_october.success
    reason = f"campaigns: stored as revision {JULY} shows them, and read as {OCTOBER} does"
    assert reason in to_october.warnings
    assert reason in str(to_october.materializations["campaigns"]["klaviyo/full_read"])
    after = rows(home, SAME)
    assert {key: after[key] for key in before} == before
    assert after.keys() - before.keys() == omni_ids(home)
    assert {values for key, values in rows(home, GONE).items() if key not in deleted} == {
        (None,) * 4
    }
    for kind, collection in home.account.sandbox.store.campaign_family.current().by_kind().items():
        living = {each.id for each in collection.records if each.is_alive}
        assert set(home.live_ids(kind.replace("-", "_") + "s")) == living, kind
    assert home.sync("campaigns_detailed", revision=OCTOBER).success
    assert details.items() <= rows(home, *estimate).items()

    again = home.sync("campaigns", revision=OCTOBER)
    assert "klaviyo/full_read" not in again.materializations["campaigns"]
    back = home.sync("campaigns", revision=JULY)
    assert "klaviyo/full_read" in back.materializations["campaigns"]
    # What July does not list has stayed as October showed it.
    assert rows(home, SAME) == after
    assert inexact.items() <= rows(home, INEXACT).items()
    full = {"sync_mode": "full_refresh_overwrite"}
    assert home.sync("campaigns", config=full, revision=JULY).success
    assert rows(home, SAME) == after


def test_a_campaign_of_several_channels_is_one_row(moved_home: Home) -> None:
    """Status, time and audiences are those of all its parts together."""
    assert moved_home.sync("campaigns", revision=OCTOBER).success
    (row,) = moved_home.query(
        "SELECT status, send_time, channel, channels, send_strategy_method, "
        "send_strategy_datetime, audiences_included, audiences_excluded, "
        "len(campaign_message_ids), len(campaign_variation_ids), campaign_messages "
        "FROM campaigns WHERE builder = 'canvas'"
    )
    account = moved_home.account
    lists = [*sorted_ids(account, "list"), *sorted_ids(account, "segment")]
    status, sent, channel, channels, method, planned, included, excluded, *counts, messages = row
    assert (status, channel, method, planned) == ("Sending", None, None, None)
    assert channels == ["email", "mobile_push", "sms"]
    assert sent == NOON - timedelta(days=5)
    assert set(included) <= set(lists)
    assert (len(included), len(excluded), *counts) == (3, 1, 3, 5)
    variations = [len(each["campaign_variations"]) for each in json.loads(messages)]
    assert sorted(variations) == [1, 2, 2]
    assert (
        moved_home.query("SELECT status, channel FROM campaigns WHERE channel = 'whatsapp'")
        == [("Sent", "whatsapp")] * 2
    )


def test_a_message_shows_though_its_campaign_stood_still(moved_home: Home) -> None:
    """Messages are read by their own time, before the campaigns that they tell of."""
    home = moved_home
    assert home.sync("campaigns", revision=OCTOBER).success
    columns = "updated_at, synced_at, status, campaign_messages, campaign_variation_ids[1]"
    key, (updated_at, synced_at, _, _, message) = min(
        rows(home, columns).items(), key=lambda row: (row[1][2] != "Sent", row[1][0])
    )
    home.account.advance_clock(hours=1)
    unmoved = updated_at.isoformat()
    home.account.mutate(campaign=key, set={"status": "Cancelled", "updated_at": unmoved})
    home.account.mutate(
        **{"campaign-message": message}, set={"definition": {"content": {"subject": "New"}}}
    )
    assert home.sync("campaigns", revision=OCTOBER).success
    after = rows(home, columns)[key]
    assert after[:3] == (updated_at, synced_at, "Cancelled")
    assert '"subject":"New"' in after[3]


def test_variations_come_though_the_list_of_messages_does_not_include_them(
    moved_home: Home,
) -> None:
    """Refused once a sync, they are requested message by message: the same rows, with a warning."""
    home, path = moved_home, "/api/campaign-messages"
    full = {"sync_mode": "full_refresh_overwrite"}
    assert home.sync("campaign_messages", config=full, revision=OCTOBER).success
    # A message's own path has its variations in an order of its own.
    relations = {
        "campaign_messages": "* EXCLUDE (synced_at, campaign_variations) REPLACE "
        "(list_sort(campaign_variation_ids) AS campaign_variation_ids)",
        "campaign_variations": "* EXCLUDE (synced_at)",
    }
    before = {name: rows(home, columns, name) for name, columns in relations.items()}
    refusal = {
        "status": 400,
        "detail": "'campaign-variations' is not an allowed include parameter for this resource.",
        "parameter": "include",
    }
    match = {"path": path, "query": "campaign-variations"}
    with home.account.inject_fault("error", match=match, **refusal):
        home.account.clear_journal()
        run = home.sync("campaign_messages", config=full, revision=OCTOBER)
        assert run.success
        assert run.warnings.count("requested record by record") == 1
        counts = home.account.request_counts()
        # The second pass of a full read asks without it too.
        assert sum("campaign-variations" in each for each in home.account.queries(path)) == 1
        of_messages = [each for each in counts if each.endswith("/campaign-variations")]
        assert len(of_messages) == len(before["campaign_messages"])
        assert {name: rows(home, each, name) for name, each in relations.items()} == before
        home.account.advance_clock(hours=1)
        # July's messages are October's variations, and a change of one moves its message.
        variation = sorted_ids(home.account, "campaign-message")[0]
        ((message,),) = home.query(
            f"SELECT campaign_message_id FROM campaign_variations WHERE id = '{variation}'"
        )
        subject = {"definition": {"content": {"subject": "Newer"}}}
        home.account.mutate(**{"campaign-message": variation}, set=subject)
        home.account.clear_journal()
        assert home.sync("campaign_messages", revision=OCTOBER).success
        counts = home.account.request_counts()
        # Beside it, the newest message of before, at the cursor: the list shows that one again.
        assert (counts[path], counts[f"{path}/{message}/campaign-variations"]) == (2, 1)
        assert len(counts) <= 3
    assert rows(home, "subject", "campaign_variations")[variation] == ("Newer",)


def test_reports_have_the_same_sums_at_both_revisions(open_home: StartHome) -> None:
    """Totals are allocated to the same days from messages as, before October, from campaigns."""
    home = open_home(campaigns=40, days=60, report_page=5000, omni_campaigns=True, timezone="UTC")
    home.settings |= {"KLAVIYO_TIMEZONE": "UTC", "KLAVIYO_REPORT_START_DATE": "2026-01-01"}
    assert home.sync("metrics", "campaigns", revision=JULY).success
    metric = report_metrics(home)[0]
    set_metrics(home, [metric])
    days = days_between(NOON.date() - timedelta(days=40), NOON.date() - timedelta(days=20))
    span = (metric, days[0], metric, days[-1])
    assert run_partitions(home, CAMPAIGN_REPORT, span, revision=JULY).run.success
    before = stored_rows(home, CAMPAIGN_REPORT, metric, days)
    assert before
    assert home.sync("campaigns", revision=OCTOBER).success
    done = run_partitions(home, CAMPAIGN_REPORT, span, revision=OCTOBER)
    assert done.run.success
    assert assert_rows_match(home, CAMPAIGN_REPORT, metric, days) == len(before)
    # The name beside the id comes from the campaigns, and July does not list all of them.
    changed = {"fetched_at", "campaign_name"}
    after = stored_rows(home, CAMPAIGN_REPORT, metric, days)
    assert {
        key: {name: value for name, value in row.items() if name not in changed}
        for key, row in after.items()
    } == {
        key: {name: value for name, value in row.items() if name not in changed}
        for key, row in before.items()
    }
