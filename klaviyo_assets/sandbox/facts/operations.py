"""The published facts of every reading operation, by revision; `publish.py` writes the file.

What the reference says in prose, and no list of endpoints has, is added here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from klaviyo_assets.sandbox.facts.publish import PUBLISHED_FILE
from klaviyo_assets.sandbox.facts.reporting import REPORTING_OPERATIONS
from klaviyo_assets.sandbox.facts.schema import (
    FilterableField,
    Operation,
    PageSizeLimits,
    PublishedTier,
)

JULY: Final = "2026-07-15"
OCTOBER: Final = "2026-10-15"

_PROSE: Final[Mapping[str, Mapping[str, Any]]] = {
    "get_events": {"default_sort": "-datetime"},
    "get_metrics": {"fixed_page_size": 200},
    "get_campaigns": {"past_bounds_only": True, "default_sort": "-created_at"},
    "get_flows": {"past_bounds_only": True, "sort_matches_filter": True},
    "get_profiles_for_list": {"default_sort": "-joined_group_at"},
    "get_profiles_for_segment": {"default_sort": "-joined_group_at"},
    "get_profile_ids_for_list": {"default_sort": "-joined_group_at", "role": "member_ids"},
    "get_profile_ids_for_segment": {"default_sort": "-joined_group_at", "role": "member_ids"},
    "get_coupon_codes": {"required_filters": ("coupon.id", "profile.id")},
}
"""Facts that only the reference's texts have, by operation."""

_PROSE_OF_REVISION: Final[Mapping[tuple[str, str], Mapping[str, Any]]] = {
    (JULY, "get_campaigns"): {"required_filters": ("messages.channel",)},
}
"""The same where one revision alone has them."""


@dataclass(frozen=True, slots=True)
class PublishedKind:
    """A JSON:API type: the schema of its attributes, and its relationships.

    A relationship is the type that it leads to, and whether it leads to many.
    """

    attributes: tuple[Mapping[str, Any], ...]
    relationships: Mapping[str, tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class PublishedRevision:
    """All that one revision offers: operations by path, and types by name."""

    name: str
    operations: Mapping[str, Operation]
    kinds: Mapping[str, PublishedKind]

    def kind_at(self, path: str) -> str | None:
        """Return the type of the records at the beginning of a path, as `/api/flows/{id}/tags`."""
        base = path.partition("/{")[0]
        return next(
            (
                each.kind
                for each in self.operations.values()
                if each.path.partition("/{")[0] == base and each.role in {"collection", "detail"}
            ),
            None,
        )


def _filterable(facts: Mapping[str, Any]) -> FilterableField:
    return FilterableField(
        tuple(facts["operators"]), facts.get("kind", "text"), tuple(facts.get("values", ()))
    )


def _operation(facts: Mapping[str, Any], field_sets: Mapping[str, frozenset[str]]) -> Operation:
    page = facts.get("page_size")
    return Operation(
        name=facts["name"],
        path=facts["path"],
        role=facts["role"],
        kind=facts["kind"],
        tier=PublishedTier(*facts["tier"]),
        scopes=tuple(facts["scopes"]),
        page_size=PageSizeLimits(*page) if page else None,
        has_cursor=facts.get("has_cursor", False),
        filters={name: _filterable(each) for name, each in facts.get("filters", {}).items()},
        sorts=tuple(facts.get("sorts", ())),
        includes=tuple(facts.get("includes", ())),
        additional_fields={
            kind: tuple(values) for kind, values in facts.get("additional_fields", {}).items()
        },
        reduced_tiers={
            parameter: PublishedTier(*tier)
            for parameter, tier in facts.get("reduced_tiers", {}).items()
        },
        fieldsets={kind: field_sets[key] for kind, key in facts.get("fieldsets", {}).items()},
    )


def _relationship_names(
    operation: Operation, kinds: Mapping[str, PublishedKind]
) -> Mapping[str, frozenset[str]]:
    return {
        kind: frozenset(kinds[kind].relationships) for kind in operation.fieldsets if kind in kinds
    }


def _kind(facts: Mapping[str, Any]) -> PublishedKind:
    return PublishedKind(
        tuple(facts["attributes"]),
        {name: (target, many) for name, (target, many) in facts["relationships"].items()},
    )


@cache
def load_revisions() -> Mapping[str, PublishedRevision]:
    """Return the facts of each revision; a later one has all of the one before, and its changes."""
    document = json.loads(PUBLISHED_FILE.read_text())
    field_sets = {key: frozenset(names) for key, names in document["field_sets"].items()}
    operations = {each.path: each for each in REPORTING_OPERATIONS}
    kinds: dict[str, PublishedKind] = {}
    found: dict[str, PublishedRevision] = {}
    for revision, facts in document["revisions"].items():
        for each in facts["operations"]:
            prose = {
                **_PROSE.get(each["name"], {}),
                **_PROSE_OF_REVISION.get((revision, each["name"]), {}),
            }
            operations[each["path"]] = replace(_operation(each, field_sets), **prose)
        kinds |= {name: _kind(each) for name, each in facts["kinds"].items()}
        whole = {
            path: replace(each, relationship_names=_relationship_names(each, kinds))
            for path, each in operations.items()
        }
        found[revision] = PublishedRevision(revision, whole, dict(kinds))
    return found


@cache
def additional_field_names() -> Mapping[str, frozenset[str]]:
    """Return the fields of each type that come only on request, of all revisions."""
    found: dict[str, frozenset[str]] = {}
    for revision in load_revisions().values():
        for operation in revision.operations.values():
            for kind, names in operation.additional_fields.items():
                found[kind] = found.get(kind, frozenset()) | frozenset(names)
    return found


@cache
def published_attribute_names(kind: str) -> frozenset[str]:
    """Return the names of all attributes that any operation of any revision publishes of a type."""
    return frozenset(
        each["name"]
        for revision in load_revisions().values()
        if kind in revision.kinds
        for each in revision.kinds[kind].attributes
    )


def facts_for(revision: str) -> PublishedRevision:
    """Return the facts that answer a requested revision: the newest not later than it."""
    known = load_revisions()
    return known[max((each for each in known if each <= revision[:10]), default=min(known))]
