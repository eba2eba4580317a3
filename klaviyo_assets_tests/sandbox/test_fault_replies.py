"""Faults that replace or falsify a response do so, and the journal records them."""

from collections.abc import Callable

import pytest

from klaviyo_assets.sandbox.faults.rules import (
    CLAIM_FAULT_KINDS,
    FAULT_KINDS,
    PAGE_FAULT_KINDS,
    RECORD_FAULT_KINDS,
    RESPONSE_FAULT_KINDS,
    SIDE_EFFECT_KINDS,
    TRANSPORT_FAULT_KINDS,
)
from klaviyo_assets_tests.sandbox.conftest import StartSandbox
from klaviyo_assets_tests.sandbox.raw_responses import EVENTS_TARGET, shown_ids
from klaviyo_assets_tests.sandbox.report_requests import SERIES_REPORT, post_report
from klaviyo_assets_tests.sandbox.sandbox_client import SandboxResponse


def test_every_kind_belongs_to_one_room() -> None:
    """The groups of kinds do not overlap and are all kinds."""
    groups = (
        RESPONSE_FAULT_KINDS,
        PAGE_FAULT_KINDS,
        CLAIM_FAULT_KINDS,
        RECORD_FAULT_KINDS,
        TRANSPORT_FAULT_KINDS,
        SIDE_EFFECT_KINDS,
    )
    assert sum(len(group) for group in groups) == len(FAULT_KINDS)


@pytest.mark.parametrize(
    ("requested", "wanted"),
    [
        ({}, "1"),
        ({"retry_after": "73473"}, "73473"),
        ({"retry_after": ""}, ""),
        ({"retry_after": "-5"}, "-5"),
        ({"retry_after": "soon"}, "soon"),
        ({"retry_after": None}, None),
    ],
)
def test_throttle_has_any_form_of_retry_after(
    start_sandbox: StartSandbox, requested: dict[str, object], wanted: str | None
) -> None:
    """A 429 carries the given `Retry-After`, or none, and no rate headers."""
    client = start_sandbox()
    client.add_fault("throttle", {"to": 1}, **requested)
    answered = client.request(EVENTS_TARGET)
    assert answered.status == 429
    assert answered.headers.get("retry-after") == wanted
    assert "ratelimit-limit" not in answered.headers
    assert client.request(EVENTS_TARGET).status == 200
    assert client.call_admin("GET", "/__journal?summary=1")["throttled"] == 1


def test_throttle_can_name_a_date(start_sandbox: StartSandbox) -> None:
    """A 429 can carry an HTTP date instead of seconds."""
    client = start_sandbox()
    client.add_fault("throttle", retry_after="http-date")
    assert client.request(EVENTS_TARGET).headers["retry-after"].endswith(" GMT")


def test_error_may_say_anything_of_one_body(start_sandbox: StartSandbox) -> None:
    """Code, detail and pointer are the given ones, for requests with that body only."""
    client = start_sandbox()
    error = {"code": "odd", "detail": "No.", "pointer": "/data/attributes/conversion_metric_id"}
    match: dict[str, object] = {"path": f"/api/{SERIES_REPORT}s", "body": "AAA111"}
    client.add_fault("error", match, status=400, **error)
    errors = [
        post_report(client, SERIES_REPORT, conversion_metric_id=each).json["errors"][0]
        for each in ("AAA111", "BBB222")
    ]
    assert [each["code"] for each in errors] == ["odd", "invalid"]
    assert (errors[0]["detail"], errors[0]["source"]) == ("No.", {"pointer": error["pointer"]})
    client.add_fault("error", {"path": "/api/events"}, status=400, pointer="")
    assert client.request(EVENTS_TARGET).json["errors"][0]["source"] == {}


@pytest.mark.parametrize("status", [401, 403, 404, 410, 500, 502, 503, 504, 524])
def test_error_has_any_status(start_sandbox: StartSandbox, status: int) -> None:
    """An error of each status is sent, Klaviyo's own as JSON and proxies' as HTML."""
    client = start_sandbox()
    client.add_fault("error", status=status)
    answered = client.request(EVENTS_TARGET)
    assert answered.status == status
    is_html = status in {502, 504, 524}
    assert answered.body.startswith(b"<!DOCTYPE") == is_html
    assert is_html or answered.json["errors"][0]["status"] == status
    assert shown_ids(client) == []


REPLACED: dict[str, Callable[[SandboxResponse], bool]] = {
    "challenge": lambda a: a.status == 403 and a.headers["cf-mitigated"] == "challenge",
    "invalid_cursor": lambda a: a.status == 400 and a.detail == "Invalid cursor provided.",
    "redirect": lambda a: a.status == 302 and "location" in a.headers,
    "html_body": lambda a: a.status == 200 and a.body.startswith(b"<!DOCTYPE"),
    "empty_body": lambda a: a.status == 200 and a.body == b"",
    "null_body": lambda a: a.status == 200 and a.body == b"null",
    "list_body": lambda a: a.status == 200 and a.body == b"[]",
    "text_body": lambda a: a.status == 200 and a.body == b"upstream connect error",
}


@pytest.mark.parametrize("kind", sorted(RESPONSE_FAULT_KINDS - {"throttle", "error"}))
def test_an_answer_is_replaced(start_sandbox: StartSandbox, kind: str) -> None:
    """In place of the page comes what the fault says, and nothing counts as shown."""
    client = start_sandbox()
    client.add_fault(kind)
    assert REPLACED[kind](client.request(EVENTS_TARGET))
    assert shown_ids(client) == []


def test_same_next_points_at_the_page_itself(start_sandbox: StartSandbox) -> None:
    """The next link of a page is that page."""
    client = start_sandbox()
    client.add_fault("same_next")
    page = client.get_document(EVENTS_TARGET)
    again = client.get_document(page["links"]["next"])
    assert again["data"] == page["data"]


def test_a_cycle_leads_back_and_round(start_sandbox: StartSandbox) -> None:
    """The second page leads back to the first, and that to the second again."""
    client = start_sandbox()
    client.add_fault("cycle", {"every": 2})
    target: str = EVENTS_TARGET
    firsts: list[str] = []
    for _ in range(5):
        page = client.get_document(target)
        firsts.append(page["data"][0]["id"])
        target = page["links"]["next"]
    assert firsts[0] == firsts[2] == firsts[4]
    assert firsts[1] == firsts[3] != firsts[0]


def test_next_can_lead_elsewhere(start_sandbox: StartSandbox) -> None:
    """The next link names another host, or any address at all, or is missing."""
    client = start_sandbox()
    client.add_fault("next_host", {"to": 1}, origin="http://localhost:9999")
    client.add_fault("next_link", {"from": 2, "to": 2}, url="http://a.example/x")
    client.add_fault("no_links", {"from": 3})
    assert client.get_document(EVENTS_TARGET)["links"]["next"].startswith(
        "http://localhost:9999/api/events?"
    )
    assert client.get_document(EVENTS_TARGET)["links"]["next"] == "http://a.example/x"
    assert client.get_document(EVENTS_TARGET)["links"] == {}


def test_a_good_answer_can_be_a_lie(start_sandbox: StartSandbox) -> None:
    """Without links, with errors beside records (of both nothing is shown), or cut short."""
    client = start_sandbox(events=40)
    client.add_fault("bare_page", {"to": 1})
    client.add_fault("errors_beside", {"from": 2, "to": 2}, count=0)
    client.add_fault("cut_list", {"from": 3, "to": 3}, count=2)
    assert client.get_document(EVENTS_TARGET).keys() == {"data"}
    assert client.get_document(EVENTS_TARGET)["data"] == []
    assert client.call_admin("GET", "/__journal/ids?path=/api/events")["ids"] == []
    page = client.get_document(EVENTS_TARGET)
    assert len(page["data"]) == 2
    assert (page["links"]["next"], bool(page["links"]["self"])) == (None, True)


def test_paging_can_go_on_without_end(start_sandbox: StartSandbox) -> None:
    """The same page comes again and again, under a link that is new each time."""
    client = start_sandbox(events=40)
    client.add_fault("endless")
    target, seen = EVENTS_TARGET, set[str]()
    for _ in range(5):
        page = client.get_document(target)
        assert page["data"] == client.get_document(EVENTS_TARGET)["data"]
        target = page["links"]["next"]
        assert target not in seen
        seen.add(target)


def test_records_can_come_in_another_order_than_requested(start_sandbox: StartSandbox) -> None:
    """Every record is there once, from the last to the first."""
    client = start_sandbox(events=40)
    sound = [each["id"] for page in client.read_pages(EVENTS_TARGET) for each in page["data"]]
    client.add_fault("unsorted", sort="-datetime")
    found = [each["id"] for page in client.read_pages(EVENTS_TARGET) for each in page["data"]]
    assert sorted(found) == sorted(sound)
    assert found[0] == sound[-1]


def test_an_empty_page_in_the_middle_loses_nothing(start_sandbox: StartSandbox) -> None:
    """An empty page with a next link precedes the page it hides; all records come."""
    client = start_sandbox(events=40)
    client.add_fault("empty_page", {"every": 2})
    pages = list(client.read_pages(EVENTS_TARGET))
    assert [len(page["data"]) for page in pages[:4]] == [5, 0, 5, 0]
    ids = [record["id"] for page in pages for record in page["data"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == set(client.read_truth("events"))


def test_duplicates_repeat_the_end_of_the_page_before(start_sandbox: StartSandbox) -> None:
    """A page begins with the last records of the one before; the journal counts the repeats."""
    client = start_sandbox(events=40)
    client.add_fault("duplicates", {"from": 2, "to": 3}, count=2)
    one, two, three = list(client.read_pages(EVENTS_TARGET))[:3]
    assert two["data"][:2] == one["data"][-2:]
    assert three["data"][:2] == two["data"][-2:]
    found = client.call_admin("GET", "/__journal/ids?path=/api/events")
    assert set(found["ids"]) == set(client.read_truth("events"))
    assert found["repeated"] == 4


@pytest.mark.parametrize(("factor", "size"), [(2, 10), (0.4, 2)])
def test_pages_can_be_longer_or_shorter_than_asked(
    start_sandbox: StartSandbox, factor: float, size: int
) -> None:
    """A page is longer or shorter than requested, and all records come."""
    client = start_sandbox(events=40)
    client.add_fault("page_factor", factor=factor)
    pages = list(client.read_pages(EVENTS_TARGET))
    assert len(pages[0]["data"]) == size
    ids = [record["id"] for page in pages for record in page["data"]]
    assert sorted(ids) == sorted(client.read_truth("events"))
