"""The shape of one operation's facts: tiers, pages, filters, parameters.

Types and tiers only; the rows are beside this file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Role = Literal["collection", "detail", "children", "members", "member_ids", "linkage", "report"]
FilterKind = Literal["text", "time", "boolean", "number", "presence"]


@dataclass(frozen=True, slots=True)
class Tier:
    """Requests allowed per second, per minute, and (reports) per day."""

    burst: int
    steady: int
    daily: int | None = None


XS: Final = Tier(1, 15)
S: Final = Tier(3, 60)
M: Final = Tier(10, 150)
L: Final = Tier(75, 750)
XL: Final = Tier(350, 3500)
REPORT: Final = Tier(1, 2, 225)


@dataclass(frozen=True, slots=True)
class PageSize:
    """Records in a page when nothing is asked, and at most."""

    default: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Filter:
    """One filterable field: its operators, the kind of its literals, and its closed values."""

    operators: tuple[str, ...]
    kind: FilterKind = "text"
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One published operation.

    `page` is None where `page[size]` is not accepted; `cursor` says whether `page[cursor]` is.
    `fixed_page` is the page length of cursor-only operations. `reduced` names a parameter value and
    the lower tier that it is bound to. `required_filter` is a field without which the answer is
    400.
    """

    name: str
    path: str
    role: Role
    kind: str
    tier: Tier
    scopes: tuple[str, ...]
    method: str = "GET"
    page: PageSize | None = None
    cursor: bool = False
    fixed_page: int | None = None
    filters: Mapping[str, Filter] = field(default_factory=dict[str, Filter])
    required_filter: str | None = None
    past_bounds_only: bool = False
    sort_matches_filter: bool = False
    sorts: tuple[str, ...] = ()
    default_sort: str = "id"
    includes: tuple[str, ...] = ()
    additional: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    reduced: Mapping[str, Tier] = field(default_factory=dict[str, Tier])
    fields: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])


EQ: Final = "equals"
ANY: Final = "any"
GT: Final = "greater-than"
LT: Final = "less-than"
GE: Final = "greater-or-equal"
LE: Final = "less-or-equal"
CONTAINS: Final = "contains"
STARTS: Final = "starts-with"
ENDS: Final = "ends-with"
HAS: Final = "has"

BOUNDS: Final = Filter((GE, GT, LE, LT), "time")
BOUNDS_OR_EQUAL: Final = Filter((EQ, GE, GT, LE, LT), "time")
AFTER: Final = Filter((GT,), "time")
STRICT: Final = Filter((GT, LT), "time")
ONE: Final = Filter((EQ,))
ONE_OF: Final = Filter((ANY, EQ))
LISTED: Final = Filter((ANY,))
FLAG: Final = Filter((EQ,), "boolean")
TEXTUAL: Final = Filter((CONTAINS, ENDS, EQ, STARTS))
EXISTS: Final = Filter((HAS,), "presence")
