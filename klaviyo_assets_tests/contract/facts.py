"""Klaviyo's published facts, as far as our requests and columns rest on them.

What belongs here: reading `facts.toml` into types. What does not: where the facts come from
(`read_facts.py`) and what is compared with them (the tests beside this file).
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

FACTS = Path(__file__).with_name("facts.toml")


def nothing() -> Mapping[str, Any]:
    """Return an empty mapping that nobody can fill."""
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One GET operation.

    `burst` is requests a second, `steady` a minute; `page_size` the maximum, None where the
    parameter is refused. `filters` maps a field to its operators, `choices` one to the only values
    it is compared with. `lowered` maps a parameter (`include=list`) to the burst and steady that
    using it leaves. `attributes` maps a dotted path to one of the words below, `relationships` a
    name to "one <type>" or "many <type>", `included` each type that `include` can bring to its own
    relationships.
    """

    path: str
    section: str
    type: str
    burst: int
    steady: int
    scopes: list[str]
    attributes: Mapping[str, str]
    page_size: int | None = None
    is_filter_required: bool = False
    sort: list[str] = field(default_factory=list[str])
    include: list[str] = field(default_factory=list[str])
    filters: Mapping[str, list[str]] = field(default_factory=nothing)
    choices: Mapping[str, list[str]] = field(default_factory=nothing)
    additional_fields: Mapping[str, list[str]] = field(default_factory=nothing)
    lowered: Mapping[str, list[int]] = field(default_factory=nothing)
    relationships: Mapping[str, str] = field(default_factory=nothing)
    included: Mapping[str, Mapping[str, str]] = field(default_factory=nothing)


ATTRIBUTE_WORDS = frozenset(
    {
        "text",
        "integer",
        "number",
        "boolean",
        "time",
        "date",
        "texts",
        "text or number",
        "object",
        "objects",
    }
)
"""What a value can be; `object` is free-form, `texts` and `objects` are arrays."""


def revision_and_operations(text: str) -> tuple[str, Mapping[str, Operation]]:
    """Return the revision that facts in TOML were published for, and the operations by path."""
    document = tomllib.loads(text)
    operations = {
        path: Operation(path=path, **facts) for path, facts in document["operations"].items()
    }
    return document["revision"], MappingProxyType(operations)


REVISION, OPERATIONS = revision_and_operations(FACTS.read_text(encoding="utf-8"))
