"""Reports of forms and segments: what their visitors and members did, day by day."""

import json
from datetime import date
from itertools import pairwise
from typing import Any

import pytest

from klaviyo_assets.sandbox.facts.reporting import FORM_STATISTICS, SEGMENT_STATISTICS
from klaviyo_assets_tests.sandbox.conftest import StartSandbox
from klaviyo_assets_tests.sandbox.report_requests import (
    day_timeframe,
    post_report,
    report_rows,
    rows_by_key,
    true_rows,
)
from klaviyo_assets_tests.sandbox.sandbox_client import Document, SandboxClient

MONTH = {"start": "2026-10-01T00:00:00", "end": "2026-10-31T23:59:59"}
MONTH_DAYS = {"start": "2026-10-01", "end": "2026-10-31"}
MONTH_DAY = date(2026, 10, 7)
KEYS = {"form": ("form_id", "form_version_id"), "segment": ("segment_id",)}
STATISTICS = {"form": FORM_STATISTICS, "segment": SEGMENT_STATISTICS}
each_subject = pytest.mark.parametrize("subject", ["form", "segment"])


def request_attributes(subject: str, shape: str = "values", **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """The attributes of a sound request for a report of forms or segments."""
    groups = {"group_by": list(KEYS["form"])} if subject == "form" else {}
    interval = {"interval": "daily"} if shape == "series" else {}
    usual = {"statistics": list(STATISTICS[subject]), "conversion_metric_id": None}
    return {**usual, **groups, **interval, **changes}


@each_subject
def test_series_are_the_truth_day_by_day(client: SandboxClient, subject: str) -> None:
    """Each value of a daily series is that day's true value; a day without a row counts none."""
    request = request_attributes(subject, "series", timeframe=MONTH)
    answered = post_report(client, f"{subject}-series-report", **request).json["data"]["attributes"]
    labels = answered["date_times"]
    assert len(labels) == 31
    true = true_rows(client, f"{subject}_series", **MONTH_DAYS)
    wanted = rows_by_key(true, "date", *KEYS[subject])
    found: dict[tuple[str, ...], Document] = {}
    for row in answered["results"]:
        key = tuple(row["groupings"][name] for name in KEYS[subject])
        for place, label in enumerate(labels):
            numbers = {name: values[place] for name, values in row["statistics"].items()}
            assert set(numbers) == set(STATISTICS[subject])
            if any(numbers.values()):
                found[label[:10], *key] = numbers
    assert len(found) > 100
    assert found == {
        key: {name: row[name] for name in STATISTICS[subject]} for key, row in wanted.items()
    }


@each_subject
def test_values_of_a_day_are_the_truth_of_that_day(client: SandboxClient, subject: str) -> None:
    """A values report over one local day has the day's true rows."""
    request = request_attributes(subject, timeframe=day_timeframe(MONTH_DAY))
    rows = report_rows(client, f"{subject}-values-report", **request)
    true = true_rows(client, f"{subject}_values", date=MONTH_DAY)
    wanted = rows_by_key(true, *KEYS[subject])
    found = {tuple(row["groupings"][name] for name in KEYS[subject]): row for row in rows}
    assert len(found) > 5
    assert set(found) == set(wanted)
    for key, row in found.items():
        assert row["statistics"] == {name: wanted[key][name] for name in STATISTICS[subject]}


def test_visits_of_forms_add_up_and_uniques_do_not(client: SandboxClient) -> None:
    """Over a month a form has the views of its days, and fewer people than the days have."""
    rows = report_rows(client, "form-values-report", **request_attributes("form", timeframe=MONTH))
    days = true_rows(client, "form_values", **MONTH_DAYS)
    for row in rows:
        own = [each for each in days if each["form_version_id"] == versions(row)]
        numbers = row["statistics"]
        for name in ("viewed_form", "submits", "closed_form", "submitted_form_step"):
            assert numbers[name] == sum(day[name] for day in own)
        assert 0 < numbers["viewed_form_uniques"] < sum(day["viewed_form_uniques"] for day in own)
        assert numbers["submit_rate"] == numbers["submits"] / numbers["viewed_form"]
        assert numbers["qualified_form"] >= numbers["viewed_form"] >= numbers["submits"]


def versions(row: Document) -> str:
    """The form version that a result is about."""
    return row["groupings"]["form_version_id"]


def test_forms_are_grouped_by_form_unless_asked_by_version(client: SandboxClient) -> None:
    """Without `group_by` the versions of a form are one row, their counts added."""
    fine = report_rows(client, "form-values-report", **request_attributes("form", timeframe=MONTH))
    coarse = report_rows(
        client, "form-values-report", **request_attributes("form", timeframe=MONTH, group_by=None)
    )
    assert {tuple(row["groupings"]) for row in coarse} == {("form_id",)}
    for row in coarse:
        form = row["groupings"]["form_id"]
        parts = [each["statistics"] for each in fine if each["groupings"]["form_id"] == form]
        assert row["statistics"]["submits"] == sum(each["submits"] for each in parts)


def test_members_of_a_segment_balance(client: SandboxClient) -> None:
    """The total of a day is that of the day before and its change, and today's is the size."""
    request = request_attributes("segment", "series", timeframe={"key": "last_30_days"})
    sizes = 0
    for row in report_rows(client, "segment-series-report", **request):
        numbers = row["statistics"]
        net = [
            added - removed
            for added, removed in zip(
                numbers["members_added"], numbers["members_removed"], strict=True
            )
        ]
        assert numbers["net_members_changed"] == net
        totals = numbers["total_members"]
        assert [b - a for a, b in pairwise(totals)] == net[1:]
        segment = row["groupings"]["segment_id"]
        assert totals[-1] == len(client.read_truth(f"segments/{segment}/profiles"))
        sizes += totals[-1]
    assert sizes > 50


def test_a_leave_is_counted_on_its_day(start_sandbox: StartSandbox) -> None:
    """Who is taken out of a segment today, and comes back, is one removed and one added."""
    client = start_sandbox()
    request = request_attributes("segment", timeframe={"key": "today"})
    segment = client.read_ids("/api/segments")[0]
    request["filter"] = f'equals(segment_id,"{segment}")'
    (before,) = report_rows(client, "segment-values-report", **request)
    members = client.read_truth(f"segments/{segment}/profiles")
    profile = next(iter(members))
    change = {"segment": segment}
    client.call_admin("POST", "/__mutate", {**change, "remove": [profile]})
    client.call_admin("POST", "/__mutate", {**change, "add": [profile]})
    (after,) = report_rows(client, "segment-values-report", **request)
    moved = {
        name: after["statistics"][name] - before["statistics"][name] for name in SEGMENT_STATISTICS
    }
    assert moved == {
        "members_added": 1,
        "members_removed": 1,
        "net_members_changed": 0,
        "total_members": 0,
    }


@pytest.mark.parametrize(
    ("kind", "changes", "detail"),
    [
        ("form-values-report", {"conversion_metric_id": "A"}, "'conversion_metric_id' is not a"),
        ("form-values-report", {"statistics": ["opens"]}, "'opens' is not a valid choice"),
        ("form-values-report", {"group_by": ["form_version_id"]}, "The following group by"),
        ("form-values-report", {"filter": 'contains-any(form_id,["a"])'}, "'contains-any' is not"),
        ("form-series-report", {"interval": None}, "'interval' is a required field."),
        ("segment-values-report", {"group_by": ["segment_id"]}, "'group_by' is not a valid field"),
        ("segment-values-report", {"filter": 'any(form_id,["a"])'}, "'form_id' is not a filter"),
        ("segment-series-report", {"timeframe": {"start": "2023-05-31T00:00:00"}}, "Data is unava"),
    ],
)
def test_a_request_beyond_the_offer_is_refused(
    client: SandboxClient, kind: str, changes: dict[str, Any], detail: str
) -> None:
    """There is no metric, filters take `any`, and segments have no data before June 2023."""
    subject, shape, _ = kind.split("-")
    if "timeframe" in changes:
        changes = {"timeframe": {**changes["timeframe"], "end": "2023-06-09T23:59:59"}}
    answered = post_report(client, kind, **request_attributes(subject, shape, **changes))
    assert answered.status == 400, answered.body[:200]
    assert answered.detail.startswith(detail)


@each_subject
def test_filters_choose_by_id(client: SandboxClient, subject: str) -> None:
    """`any` selects the rows of its ids."""
    kind, field = f"{subject}-values-report", f"{subject}_id"
    every = report_rows(client, kind, **request_attributes(subject, timeframe=MONTH))
    ids = sorted({row["groupings"][field] for row in every})[:2]
    some = report_rows(
        client,
        kind,
        **request_attributes(subject, timeframe=MONTH, filter=f"any({field},{json.dumps(ids)})"),
    )
    assert some == [row for row in every if row["groupings"][field] in ids]


@each_subject
def test_the_answer_is_one_page(start_sandbox: StartSandbox, subject: str) -> None:
    """These reports take no page cursor, and have all rows however many there are."""
    client = start_sandbox(report_page=2)
    kind = f"{subject}-values-report"
    answered = post_report(client, kind, **request_attributes(subject, timeframe=MONTH))
    assert len(answered.json["data"]["attributes"]["results"]) > 2
    assert answered.json["links"]["next"] is None
    paged = post_report(client, kind, f"/api/{kind}s?page_cursor=x", **request_attributes(subject))
    assert paged.status == 400
