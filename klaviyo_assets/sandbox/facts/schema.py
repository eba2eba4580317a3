"""The types of the published facts: tiers, page sizes, filters, operations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

OperationRole = Literal[
    "collection", "detail", "children", "members", "member_ids", "linkage", "related", "report"
]
FilterKind = Literal["text", "time", "boolean", "number", "presence"]


@dataclass(frozen=True, slots=True)
class PublishedTier:
    """Requests allowed per second, per minute, and (reports) per day."""

    burst: int
    steady: int
    daily: int | None = None


PUBLISHED_XS: Final = PublishedTier(1, 15)
PUBLISHED_S: Final = PublishedTier(3, 60)
PUBLISHED_M: Final = PublishedTier(10, 150)
PUBLISHED_L: Final = PublishedTier(75, 750)
PUBLISHED_XL: Final = PublishedTier(350, 3500)
PUBLISHED_REPORT: Final = PublishedTier(1, 2, 225)


@dataclass(frozen=True, slots=True)
class PageSizeLimits:
    """Records in a page: by default, and at most."""

    default: int
    maximum: int


@dataclass(frozen=True, slots=True)
class FilterableField:
    """One filterable field: its operators, the kind of its literals, and its closed values."""

    operators: tuple[str, ...]
    kind: FilterKind = "text"
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One published operation.

    `page_size` is None where `page[size]` is not accepted; `has_cursor` says whether `page[cursor]`
    is. `fixed_page_size` is the page length of cursor-only operations. `reduced_tiers` names a
    parameter value and the lower tier that it is bound to. Without one of the
    `required_filters` the answer is 400. `relationship_names` are what `fieldsets` may name besides
    fields, by type.
    """

    name: str
    path: str
    role: OperationRole
    kind: str
    tier: PublishedTier
    scopes: tuple[str, ...]
    method: str = "GET"
    page_size: PageSizeLimits | None = None
    has_cursor: bool = False
    fixed_page_size: int | None = None
    filters: Mapping[str, FilterableField] = field(default_factory=dict[str, FilterableField])
    required_filters: tuple[str, ...] = ()
    past_bounds_only: bool = False
    sort_matches_filter: bool = False
    sorts: tuple[str, ...] = ()
    default_sort: str = "id"
    includes: tuple[str, ...] = ()
    additional_fields: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict[str, tuple[str, ...]]
    )
    reduced_tiers: Mapping[str, PublishedTier] = field(default_factory=dict[str, PublishedTier])
    fieldsets: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    relationship_names: Mapping[str, frozenset[str]] = field(
        default_factory=dict[str, frozenset[str]]
    )
