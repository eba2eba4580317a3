"""Faults of single records, and the scripts that choose which request is hit."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from klaviyo_assets.sandbox.faults.rules import RECORD_FAULT_KINDS
from klaviyo_assets_tests.sandbox.conftest import StartSandbox
from klaviyo_assets_tests.sandbox.raw_responses import EVENTS_TARGET, shown_ids
from klaviyo_assets_tests.sandbox.sandbox_client import Document


def odd(record: Document) -> Any:  # noqa: ANN401  (any JSON)
    """The value a fault put into an event's free-form properties."""
    return record["attributes"]["event_properties"]["odd"]


CHANGED: dict[str, Callable[[Any], bool]] = {
    "no_id": lambda r: "id" not in r,
    "null_id": lambda r: r["id"] is None,
    "null_attributes": lambda r: r["attributes"] is None,
    "string_record": lambda r: isinstance(r, str),
    "new_field": lambda r: r["attributes"]["brand_new_field"] == {"since": 2027},
    "new_relationship": lambda r: r["relationships"]["novelty"]["data"]["type"] == "novelty",
    "new_value": lambda r: r["attributes"]["status"] == "Teleported",
    "type_change": lambda r: isinstance(r["attributes"]["timestamp"], dict),
    "removed_field": lambda r: "timestamp" not in r["attributes"],
    "huge_integer": lambda r: odd(r) == int("9" * 80),
    "overflow": lambda r: odd(r) == float("inf"),
    "nan_text": lambda r: odd(r) == "NaN",
    "nan_literal": lambda r: odd(r) != odd(r),
    "infinity_literal": lambda r: odd(r) == float("-inf"),
    "stray_byte": lambda r: odd(r) == "before\ufffdafter",
    "bare_control": lambda r: odd(r) == "before\nafter",
    "huge_string": lambda r: len(odd(r)) == 5 * 1024 * 1024,
    "nul_character": lambda r: odd(r) == "before\0after",
    "lone_surrogate": lambda r: odd(r) == "before\ud800after",
    "odd_text": lambda r: "DROP TABLE" in odd(r),
    "deep_nesting": lambda r: depth(odd(r)) == 200,
}


def depth(value: object) -> int:
    """How many objects and arrays lie in each other, where each holds only the next."""
    text = json.dumps(value)
    return text.count("{") + text.count("[")


@pytest.mark.parametrize("kind", sorted(RECORD_FAULT_KINDS))
def test_a_record_is_strange_or_broken(start_sandbox: StartSandbox, kind: str) -> None:
    """One record of the page is as the fault says; broken ones are not counted as shown."""
    client = start_sandbox()
    sound = client.get_document(EVENTS_TARGET)["data"]
    client.call_admin("DELETE", "/__journal")
    client.add_fault(kind, at=1)
    text = client.request(EVENTS_TARGET).body.decode(errors="replace")
    page = json.loads(text, strict=False)["data"]
    assert CHANGED[kind](page[1])
    assert page[:1] + page[2:] == sound[:1] + sound[2:]
    unreadable = kind in {"no_id", "null_id", "string_record"}
    assert len(shown_ids(client)) == (4 if unreadable else 5)
    assert (sound[1]["id"] in shown_ids(client)) != unreadable


def test_a_fault_can_hit_a_field_and_many_records(start_sandbox: StartSandbox) -> None:
    """A strange value can be put in a named field, of the first so many records."""
    client = start_sandbox()
    client.add_fault("type_change", field="datetime", value=5, count=3)
    page = client.get_document(EVENTS_TARGET)["data"]
    assert [each["attributes"]["datetime"] == 5 for each in page] == [True] * 3 + [False] * 2


def test_a_mutation_can_happen_in_mid_walk(start_sandbox: StartSandbox) -> None:
    """A change is made right before a given page is answered."""
    client = start_sandbox(profiles=30)
    ids = client.read_ids("/api/profiles?page[size]=10&sort=updated")
    change = {"profile": ids[25], "delete": True}
    client.add_fault("mutate", {"path": "/api/profiles", "nth": 2}, mutations=[change])
    assert client.read_ids("/api/profiles?page[size]=10&sort=updated") == [*ids[:25], *ids[26:]]


def test_rules_choose_by_path_method_query_and_number(start_sandbox: StartSandbox) -> None:
    """A rule hits only the requests it names, and the n-th of them."""
    client = start_sandbox()
    client.add_fault("empty_body", {"path": "/api/lists/*", "nth": 2})
    client.add_fault("null_body", {"path": "/api/lists", "query": "sort=name", "from": 2, "to": 3})
    client.add_fault("list_body", {"path": "/api/tags", "method": "POST"})
    one = client.read_ids("/api/lists")[0]
    members = f"/api/lists/{one}/profiles"
    assert [len(client.request(members).body) > 0 for _ in range(3)] == [True, False, True]
    is_null = [client.request("/api/lists?sort=name").body == b"null" for _ in range(4)]
    assert is_null == [False, True, True, False]
    assert client.request("/api/lists?sort=-name").status == 200
    assert client.request("/api/tags").body != b"[]"
    rules = client.call_admin("GET", "/__faults")["rules"]
    assert [rule["hits"] for rule in rules] == [1, 2, 0]
    client.call_admin("DELETE", "/__faults")
    assert client.call_admin("GET", "/__faults")["rules"] == []


def test_random_faults_repeat_by_seed(start_sandbox: StartSandbox) -> None:
    """A seeded share of requests fails, the same ones for the same seed."""
    outcomes: list[list[int]] = []
    for seed in (7, 7, 8):
        client = start_sandbox()
        change = {"random": {"seed": seed, "rate": 0.3, "kinds": ["error", "throttle"]}}
        client.call_admin("POST", "/__faults", change)
        outcomes.append([client.request("/api/tags").status for _ in range(40)])
    assert outcomes[0] == outcomes[1] != outcomes[2]
    failed = len([status for status in outcomes[0] if status != 200])
    assert 4 <= failed <= 20
    assert {429, 500} <= set(outcomes[0])


def test_an_unknown_fault_is_refused(start_sandbox: StartSandbox) -> None:
    """A script with a kind that does not exist is a 400 and changes nothing."""
    client = start_sandbox()
    body = json.dumps([{"fault": {"kind": "earthquake"}}]).encode()
    assert client.request("/__faults", method="POST", body=body).status == 400
    assert client.request("/__faults", method="POST", body=b"[]").status == 400
    assert client.call_admin("GET", "/__faults")["rules"] == []
