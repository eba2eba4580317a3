"""Every collection can be read to its end, in every order, whatever happens in between."""

import base64
import json
from typing import Any

import pytest

from klaviyo_assets.sandbox.facts.operations import JULY, load_revisions
from klaviyo_assets.sandbox.facts.schema import Operation
from klaviyo_assets_tests.sandbox.conftest import StartSandbox
from klaviyo_assets_tests.sandbox.sandbox_client import Document, SandboxClient

WHOLE = (
    "accounts",
    "profiles",
    "events",
    "metrics",
    "custom-metrics",
    "mapped-metrics",
    "lists",
    "segments",
    "templates",
    "tags",
)
SORTED = [
    (operation, sign + name)
    for operation in load_revisions()[JULY].operations.values()
    if operation.role == "collection"
    for name in operation.sorts
    for sign in ("", "-")
]


@pytest.mark.parametrize("name", WHOLE)
def test_a_collection_read_by_next_links_is_whole(client: SandboxClient, name: str) -> None:
    """Following next links to the end shows each living record once."""
    ids = client.read_ids(f"/api/{name}")
    assert len(ids) == len(set(ids))
    assert set(ids) == set(client.read_truth(name))


def test_campaigns_are_whole_over_channels_and_archived_states(client: SandboxClient) -> None:
    """The six slices of channel and archived state hold each campaign once."""
    ids: list[str] = []
    for channel in ("email", "sms", "mobile_push"):
        for archived in ("true", "false"):
            query = f"equals(messages.channel,'{channel}'),equals(archived,{archived})"
            ids += client.read_ids(f"/api/campaigns?page[size]=3&filter={query}")
    assert len(ids) == len(set(ids))
    assert set(ids) == set(client.read_truth("campaigns"))


def test_flows_are_whole_over_archived_states(client: SandboxClient) -> None:
    """Archived flows come only on request, and both slices are all flows."""
    archived = client.read_ids("/api/flows?filter=equals(archived,true)&page[size]=1")
    living = client.read_ids("/api/flows?page[size]=5")
    assert archived
    assert sorted(archived + living) == sorted(client.read_truth("flows"))


@pytest.mark.parametrize(
    ("operation", "sort"), SORTED, ids=lambda value: getattr(value, "name", value)
)
def test_a_sort_orders_all_pages(client: SandboxClient, operation: Operation, sort: str) -> None:
    """Sorted pages together are in that order, nulls last, without a gap."""
    wanted = "&filter=equals(messages.channel,'email')" if operation.kind == "campaign" else ""
    extra = "&additional-fields[profile]=subscriptions" if operation.kind == "profile" else ""
    size = "" if operation.page_size is None else "&page[size]=7"
    size = "&page[size]=300" if operation.name == "get_events" else size
    records = client.read_records(f"{operation.path}?sort={sort}{size}{wanted}{extra}")
    found = client.read_ids(f"{operation.path}?{wanted}{size}")
    assert sorted(each["id"] for each in records) == sorted(found)
    name = sort.removeprefix("-")
    keys = [key_of(record, name) for record in records]
    known = [key for key in keys if key is not None]
    assert known == sorted(known, reverse=sort.startswith("-"))


def key_of(record: Document, name: str) -> str | None:
    """The value that a record is sorted by; the first of many."""
    value: Any = record if name == "id" else record["attributes"]
    for part in name.split("."):
        match value:
            case {**members}:
                value = members.get(part)
            case [{**members}, *_]:
                value = members.get(part)
            case _:
                value = None
    return value


def test_a_full_page_of_events_leads_to_an_empty_one(start_sandbox: StartSandbox) -> None:
    """When the last page is exactly full, its next link leads to an empty page without one."""
    client = start_sandbox(events=100)
    new_events = {"datetime": "2020-01-01T00:00:00Z", "count": 10}
    client.call_admin("POST", "/__events", {"events": [new_events]})
    query = "filter=less-than(datetime,2021-01-01T00:00:00Z)"
    pages = list(client.read_pages(f"/api/events?page[size]=5&sort=datetime&{query}"))
    assert [len(page["data"]) for page in pages] == [5, 5, 0]
    assert pages[-1]["links"]["next"] is None


def test_equal_times_across_a_page_border_lose_nothing(start_sandbox: StartSandbox) -> None:
    """Fifty events of one second, read seven at a time, come once each, both ways."""
    client = start_sandbox(events=40, future_events=0)
    new_events = {"datetime": "2026-11-01T00:00:00Z", "count": 50}
    written = client.call_admin("POST", "/__events", {"events": [new_events]})["ids"]
    for sort in ("datetime", "-datetime"):
        ids = client.read_ids(f"/api/events?page[size]=7&sort={sort}")
        assert len(ids) == len(set(ids))
        assert set(ids) == set(client.read_truth("events"))
        assert set(written) < set(ids)


def test_links_are_absolute_and_encoded(client: SandboxClient) -> None:
    """Next links carry the address the client used, with percent-encoded brackets."""
    answered = client.request("/api/profiles?page[size]=2&sort=updated", {"Host": "localhost:8765"})
    links = answered.json["links"]
    assert links["next"].startswith("http://localhost:8765/api/profiles?page%5Bsize%5D=2&sort=")
    assert "page%5Bcursor%5D=" in links["next"]
    assert "[" not in links["next"]
    assert not links["self"].partition("?")[0].endswith("/")
    assert answered.json["data"][0]["links"]["self"].endswith("/")


def test_cursors_are_keysets_in_base64(client: SandboxClient) -> None:
    """A cursor names the sort value and id of the last record shown."""
    page = client.get_document("/api/events?page[size]=2&sort=datetime")
    cursor = page["links"]["next"].partition("page%5Bcursor%5D=")[2].replace("%3D", "=")
    last = page["data"][-1]
    seconds, record_id, ascending, _ = json.loads(base64.b64decode(cursor.replace("%2B", "+")))
    assert (seconds, record_id, ascending) == (last["attributes"]["timestamp"], last["id"], True)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("/api/events?sort=datetime&page[size]=2", "/api/events?sort=-datetime&page[size]=2"),
        (
            "/api/events?sort=datetime&page[size]=2",
            "/api/events?sort=datetime&page[size]=2&filter=has(profile)",
        ),
        ("/api/profiles?sort=updated&page[size]=2", "/api/profiles?sort=created&page[size]=2"),
        ("/api/lists?page[size]=2", "/api/lists?page[size]=2&filter=equals(name,'x')"),
    ],
)
def test_a_cursor_of_another_order_is_refused(client: SandboxClient, first: str, then: str) -> None:
    """A cursor taken over to another sort or filter is a 400, in Klaviyo's words."""
    cursor = client.get_document(first)["links"]["next"].partition("page%5Bcursor%5D=")[2]
    answered = client.request(f"{then}&page%5Bcursor%5D={cursor}")
    assert (answered.status, answered.detail) == (400, "Invalid cursor provided.")
    assert answered.json["errors"][0]["source"] == {"pointer": "/data/"}


@pytest.mark.parametrize("path", ["events", "profiles", "lists"])
@pytest.mark.parametrize("cursor", ["nonsense", "bmV4dDo6", "W10=", "8J+YgA==", "bnVsbA=="])
def test_a_made_up_cursor_is_refused(client: SandboxClient, path: str, cursor: str) -> None:
    """Any text that is no cursor of ours is the same 400."""
    answered = client.request(f"/api/{path}?page[cursor]={cursor}")
    assert (answered.status, answered.detail) == (400, "Invalid cursor provided.")


def test_deletions_in_mid_walk_shift_nothing(start_sandbox: StartSandbox) -> None:
    """Deleting the last shown and the next record makes keyset paging skip no other."""
    client = start_sandbox(profiles=60)
    first = client.get_document("/api/profiles?sort=updated&page[size]=10")
    rest = client.read_ids("/api/profiles?sort=updated&page[size]=50")[10:]
    shown = [record["id"] for record in first["data"]]
    for gone in (shown[-1], rest[0]):
        client.call_admin("POST", "/__mutate", {"profile": gone, "delete": True})
    assert client.read_ids(first["links"]["next"]) == rest[1:]


def test_a_record_changed_in_mid_walk_comes_again(start_sandbox: StartSandbox) -> None:
    """A record changed while pages by `updated` are read moves to the end and comes twice."""
    client = start_sandbox(profiles=30)
    first = client.get_document("/api/profiles?sort=updated&page[size]=10")
    moved = first["data"][0]["id"]
    client.call_admin("POST", "/__mutate", {"profile": moved, "set": {"title": "moved"}})
    rest = client.read_ids(first["links"]["next"])
    assert rest[-1] == moved
    assert len(rest) == 21


@pytest.mark.parametrize("kind", ["list", "segment"])
def test_members_are_the_same_whole_and_as_ids(client: SandboxClient, kind: str) -> None:
    """Members read as profiles, as ids, and counted are the same people."""
    sizes: list[int] = []
    for group in client.read_ids(f"/api/{kind}s"):
        path = f"/api/{kind}s/{group}"
        whole = client.read_ids(f"{path}/profiles?page[size]=9&sort=joined_group_at")
        assert whole == client.read_ids(
            f"{path}/relationships/profiles?page[size]=13&sort=joined_group_at"
        )
        assert len(whole) == len(set(whole))
        detail = client.get_document(f"{path}?additional-fields[{kind}]=profile_count")
        assert detail["data"]["attributes"]["profile_count"] == len(whole)
        sizes.append(len(whole))
    assert 0 in sizes
    assert max(sizes) > 20


def test_an_empty_account_has_empty_collections(start_sandbox: StartSandbox) -> None:
    """Every collection of an empty account has no record and no next link."""
    numbers = dict.fromkeys(("events", "profiles", "lists", "segments", "campaigns"), 0)
    client = start_sandbox(**numbers, templates=0, flows=0, future_events=0)
    for name in ("events", "profiles", "lists", "segments", "flows", "templates"):
        document = client.get_document(f"/api/{name}?page[size]=1")
        assert (document["data"], document["links"]["next"]) == ([], None)
    assert client.read_ids("/api/campaigns?filter=equals(messages.channel,'sms')") == []
