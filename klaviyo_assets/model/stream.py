"""A stream: one table's worth of Klaviyo's data, declared once as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from klaviyo_assets.model.column import EXTRA_FIELD, Column, LatestOf
from klaviyo_assets.model.report import ReportEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTier:
    """A published limit: `burst` requests a second, `steady` a minute, `daily` a day if limited."""

    name: str
    burst: int
    steady: int
    daily: int | None = None


TIER_XS = RateTier(name="XS", burst=1, steady=15)
TIER_S = RateTier(name="S", burst=3, steady=60)
TIER_M = RateTier(name="M", burst=10, steady=150)
TIER_L = RateTier(name="L", burst=75, steady=750)
TIER_XL = RateTier(name="XL", burst=350, steady=3500)
TIER_REPORT = RateTier(name="REPORT", burst=1, steady=2, daily=225)


@dataclass(frozen=True, slots=True)
class RateLimitBucket:
    """What one request is counted against: an endpoint, or a parameter with a limit of its own.

    `name` is the method and path template (`GET /api/profiles`) or the parameter
    (`additional-fields[profile]=predictive_analytics`); all streams with the same name share it.
    """

    name: str
    tier: RateTier


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The column that says when a record changed, and how Klaviyo filters by it.

    `field` is the name in filters and sorts. `is_inclusive` tells whether `greater-or-equal` is
    offered; where only the strict `greater-than` is, windows are asked one second earlier.
    `is_version` tells whether a later cursor means a newer version of the record: true of
    `updated`, false of an event's `datetime`. `has_lookback` marks the stream that the lookback
    setting applies to. `earliest`, where given, is asked for as the start of a window that has
    none: without a bound Klaviyo would also send records that have no cursor at all, and which do
    not belong to the stream.
    """

    column: str
    field: str
    is_inclusive: bool = True
    is_version: bool = True
    has_lookback: bool = False
    earliest: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A part of a collection that Klaviyo makes us ask for apart: its filter and its constants."""

    name: str
    filter: str
    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


WHOLE_COLLECTION = Slice(name="*", filter="")
"""The one slice of a collection that needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditionalField:
    """A field that comes only on request: `additional-fields[resource]=name`.

    `tier` is the lower limit that asking for it costs; `is_optional` says that a setting can leave
    it out.
    """

    resource: str
    name: str
    tier: RateTier | None = None
    is_optional: bool = False


SCOPE_BY_INCLUDE: Mapping[str, str] = MappingProxyType(
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
    slices: tuple[Slice, ...] = (WHOLE_COLLECTION,)
    include: tuple[str, ...] = ()
    additional_fields: tuple[AdditionalField, ...] = ()
    has_metric_filter: bool = False
    """Whether the setting for event metrics applies: one slice a metric id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One more request per record of a parent stream, for columns the parent's pages lack.

    The stored table holds the key, `version_column` (the parent's value when asked, None: asked
    every time) and the columns; the stream's relation is the parent joined with them. A 404 means
    NULL where `is_null_when_missing`, otherwise the parent record is gone and skipped.
    """

    parent: str
    path: str
    version_column: str | None = None
    is_null_when_missing: bool = False
    additional_fields: tuple[AdditionalField, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """No request: all columns of `left`, and some of `right` where `join_column` equals its id."""

    left: str
    right: str
    join_column: str
    columns: Mapping[str, str]
    """Name here to name in `right`; `column.key` is a text inside a JSON column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileMergeRule:
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
    def required_tables(self) -> tuple[str, ...]:
        """Return the tables that it cannot do without."""
        return (self.people,)


StreamSource = Collection | Detail | Join | ReportEndpoint
"""Every way a stream comes about; the set is closed."""

Partitioning = Literal["none", "day", "metric and month"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One table's worth of Klaviyo.

    `description` starts with "One row per": the grain. `section` is a heading of Klaviyo's API
    reference.
    A collection without a cursor is swept: every sync reads everything and replaces the table.
    `is_exempt_from_start_date` marks tables that others are joined to: the start date does not cut
    them. Of a stream that `has_soft_deletes`, rows that a complete read no longer brings stay, and
    say since when they are gone. `id_scan_cursor` is the order in which its ids alone can be swept:
    one that no change of a record moves it in.
    """

    name: str
    description: str
    section: str
    source: StreamSource
    columns: tuple[Column, ...]
    tier: RateTier | None
    scopes: tuple[str, ...]
    cursor: Cursor | None = None
    partitioning: Partitioning = "none"
    is_exempt_from_start_date: bool = False
    key: tuple[str, ...] = ("id",)
    has_soft_deletes: bool = False
    id_scan_cursor: Cursor | None = None

    def __post_init__(self) -> None:
        """Refuse nonsense.

        Raises:
            ValueError: the declaration contradicts itself; the text names the stream.
        """
        names = [column.name for column in self.columns]
        if not self.description.startswith("One row per "):
            raise ValueError(
                f"{self.name}: `description` must start with the grain, 'One row per ...'"
            )
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name}: a column is declared twice")
        if self.cursor is not None and self.cursor.column not in names:
            raise ValueError(f"{self.name}: the cursor {self.cursor.column!r} is not a column")
        if self.partitioning == "day" and self.cursor is None:
            raise ValueError(f"{self.name}: a table by day needs a cursor to take the day from")
        self._check_soft_deletes(names)

    def _check_soft_deletes(self, names: list[str]) -> None:
        """Refuse to mark deleted rows where what a read did not bring need not be gone.

        Raises:
            ValueError: as for all nonsense.
        """
        goes_back = self.cursor is not None and not self.cursor.is_version
        is_plain = isinstance(self.source, Collection) and self.partitioning == "none"
        if self.has_soft_deletes and (goes_back or not is_plain or self.key != ("id",)):
            raise ValueError(
                f"{self.name}: only a collection by id whose cursor never goes back "
                "can tell what was deleted"
            )
        if self.id_scan_cursor is not None and (
            not self.has_soft_deletes or self.id_scan_cursor.column not in names
        ):
            raise ValueError(f"{self.name}: a sweep of ids is for a column, and marks deleted rows")

    @property
    def is_snapshot(self) -> bool:
        """Return whether every sync reads everything and replaces the table."""
        return self.cursor is None and isinstance(self.source, Collection)

    @property
    def is_sorted_by_cursor(self) -> bool:
        """Return whether records that are sorted by the cursor have ascending cursor columns.

        Not where the column holds the newest of several: Klaviyo sorts by the first of them.
        """
        places = {column.name: column.declared_source for column in self.columns}
        return self.cursor is None or not isinstance(places.get(self.cursor.column), LatestOf)

    def rate_limit_buckets(
        self, *, excluded_fields: frozenset[str] = frozenset()
    ) -> tuple[RateLimitBucket, ...]:
        """Return what one request of this stream spends.

        `excluded_fields` names optional additional fields that are not asked for. Empty for a join.
        """
        if isinstance(self.source, Join) or self.tier is None:
            return ()
        if isinstance(self.source, ReportEndpoint):
            return (RateLimitBucket(f"POST {self.source.path}", self.tier),)
        own = RateLimitBucket(f"GET {self.source.path}", self.tier)
        lowered = (
            RateLimitBucket(f"additional-fields[{extra.resource}]={extra.name}", extra.tier)
            for extra in self.source.additional_fields
            if extra.tier is not None and extra.name not in excluded_fields
        )
        return (own, *lowered)


KEY_COLUMN = Column("id", "Klaviyo's id; once in the table.")
EXTRA_COLUMN = Column(EXTRA_FIELD, "Attributes that no column holds; NULL: none.", "json")
SYNCED_COLUMN = Column(
    "synced_at", "When the row was read, by the earlier of Klaviyo's clock and ours.", "timestamp"
)
DELETED_COLUMN = Column(
    "deleted_at",
    "When a complete read first missed it; NULL while it exists.",
    "timestamp",
)
SYNC_STARTED_COLUMN = Column(
    "sync_started_at", "When the sync that read this version began, our clock.", "timestamp"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationDescription:
    """What a relation holds, and what each of its columns tells, by name."""

    summary: str = ""
    columns: Mapping[str, str] = field(default_factory=dict[str, str])


def base_stream_name(stream: Stream) -> str | None:
    """Return the stream whose relation this one's is, with columns added; None where it is none."""
    match stream.source:
        case Join(left=name) | Detail(parent=name):
            return name
        case _:
            return None


def relation_columns(stream: Stream, streams: Mapping[str, Stream]) -> tuple[Column, ...]:
    """Return the columns of a stream's relation in their order.

    A relation that adds columns to another's has all of that one's first; `streams` holds it.
    """
    widened = base_stream_name(stream)
    if widened is not None:
        return (*relation_columns(streams[widened], streams), *stream.columns)
    return (
        *([KEY_COLUMN] if KEY_COLUMN.name in stream.key else []),
        *stream.columns,
        EXTRA_COLUMN,
        SYNCED_COLUMN,
        *([DELETED_COLUMN] if stream.has_soft_deletes else []),
    )


def describe_stream(stream: Stream, streams: Mapping[str, Stream]) -> RelationDescription:
    """Return the description of a stream's relation."""
    columns = relation_columns(stream, streams)
    return RelationDescription(
        summary=stream.description, columns={each.name: each.description for each in columns}
    )


def describe_history(name: str, latest: RelationDescription) -> RelationDescription:
    """Return the description of the history of the table `name`, whose own is `latest`."""
    return RelationDescription(
        summary=f"One row per version seen of each row of {name}, where a sync mode keeps them.",
        columns={
            **latest.columns,
            KEY_COLUMN.name: "Klaviyo's id; once for each version of the record.",
            SYNC_STARTED_COLUMN.name: SYNC_STARTED_COLUMN.description,
        },
    )
