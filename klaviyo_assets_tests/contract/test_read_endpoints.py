"""A list of endpoints gives the facts that Klaviyo's document gives, and its place is an option."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from klaviyo_assets_tests.contract.facts import FACTS_PATHS, JULY, OCTOBER
from klaviyo_assets_tests.contract.read_facts import DOCUMENT, OCTOBER_ENDPOINTS, main

JULY_ENDPOINTS = DOCUMENT.with_name("endpoints.json")
"""Where a developer may have put a list of all endpoints: beside the document."""

CUT_SHORT = {"attributes", "included", "relationships"}
"""What a list may say less of than the document."""


def node(name: str, kind: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - pieces of JSON
    """Return one named value of a resource, as the lists of endpoints write it."""
    return {"name": name, "type": kind, "nullable": True, "required": False, **more}


def relation(name: str, kind: str, *, many: bool) -> dict[str, Any]:
    """Return one relationship, as the lists of endpoints write it."""
    return {"name": name, "many": many, "type": kind, "has_data": True, "nullable": False}


THINGS: dict[str, Any] = {
    "role": "list",
    "method": "GET",
    "path": "/api/things",
    "scopes": ["things:read"],
    "burst": "3/s",
    "steady": "60/m",
    "daily": None,
    "reduced_limits": {"include=owner": {"burst": "1/s", "steady": "15/m"}},
    "page_size_max": 7,
    "filter_required": True,
    "filter_details": {
        "since": {
            "operators_by_arity": {"single": ["less-than"], "list": ["any"]},
            "value": {"type": "string", "enum": ["then"]},
        },
        "owner": {"operators_by_arity": {"single": ["has"]}},
    },
    "sorts": ["since", "-since"],
    "includes": ["owner"],
    "included_schemas": ["OwnerEncodedResponseObjectResource"],
    "additional_fields": {
        "additional-fields[thing]": {"resource": "thing", "values": ["notes"], "reduced_limits": {}}
    },
    "jsonapi_type": "thing",
    "resource_schema": "ThingResponseObjectResource",
    "attributes": [
        node("place", "object", fields=[node("city", "string")]),
        node(
            "strategy",
            "union",
            variants=[
                {"type": "object", "fields": [node("method", "string")]},
                {
                    "type": "object",
                    "fields": [node("method", "string"), node("day", "string", format="date")],
                },
            ],
        ),
        node("latitude", "union", variants=[{"type": "string"}, {"type": "number"}]),
        node("since", "string", description="In ISO 8601 format"),
        node("at", "string", format="date-time"),
        node("tags", "array", items={"type": "string"}),
        node("parts", "array", items={"type": "object", "fields": [node("size", "integer")]}),
        node("notes", "object", freeform=True),
    ],
    "relationships": [
        relation("owner", "owner", many=False),
        relation("boxes", "box", many=True),
    ],
}

OWNERS: dict[str, Any] = {
    **THINGS,
    "path": "/api/owners",
    "scopes": ["owners:read"],
    "jsonapi_type": "owner",
    "resource_schema": "OwnerEncodedResponseObjectResource",
    "relationships": [relation("things", "thing", many=True)],
}

REPORT: dict[str, Any] = {
    "role": "report",
    "method": "POST",
    "path": "/api/thing-reports",
    "scopes": ["things:read"],
    "burst": "1/s",
    "steady": "2/m",
    "daily": "225/d",
    "sparse_fieldsets": {"thing-report": ["results"]},
    "cursor_param": "page_cursor",
    "jsonapi_type": "thing-report",
    "resource_schema": None,
    "request": {
        "jsonapi_type": "thing-report",
        "attributes": [
            node("statistics", "array", items={"type": "string", "enum": ["clicks", "opens"]}),
            node("timeframe", "union", description="Any time (Max length: 1 year). More."),
            node(
                "interval",
                "string",
                description="If hourly is used, the timeframe cannot be longer than 7 days.",
            ),
            node(
                "group_by",
                "array",
                items={"type": "string", "enum": ["thing_id", "color"]},
                description=(
                    "If not passed in, the data will be grouped by thing_id, color.\n"
                    "The following group by attributes are required: thing_id."
                ),
            ),
            node(
                "filter",
                "string",
                description=(
                    "Filter.\nScalar attributes (thing_id): Supported operators: equals, "
                    "contains-any.\nMax of 100 items per list filter."
                ),
            ),
        ],
    },
}

EXPECTED: dict[str, Any] = {
    "revision": "2000-01-01",
    "operations": {
        "/api/things": {
            "section": "Things",
            "burst": 3,
            "steady": 60,
            "scopes": ["things:read"],
            "page_size": 7,
            "is_filter_required": True,
            "sort": ["since"],
            "include": ["owner"],
            "type": "thing",
            "filters": {"since": ["any", "less-than"], "owner": ["has"]},
            "choices": {"since": ["then"]},
            "additional_fields": {"thing": ["notes"]},
            "lowered": {"include=owner": [1, 15]},
            "attributes": {
                "notes": "object",
                "place.city": "text",
                "strategy.method": "text",
                "strategy.day": "date",
                "latitude": "text or number",
                "since": "time",
                "at": "time",
                "tags": "texts",
                "parts": "objects",
            },
            "relationships": {"boxes": "many box", "owner": "one owner"},
            "included": {"owner": {"things": "many thing"}},
        }
    },
    "reports": {
        "/api/thing-reports": {
            "section": "Reporting",
            "type": "thing-report",
            "burst": 1,
            "steady": 2,
            "daily": 225,
            "scopes": ["things:read"],
            "parameters": ["fields[thing-report]", "page_cursor"],
            "attributes": ["filter", "group_by", "interval", "statistics", "timeframe"],
            "statistics": ["clicks", "opens"],
            "group_by": ["thing_id", "color"],
            "group_by_default": ["color", "thing_id"],
            "group_by_required": ["thing_id"],
            "contains_any": ["thing_id"],
            "most_items": 100,
            "most_days": {"any": 365, "hourly": 7},
        }
    },
}


def facts_of(folder: Path, *lists: list[dict[str, Any]]) -> dict[str, Any]:
    """Run the command on lists of endpoints that lie in a folder; return what it wrote."""
    paths = [folder / f"endpoints-{number}.json" for number in range(len(lists))]
    for path, endpoints in zip(paths, lists, strict=True):
        path.write_text(json.dumps(endpoints), encoding="utf-8")
    written = folder / "facts.toml"
    places = ["--endpoints", *map(str, paths), "--output", str(written)]
    main([*places, "--revision", "2000-01-01"], ["/api/things"], ["/api/thing-reports"])
    return tomllib.loads(written.read_text(encoding="utf-8"))


def test_a_list_of_endpoints_gives_every_kind_of_fact(tmp_path: Path) -> None:
    """Limits, filters, variants, relations, included types and the prose of reports are read."""
    facts = facts_of(tmp_path, [THINGS, OWNERS, REPORT])
    assert facts == EXPECTED
    attributes = facts["operations"]["/api/things"]["attributes"]
    assert list(attributes) == list(EXPECTED["operations"]["/api/things"]["attributes"])


def test_a_later_list_replaces_what_an_earlier_one_says(tmp_path: Path) -> None:
    """A list of what a new revision changes is read on top of the list before."""
    newer = {**THINGS, "page_size_max": 9}
    facts = facts_of(tmp_path, [THINGS, OWNERS, REPORT], [newer])
    assert facts["operations"]["/api/things"]["page_size"] == 9
    assert facts["reports"] == EXPECTED["reports"]


def test_an_included_type_without_an_endpoint_keeps_what_is_known(tmp_path: Path) -> None:
    """An attribution has no endpoint of its own: its relationships stay those of facts.toml."""
    event = {
        **THINGS,
        "includes": ["attributions"],
        "included_schemas": ["AttributionResponseObjectResource"],
        "relationships": [relation("attributions", "attribution", many=True)],
    }
    included = facts_of(tmp_path, [event, REPORT])["operations"]["/api/things"]["included"]
    assert included["attribution"]["attributed-event"] == "one event"


def test_a_list_of_endpoints_must_name_its_revision(capsys: pytest.CaptureFixture[str]) -> None:
    """A list does not contain its revision, so the command requires it."""
    with pytest.raises(SystemExit):
        main(["--endpoints", "endpoints.json"])
    assert "--endpoints needs --revision" in capsys.readouterr().err


@pytest.mark.skipif(not OCTOBER_ENDPOINTS.exists(), reason="no list beside the checkout")
def test_the_list_of_october_gives_the_same_bytes(tmp_path: Path) -> None:
    """Reading the list of a later revision writes the very file that stands."""
    written = tmp_path / "facts.toml"
    places = ["--endpoints", str(OCTOBER_ENDPOINTS), "--output", str(written)]
    main([*places, "--revision", OCTOBER])
    assert written.read_bytes() == FACTS_PATHS[OCTOBER].read_bytes()


@pytest.mark.skipif(not JULY_ENDPOINTS.exists(), reason="no list beside the checkout")
def test_the_list_of_all_endpoints_says_what_the_document_says(tmp_path: Path) -> None:
    """Everything but the inside of some unions, which the list does not go into."""
    written = tmp_path / "facts.toml"
    main(["--endpoints", str(JULY_ENDPOINTS), "--revision", JULY, "--output", str(written)])
    found, wanted = (
        tomllib.loads(path.read_text(encoding="utf-8")) for path in (written, FACTS_PATHS[JULY])
    )
    assert found["reports"] == wanted["reports"]
    assert list(found["operations"]) == list(wanted["operations"])
    for path, facts in wanted["operations"].items():
        listed = found["operations"][path]
        assert {name: listed[name] for name in listed if name not in CUT_SHORT} == {
            name: facts[name] for name in facts if name not in CUT_SHORT
        }
