"""Read a list of Klaviyo's endpoints, in JSON, as the facts of `facts.toml`.

The list holds one object for each operation: method, path, limits, scopes, filters, sorts, the
attributes as a tree of named nodes, the relationships. It is an OpenAPI document cut down to what a
client needs, and can be written by hand for a revision whose document is not published yet.
`read_facts.py` reads the document itself, and has the command for both.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from klaviyo_assets_tests.contract.read_reports import report_operation_facts

Node = dict[str, Any]
Relations = Mapping[str, str]

SCALARS = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}
"""JSON's types in the words of `facts.py`; every other type is an object."""


@dataclass(frozen=True, slots=True)
class EndpointList:
    """The endpoints by method and path, and what is known of resources that none of them returns.

    `known` maps a JSON:API type to its relationships. Only resources that come with others
    (`include`) need it: an attribution has no endpoint of its own. `sections` are the headings of
    paths that are known already.
    """

    endpoints: Mapping[tuple[str, str], Node]
    known: Mapping[str, Relations]
    sections: Mapping[str, str]

    def included_facts(self, endpoint: Node) -> dict[str, Relations]:
        """Return the relationships of each type that `include` brings, by type."""
        types = {each["name"]: each["type"] for each in endpoint["relationships"]}
        offered = [types[name] for name in endpoint["includes"]]
        schemas = endpoint.get("included_schemas")
        if not schemas:
            return {kind: self.relations_of(kind, None) for kind in offered}
        by_schema = {schema: type_of_schema(schema, offered) for schema in schemas}
        return {kind: self.relations_of(kind, schema) for schema, kind in by_schema.items()}

    def relations_of(self, kind: str, schema: str | None) -> Relations:
        """Return the relationships of an included resource: by an endpoint, else what is known."""
        for endpoint in self.endpoints.values():
            named = endpoint.get("resource_schema")
            listed = endpoint["role"] == "list" and endpoint["jsonapi_type"] == kind
            if named == schema if schema else listed:
                return relationship_words(endpoint)
        return self.known[kind] if kind in self.known else self.relations_of_one(kind)

    def relations_of_one(self, kind: str) -> Relations:
        """Return the relationships of a type that is read by id alone."""
        return next(
            relationship_words(endpoint)
            for endpoint in self.endpoints.values()
            if endpoint["role"] == "detail" and endpoint["jsonapi_type"] == kind
        )


def endpoint_list(
    documents: Iterable[list[Node]],
    known: Mapping[str, Relations] | None = None,
    sections: Mapping[str, str] | None = None,
) -> EndpointList:
    """Return the endpoints of several lists; one of a later list replaces its namesake."""
    every = [endpoint for document in documents for endpoint in document]
    found = {(each["method"], each["path"]): each for each in every}
    return EndpointList(found, known or {}, sections or {})


def type_of_schema(schema: str, offered: list[str]) -> str:
    """Return the type that a schema is named for, "campaign-message" for `MessageResponse...`.

    Either may have words that the other lacks: before (`campaign-message`, `OmniCampaign...`) or
    behind (`FlowActionEncoded...`). The longest type that fits is meant.
    """
    words = re.sub(r"(?<!^)(?=[A-Z])", "-", schema.partition("Response")[0]).lower()
    if words in offered:
        return words
    fitting = [
        kind
        for kind in offered
        if words.startswith(kind) or kind.endswith(words) or words.endswith(kind)
    ]
    return max(fitting, key=len)


def endpoint_facts(endpoints: EndpointList, path: str) -> Node:
    """Return the facts of the GET operation at `path`, empty ones left out."""
    endpoint = endpoints.endpoints["GET", path]
    filters: Node = endpoint["filter_details"]
    added: Node = endpoint["additional_fields"]
    found = {
        "section": endpoints.sections.get(path, section_of(endpoint)),
        "burst": requests_of(endpoint["burst"]),
        "steady": requests_of(endpoint["steady"]),
        "scopes": endpoint["scopes"],
        "page_size": endpoint["page_size_max"],
        "is_filter_required": endpoint["filter_required"],
        "sort": [each for each in endpoint["sorts"] if each[0] != "-"],
        "include": endpoint["includes"],
        "filters": {
            name: sorted({word for words in each["operators_by_arity"].values() for word in words})
            for name, each in filters.items()
        },
        "choices": {
            name: each["value"]["enum"]
            for name, each in filters.items()
            if "enum" in each.get("value", {})
        },
        "additional_fields": {each["resource"]: each["values"] for each in added.values()},
        "lowered": {
            parameter: [requests_of(limit["burst"]), requests_of(limit["steady"])]
            for parameter, limit in endpoint["reduced_limits"].items()
        },
        "type": endpoint["jsonapi_type"],
        "attributes": dict(leaf_words(attributes_in_order(endpoint))),
        "relationships": relationship_words(endpoint),
        "included": endpoints.included_facts(endpoint),
    }
    return {name: value for name, value in found.items() if value}


def report_endpoint_facts(endpoints: EndpointList, path: str) -> Node:
    """Return the facts of the report operation at `path`.

    A report is cut to the form of Klaviyo's document, and read as the document is: the limits of
    days and lists stand in the same prose.
    """
    endpoint = endpoints.endpoints["POST", path]
    fields = [f"fields[{name}]" for name in endpoint["sparse_fieldsets"]]
    operation = {
        "tags": [section_of(endpoint)],
        "x-klaviyo-ratelimit": {name: endpoint[name] for name in ("burst", "steady", "daily")},
        "x-klaviyo-scopes": endpoint["scopes"],
        "parameters": [
            {"name": name, "in": "query"} for name in (*fields, endpoint["cursor_param"]) if name
        ],
    }
    request = endpoint["request"]
    attributes = {each["name"]: each for each in request["attributes"]}
    return report_operation_facts(operation, request["jsonapi_type"], attributes)


def section_of(endpoint: Node) -> str:
    """Return the heading of Klaviyo's reference: named as the scope, and one for all reports."""
    if endpoint["role"] == "report":
        return "Reporting"
    return str(endpoint["scopes"][0]).partition(":")[0].replace("-", " ").title()


def requests_of(limit: str) -> int:
    """Return the number of a limit such as "10/s"."""
    return int(limit.partition("/")[0])


def relationship_words(endpoint: Node) -> Relations:
    """Return each relationship of a resource as "one <type>" or "many <type>", sorted."""
    words = {
        each["name"]: f"{'many' if each['many'] else 'one'} {each['type']}"
        for each in endpoint["relationships"]
    }
    return dict(sorted(words.items()))


def attributes_in_order(endpoint: Node) -> list[Node]:
    """Return the attributes, those that must be requested first, as in Klaviyo's document."""
    added = {name for each in endpoint["additional_fields"].values() for name in each["values"]}
    attributes: list[Node] = endpoint["attributes"]
    return sorted(attributes, key=lambda each: each["name"] not in added)


def leaf_words(nodes: Iterable[Node], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each value's dotted path and word; variants that share a name are one value."""
    by_name: dict[str, list[Node]] = {}
    for node in nodes:
        by_name.setdefault(node["name"], []).append(node)
    for name, alike in by_name.items():
        here = f"{path}.{name}" if path else name
        below = [field for node in alike for field in fields_of(node)]
        if below:
            yield from leaf_words(below, here)
        else:
            words = {word for node in alike for word in value_words(node)}
            yield here, " or ".join(sorted(words, reverse=True))


def fields_of(node: Node) -> Iterator[Node]:
    """Yield the named fields of an object; those of all variants, where it has some."""
    yield from node.get("fields", ())
    for variant in node.get("variants", ()):
        yield from fields_of(variant)


def value_words(node: Node) -> set[str]:
    """Return what a value without fields can be, in the words of `facts.py`."""
    if "variants" in node:
        return {word for variant in node["variants"] for word in value_words(variant)}
    if node.get("format") == "date-time" or "ISO 8601" in node.get("description", ""):
        return {"time"}
    if node.get("format") == "date":
        return {"date"}
    if node["type"] == "array":
        return {"texts" if value_words(node["items"]) == {"text"} else "objects"}
    return {SCALARS.get(node["type"], "object")}


def all_endpoint_facts(
    endpoints: EndpointList, paths: Iterable[str], reports: Iterable[str], revision: str
) -> Node:
    """Return the facts of these GET operations and reports, as `read_facts.all_facts` does."""
    return {
        "revision": revision,
        "operations": {path: endpoint_facts(endpoints, path) for path in paths},
        "reports": {path: report_endpoint_facts(endpoints, path) for path in reports},
    }
