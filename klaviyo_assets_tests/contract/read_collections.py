"""Write `collections.toml`: what Klaviyo's API lets a key read whole, and at which revisions.

    python -m klaviyo_assets_tests.contract.read_collections \
        2026-07-15=openapi-2026-07-15.json 2026-10-15=endpoints-2026-10-15.json

Each argument is a revision and a file, the oldest revision first. An OpenAPI document says all that
a revision offers. A list of endpoints, as `read_endpoints.py` reads it, adds to what the revision
before it offered. Neither is part of this repository.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from klaviyo_assets_tests.contract.read_facts import read_json, toml_lines

Node = dict[str, Any]

COLLECTIONS_PATH = Path(__file__).with_name("collections.toml")

HEAD = "# Klaviyo's collections and reading POSTs, by path. Written by read_collections.py."


def openapi_operations(document: Node) -> Iterator[tuple[str, str, list[str]]]:
    """Yield method, path and scopes of each operation of an OpenAPI document."""
    for path, methods in document["paths"].items():
        for method in methods.keys() & {"get", "post"}:
            yield method.upper(), path, methods[method].get("x-klaviyo-scopes", [])


def listed_operations(endpoints: Sequence[Node]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield method, path and scopes of each operation of a list of endpoints."""
    for each in endpoints:
        yield each["method"], each["path"], each["scopes"]


def readable_paths(source: Node | list[Node]) -> dict[str, set[str]]:
    """Return the paths that a key can read whole: `collections` by GET, `posts` by POST.

    A collection is one word below `/api`. A POST reads if it needs scopes, and all of them end in
    `:read`.
    """
    operations = (
        openapi_operations(source) if isinstance(source, dict) else listed_operations(source)
    )
    found: dict[str, set[str]] = {"collections": set(), "posts": set()}
    for method, path, scopes in operations:
        is_top_level = path.startswith("/api/") and path.count("/") == 2
        is_reading = bool(scopes) and all(scope.endswith(":read") for scope in scopes)
        if is_top_level and is_reading:
            found["collections" if method == "GET" else "posts"].add(path)
    return found


def collection_facts(sources: Sequence[tuple[str, Node | list[Node]]]) -> Node:
    """Return the content of `collections.toml`: the revisions of each path, by kind and path."""
    offered: dict[str, dict[str, set[str]]] = {}
    before: dict[str, set[str]] = {"collections": set(), "posts": set()}
    for revision, source in sources:
        found = readable_paths(source)
        is_whole = isinstance(source, dict)
        before = found if is_whole else {kind: found[kind] | before[kind] for kind in found}
        offered[revision] = before
    facts: Node = {"revisions": list(offered)}
    for kind in before:
        paths: set[str] = {path for each in offered.values() for path in each[kind]}
        facts[kind] = {
            path: [revision for revision in offered if path in offered[revision][kind]]
            for path in sorted(paths)
        }
    return facts


def collections_text(sources: Sequence[tuple[str, Node | list[Node]]]) -> str:
    """Return the text of `collections.toml`."""
    return "\n".join([HEAD, *toml_lines(collection_facts(sources)), ""])


def main(arguments: Sequence[str]) -> None:
    """Write the file anew, from the sources that the command line names."""
    named = [each.partition("=") for each in arguments]
    sources = [(revision, read_json(Path(file))) for revision, _, file in named]
    COLLECTIONS_PATH.write_text(collections_text(sources), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
