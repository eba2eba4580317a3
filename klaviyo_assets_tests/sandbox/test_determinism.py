"""The same seed is the same account, byte for byte; and fast pages say what slow ones say."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.sandbox.account.events import DailyTimeline
from klaviyo_assets.sandbox.account.seeds import (
    EVENT_ID_SPACE,
    event_id,
    event_ordinal,
    ulid,
    ulid_ordinal,
)
from klaviyo_assets.sandbox.http_messages import HttpRequest
from klaviyo_assets.sandbox.json_types import JsonObject
from klaviyo_assets.sandbox.service import SandboxService
from klaviyo_assets_tests.sandbox.conftest import build_account
from klaviyo_assets_tests.sandbox.sandbox_client import Document, SandboxClient

TARGETS = (
    ("/api/accounts", ""),
    ("/api/events", "page[size]=1000&include=attributions,metric,profile"),
    ("/api/profiles", "page[size]=100&additional-fields[profile]=subscriptions"),
    ("/api/campaigns", "filter=equals(messages.channel,'email')&include=campaign-messages"),
    ("/api/templates", "additional-fields[template]=definition"),
    ("/api/lists", ""),
    ("/api/segments", ""),
    ("/api/flows", ""),
    ("/api/metrics", ""),
    ("/api/tags", ""),
)


def body(service: SandboxService, path: str, query: str) -> bytes:
    """The body of an answer without a socket."""
    request = HttpRequest(
        method="GET",
        path=path,
        query=query,
        headers={
            "authorization": f"Klaviyo-API-Key {service.config.keys[0].value}",
            "revision": "2026-07-15",
        },
        origin="http://sandbox",
    )
    return service.respond(request, service.open_journal_entry(request)).body


def test_one_seed_gives_one_shop() -> None:
    """Two sandboxes of one account return the same bytes for every collection."""
    one, two = SandboxService(build_account()), SandboxService(build_account())
    for path, query in TARGETS:
        assert body(one, path, query) == body(two, path, query)


def test_another_seed_gives_another_shop() -> None:
    """A sandbox with another seed has other ids in every collection."""
    one, two = SandboxService(build_account()), SandboxService(build_account(seed=2))
    for path, query in TARGETS:
        ids = [
            {each["id"] for each in json.loads(body(s, path, query))["data"]} for s in (one, two)
        ]
        assert not ids[0] & ids[1], path


def test_the_first_records_do_not_depend_on_the_history_read() -> None:
    """An event read alone is the event read in its page."""
    service = SandboxService(build_account())
    page = json.loads(body(service, "/api/events", "page[size]=50&sort=datetime"))
    for record in page["data"][::7]:
        alone = json.loads(body(service, f"/api/events/{record['id']}", ""))
        assert alone["data"] == record


@pytest.mark.parametrize("extra", ["", "subscriptions", "predictive_analytics"])
def test_fast_profiles_equal_slow_ones(client: SandboxClient, extra: str) -> None:
    """A page of profiles from ready pieces equals the page built field by field."""
    extra_query = f"&additional-fields[profile]={extra}" if extra else ""
    fast = client.get_document(f"/api/profiles?page[size]=50{extra_query}")["data"]
    slow = client.get_document(f"/api/profiles?page[size]=50{extra_query}&include=push-tokens")[
        "data"
    ]
    for each in slow:
        assert each["relationships"]["push-tokens"].pop("data") == []
    assert fast == slow


def test_sparse_fields_are_parts_of_the_whole(client: SandboxClient) -> None:
    """A sparse record holds just the named fields, with their values in the whole one."""
    whole = client.get_document("/api/profiles?page[size]=20")["data"]
    sparse = client.get_document("/api/profiles?page[size]=20&fields[profile]=email,location.city")[
        "data"
    ]
    for one, part in zip(whole, sparse, strict=True):
        attributes: Document = one["attributes"]
        wanted: JsonObject = {
            "email": attributes["email"],
            "location": {"city": attributes["location"]["city"]},
        }
        assert part["attributes"] == wanted
        assert "relationships" not in part
    events = client.get_document("/api/events?fields[event]=datetime,metric")["data"]
    assert set(events[0]["attributes"]) == {"datetime"}
    assert set(events[0]["relationships"]) == {"metric"}


@given(st.integers(0, 2**40), st.integers(0, 1000))
def test_event_ids_lead_back(ordinal: int, seed: int) -> None:
    """An event id gives back its ordinal and nothing else does."""
    record_id = event_id(seed, ordinal % EVENT_ID_SPACE).decode()
    assert len(record_id) == 11
    assert event_ordinal(seed, record_id) == ordinal


@given(st.integers(0, 2**31), st.integers(1_500_000_000, 2_000_000_000))
def test_profile_ids_lead_back(ordinal: int, seconds: int) -> None:
    """A profile id begins with 01 and gives back its ordinal."""
    record_id = ulid(7, ordinal, seconds)
    assert (len(record_id), record_id[:2]) == (26, "01")
    assert ulid_ordinal(record_id) == ordinal


@given(st.integers(1, 5_000), st.integers(1, 400), st.integers(0, 100))
def test_the_rhythm_never_goes_back(count: int, days: int, seed: int) -> None:
    """Event times never fall, stay within the history, and are found again by time."""
    base = 1_795_000_000
    rhythm = DailyTimeline(seed=seed, count=count, days=days, base=base, zone="America/New_York")
    step = max(1, count // 50)
    times = [rhythm.time_of(k) for k in range(0, count, step)]
    assert times == sorted(times)
    assert rhythm.start <= times[0]
    assert rhythm.time_of(count - 1) < base <= rhythm.time_of(count)
    for k in range(0, count, step):
        first = rhythm.first_at_or_after(rhythm.time_of(k))
        assert first <= k
        assert rhythm.time_of(first) == rhythm.time_of(k)
        assert first == 0 or rhythm.time_of(first - 1) < rhythm.time_of(k)
