"""Reports say what was sent and earned, by send date, as the truth has it."""

import json
from datetime import date, timedelta

import pytest

from klaviyo_assets.sandbox.facts.reporting import PUBLISHED_RATES, PUBLISHED_STATISTICS
from klaviyo_assets_tests.sandbox.conftest import NOON, StartSandbox
from klaviyo_assets_tests.sandbox.report_requests import (
    ADDITIVE_STATISTICS,
    CAMPAIGN_KEYS,
    FLOW_KEYS,
    SERIES_REPORT,
    VALUES_REPORT,
    day_timeframe,
    post_report,
    report_rows,
    rows_by_key,
    true_rows,
)
from klaviyo_assets_tests.sandbox.sandbox_client import SandboxClient


def test_values_of_a_day_are_the_truth_of_that_day(client: SandboxClient) -> None:
    """For each of forty days the report's rows are the true rows, with all 31 statistics."""
    seen = 0
    for k in range(1, 41):
        day = NOON.date() - timedelta(days=k)
        rows = report_rows(client, VALUES_REPORT, timeframe=day_timeframe(day))
        wanted = rows_by_key(true_rows(client, "campaign_values", date=day), *CAMPAIGN_KEYS)
        found = {tuple(row["groupings"][key] for key in CAMPAIGN_KEYS): row for row in rows}
        assert set(found) == set(wanted)
        for key, row in found.items():
            assert row["statistics"] == {name: wanted[key][name] for name in PUBLISHED_STATISTICS}
        seen += len(rows)
    assert seen > 5


def test_days_add_up_to_their_range(client: SandboxClient) -> None:
    """What can be added is the same over ninety days as over its days, for campaigns and flows."""
    first, last = date(2026, 8, 1), date(2026, 10, 29)
    frame = {"start": f"{first}T00:00:00", "end": f"{last}T23:59:59"}
    for kind, name, keys in (
        (VALUES_REPORT, "campaign_values", CAMPAIGN_KEYS),
        ("flow-values-report", "flow_values", FLOW_KEYS),
    ):
        sums: dict[tuple[str, ...], dict[str, float]] = {}
        for row in true_rows(client, name, start=first, end=last):
            key = tuple(row[each] for each in keys)
            total = sums.setdefault(key, dict.fromkeys(ADDITIVE_STATISTICS, 0))
            for each in ADDITIVE_STATISTICS:
                total[each] += row[each]
        rows = report_rows(client, kind, timeframe=frame)
        assert len(rows) == len(sums) > 5
        for row in rows:
            total = sums[tuple(row["groupings"][each] for each in keys)]
            assert {each: row["statistics"][each] for each in ADDITIVE_STATISTICS} == pytest.approx(
                total
            )


def test_uniques_of_flows_do_not_add_up(client: SandboxClient) -> None:
    """Over a month a flow message has fewer unique opens than the sum of its days."""
    frame = {"start": "2026-09-01T00:00:00", "end": "2026-09-30T23:59:59"}
    rows = report_rows(client, "flow-values-report", timeframe=frame)
    days = true_rows(client, "flow_values", start="2026-09-01", end="2026-09-30")
    row = max(rows, key=lambda each: each["statistics"]["opens_unique"])
    message = row["groupings"]["flow_message_id"]
    summed = sum(each["opens_unique"] for each in days if each["flow_message_id"] == message)
    assert 0 < row["statistics"]["opens_unique"] < summed


def test_series_are_the_truth_day_by_day(client: SandboxClient) -> None:
    """Each value of a daily series is that day's true value, in the order of `date_times`."""
    frame = {"start": "2026-10-20T00:00:00", "end": "2026-11-12T23:59:59"}
    answered = post_report(client, SERIES_REPORT, timeframe=frame).json["data"]["attributes"]
    labels = answered["date_times"]
    assert labels[0] == "2026-10-20T00:00:00+00:00"
    assert len(labels) == 24
    wanted = rows_by_key(
        true_rows(client, "flow_series", start="2026-10-20", end="2026-11-12"), "date", *FLOW_KEYS
    )
    checked = 0
    for row in answered["results"]:
        key = tuple(row["groupings"][each] for each in FLOW_KEYS)
        for place, label in enumerate(labels):
            true = wanted.get((label[:10], *key))
            for name, values in row["statistics"].items():
                assert len(values) == len(labels)
                assert values[place] == (true[name] if true else 0)
                checked += 1
    assert checked > 1000


def test_statistics_fit_each_other(client: SandboxClient) -> None:
    """Counts nest, and rates are fractions of them between 0 and 1."""
    frame = {"start": "2025-12-01T00:00:00", "end": "2026-11-19T23:59:59"}
    rows = [
        *report_rows(client, VALUES_REPORT, timeframe=frame),
        *report_rows(client, "flow-values-report", timeframe=frame),
    ]
    channels = {row["groupings"]["send_channel"] for row in rows}
    assert channels == {"email", "sms", "push-notification", "whatsapp"}
    for row in rows:
        s = row["statistics"]
        assert s["delivered"] == s["recipients"] - s["bounced_or_failed"]
        assert s["bounced_or_failed"] == s["bounced"] + s["failed"]
        assert s["opens"] >= s["opens_unique"] >= 0
        assert s["clicks"] >= s["clicks_unique"] >= 0
        assert s["delivered"] >= max(s["opens_unique"], s["clicks_unique"])
        assert s["conversions"] >= s["conversion_uniques"] >= 0
        assert all(0 <= s[name] <= 1 for name in PUBLISHED_RATES)
        assert s["open_rate"] == s["opens_unique"] / s["delivered"]
        assert s["revenue_per_recipient"] == s["conversion_value"] / s["recipients"]


def test_conversion_metrics_differ_and_opens_do_not(client: SandboxClient) -> None:
    """Another conversion metric changes conversions only; custom metrics are accepted."""
    frame = {"start": "2026-01-01T00:00:00", "end": "2026-11-19T23:59:59"}
    custom = client.sandbox.store.custom_metrics.id_of(0)
    one = report_rows(client, VALUES_REPORT, timeframe=frame)
    two = report_rows(client, VALUES_REPORT, timeframe=frame, conversion_metric_id=custom)
    same = [name for name in PUBLISHED_STATISTICS if "conver" not in name and "revenue" not in name]
    same = [name for name in same if name not in {"average_order_value", "text_message_roi"}]
    for left, right in zip(one, two, strict=True):
        assert [left["statistics"][k] for k in same] == [right["statistics"][k] for k in same]
    assert [r["statistics"]["conversions"] for r in one] != [
        r["statistics"]["conversions"] for r in two
    ]


def test_metrics_that_are_not_eligible_are_refused(client: SandboxClient) -> None:
    """Just the metrics that cannot convert get the recorded 400."""
    eligible = set(client.call_admin("GET", "/__metrics")["eligible"])
    wanted = "Passed in conversion metric does not support querying for values data"
    for metric in client.read_ids("/api/metrics"):
        answered = post_report(client, VALUES_REPORT, conversion_metric_id=metric)
        assert (answered.status == 200) == (metric in eligible)
        if answered.status == 400:
            error = answered.json["errors"][0]
            assert error["detail"] == wanted
            assert error["source"] == {"pointer": "/data/attributes/conversion_metric_id"}
    assert 3 < len(eligible) < 21


def test_an_id_that_no_metric_has_is_refused_in_other_words(client: SandboxClient) -> None:
    """The recorded refusals of a metric that cannot convert and of an unknown metric differ."""
    answered = post_report(client, VALUES_REPORT, conversion_metric_id="ZZZZZZ")
    assert answered.status == 400
    (error,) = answered.json["errors"]
    assert error["detail"] == "Passed in conversion metric does not exist"
    assert error["source"] == {"pointer": "/data/attributes/conversion_metric_id"}


def test_groups_and_filters_choose_rows(client: SandboxClient) -> None:
    """Filters keep the rows that meet them; grouping by tags gives a row per tag."""
    frame = {"start": "2026-01-01T00:00:00", "end": "2026-11-19T23:59:59"}
    every = report_rows(client, VALUES_REPORT, timeframe=frame)
    sms = [row for row in every if row["groupings"]["send_channel"] == "sms"]
    assert (
        report_rows(client, VALUES_REPORT, timeframe=frame, filter='equals(send_channel,"sms")')
        == sms
    )
    ids = [row["groupings"]["campaign_id"] for row in every[:3]]
    listed = json.dumps(ids)
    both = f'and(contains-any(campaign_id,{listed}),contains-any(send_channel,["email","sms"]))'
    found = {
        row["groupings"]["campaign_id"]
        for row in report_rows(client, VALUES_REPORT, timeframe=frame, filter=both)
    }
    assert found <= set(ids)
    groups = ["campaign_id", "campaign_message_id", "tag_name", "variation_name"]
    tagged = report_rows(client, VALUES_REPORT, timeframe=frame, group_by=groups)
    assert set(tagged[0]["groupings"]) == set(groups)
    tag = next(row["groupings"]["tag_name"] for row in tagged if row["groupings"]["tag_name"])
    some = report_rows(
        client, VALUES_REPORT, timeframe=frame, filter=f'contains-any(tag_name,["{tag}"])'
    )
    assert 0 < len(some) < len(every)


def test_reports_come_in_pages(start_sandbox: StartSandbox) -> None:
    """Rows are paged by `page_cursor`, which another body makes invalid."""
    client = start_sandbox(report_page=7)
    frame = {"start": "2026-01-01T00:00:00", "end": "2026-11-19T23:59:59"}
    rows = report_rows(client, VALUES_REPORT, timeframe=frame)
    first = post_report(client, VALUES_REPORT, timeframe=frame)
    assert len(first.json["data"]["attributes"]["results"]) == 7 < len(rows)
    keys = [tuple(row["groupings"].values()) for row in rows]
    assert len(keys) == len(set(keys))
    following = first.json["links"]["next"]
    assert "page_cursor=" in following
    assert post_report(client, VALUES_REPORT, following).detail == "Invalid cursor provided."


def test_the_three_windows_of_reports(start_sandbox: StartSandbox) -> None:
    """A report endpoint takes one request a second, two a minute and 225 a day, each for itself."""
    client = start_sandbox(rate_limit_scale=1.0)
    minute = 60_000_000.0
    statuses: list[int] = []
    for at in (0, 0.5, 1, 2, 60):
        client.sandbox.service.wall_clock = lambda at=at: minute + at
        statuses.append(post_report(client, VALUES_REPORT).status)
    # The refused call counts as well: the third is the minute's last.
    assert statuses == [200, 429, 429, 429, 200]
    other = post_report(client, SERIES_REPORT)
    assert other.status == 200
    assert other.headers["ratelimit-limit"] == "1, 1;w=1, 2;w=60, 225;w=86400"


def test_a_short_series_can_be_made(start_sandbox: StartSandbox) -> None:
    """A fault makes statistics shorter than their dates."""
    client = start_sandbox()
    client.add_fault("short_series")
    attributes = post_report(client, SERIES_REPORT).json["data"]["attributes"]
    row = attributes["results"][0]["statistics"]
    assert {len(values) for values in row.values()} == {len(attributes["date_times"]) - 1}
