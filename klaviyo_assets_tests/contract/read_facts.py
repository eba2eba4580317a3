"""Write the facts of a revision anew, from Klaviyo's OpenAPI document or from a list of endpoints.

    python -m klaviyo_assets_tests.contract.read_facts --openapi FILE
    python -m klaviyo_assets_tests.contract.read_facts --endpoints FILE... --revision 2026-10-15

Each revision has a file of its own; `--output` writes elsewhere. The file of a later revision has
only the operations that its list names; the others are as before. Neither source is part of this
repository. What `--endpoints` does not say about sections and included resources is kept from the
`facts.toml` that stands.
Source: https://github.com/klaviyo/openapi, stable, revision 2026-07-15.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from klaviyo_assets.model.stream import Children, Collection, Detail
from klaviyo_assets.streams import COLLECTIONS
from klaviyo_assets_tests.contract.facts import FACTS_PATHS, JULY, OCTOBER, OPERATIONS
from klaviyo_assets_tests.contract.read_endpoints import SCALARS, all_endpoint_facts, endpoint_list
from klaviyo_assets_tests.contract.read_reports import REPORT_PATHS, report_operation_facts

Node = dict[str, Any]

DOCUMENT = Path(__file__).parents[2].parent / "shared" / "klaviyo" / "openapi-2026-07-15.json"
"""Where a developer may have put the document: beside the checkout."""

OCTOBER_ENDPOINTS = DOCUMENT.with_name("endpoints-2026-10-15.json")
"""A list of the endpoints that October adds or changes, in the same place."""


def paths_read(revision: str) -> tuple[str, ...]:
    """Return the paths that our streams read at a revision, sorted."""
    return tuple(
        sorted(
            {
                stream.source.path
                for stream in COLLECTIONS
                if isinstance(stream.source, Collection | Detail | Children)
                and stream.is_offered_at(revision)
            }
        )
    )


LOWERED_LIMIT_PATTERN = re.compile(
    r"Rate limits when using the `(.+?)` parameter in your API request:"
    r"<br>Burst: `(\d+)/s`<br>Steady: `(\d+)/m`"
)
"""The limit of a parameter stands in the prose alone."""


class OpenApiDocument:
    """The OpenAPI document, read node by node with its references followed."""

    def __init__(self, root: Node) -> None:
        self.root = root

    def resolve_reference(self, node: Node) -> Node:
        """Return the node that a reference points to, with what stands beside the reference."""
        while "$ref" in node:
            target: Node = self.root
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            node = target | {name: value for name, value in node.items() if name != "$ref"}
        return node

    def properties_of(self, node: Node) -> Node:
        """Return the properties of an object by name; those of all variants, where it has some."""
        node = self.resolve_reference(node)
        found: Node = dict(node.get("properties", {}))
        for part in (*node.get("allOf", ()), *node.get("oneOf", ())):
            for name, value in self.properties_of(part).items():
                both = [each for each in (found.get(name), value) if each is not None]
                found[name] = both[0] if len(both) == 1 else {"allOf": both}
        return found

    def value_word(self, node: Node) -> str:
        """Return what a value without properties is, in the words of `facts.py`."""
        node = self.resolve_reference(node)
        variants = [
            self.value_word(each) for each in (*node.get("oneOf", ()), *node.get("allOf", ()))
        ]
        if variants:
            return " or ".join(sorted(set(variants), reverse=True))
        if node.get("format") == "date-time" or "ISO 8601" in node.get("description", ""):
            return "time"
        if node.get("format") == "date":
            return "date"
        if node.get("type") == "array":
            return "texts" if self.value_word(node["items"]) == "text" else "objects"
        return SCALARS.get(node.get("type", ""), "object")

    def leaf_values(self, node: Node, path: str = "") -> Iterator[tuple[str, str]]:
        """Yield each value's dotted path and word, in the document's order."""
        for name, value in self.properties_of(node).items():
            below = f"{path}.{name}" if path else name
            if self.properties_of(value):
                yield from self.leaf_values(value, below)
            else:
                yield below, self.value_word(value)

    def relationships(self, resource: Node) -> Mapping[str, str]:
        """Return each relationship of a resource as "one <type>" or "many <type>"."""
        found = self.properties_of(self.properties_of(resource).get("relationships", {}))
        return dict(sorted((name, self.relationship_word(node)) for name, node in found.items()))

    def relationship_word(self, node: Node) -> str:
        """Return "one <type>" or "many <type>" for one relationship."""
        data = self.resolve_reference(self.properties_of(node)["data"])
        many = data.get("type") == "array"
        return f"{'many' if many else 'one'} {self.resource_type(data['items'] if many else data)}"

    def resource_type(self, resource: Node) -> str:
        """Return the JSON:API type of a resource or of its identifier."""
        node = self.properties_of(resource)["type"]
        return next(self.enum_values(node))

    def enum_values(self, node: Node) -> Iterator[str]:
        """Yield the values that an enumeration allows, wherever it is nested."""
        node = self.resolve_reference(node)
        yield from node.get("enum", ())
        for part in node.get("allOf", ()):
            yield from self.enum_values(part)


def operation_facts(document: OpenApiDocument, path: str) -> Node:
    """Return the facts of the GET operation at `path`, empty ones left out."""
    operation = document.root["paths"][path]["get"]
    parameters: Node = {each["name"]: each for each in operation["parameters"]}
    filters: Node = operation.get("x-klaviyo-filters", {})
    limit = operation["x-klaviyo-ratelimit"]
    found = {
        "section": operation["tags"][0],
        "burst": int(limit["burst"].removesuffix("/s")),
        "steady": int(limit["steady"].removesuffix("/m")),
        "scopes": operation["x-klaviyo-scopes"],
        "page_size": parameters.get("page[size]", {}).get("schema", {}).get("maximum"),
        "is_filter_required": parameters.get("filter", {}).get("required", False),
        "sort": offered_values(parameters.get("sort")),
        "include": offered_values(parameters.get("include")),
        "filters": {name: filter_operators(each) for name, each in filters.items()},
        "choices": {
            name: each["value"]["enum"]
            for name, each in filters.items()
            if "enum" in each.get("value", {})
        },
        "additional_fields": {
            name.removeprefix("additional-fields[").removesuffix("]"): offered_values(each)
            for name, each in parameters.items()
            if name.startswith("additional-fields[")
        },
        "lowered": {
            name: [int(burst), int(steady)]
            for name, burst, steady in LOWERED_LIMIT_PATTERN.findall(operation["description"])
        },
        **response_facts(document, operation),
    }
    return {name: value for name, value in found.items() if value}


def response_facts(document: OpenApiDocument, operation: Node) -> Node:
    """Return what an operation answers with: type, attributes, relationships, included."""
    [content] = operation["responses"]["200"]["content"].values()
    body = document.properties_of(content["schema"])
    resource = document.resolve_reference(body["data"])
    resource = resource.get("items", resource)
    included = document.resolve_reference(body.get("included", {})).get("items", {})
    return {
        "type": document.resource_type(resource),
        "attributes": dict(
            document.leaf_values(document.properties_of(resource).get("attributes", {}))
        ),
        "relationships": document.relationships(resource),
        "included": {
            document.resource_type(each): document.relationships(each)
            for each in included.get("oneOf", (included,) if included else ())
        },
    }


def report_facts(document: OpenApiDocument, path: str) -> Node:
    """Return the facts of the report operation at `path`."""
    operation = document.root["paths"][path]["post"]
    return report_operation_facts(operation, *body_attributes(document, operation))


def aggregate_facts(document: OpenApiDocument) -> Node:
    """Return the facts of the metric aggregates, which are of no report's form."""
    operation = document.root["paths"][AGGREGATES_PATH]["post"]
    kind, attributes = body_attributes(document, operation)
    limit: dict[str, str] = operation["x-klaviyo-ratelimit"]
    return {
        "section": operation["tags"][0],
        "type": kind,
        "burst": int(limit["burst"].removesuffix("/s")),
        "steady": int(limit["steady"].removesuffix("/m")),
        "scopes": operation["x-klaviyo-scopes"],
        "measurements": attributes["measurements"]["items"]["enum"],
        "dimensions": attributes["by"]["items"]["enum"],
        "page_size": attributes["page_size"]["default"],
    }


AGGREGATES_PATH = "/api/metric-aggregates"


def body_attributes(document: OpenApiDocument, operation: Node) -> tuple[str, Node]:
    """Return the type of an operation's body, and the attributes that it takes."""
    [content] = operation["requestBody"]["content"].values()
    body = document.properties_of(content["schema"])["data"]
    attributes = document.properties_of(document.properties_of(body)["attributes"])
    followed = {name: document.resolve_reference(node) for name, node in attributes.items()}
    return document.resource_type(body), followed


def offered_values(parameter: Node | None) -> list[str]:
    """Return the values that a query parameter offers; of sorts, the ascending ones."""
    schema: Node = parameter["schema"] if parameter else {}
    return [each for each in schema.get("items", schema).get("enum", ()) if each[0] != "-"]


def filter_operators(offered: Node) -> list[str]:
    """Return the operators that a filter field offers, sorted."""
    return sorted({operator for names in offered["operators"].values() for operator in names})


def all_facts(root: Node) -> Node:
    """Return the facts of every operation that we use, from the parsed OpenAPI document."""
    document = OpenApiDocument(root)
    return {
        "revision": root["info"]["version"],
        "operations": {path: operation_facts(document, path) for path in paths_read(JULY)},
        "reports": {path: report_facts(document, path) for path in REPORT_PATHS},
        "aggregates": aggregate_facts(document),
    }


def toml_lines(table: Mapping[str, Any], *names: str) -> Iterator[str]:
    """Yield a table as lines of TOML, its own values before the tables in it."""
    below: dict[str, Node] = {
        name: value for name, value in table.items() if isinstance(value, dict) and value
    }
    if names and len(below) < len(table):
        yield ""
        yield f"[{'.'.join(toml_key(name) for name in names)}]"
    for name, value in table.items():
        if name not in below:
            yield f"{toml_key(name)} = {json.dumps(value)}"
    for name, value in below.items():
        yield from toml_lines(value, *names, name)


def toml_key(key: str) -> str:
    """Return a key as TOML takes it, bare where it can be."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line; a list of endpoints must name its revision."""
    parser = argparse.ArgumentParser(description="Write facts.toml anew.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--openapi", type=Path, default=DOCUMENT, help="the OpenAPI document")
    source.add_argument(
        "--endpoints", type=Path, nargs="+", help="lists of endpoints; a later one replaces"
    )
    parser.add_argument("--revision", help="the revision that the lists of endpoints describe")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args(arguments)
    options.output = options.output or FACTS_PATHS.get(options.revision or JULY)
    if options.endpoints and not options.revision:
        parser.error("--endpoints needs --revision: the lists do not say which one they describe")
    if not options.output:
        parser.error(f"--revision {options.revision} has no file of its own: name one in --output")
    return options


def read_json(path: Path) -> Any:  # noqa: ANN401 - a JSON document
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def main(
    arguments: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    reports: Sequence[str] = REPORT_PATHS,
) -> None:
    """Write the facts of these operations, from the source that the command line names.

    An OpenAPI document is read for all operations that we use, whatever `paths` and `reports` say.
    """
    options = parse_arguments(arguments)
    if options.endpoints:
        known = {each.type: dict(each.relationships) for each in OPERATIONS.values()} | {
            kind: relations
            for operation in OPERATIONS.values()
            for kind, relations in operation.included.items()
        }
        documents = [read_json(path) for path in options.endpoints]
        sections = {path: each.section for path, each in OPERATIONS.items()}
        lists = endpoint_list(documents, known, sections)
        read = [path for path in paths or paths_ever_read() if ("GET", path) in lists.endpoints]
        reports = [path for path in reports if ("POST", path) in lists.endpoints]
        facts = all_endpoint_facts(lists, read, reports, options.revision)
    else:
        facts = all_facts(read_json(options.openapi))
    head = "# Klaviyo's published facts, for the operations we use. Written by read_facts.py."
    options.output.write_text("\n".join([head, *toml_lines(facts), ""]), encoding="utf-8")


def paths_ever_read() -> list[str]:
    """Return the paths that our streams read at any revision, sorted."""
    return sorted({path for revision in FACTS_PATHS for path in paths_read(revision)})


def write_all_facts() -> None:
    """Write the facts of every revision whose source lies beside the checkout."""
    if DOCUMENT.exists():
        main(["--openapi", str(DOCUMENT)])
    if OCTOBER_ENDPOINTS.exists():
        main(["--endpoints", str(OCTOBER_ENDPOINTS), "--revision", OCTOBER])


if __name__ == "__main__":
    main()
