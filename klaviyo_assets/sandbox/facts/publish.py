"""Writes `published.json`, the facts of all reading operations, from lists of Klaviyo's endpoints.

    python -m klaviyo_assets.sandbox.facts.publish REVISION=LIST.json [REVISION=LIST.json ...]

A list holds one object for each operation, as in `read_endpoints.py` of the tests. That of a later
revision holds only what is new or differs.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PUBLISHED_FILE = Path(__file__).with_name("published.json")

Node = dict[str, Any]

ROLES: Mapping[str, str] = {
    "list": "collection",
    "detail": "detail",
    "child_list": "children",
    "membership": "members",
    "relationship": "linkage",
    "related": "related",
}
"""The roles of the lists in the words of `schema.OperationRole`, reports left out."""

_KINDS = {"boolean": "boolean", "integer": "number", "number": "number"}


def parse_limit(text: str) -> int:
    """Return the number of `75/s` or `750/m`."""
    return int(text.partition("/")[0])


def parse_tier(limits: Mapping[str, Any]) -> list[int]:
    """Return requests a second and a minute."""
    return [parse_limit(limits["burst"]), parse_limit(limits["steady"])]


def filter_facts(entry: Node) -> Node:
    """Return each filterable field: its operators, and the kind and choice of its literals."""
    found: Node = {}
    for name, operators in entry["filters"].items():
        value = entry["filter_details"].get(name, {}).get("value", {})
        one: Node = {"operators": operators}
        if operators == ["has"]:
            one["kind"] = "presence"
        elif value.get("format") == "date-time" or name == "timestamp":
            one["kind"] = "time"
        elif value.get("type") in _KINDS:
            one["kind"] = _KINDS[value["type"]]
        if value.get("enum") and one.get("kind") is None:
            one["values"] = sorted(value["enum"])
        found[name] = one
    return found


def reduced_limits(entry: Node) -> Node:
    """Return the lower tier of each parameter value that has one."""
    found = {
        name if not name.startswith("include=") else f"{name}s": parse_tier(limits)
        for name, limits in entry["reduced_limits"].items()
    }
    for parameter, added in entry["additional_fields"].items():
        for value, limits in added["reduced_limits"].items():
            found[f"{parameter}={value}"] = parse_tier(limits)
    return found


def attribute_schema(node: Node) -> Node:
    """Return what a value of an attribute looks like: type, format, choice, members."""
    kept = ("name", "type", "format", "enum", "freeform")
    found = {name: node[name] for name in kept if node.get(name) not in (None, False)}
    if node.get("nullable") or not node.get("required", True):
        found["nullable"] = True
    if node.get("fields"):
        found["fields"] = [attribute_schema(each) for each in node["fields"]]
    if node.get("items"):
        found["items"] = attribute_schema(node["items"])
    return found


def operation_facts(entry: Node, field_sets: dict[str, list[str]]) -> Node:
    """Return the facts of one operation; its sparse fields go to `field_sets`."""
    found: Node = {
        "name": entry["operation_id"],
        "path": entry["path"],
        "role": ROLES[entry["role"]],
        "kind": entry["jsonapi_type"],
        "tier": parse_tier(entry),
        "scopes": entry["scopes"],
    }
    found |= {
        "page_size": [entry["page_size_default"], entry["page_size_max"]],
        "has_cursor": entry["paginated"],
        "filters": filter_facts(entry),
        "sorts": [each for each in entry["sorts"] if not each.startswith("-")],
        "includes": entry["includes"],
        "additional_fields": {
            each["resource"]: each["values"] for each in entry["additional_fields"].values()
        },
        "reduced_tiers": reduced_limits(entry),
        "fieldsets": {
            kind: name_field_set(kind, names, field_sets)
            for kind, names in entry["sparse_fieldsets"].items()
        },
    }
    return {name: each for name, each in found.items() if each not in ([], {}, False, [None, None])}


def name_field_set(kind: str, names: list[str], field_sets: dict[str, list[str]]) -> str:
    """Return the key of a set of field names, which is stored once."""
    for number in range(1, 100):
        key = kind if number == 1 else f"{kind} {number}"
        if field_sets.setdefault(key, sorted(names)) == sorted(names):
            return key
    raise ValueError(f"too many field sets of {kind}")


def kind_facts(entries: Iterable[Node]) -> Node:
    """Return the attributes and relationships of each type, by the fullest of its operations."""
    found: Node = {}
    for entry in entries:
        if entry["role"] in {"report", "relationship"}:
            continue
        one: Node = found.setdefault(entry["jsonapi_type"], {"attributes": [], "relationships": {}})
        attributes = [attribute_schema(each) for each in entry.get("attributes") or ()]
        one["attributes"] = max(one["attributes"], attributes, key=lambda each: len(str(each)))
        one["relationships"] |= {
            each["name"]: [each["type"], each["many"]] for each in entry["relationships"]
        }
    return found


def published_facts(lists: Mapping[str, list[Node]]) -> Node:
    """Return the facts of every revision, oldest first; later ones hold the differences."""
    field_sets: dict[str, list[str]] = {}
    revisions = {
        revision: {
            "operations": [
                operation_facts(entry, field_sets)
                for entry in sorted(entries, key=lambda each: each["path"])
                if entry["role"] in ROLES
            ],
            "kinds": kind_facts(entries),
        }
        for revision, entries in sorted(lists.items())
    }
    return {"field_sets": field_sets, "revisions": revisions}


def format_facts(facts: Node) -> str:
    """Return the facts as JSON with a line for each field set, operation and type."""
    dump = json.dumps
    sets = ",\n".join(f"{dump(key)}:{dump(names)}" for key, names in facts["field_sets"].items())
    revisions = ",\n".join(
        f"{dump(revision)}:{{\n"
        '"operations":[\n'
        + ",\n".join(dump(each) for each in one["operations"])
        + '],\n"kinds":{\n'
        + ",\n".join(f"{dump(kind)}:{dump(each)}" for kind, each in one["kinds"].items())
        + "}}"
        for revision, one in facts["revisions"].items()
    )
    return f'{{"field_sets":{{\n{sets}}},\n"revisions":{{\n{revisions}}}}}\n'


def main(words: list[str]) -> None:
    """Read the lists and write the file."""
    lists: dict[str, list[Node]] = {}
    for word in words:
        revision, _, name = word.partition("=")
        lists[revision] = json.loads(Path(name).read_text())
    PUBLISHED_FILE.write_text(format_facts(published_facts(lists)))


if __name__ == "__main__":
    main(sys.argv[1:])
