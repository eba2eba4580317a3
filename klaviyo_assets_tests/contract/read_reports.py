"""Read the facts of a report operation; limits of days and lists stand in Klaviyo's prose alone."""

import re
from typing import Any

Node = dict[str, Any]

REPORT_PATHS = (
    "/api/campaign-values-reports",
    "/api/flow-series-reports",
    "/api/flow-values-reports",
    "/api/form-series-reports",
    "/api/form-values-reports",
    "/api/segment-series-reports",
    "/api/segment-values-reports",
)

DAYS_BY_PHRASE = {"7 days": 7, "52 weeks": 364, "60 days": 60, "1 year": 365}
"""Klaviyo's words for the longest time frame, in days."""


def report_operation_facts(operation: Node, kind: str, attributes: Node) -> Node:
    """Return the facts of one report operation, empty ones left out.

    `kind` is the JSON:API type of the body, `attributes` are the members that its attributes take.
    """
    limit: dict[str, str] = operation["x-klaviyo-ratelimit"]
    grouping, filtering = attributes.get("group_by"), attributes["filter"]["description"]
    found = {
        "section": operation["tags"][0],
        "type": kind,
        "burst": int(limit["burst"].removesuffix("/s")),
        "steady": int(limit["steady"].removesuffix("/m")),
        "daily": int(limit["daily"].removesuffix("/d")),
        "scopes": operation["x-klaviyo-scopes"],
        "parameters": [each["name"] for each in operation["parameters"] if each["in"] == "query"],
        "attributes": sorted(attributes),
        "statistics": attributes["statistics"]["items"]["enum"],
        **(grouping_facts(grouping) if grouping else {}),
        "contains_any": capture_names(
            r"^Scalar attributes \((.+)\): .*: equals, contains-any\.$", filtering
        )
        if "contains-any" in filtering
        else [],
        "most_items": int(
            capture_text(r"Max of (\d+) (?:items|messages) per (?:list|ANY) filter", filtering)
        ),
        "most_days": max_timeframe_days(attributes),
    }
    return {name: value for name, value in found.items() if value}


def grouping_facts(grouping: Node) -> Node:
    """Return what a request may be grouped by, is grouped by, and must be."""
    prose = grouping["description"]
    required = "are required: " in prose
    return {
        "group_by": grouping["items"]["enum"],
        "group_by_default": capture_names(r"will be grouped by (.+?)\.\n", prose),
        "group_by_required": capture_names(r"are required: ([\w, ]+)", prose) if required else [],
    }


def capture_text(pattern: str, prose: str) -> str:
    """Return what a pattern captures; prose that no longer says it is an error."""
    match = re.search(pattern, prose, flags=re.MULTILINE)
    assert match is not None, (pattern, prose)
    return match[1]


def capture_names(pattern: str, prose: str) -> list[str]:
    """Return the names that a pattern captures, sorted."""
    return sorted(capture_text(pattern, prose).split(", "))


def max_timeframe_days(attributes: Node) -> dict[str, int]:
    """Return the longest time frame in days: of each interval, and of all under `any`."""
    longest = {
        "any": DAYS_BY_PHRASE[
            capture_text(r"Max length: (.+?)\)", attributes["timeframe"]["description"])
        ]
    }
    prose = attributes.get("interval", {}).get("description", "")
    limits = re.findall(r"If (\w+) is used, the timeframe cannot be longer than (\d+ \w+)", prose)
    return longest | {interval: DAYS_BY_PHRASE[words] for interval, words in limits}
