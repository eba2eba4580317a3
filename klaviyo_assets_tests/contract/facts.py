"""Klaviyo's published facts, as far as our requests and columns rest on them."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

FACTS_PATH = Path(__file__).with_name("facts.toml")


def empty_mapping() -> Mapping[str, Any]:
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
    attributes: Mapping[str, str] = field(default_factory=empty_mapping)
    page_size: int | None = None
    is_filter_required: bool = False
    sort: list[str] = field(default_factory=list[str])
    include: list[str] = field(default_factory=list[str])
    filters: Mapping[str, list[str]] = field(default_factory=empty_mapping)
    choices: Mapping[str, list[str]] = field(default_factory=empty_mapping)
    additional_fields: Mapping[str, list[str]] = field(default_factory=empty_mapping)
    lowered: Mapping[str, list[int]] = field(default_factory=empty_mapping)
    relationships: Mapping[str, str] = field(default_factory=empty_mapping)
    included: Mapping[str, Mapping[str, str]] = field(default_factory=empty_mapping)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOperation:
    """One POST operation that computes a report.

    `daily` is requests a day, `parameters` those of the query, `attributes` what the body takes.
    `contains_any` are the fields that a filter compares with a list of up to `most_items` values;
    `most_days` maps an interval, or `any`, to the longest time frame.
    """

    path: str
    section: str
    type: str
    burst: int
    steady: int
    daily: int
    scopes: list[str]
    parameters: list[str]
    attributes: list[str]
    statistics: list[str]
    group_by: list[str]
    group_by_default: list[str]
    group_by_required: list[str]
    contains_any: list[str]
    most_items: int
    most_days: Mapping[str, int]


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


FACTS_DOCUMENT = tomllib.loads(FACTS_PATH.read_text(encoding="utf-8"))

REVISION: str = FACTS_DOCUMENT["revision"]
"""The revision that the facts were published for."""

OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {path: Operation(path=path, **facts) for path, facts in FACTS_DOCUMENT["operations"].items()}
)
"""The GET operations by path."""

REPORTS: Mapping[str, ReportOperation] = MappingProxyType(
    {path: ReportOperation(path=path, **facts) for path, facts in FACTS_DOCUMENT["reports"].items()}
)
"""The report operations by path."""
