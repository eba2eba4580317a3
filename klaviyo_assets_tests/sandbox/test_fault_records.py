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
def test_a_record_is_strange_or_broken(start: StartSandbox, kind: str) -> None:
    """One record of the page is as the fault says; broken ones are not counted as shown."""
    shop = start()
    sound = shop.get_document(EVENTS_TARGET)["data"]
    shop.call_admin("DELETE", "/__journal")
    shop.add_fault(kind, at=1)
    text = shop.request(EVENTS_TARGET).body.decode(errors="replace")
    page = json.loads(text, strict=False)["data"]
    assert CHANGED[kind](page[1])
    assert page[:1] + page[2:] == sound[:1] + sound[2:]
    unreadable = kind in {"no_id", "null_id", "string_record"}
    assert len(shown_ids(shop)) == (4 if unreadable else 5)
    assert (sound[1]["id"] in shown_ids(shop)) != unreadable


def test_a_fault_can_hit_a_field_and_many_records(start: StartSandbox) -> None:
    """A strange value can be put in a named field, of the first so many records."""
    shop = start()
    shop.add_fault("type_change", field="datetime", value=5, count=3)
    page = shop.get_document(EVENTS_TARGET)["data"]
    assert [each["attributes"]["datetime"] == 5 for each in page] == [True] * 3 + [False] * 2


def test_a_mutation_can_happen_in_mid_walk(start: StartSandbox) -> None:
    """A change is made right before a given page is answered."""
    shop = start(profiles=30)
    ids = shop.read_ids("/api/profiles?page[size]=10&sort=updated")
    wish = {"profile": ids[25], "delete": True}
    shop.add_fault("mutate", {"path": "/api/profiles", "nth": 2}, mutations=[wish])
    assert shop.read_ids("/api/profiles?page[size]=10&sort=updated") == [*ids[:25], *ids[26:]]


def test_rules_choose_by_path_method_query_and_number(start: StartSandbox) -> None:
    """A rule hits only the requests it names, and the n-th of them."""
    shop = start()
    shop.add_fault("empty_body", {"path": "/api/lists/*", "nth": 2})
    shop.add_fault("null_body", {"path": "/api/lists", "query": "sort=name", "from": 2, "to": 3})
    shop.add_fault("list_body", {"path": "/api/tags", "method": "POST"})
    one = shop.read_ids("/api/lists")[0]
    members = f"/api/lists/{one}/profiles"
    assert [len(shop.request(members).body) > 0 for _ in range(3)] == [True, False, True]
    asked = [shop.request("/api/lists?sort=name").body == b"null" for _ in range(4)]
    assert asked == [False, True, True, False]
    assert shop.request("/api/lists?sort=-name").status == 200
    assert shop.request("/api/tags").body != b"[]"
    rules = shop.call_admin("GET", "/__faults")["rules"]
    assert [rule["hits"] for rule in rules] == [1, 2, 0]
    shop.call_admin("DELETE", "/__faults")
    assert shop.call_admin("GET", "/__faults")["rules"] == []


def test_random_faults_repeat_by_seed(start: StartSandbox) -> None:
    """A seeded share of requests fails, the same ones for the same seed."""
    outcomes: list[list[int]] = []
    for seed in (7, 7, 8):
        shop = start()
        wish = {"random": {"seed": seed, "rate": 0.3, "kinds": ["error", "throttle"]}}
        shop.call_admin("POST", "/__faults", wish)
        outcomes.append([shop.request("/api/tags").status for _ in range(40)])
    assert outcomes[0] == outcomes[1] != outcomes[2]
    failed = len([status for status in outcomes[0] if status != 200])
    assert 4 <= failed <= 20
    assert {429, 500} <= set(outcomes[0])


def test_an_unknown_fault_is_refused(start: StartSandbox) -> None:
    """A script with a kind that does not exist is a 400 and changes nothing."""
    shop = start()
    body = json.dumps([{"fault": {"kind": "earthquake"}}]).encode()
    assert shop.request("/__faults", method="POST", body=body).status == 400
    assert shop.request("/__faults", method="POST", body=b"[]").status == 400
    assert shop.call_admin("GET", "/__faults")["rules"] == []
