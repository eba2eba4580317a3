"""Every fault really happens on the socket, and the journal still knows what was shown."""

import json
import socket
import time
import zlib
from collections.abc import Callable
from http.client import BadStatusLine, HTTPException, IncompleteRead
from typing import Any

import pytest

from klaviyo_assets.sandbox.faults.kinds import KINDS, LINKS, OTHER, RECORDS, REPLIES, WIRE
from klaviyo_assets_tests.sandbox.asking import Answered, Asker, Document
from klaviyo_assets_tests.sandbox.conftest import Start

EVENTS = "/api/events?page[size]=5&sort=datetime"


def raw(shop: Asker, target: str, seconds: float = 1.0) -> tuple[bytes, str]:
    """The bytes that come within some seconds, and how the connection ended."""
    with socket.create_connection(("127.0.0.1", shop.connection.port), timeout=seconds) as link:
        head = f"GET {target} HTTP/1.1\r\nHost: sandbox\r\nrevision: 2026-07-15\r\n"
        head += f"Authorization: Klaviyo-API-Key {shop.sandbox.key}\r\n\r\n"
        link.sendall(head.replace("[", "%5B").replace("]", "%5D").encode())
        found = b""
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                piece = link.recv(65_536)
                if not piece:
                    return found, "closed"
                found += piece
        except TimeoutError:
            return found, "open"
        except ConnectionResetError:
            return found, "reset"
    return found, "open"


def shown(shop: Asker) -> list[str]:
    """The ids that the journal counts as shown intact."""
    return shop.admin("GET", "/__journal/ids?path=/api/events")["ids"]


def test_every_kind_belongs_to_one_room() -> None:
    """The groups of kinds do not overlap and are all kinds."""
    groups = (REPLIES, LINKS, RECORDS, WIRE, OTHER)
    assert sum(len(group) for group in groups) == len(KINDS)


@pytest.mark.parametrize(
    ("asked", "wanted"),
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
    start: Start, asked: dict[str, object], wanted: str | None
) -> None:
    """A 429 carries the `Retry-After` asked for, or none, and no rate headers."""
    shop = start()
    shop.fault("throttle", {"to": 1}, **asked)
    answered = shop.ask(EVENTS)
    assert answered.status == 429
    assert answered.headers.get("retry-after") == wanted
    assert "ratelimit-limit" not in answered.headers
    assert shop.ask(EVENTS).status == 200
    assert shop.admin("GET", "/__journal?summary=1")["throttled"] == 1


def test_throttle_can_name_a_date(start: Start) -> None:
    """A 429 can carry an HTTP date instead of seconds."""
    shop = start()
    shop.fault("throttle", retry_after="http-date")
    assert shop.ask(EVENTS).headers["retry-after"].endswith(" GMT")


@pytest.mark.parametrize("status", [401, 403, 404, 410, 500, 502, 503, 504, 524])
def test_error_has_any_status(start: Start, status: int) -> None:
    """An error of each status is sent, Klaviyo's own as JSON and proxies' as HTML."""
    shop = start()
    shop.fault("error", status=status)
    answered = shop.ask(EVENTS)
    assert answered.status == status
    is_html = status in {502, 504, 524}
    assert answered.body.startswith(b"<!DOCTYPE") == is_html
    assert is_html or answered.json["errors"][0]["status"] == status
    assert shown(shop) == []


REPLACED: dict[str, Callable[[Answered], bool]] = {
    "challenge": lambda a: a.status == 403 and a.headers["cf-mitigated"] == "challenge",
    "invalid_cursor": lambda a: a.status == 400 and a.detail == "Invalid cursor provided.",
    "redirect": lambda a: a.status == 302 and "location" in a.headers,
    "html_body": lambda a: a.status == 200 and a.body.startswith(b"<!DOCTYPE"),
    "empty_body": lambda a: a.status == 200 and a.body == b"",
    "null_body": lambda a: a.status == 200 and a.body == b"null",
    "list_body": lambda a: a.status == 200 and a.body == b"[]",
    "text_body": lambda a: a.status == 200 and a.body == b"upstream connect error",
}


@pytest.mark.parametrize("kind", sorted(REPLIES - {"throttle", "error"}))
def test_an_answer_is_replaced(start: Start, kind: str) -> None:
    """In place of the page comes what the fault says, and nothing counts as shown."""
    shop = start()
    shop.fault(kind)
    assert REPLACED[kind](shop.ask(EVENTS))
    assert shown(shop) == []


def test_same_next_points_at_the_page_itself(start: Start) -> None:
    """The next link of a page is that page."""
    shop = start()
    shop.fault("same_next")
    page = shop.get(EVENTS)
    again = shop.get(page["links"]["next"])
    assert again["data"] == page["data"]


def test_a_cycle_leads_back_and_round(start: Start) -> None:
    """The second page leads back to the first, and that to the second again."""
    shop = start()
    shop.fault("cycle", {"every": 2})
    target: str = EVENTS
    firsts: list[str] = []
    for _ in range(5):
        page = shop.get(target)
        firsts.append(page["data"][0]["id"])
        target = page["links"]["next"]
    assert firsts[0] == firsts[2] == firsts[4]
    assert firsts[1] == firsts[3] != firsts[0]


def test_next_can_lead_elsewhere(start: Start) -> None:
    """The next link names another host, or any address at all, or is missing."""
    shop = start()
    shop.fault("next_host", {"to": 1}, origin="http://localhost:9999")
    shop.fault("next_link", {"from": 2, "to": 2}, url="http://a.example/x")
    shop.fault("no_links", {"from": 3})
    assert shop.get(EVENTS)["links"]["next"].startswith("http://localhost:9999/api/events?")
    assert shop.get(EVENTS)["links"]["next"] == "http://a.example/x"
    assert shop.get(EVENTS)["links"] == {}


def test_an_empty_page_in_the_middle_loses_nothing(start: Start) -> None:
    """An empty page with a next link stands before the page it hides; the walk stays whole."""
    shop = start(events=40)
    shop.fault("empty_page", {"every": 2})
    pages = list(shop.pages(EVENTS))
    assert [len(page["data"]) for page in pages[:4]] == [5, 0, 5, 0]
    ids = [record["id"] for page in pages for record in page["data"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == set(shop.truth("events"))


def test_duplicates_repeat_the_end_of_the_page_before(start: Start) -> None:
    """A page begins with the last records of the one before; the journal counts the repeats."""
    shop = start(events=40)
    shop.fault("duplicates", {"from": 2, "to": 3}, count=2)
    one, two, three = list(shop.pages(EVENTS))[:3]
    assert two["data"][:2] == one["data"][-2:]
    assert three["data"][:2] == two["data"][-2:]
    found = shop.admin("GET", "/__journal/ids?path=/api/events")
    assert set(found["ids"]) == set(shop.truth("events"))
    assert found["repeated"] == 4


@pytest.mark.parametrize(("factor", "size"), [(2, 10), (0.4, 2)])
def test_pages_can_be_longer_or_shorter_than_asked(start: Start, factor: float, size: int) -> None:
    """A page has another length than asked for, and the walk stays whole."""
    shop = start(events=40)
    shop.fault("page_factor", factor=factor)
    pages = list(shop.pages(EVENTS))
    assert len(pages[0]["data"]) == size
    ids = [record["id"] for page in pages for record in page["data"]]
    assert sorted(ids) == sorted(shop.truth("events"))


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


@pytest.mark.parametrize("kind", sorted(RECORDS))
def test_a_record_is_strange_or_broken(start: Start, kind: str) -> None:
    """One record of the page is as the fault says; broken ones are not counted as shown."""
    shop = start()
    sound = shop.get(EVENTS)["data"]
    shop.admin("DELETE", "/__journal")
    shop.fault(kind, at=1)
    page = json.loads(shop.ask(EVENTS).body)["data"]
    assert CHANGED[kind](page[1])
    assert page[:1] + page[2:] == sound[:1] + sound[2:]
    unreadable = kind in {"no_id", "null_id", "string_record", "nan_literal"}
    assert len(shown(shop)) == (4 if unreadable else 5)
    assert (sound[1]["id"] in shown(shop)) != unreadable


def test_a_fault_can_hit_a_field_and_many_records(start: Start) -> None:
    """A strange value can be put in a named field, of the first so many records."""
    shop = start()
    shop.fault("type_change", field="datetime", value=5, count=3)
    page = shop.get(EVENTS)["data"]
    assert [each["attributes"]["datetime"] == 5 for each in page] == [True] * 3 + [False] * 2


def test_reset_and_short_body_stop_in_the_middle(start: Start) -> None:
    """Half a body comes, then a reset or an end; none of it counts as shown."""
    shop = start()
    for kind, end in (("reset", "reset"), ("short_body", "closed")):
        shop.admin("DELETE", "/__faults")
        shop.fault(kind)
        found, ended = raw(shop, EVENTS)
        head, _, body = found.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert ended == end
        assert len(body) < length
    assert shown(shop) == []


def test_a_client_sees_a_cut_body_as_incomplete(start: Start) -> None:
    """The standard client reports a short body, a silent close, and a chunked body without end."""
    for kind, error in (
        ("short_body", IncompleteRead),
        ("close", BadStatusLine),
        ("broken_chunks", IncompleteRead),
    ):
        shop = start()
        shop.fault(kind)
        with pytest.raises((error, HTTPException)):
            shop.ask(EVENTS)
        assert shown(shop) == []


def test_long_body_sends_more_than_it_says(start: Start) -> None:
    """More bytes follow than the length says, so that the JSON is cut for the client."""
    shop = start()
    shop.fault("long_body")
    found, ended = raw(shop, EVENTS)
    head, _, body = found.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert ended == "closed"
    assert len(body) > length
    json.loads(body)


def test_truncated_json_is_whole_for_http(start: Start) -> None:
    """A 200 of the right length holds only the beginning of the JSON."""
    shop = start()
    shop.fault("truncated_json")
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        json.loads(shop.ask(EVENTS).body)


def test_slow_and_hanging_answers(start: Start) -> None:
    """One byte a second, and none at all, until the client gives up."""
    shop = start()
    shop.fault("slow", {"to": 1})
    shop.fault("hang", {"from": 2})
    found, ended = raw(shop, EVENTS, 0.6)
    body = found.partition(b"\r\n\r\n")[2]
    assert (ended, len(body)) == ("open", 1)
    assert raw(shop, EVENTS, 0.3) == (b"", "open")


def test_latency_bandwidth_and_chunks_are_only_slow(start: Start) -> None:
    """A late answer, a thin line and one-byte chunks all bring the whole page."""
    shop = start()
    sound = shop.get(EVENTS)["data"]
    for kind, options in (
        ("latency", {"seconds": 0.15}),
        ("bandwidth", {"bytes_per_second": 60_000}),
        ("chunks", {"size": 1}),
    ):
        shop.admin("DELETE", "/__faults")
        shop.admin("POST", "/__faults", [{"fault": {"kind": kind, **options}}])
        before = time.monotonic()
        assert shop.get(EVENTS)["data"] == sound
        assert kind == "chunks" or time.monotonic() - before >= 0.1
    assert set(shown(shop)) == {record["id"] for record in sound}


def test_bytes_can_be_wrong(start: Start) -> None:
    """A byte order mark, another charset, and gzip that cannot be read."""
    shop = start()
    shop.fault("bom", {"to": 1})
    shop.fault("charset", {"from": 2, "to": 2})
    shop.fault("bad_gzip", {"from": 3, "to": 3})
    assert shop.ask(EVENTS).body.startswith(b"\xef\xbb\xbf{")
    assert shop.ask(EVENTS).body.startswith(b"\xff\xfe")
    broken = shop.ask(EVENTS)
    assert broken.headers["content-encoding"] == "gzip"
    with pytest.raises(EOFError):
        gunzip(broken.body)


def gunzip(body: bytes) -> bytes:
    """Unpack, and raise as programs do."""
    try:
        return zlib.decompress(body, 31)
    except zlib.error as error:
        raise EOFError from error


def test_a_mutation_can_happen_in_mid_walk(start: Start) -> None:
    """A change is made right before a given page is answered."""
    shop = start(profiles=30)
    ids = shop.ids("/api/profiles?page[size]=10&sort=updated")
    wish = {"profile": ids[25], "delete": True}
    shop.fault("mutate", {"path": "/api/profiles", "nth": 2}, mutations=[wish])
    assert shop.ids("/api/profiles?page[size]=10&sort=updated") == [*ids[:25], *ids[26:]]


def test_rules_choose_by_path_method_query_and_number(start: Start) -> None:
    """A rule hits only the requests it names, and the n-th of them."""
    shop = start()
    shop.fault("empty_body", {"path": "/api/lists/*", "nth": 2})
    shop.fault("null_body", {"path": "/api/lists", "query": "sort=name", "from": 2, "to": 3})
    shop.fault("list_body", {"path": "/api/tags", "method": "POST"})
    one = shop.ids("/api/lists")[0]
    members = f"/api/lists/{one}/profiles"
    assert [len(shop.ask(members).body) > 0 for _ in range(3)] == [True, False, True]
    asked = [shop.ask("/api/lists?sort=name").body == b"null" for _ in range(4)]
    assert asked == [False, True, True, False]
    assert shop.ask("/api/lists?sort=-name").status == 200
    assert shop.ask("/api/tags").body != b"[]"
    rules = shop.admin("GET", "/__faults")["rules"]
    assert [rule["hits"] for rule in rules] == [1, 2, 0]
    shop.admin("DELETE", "/__faults")
    assert shop.admin("GET", "/__faults")["rules"] == []


def test_random_faults_repeat_by_seed(start: Start) -> None:
    """A seeded share of requests fails, the same ones for the same seed."""
    outcomes: list[list[int]] = []
    for seed in (7, 7, 8):
        shop = start()
        wish = {"random": {"seed": seed, "rate": 0.3, "kinds": ["error", "throttle"]}}
        shop.admin("POST", "/__faults", wish)
        outcomes.append([shop.ask("/api/tags").status for _ in range(40)])
    assert outcomes[0] == outcomes[1] != outcomes[2]
    failed = len([status for status in outcomes[0] if status != 200])
    assert 4 <= failed <= 20
    assert {429, 500} <= set(outcomes[0])


def test_an_unknown_fault_is_refused(start: Start) -> None:
    """A script with a kind that does not exist is a 400 and changes nothing."""
    shop = start()
    body = json.dumps([{"fault": {"kind": "earthquake"}}]).encode()
    assert shop.ask("/__faults", method="POST", body=body).status == 400
    assert shop.ask("/__faults", method="POST", body=b"[]").status == 400
    assert shop.admin("GET", "/__faults")["rules"] == []
