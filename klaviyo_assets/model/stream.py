"""A stream: one table's worth of Klaviyo, declared once.

The same value becomes the request, the schema, the asset, the checks, the README row and the
contract test. What belongs here: the words and what would be nonsense. What does not: values
(`streams`) and machines (`sync`, `tables`, `lake`, `defs`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from klaviyo_assets.model.column import Column, Newest
from klaviyo_assets.model.report import Report
from klaviyo_assets.model.tiers import Budget, Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The column that says when a record changed, and how Klaviyo filters by it.

    `field` is the name in filters and sorts. `inclusive` tells whether `greater-or-equal` is
    offered; where only the strict `greater-than` is, windows are asked one second earlier.
    `is_version` tells whether a later cursor means a newer version of the record: true of
    `updated`, false of an event's `datetime`. `has_lookback` marks the stream that the lookback
    setting applies to. `earliest`, where given, is asked for as the start of a window that has
    none: without a bound Klaviyo would also send records that have no cursor at all, and which do
    not belong to the stream.
    """

    column: str
    field: str
    inclusive: bool = True
    is_version: bool = True
    has_lookback: bool = False
    earliest: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A part of a collection that Klaviyo makes us ask for apart: its filter and its constants."""

    name: str
    filter: str
    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


WHOLE = Slice(name="*", filter="")
"""The one slice of a collection that needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditionalField:
    """A field that comes only on request: `additional-fields[resource]=name`.

    `tier` is the lower limit that asking for it costs; `optional` says that a setting can leave it
    out.
    """

    resource: str
    name: str
    tier: Tier | None = None
    optional: bool = False


INCLUDED_SCOPES: Mapping[str, str] = MappingProxyType(
    {
        "attributions": "events:read",
        "campaign-messages": "campaigns:read",
        "flow-actions": "flows:read",
        "flow-triggers": "flows:read",
        "metric": "metrics:read",
        "tags": "tags:read",
    }
)
"""The scope that reads what `include` names, where it is another than the collection's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """All records of one path, page by page. `page_size` is the maximum; None: not accepted."""

    path: str
    page_size: int | None
    slices: tuple[Slice, ...] = (WHOLE,)
    include: tuple[str, ...] = ()
    additional_fields: tuple[AdditionalField, ...] = ()
    metric_filter: bool = False
    """Whether the setting for event metrics applies: one slice a metric id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One more request per record of a parent stream, for columns the parent's pages lack.

    The stored table holds the key, `version` (the parent's value when asked, None: asked every
    time) and the columns; the stream's relation is the parent joined with them. A 404 means NULL
    where `missing_is_null`, otherwise the parent record is gone and skipped.
    """

    parent: str
    path: str
    version: str | None = None
    missing_is_null: bool = False
    additional_fields: tuple[AdditionalField, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """No request at all: all columns of `left`, and some of `right` where `on` equals its id."""

    left: str
    right: str
    on: str
    columns: Mapping[str, str]
    """Name here to name in `right`; `column.key` is a text inside a JSON column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merges:
    """A map from records that vanished to those they were merged into, told by what is stored.

    `people` is the stream of the records, `identifiers` its columns that no two living ones share;
    `events` the stream whose `owner` column names them.
    """

    name: str
    people: str
    identifiers: tuple[str, ...]
    events: str
    owner: str

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the tables that it cannot do without."""
        return (self.people,)


Source = Collection | Detail | Join | Report
"""Every way a stream comes about; the set is closed."""

Partitioning = Literal["none", "day", "metric and month"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One table's worth of Klaviyo.

    `about` starts with "One row per": the grain. `section` is a heading of Klaviyo's API reference.
    A collection without a cursor is swept: every sync reads everything and replaces the table.
    `ignores_start` marks tables that others are joined to: the start date does not cut them. Of a
    stream that `marks_deleted`, rows that a complete read no longer brings stay, and say since when
    they are gone. `ids_by` is the order in which its ids alone can be swept: one that no change of
    a record moves it in.
    """

    name: str
    about: str
    section: str
    source: Source
    columns: tuple[Column, ...]
    tier: Tier | None
    scopes: tuple[str, ...]
    cursor: Cursor | None = None
    partitioning: Partitioning = "none"
    ignores_start: bool = False
    key: tuple[str, ...] = ("id",)
    marks_deleted: bool = False
    ids_by: Cursor | None = None

    def __post_init__(self) -> None:
        """Refuse nonsense.

        Raises:
            ValueError: the declaration contradicts itself; the text names the stream.
        """
        names = [column.name for column in self.columns]
        if not self.about.startswith("One row per "):
            raise ValueError(f"{self.name}: `about` must start with the grain, 'One row per ...'")
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name}: a column is declared twice")
        if self.cursor is not None and self.cursor.column not in names:
            raise ValueError(f"{self.name}: the cursor {self.cursor.column!r} is not a column")
        if self.partitioning == "day" and self.cursor is None:
            raise ValueError(f"{self.name}: a table by day needs a cursor to take the day from")
        self._refuse_unmarkable(names)

    def _refuse_unmarkable(self, names: list[str]) -> None:
        """Refuse to mark deleted rows where what a read did not bring need not be gone.

        Raises:
            ValueError: as for all nonsense.
        """
        goes_back = self.cursor is not None and not self.cursor.is_version
        is_plain = isinstance(self.source, Collection) and self.partitioning == "none"
        if self.marks_deleted and (goes_back or not is_plain or self.key != ("id",)):
            raise ValueError(
                f"{self.name}: only a collection by id whose cursor never goes back "
                "can tell what was deleted"
            )
        if self.ids_by is not None and (not self.marks_deleted or self.ids_by.column not in names):
            raise ValueError(f"{self.name}: a sweep of ids is for a column, and marks deleted rows")

    @property
    def is_swept(self) -> bool:
        """Return whether every sync reads everything and replaces the table."""
        return self.cursor is None and isinstance(self.source, Collection)

    @property
    def comes_in_order(self) -> bool:
        """Return whether records that are sorted by the cursor have ascending cursor columns.

        Not where the column holds the newest of several: Klaviyo sorts by the first of them.
        """
        places = {column.name: column.place for column in self.columns}
        return self.cursor is None or not isinstance(places.get(self.cursor.column), Newest)

    def budgets(self, *, without: frozenset[str] = frozenset()) -> tuple[Budget, ...]:
        """Return what one request of this stream spends.

        `without` names optional additional fields that are not asked for. Empty for a join.
        """
        if isinstance(self.source, Join) or self.tier is None:
            return ()
        if isinstance(self.source, Report):
            return (Budget(f"POST {self.source.path}", self.tier),)
        own = Budget(f"GET {self.source.path}", self.tier)
        lowered = (
            Budget(f"additional-fields[{extra.resource}]={extra.name}", extra.tier)
            for extra in self.source.additional_fields
            if extra.tier is not None and extra.name not in without
        )
        return (own, *lowered)
