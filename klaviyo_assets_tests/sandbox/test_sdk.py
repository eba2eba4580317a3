"""Klaviyo's own SDK reads the sandbox, every stream to its last page.

Its answers pass through the SDK's own models, so that these check every field of them.
"""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from klaviyo_api import KlaviyoAPI  # pyright: ignore[reportMissingTypeStubs]

from klaviyo_assets.sandbox.facts.reporting import REPORT_FACTS
from klaviyo_assets_tests.sandbox.sandbox_client import SandboxClient

Call = Callable[..., Any]
PAGED: dict[str, tuple[str, str, dict[str, object]]] = {
    "profiles": ("Profiles", "get_profiles", {"page_size": 100, "sort": "updated"}),
    "events": ("Events", "get_events", {"page_size": 500, "sort": "datetime"}),
    "metrics": ("Metrics", "get_metrics", {}),
    "lists": ("Lists", "get_lists", {"page_size": 5}),
    "segments": ("Segments", "get_segments", {"page_size": 4}),
    "templates": ("Templates", "get_templates", {"page_size": 5}),
    "tags": ("Tags", "get_tags", {"page_size": 5}),
}
WHOLE = {
    "accounts": ("Accounts", "get_accounts"),
    "custom-metrics": ("Metrics", "get_custom_metrics"),
    "mapped-metrics": ("Metrics", "get_mapped_metrics"),
}


@pytest.fixture(scope="module")
def sdk(client: SandboxClient) -> KlaviyoAPI:
    """The official SDK, pointed at the sandbox."""
    return KlaviyoAPI(client.sandbox.key, max_retries=1, test_host=client.url)


def method(sdk: KlaviyoAPI, section: str, name: str) -> Call:
    """A method of the SDK that gives plain objects; its own models have checked the answer then."""
    call: Call = getattr(getattr(sdk, section), name)
    return lambda *given, **options: call(*given, **options).to_dict()


def pages(call: Call, *given: object, **options: object) -> Iterator[dict[str, Any]]:
    """All documents of a paged method."""
    cursor: str | None = None
    while True:
        if cursor is not None:
            options["page_cursor"] = cursor
        document = call(*given, **options)
        yield document
        following: str | None = document["links"].get("next")
        if not following:
            return
        cursor = parse_qs(urlsplit(following).query)["page[cursor]"][0]


def ids(documents: Iterator[dict[str, Any]]) -> list[str]:
    """The ids of all records."""
    return [record["id"] for document in documents for record in document["data"]]


@pytest.mark.parametrize("stream", sorted(PAGED))
def test_the_sdk_reads_a_paged_stream_whole(
    sdk: KlaviyoAPI, client: SandboxClient, stream: str
) -> None:
    """Page by page the SDK sees each living record once."""
    section, name, options = PAGED[stream]
    found = ids(pages(method(sdk, section, name), **options))
    assert len(found) == len(set(found))
    assert set(found) == set(client.read_truth(stream))


@pytest.mark.parametrize("stream", sorted(WHOLE))
def test_the_sdk_reads_an_unpaged_stream_whole(
    sdk: KlaviyoAPI, client: SandboxClient, stream: str
) -> None:
    """Streams without pages come whole in one answer."""
    found = ids(iter([method(sdk, *WHOLE[stream])()]))
    assert set(found) == set(client.read_truth(stream))


def test_the_sdk_reads_campaigns_with_their_messages(
    sdk: KlaviyoAPI, client: SandboxClient
) -> None:
    """All slices of campaigns with messages and tags included, and each campaign's messages."""
    call = method(sdk, "Campaigns", "get_campaigns")
    found: list[str] = []
    for channel in ("email", "sms", "mobile_push"):
        for archived in ("false", "true"):
            filter_ = f"and(equals(messages.channel,'{channel}'),equals(archived,{archived}))"
            found += ids(pages(call, filter_, include=["campaign-messages", "tags"], page_size=7))
    assert sorted(found) == sorted(client.read_truth("campaigns"))
    messages = method(sdk, "Campaigns", "get_messages_for_campaign")
    several = [ids(iter([messages(each, include=["template"])])) for each in found[:25]]
    assert max(len(each) for each in several) == 2


def test_the_sdk_reads_flows_of_both_states(sdk: KlaviyoAPI, client: SandboxClient) -> None:
    """Living and archived flows are all flows."""
    call = method(sdk, "Flows", "get_flows")
    found: list[str] = []
    for archived in ("false", "true"):
        found += ids(pages(call, filter=f"equals(archived,{archived})", page_size=5))
    assert sorted(found) == sorted(client.read_truth("flows"))


def test_the_sdk_reads_members_and_counts(sdk: KlaviyoAPI, client: SandboxClient) -> None:
    """Members of lists and segments, and the profile count of a list."""
    for section, kind in (("Lists", "list"), ("Segments", "segment")):
        group = ids(iter([method(sdk, section, f"get_{kind}s")()]))[0]
        members = ids(pages(method(sdk, section, f"get_profiles_for_{kind}"), group, page_size=10))
        assert set(members) == set(client.read_truth(f"{kind}s/{group}/profiles"))
        extra = {f"additional_fields_{kind}": ["profile_count"]}
        detail = method(sdk, section, f"get_{kind}")(group, **extra)
        assert detail["data"]["attributes"]["profile_count"] == len(members)


def test_the_sdk_reads_recipient_estimates(sdk: KlaviyoAPI, client: SandboxClient) -> None:
    """The estimate of a campaign is a number."""
    one = next(iter(client.read_truth("campaign-recipient-estimations")))
    document = method(sdk, "Campaigns", "get_campaign_recipient_estimation")(one)
    assert document["data"]["attributes"]["estimated_recipient_count"] >= 0


@pytest.mark.parametrize("kind", sorted(REPORT_FACTS))
def test_the_sdk_reads_every_report(sdk: KlaviyoAPI, client: SandboxClient, kind: str) -> None:
    """Each report passes the models of the SDK, its request and its answer."""
    facts = REPORT_FACTS[kind]
    asked: dict[str, object] = {
        "statistics": list(facts.statistics),
        "timeframe": {"start": "2026-10-01T00:00:00", "end": "2026-10-31T23:59:59"},
    }
    if facts.has_conversion_metric:
        asked["conversion_metric_id"] = client.sandbox.store.metrics.id_of(5)
    if facts.is_series:
        asked["interval"] = "daily"
    call = method(sdk, "Reporting", f"query_{kind.removesuffix('-report').replace('-', '_')}")
    document = call({"data": {"type": kind, "attributes": asked}})
    results = document["data"]["attributes"]["results"]
    assert len(results) > 1
    for row in results:
        assert set(row["groupings"]) == set(facts.default_groupings)
        assert set(row["statistics"]) == set(facts.statistics)
