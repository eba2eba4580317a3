"""Sends spread over days, and what comes of them arrives later."""

from datetime import timedelta

from klaviyo_assets.sandbox.json_types import as_object
from klaviyo_assets_tests.sandbox.conftest import NOON, StartSandbox
from klaviyo_assets_tests.sandbox.report_requests import (
    DAY,
    VALUES_REPORT,
    day_timeframe,
    report_rows,
    true_rows,
)
from klaviyo_assets_tests.sandbox.sandbox_client import SandboxClient


def test_conversions_arrive_over_the_attribution_window(start_sandbox: StartSandbox) -> None:
    """A day's recipients stay what they are; its conversions and value grow for five days."""
    client = start_sandbox(days=30, campaigns=60, profiles=3_000, spread_share=0.0)
    day = NOON.date() - timedelta(days=1)
    totals: list[dict[str, float]] = []
    for _ in range(8):
        rows = report_rows(client, VALUES_REPORT, timeframe=day_timeframe(day))
        names = ("recipients", "conversions", "conversion_value")
        totals.append({name: sum(row["statistics"][name] for row in rows) for name in names})
        client.call_admin("POST", "/__clock", {"advance_seconds": DAY})
    conversions = [each["conversions"] for each in totals]
    assert len({each["recipients"] for each in totals}) == 1
    assert conversions == sorted(conversions)
    assert conversions[0] < conversions[5] == conversions[7]
    assert totals[0]["conversion_value"] < totals[7]["conversion_value"]


def test_some_value_is_refunded_after_weeks(start_sandbox: StartSandbox) -> None:
    """Weeks after the send, some conversion value goes down again."""
    client = start_sandbox(campaigns=60, profiles=3_000)
    frame = {"start": "2026-10-25T00:00:00", "end": "2026-11-19T23:59:59"}
    client.call_admin("POST", "/__clock", {"advance_seconds": 8 * DAY})
    early = sum(
        row["statistics"]["conversion_value"]
        for row in report_rows(client, VALUES_REPORT, timeframe=frame)
    )
    early += flow_value(client, frame)
    client.call_admin("POST", "/__clock", {"advance_seconds": 60 * DAY})
    late = sum(
        row["statistics"]["conversion_value"]
        for row in report_rows(client, VALUES_REPORT, timeframe=frame)
    )
    late += flow_value(client, frame)
    assert late < early


def flow_value(client: SandboxClient, frame: dict[str, str]) -> float:
    """The value that flows earned in a frame."""
    rows = report_rows(client, "flow-values-report", timeframe=frame)
    return sum(row["statistics"]["conversion_value"] for row in rows)


def spreads(client: SandboxClient) -> dict[str, set[str]]:
    """Local send days by campaign, over the year."""
    days: dict[str, set[str]] = {}
    for row in true_rows(client, "campaign_values", start="2025-11-20", end="2026-11-19"):
        days.setdefault(row["campaign_id"], set()).add(row["date"])
    return days


def test_campaigns_spread_over_days_by_their_strategy(start_sandbox: StartSandbox) -> None:
    """Smart, local, throttled and tested campaigns have several send days, the others just one."""
    client = start_sandbox(spread_share=0.6)
    days = spreads(client)
    methods: dict[str, set[bool]] = {}
    for campaign in client.sandbox.store.campaigns.records:
        strategy = as_object(campaign.attributes["send_strategy"])
        local = as_object(strategy.get("options")).get("is_local") is True
        method = "local" if local else str(strategy["method"])
        if campaign.id in days:
            methods.setdefault(method, set()).add(len(days[campaign.id]) > 1)
    assert methods["immediate"] == methods["static"] == {False}
    for method in ("smart_send_time", "local", "throttled", "ab_test_campaign"):
        assert True in methods[method], method


def test_without_spread_each_campaign_has_one_day(start_sandbox: StartSandbox) -> None:
    """With a spread share of nothing no campaign is on two days."""
    client = start_sandbox(spread_share=0.0)
    assert {len(days) for days in spreads(client).values()} == {1}


def test_reports_show_campaigns_that_the_list_does_not(client: SandboxClient) -> None:
    """WhatsApp campaigns and deleted ones are in reports though `/api/campaigns` has neither."""
    listed = set(client.read_truth("campaigns"))
    rows = true_rows(client, "campaign_values", start="2025-11-20", end="2026-11-19")
    unlisted = {row["send_channel"] for row in rows if row["campaign_id"] not in listed}
    assert unlisted == {"whatsapp", "email"}


def test_a_campaign_deleted_later_stays_in_reports(start_sandbox: StartSandbox) -> None:
    """Deleting a campaign does not take back what it sent."""
    client = start_sandbox()
    frame = {"start": "2026-01-01T00:00:00", "end": "2026-11-19T23:59:59"}
    before = report_rows(client, VALUES_REPORT, timeframe=frame)
    listed = set(client.read_truth("campaigns"))
    gone = next(
        r["groupings"]["campaign_id"] for r in before if r["groupings"]["campaign_id"] in listed
    )
    client.call_admin("POST", "/__mutate", {"campaign": gone, "delete": True})
    assert gone not in client.read_truth("campaigns")
    assert report_rows(client, VALUES_REPORT, timeframe=frame) == before
