"""The facts file says what Klaviyo's document says, and never contradicts itself."""

import json
import tomllib
from typing import Any

import pytest

from klaviyo_assets_tests.contract.facts import (
    ATTRIBUTE_WORDS,
    FACTS,
    FACTS_PATHS,
    JULY,
    Operation,
    ReportOperation,
)
from klaviyo_assets_tests.contract.read_facts import (
    DOCUMENT,
    OpenApiDocument,
    all_facts,
    operation_facts,
    paths_ever_read,
    paths_read,
    toml_lines,
)
from klaviyo_assets_tests.contract.read_reports import REPORT_PATHS

OPERATORS = {
    "any",
    "contains",
    "ends-with",
    "equals",
    "greater-or-equal",
    "greater-than",
    "has",
    "less-or-equal",
    "less-than",
    "starts-with",
}

ONLY_IDS = {"/api/webhook-topics"}
"""Operations whose records have no attributes."""

SORTS_OF_NO_ATTRIBUTE = {
    "/api/catalog-categories": {"created"},
    "/api/profile-suppression-bulk-create-jobs": {"created"},
    "/api/profile-suppression-bulk-delete-jobs": {"created"},
}
"""Sorts by what the records do not show, or show under another name."""

each_operation = pytest.mark.parametrize(
    "facts",
    [each for facts in FACTS.values() for each in facts.operations.values()],
    ids=[f"{path} {revision}" for revision, facts in FACTS.items() for path in facts.operations],
)
each_revision = pytest.mark.parametrize("revision", FACTS_PATHS)


@each_revision
def test_the_facts_are_the_documents(revision: str) -> None:
    """Where the document lies beside the checkout, reading it again gives this very file.

    Elsewhere the file must still be exactly what writing its own content gives: not edited by hand.
    """
    text = FACTS_PATHS[revision].read_text(encoding="utf-8")
    facts = tomllib.loads(text)
    assert facts["revision"] == revision
    if revision == JULY and DOCUMENT.exists():
        assert facts == all_facts(json.loads(DOCUMENT.read_text(encoding="utf-8")))
    assert text.splitlines()[1:] == list(toml_lines(facts))


@each_revision
def test_the_facts_cover_every_operation_of_a_revision(revision: str) -> None:
    """No operation is missing, and none is left over that no revision reads."""
    assert set(paths_read(revision)) <= set(FACTS[revision].operations) <= set(paths_ever_read())
    assert tuple(FACTS[revision].reports) == REPORT_PATHS


@each_operation
def test_limits_are_limits(facts: Operation) -> None:
    """A minute allows more than a second, and a lowered limit is lower, for an offered value."""
    assert 0 < facts.burst < facts.steady
    offered = {
        f"additional-fields[{resource}]={name}"
        for resource, names in facts.additional_fields.items()
        for name in names
    } | {f"include={name}" for name in facts.include}
    for parameter, (burst, steady) in facts.lowered.items():
        assert parameter in offered
        assert 0 < burst < facts.burst
        assert burst < steady < facts.steady


@pytest.mark.parametrize(
    "facts",
    [each for facts in FACTS.values() for each in facts.reports.values()],
    ids=[f"{path} {revision}" for revision, facts in FACTS.items() for path in facts.reports],
)
def test_a_reports_limits_are_limits(facts: ReportOperation) -> None:
    """A day allows more than a minute, one interval no more than the longest, and names agree."""
    assert 0 < facts.burst < facts.steady < facts.daily
    assert max(facts.most_days.values()) == facts.most_days["any"]
    assert set(facts.group_by_required) <= set(facts.group_by_default) <= set(facts.group_by)
    assert set(facts.contains_any) <= set(facts.group_by)


@each_operation
def test_attributes_are_of_known_words(facts: Operation) -> None:
    """Every attribute's type is a word that the tests know a column type for."""
    assert facts.attributes or facts.path in ONLY_IDS
    assert set(facts.attributes.values()) <= ATTRIBUTE_WORDS


@each_operation
def test_filters_and_sorts_are_of_known_fields(facts: Operation) -> None:
    """Operators are Klaviyo's, choices are of filtered fields, sorts of published fields."""
    paths = {"id", *facts.attributes, *facts.filters}
    assert {operator for each in facts.filters.values() for operator in each} <= OPERATORS
    assert set(facts.choices) <= set(facts.filters)
    assert set(facts.sort) - SORTS_OF_NO_ATTRIBUTE.get(facts.path, set()) <= paths


@each_operation
def test_includes_are_relationships(facts: Operation) -> None:
    """What can be included is a relationship, and the type it brings is described."""
    types = {name: relation.split(" ")[1] for name, relation in facts.relationships.items()}
    assert {types[name] for name in facts.include} == set(facts.included)


def schema(**properties: Any) -> dict[str, Any]:  # noqa: ANN401 - pieces of a JSON document
    """Return the schema of an object with these properties."""
    return {"type": "object", "properties": properties}


WHEN = {"type": "string", "format": "date-time"}

LITTLE = {
    "info": {"version": "2000-01-01"},
    "components": {
        "schemas": {
            "Place": schema(city={"type": "string"}),
            "Kind": {"type": "string", "enum": ["thing"]},
            "Now": schema(method={"type": "string"}),
            "Later": schema(method={"type": "string"}, at=WHEN),
            "Thing": schema(
                type={"$ref": "#/components/schemas/Kind"},
                attributes=schema(
                    place={"$ref": "#/components/schemas/Place", "nullable": True},
                    strategy={
                        "oneOf": [
                            {"$ref": "#/components/schemas/Now"},
                            {"$ref": "#/components/schemas/Later"},
                        ]
                    },
                    latitude={"oneOf": [{"type": "string"}, {"type": "number"}]},
                    since={"type": "string", "description": "In ISO 8601 format"},
                    tags={"type": "array", "items": {"type": "string"}},
                    parts={"type": "array", "items": schema(size={"type": "integer"})},
                    notes={"type": "object"},
                ),
                relationships=schema(
                    owner=schema(
                        data=schema(type={"$ref": "#/components/schemas/Kind"}),
                    ),
                ),
            ),
        }
    },
    "paths": {
        "/api/things": {
            "get": {
                "tags": ["Things"],
                "description": (
                    "Things.<br>Rate limits when using the `include=owner` parameter in your API "
                    "request:<br>Burst: `1/s`<br>Steady: `15/m`"
                ),
                "x-klaviyo-ratelimit": {"burst": "3/s", "steady": "60/m"},
                "x-klaviyo-scopes": ["things:read"],
                "x-klaviyo-filters": {
                    "since": {
                        "operators": {"single": ["less-than"], "list": ["any"]},
                        "value": {"type": "string", "enum": ["then"]},
                    },
                    "owner": {"operators": {"single": ["has"]}},
                },
                "parameters": [
                    {"name": "page[size]", "schema": {"type": "integer", "maximum": 7}},
                    {"name": "filter", "required": True, "schema": {"type": "string"}},
                    {"name": "sort", "schema": {"enum": ["since", "-since"]}},
                    {"name": "include", "schema": {"items": {"enum": ["owner"]}}},
                    {
                        "name": "additional-fields[thing]",
                        "schema": {"items": {"enum": ["notes"]}},
                    },
                ],
                "responses": {
                    "200": {
                        "content": {
                            "application/vnd.api+json": {
                                "schema": schema(
                                    data={
                                        "type": "array",
                                        "items": {"$ref": "#/components/schemas/Thing"},
                                    },
                                    included={
                                        "type": "array",
                                        "items": {"$ref": "#/components/schemas/Thing"},
                                    },
                                )
                            }
                        }
                    }
                },
            }
        }
    },
}


def test_the_reader_reads_every_kind_of_fact() -> None:
    """Limits, also those in prose, filters, variants, references and relations are all found."""
    assert operation_facts(OpenApiDocument(LITTLE), "/api/things") == {
        "section": "Things",
        "type": "thing",
        "burst": 3,
        "steady": 60,
        "scopes": ["things:read"],
        "page_size": 7,
        "is_filter_required": True,
        "sort": ["since"],
        "include": ["owner"],
        "filters": {"since": ["any", "less-than"], "owner": ["has"]},
        "choices": {"since": ["then"]},
        "additional_fields": {"thing": ["notes"]},
        "lowered": {"include=owner": [1, 15]},
        "attributes": {
            "place.city": "text",
            "strategy.method": "text",
            "strategy.at": "time",
            "latitude": "text or number",
            "since": "time",
            "tags": "texts",
            "parts": "objects",
            "notes": "object",
        },
        "relationships": {"owner": "one thing"},
        "included": {"thing": {"owner": "one thing"}},
    }


def test_toml_comes_back_as_it_was() -> None:
    """Names with dots, braces and quotes survive being written and read."""
    facts = {"a": 1, "t": {"/x/{id}": {"n": ["v"], 'say "y"': True, "d": {"k.k": [1, 2]}}}}
    assert tomllib.loads("\n".join(toml_lines(facts))) == facts
