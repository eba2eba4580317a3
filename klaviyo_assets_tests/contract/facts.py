"""Klaviyo's published facts, as far as our requests and columns rest on them."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

JULY, OCTOBER = "2026-07-15", "2026-10-15"

FACTS_PATHS: Mapping[str, Path] = MappingProxyType(
    {
        JULY: Path(__file__).with_name("facts.toml"),
        OCTOBER: Path(__file__).with_name("facts-2026-10-15.toml"),
    }
)
"""The facts of the oldest revision, and what each later one changes of those before."""


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
    attributes: list[str]
    statistics: list[str]
    most_items: int
    most_days: Mapping[str, int]
    parameters: list[str] = field(default_factory=list[str])
    group_by: list[str] = field(default_factory=list[str])
    group_by_default: list[str] = field(default_factory=list[str])
    group_by_required: list[str] = field(default_factory=list[str])
    contains_any: list[str] = field(default_factory=list[str])


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
        "text or integer",
        "object",
        "objects",
    }
)
"""What a value can be; `object` is free-form, `texts` and `objects` are arrays."""


@dataclass(frozen=True, slots=True)
class RevisionFacts:
    """The facts of one revision: its operations and its reports, by path."""

    operations: Mapping[str, Operation]
    reports: Mapping[str, ReportOperation]


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateOperation:
    """The POST operation that counts events: its limits, and what it counts and groups by."""

    section: str
    type: str
    burst: int
    steady: int
    scopes: list[str]
    measurements: list[str]
    dimensions: list[str]
    page_size: int


def load_facts(paths: Iterable[Path]) -> RevisionFacts:
    """Return the facts of several files; a later one replaces what an earlier one says."""
    operations: dict[str, Operation] = {}
    reports: dict[str, ReportOperation] = {}
    for each in paths:
        document = tomllib.loads(each.read_text(encoding="utf-8")) if each.exists() else {}
        for path, facts in document.get("operations", {}).items():
            operations[path] = Operation(path=path, **facts)
        for path, facts in document.get("reports", {}).items():
            reports[path] = ReportOperation(path=path, **facts)
    return RevisionFacts(MappingProxyType(operations), MappingProxyType(reports))


FACTS: Mapping[str, RevisionFacts] = MappingProxyType(
    {
        revision: load_facts(list(FACTS_PATHS.values())[: position + 1])
        for position, revision in enumerate(FACTS_PATHS)
    }
)
"""The facts by revision."""

AGGREGATES = AggregateOperation(
    **tomllib.loads(FACTS_PATHS[JULY].read_text(encoding="utf-8"))["aggregates"]
)
"""The metric aggregates, alike at every revision."""

OPERATIONS, REPORTS = FACTS[JULY].operations, FACTS[JULY].reports
"""The operations and the reports of the default revision."""
