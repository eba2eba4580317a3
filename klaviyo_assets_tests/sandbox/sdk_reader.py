"""Reads a sandbox by Klaviyo's own SDK, every stream to its last page; prints what came as JSON.

It is run as a script, with the SDK's release on the path and nothing of ours; on stdin are the
sandbox's URL and key, and what to ask for, as JSON. Answers pass through the SDK's own models, so
that these check every field of them.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from klaviyo_api import KlaviyoAPI  # pyright: ignore[reportMissingTypeStubs]

Call = Callable[..., Any]
Paged = dict[str, tuple[str, str, dict[str, object]]]

PAGED: Paged = {
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
OCTOBER_PAGED: Paged = {
    "campaign-messages": ("Campaigns", "get_campaign_messages", {"page_size": 40}),
}


def main() -> None:
    """Read everything, and print it."""
    wanted: dict[str, Any] = json.load(sys.stdin)
    sdk = KlaviyoAPI(wanted["key"], max_retries=1, test_host=wanted["url"])
    revision = str(vars(KlaviyoAPI)["_REVISION"])
    is_october = revision >= "2026-10-15"
    found: dict[str, Any] = {"revision": revision, "ids": {}}
    paged = {**PAGED, **(OCTOBER_PAGED if is_october else {})}
    for name, (section, call, options) in paged.items():
        found["ids"][name] = ids(pages(method(sdk, section, call), **options))
    for name, (section, call) in WHOLE.items():
        found["ids"][name] = ids([method(sdk, section, call)()])
    found["ids"]["flows"] = flow_ids(sdk)
    found["ids"]["campaigns"] = october_campaign_ids(sdk) if is_october else campaign_ids(sdk)
    messages = method(sdk, "Campaigns", "get_messages_for_campaign")
    found["messages"] = [len(ids([messages(each)])) for each in found["ids"]["campaigns"][:25]]
    found["members"] = {kind: members(sdk, kind) for kind in ("list", "segment")}
    estimate = method(sdk, "Campaigns", "get_campaign_recipient_estimation")(wanted["estimate"])
    found["estimate"] = estimate["data"]["attributes"]["estimated_recipient_count"]
    found["reports"] = {
        kind: method(sdk, "Reporting", name)(body)["data"]["attributes"]["results"]
        for kind, (name, body) in wanted["reports"].items()
    }
    json.dump(found, sys.stdout, default=str)


def method(sdk: KlaviyoAPI, section: str, name: str) -> Call:
    """Return a method of the SDK that gives plain objects."""
    call: Call = getattr(getattr(sdk, section), name)
    return lambda *given, **options: call(*given, **options).to_dict()


def pages(call: Call, *given: object, **options: object) -> Iterator[dict[str, Any]]:
    """Yield all documents of a paged method."""
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


def ids(documents: Iterable[dict[str, Any]]) -> list[str]:
    """Return the ids of all records."""
    return [record["id"] for document in documents for record in document["data"]]


def campaign_ids(sdk: KlaviyoAPI) -> list[str]:
    """Return the ids of all slices of campaigns, as July has them, with what they include."""
    call = method(sdk, "Campaigns", "get_campaigns")
    found: list[str] = []
    for channel in ("email", "sms", "mobile_push"):
        for archived in ("false", "true"):
            filter_ = f"and(equals(messages.channel,'{channel}'),equals(archived,{archived}))"
            found += ids(pages(call, filter_, include=["campaign-messages", "tags"], page_size=7))
    return found


def october_campaign_ids(sdk: KlaviyoAPI) -> list[str]:
    """Return the ids of living and of archived campaigns, as October has them."""
    call = method(sdk, "Campaigns", "get_campaigns")
    include = ["campaign-messages", "campaign-audiences", "tags"]
    return [
        each
        for archived in ("false", "true")
        for each in ids(
            pages(call, filter=f"equals(archived,{archived})", include=include, page_size=30)
        )
    ]


def flow_ids(sdk: KlaviyoAPI) -> list[str]:
    """Return the ids of living and of archived flows."""
    call = method(sdk, "Flows", "get_flows")
    found: list[str] = []
    for archived in ("false", "true"):
        found += ids(pages(call, filter=f"equals(archived,{archived})", page_size=5))
    return found


def members(sdk: KlaviyoAPI, kind: str) -> tuple[str, list[str], int]:
    """Return a group, its members, and how many the SDK says that there are."""
    section = f"{kind.title()}s"
    group = ids([method(sdk, section, f"get_{kind}s")()])[0]
    found = ids(pages(method(sdk, section, f"get_profiles_for_{kind}"), group, page_size=10))
    extra = {f"additional_fields_{kind}": ["profile_count"]}
    detail = method(sdk, section, f"get_{kind}")(group, **extra)
    return group, found, detail["data"]["attributes"]["profile_count"]


if __name__ == "__main__":
    main()
