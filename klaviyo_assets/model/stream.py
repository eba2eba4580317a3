"""Defines a stream: one table's worth of Klaviyo's data, declared once as a value.

The same value becomes the requests, the schema, the Dagster asset, the checks, the README's row and
the contract test. Dagster's UI and the comments in klaviyo.duckdb show its descriptions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from klaviyo_assets.model.column import (
    EXTRA_FIELD,
    Column,
    LatestOf,
    SliceConstant,
    source_path,
)
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
    """What Klaviyo counts a request against: an endpoint, or a parameter with a limit of its own.

    `name`: method and path template (`GET /api/profiles`), or the parameter
    (`additional-fields[profile]=predictive_analytics`). Streams with the same name share the limit.
    """

    name: str
    tier: RateTier


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The column that says when a record changed, and how Klaviyo filters by it.

    `field`: its name in filters and sorts. `is_inclusive`: whether Klaviyo offers
    `greater-or-equal`; where there is only `greater-than`, windows are requested from one second
    earlier. `is_version`: whether a later cursor means a newer version of the record, as for
    `updated` but not for an event's `datetime`. `has_lookback`: whether records can arrive late, so
    that the lookback setting applies. `earliest`: start of the filter where the window has none;
    without a filter Klaviyo would also send records that have no cursor, and these do not belong to
    the stream.
    """

    column: str
    field: str
    is_inclusive: bool = True
    is_version: bool = True
    has_lookback: bool = False
    earliest: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A part of a collection that Klaviyo makes us request separately: its filter and constants.

    `path` is its own path where the parts have different ones, as the children of each parent do.
    """

    name: str
    filter: str
    path: str = ""
    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


WHOLE_COLLECTION = Slice(name="*", filter="")
"""The only slice of a collection that is not divided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditionalField:
    """A field that Klaviyo sends only on request: `additional-fields[resource]=name`.

    `tier`: the lower rate limit that then applies; `is_optional`: a setting can leave the field
    out.
    """

    resource: str
    name: str
    tier: RateTier | None = None
    is_optional: bool = False


SCOPE_BY_INCLUDE: Mapping[str, str] = MappingProxyType(
    {
        "attributions": "events:read",
        "campaign": "campaigns:read",
        "campaign-audiences": "campaigns:read",
        "campaign-messages": "campaigns:read",
        "campaign-variation": "campaigns:read",
        "campaign-variations": "campaigns:read",
        "flow-actions": "flows:read",
        "flow-message": "flows:read",
        "flow-triggers": "flows:read",
        "image": "images:read",
        "metric": "metrics:read",
        "tags": "tags:read",
        "template": "templates:read",
        "template-universal-content": "templates:read",
    }
)
"""The scope that a name in `include` needs, where it is not the collection's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """All records of one path, page by page. `page_size`: the maximum; None: it is not accepted.

    `related_paths`: where Klaviyo may refuse a name in `include`, the path that has those resources
    of one record, by the name; it counts against the stream's own tier.
    """

    path: str
    page_size: int | None
    slices: tuple[Slice, ...] = (WHOLE_COLLECTION,)
    include: tuple[str, ...] = ()
    additional_fields: tuple[AdditionalField, ...] = ()
    fields: tuple[str, ...] = ()
    """The only attributes to request; empty: all. The others belong to another stream's records."""
    related_paths: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    has_metric_filter: bool = False
    """Whether the setting for event metrics applies: then there is one slice a metric id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One more request per record of a parent stream, for columns that the parent's pages lack.

    The stored table has the key, the parent's `version_column` at the time of the request, and the
    columns; the stream's relation is the parent joined with it. Without a `version_column` every
    record is requested in every sync. A 404 means NULL with `is_null_when_missing`; otherwise the
    parent record no longer exists, and is skipped. `resource`: the record's JSON:API type, given
    where only these columns are requested (`fields[type]=`); empty: all of its attributes are.
    """

    parent: str
    path: str
    version_column: str | None = None
    is_null_when_missing: bool = False
    additional_fields: tuple[AdditionalField, ...] = ()
    resource: str = ""


PARENT_ID = SliceConstant("parent")
"""The id of the parent that a record was read by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Children:
    """The records that belong to each record of a parent stream, read parent by parent.

    A column with the source `PARENT_ID` has the parent's id. Without a cursor each sync reads the
    children of every parent and replaces the table, because Klaviyo does not tell which parents
    have other children now; with one it reads what is new of each parent, from that parent's own
    high-water mark. The rows of a parent whose request fails stay. `parent_condition` leaves out
    parents that never have any: a JSON column of the parent, a member of it, and what its text
    begins with. `fields`: as for a collection. `has_parent_filter`: whether KLAVIYO_MEMBERS_OF
    names the parents to read; the rows of others stay as they are.
    """

    parent: str
    path: str
    page_size: int | None
    parent_condition: tuple[str, str, str] | None = None
    additional_fields: tuple[AdditionalField, ...] = ()
    fields: tuple[str, ...] = ()
    has_parent_filter: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """No requests: all columns of `left`, and some of `right` where `join_column` is its id."""

    left: str
    right: str
    join_column: str
    columns: Mapping[str, str]
    """Column name to its name in `right`; `column.key` is a text inside a JSON column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentReference:
    """A column with the id of a row of the parent, and columns taken from that row.

    `columns`: column name to its name in the parent; NULL where no stored row has the id.
    """

    column: str
    columns: Mapping[str, str]


POSITION_COLUMN = "position"
"""The column with the place of an element in its array, 1 for the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unnest:
    """No requests: one row for each element of an array that `parent` holds in a column.

    `array`: a column of JSON or of ids, or `column.key` for an array inside JSON. `parent_columns`:
    column name to its name in the parent. Every other column but `position` is read from the
    element, at its `FieldPath` below the element; the path "" is the element itself. The key is the
    parent's and `position` (of an array of ids, the element), or `id` where elements have one of
    their own. Rows follow the parent's: they leave with it, and have its `synced_at` and
    `deleted_at`.
    """

    parent: str
    array: str
    parent_columns: Mapping[str, str]
    reference: ParentReference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileMergeRule:
    """A map from deleted records to those they were merged into, derived from the stored tables.

    `people`: the stream of the records; `identifiers`: its columns that no two existing records
    share; `events`: the stream whose column `owner` refers to them.
    """

    name: str
    people: str
    identifiers: tuple[str, ...]
    events: str
    owner: str

    @property
    def required_tables(self) -> tuple[str, ...]:
        """Return the tables that must be stored for it."""
        return (self.people,)


ViewSource = Join | Unnest
"""Sources that make no request and store nothing: the relation is a view of other tables."""

StreamSource = Collection | Detail | Children | ViewSource | ReportEndpoint
"""Every kind of source that a stream can have."""

Partitioning = Literal["none", "day", "month", "metric and month"]

DELETED_COLUMN = Column(
    "deleted_at",
    "When a complete read first missed it; NULL while it exists.",
    "timestamp",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewColumn:
    """A column that only the relation in klaviyo.duckdb has: it is computed when it is read.

    `sql` is over the columns of the relation. `table`: a table that it names as `{table}`; the
    column is NULL where that table is not stored. `joined_on`: the column of the relation that has
    the id of a row of `table`; then `sql` is the name of a column of that row. `other_table`: a
    table with the same columns, where the row is looked up if `table` has no row with that id.
    """

    column: Column
    sql: str
    table: str = ""
    joined_on: str = ""
    other_table: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollup:
    """Columns of a relation that are computed from the rows of another table that belong to a row.

    `table`: the other table. `join_column`: its column with the id of the row that a row of it
    belongs to. `condition`: SQL that says whether its row `part` counts for the row `own`.
    `totals`: columns aggregated from the parts of a row; NULL for a row without parts, and for all
    while the table is not stored. `columns`: SQL over `own` and `total`. One with the name of a
    stored column takes its place, the others follow the stored ones.
    """

    table: str
    join_column: str
    condition: str
    totals: tuple[ViewColumn, ...]
    columns: tuple[ViewColumn, ...]


REVISION_COLUMN = Column(
    "api_revision",
    "The API revision whose shape the record had when it was read; NULL: 2026-07-15.",
    declared_source=SliceConstant("api_revision"),
)
"""The column of a stream whose records differ by revision: it tells its rows apart."""

OLDEST_SHAPE = "2026-07-15"
"""The revision of rows and commits that name none: the only one when they were stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One table's worth of Klaviyo.

    `description` starts with "One row per": the grain. `section`: a heading of Klaviyo's API
    reference. A collection without a cursor is a snapshot: every sync reads everything and replaces
    the table. `is_exempt_from_start_date`: the start date does not apply, because other tables are
    joined to this one. `has_soft_deletes`: rows that a complete read no longer finds stay in the
    table, with the time in `deletion_column`. `id_scan_cursor`: the order for reading only the ids
    of all records; no change of a record may move it in this order. `is_opt_in`: the stream is an
    asset only where KLAVIYO_STREAMS names it. `since` and `until`: the first and the last revision
    of Klaviyo's API at which it can be read; None: every supported one. `ignored_attributes` are
    never stored: they differ between reads of an unchanged record, or are as good as a password.
    `unlisted_attributes` come at revisions that do not list them, so no request names them.
    `view_columns` follow those of the stored table, and `rollup` computes columns from another one.
    `read_first`: the streams that a sync reads before, because the relation is made from them too.

    `shape`: the first revision whose responses look as declared here; `earlier`: the declaration
    for older revisions. Both write one table, with the same columns. `is_partial`: the revisions of
    this declaration do not return every record, so a full read marks only rows that were stored
    from them as deleted. `history_columns`: where KLAVIYO_HISTORY names the stream, a row in which
    one of these changed is kept as a dated version.
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
    deletion_column: Column = DELETED_COLUMN
    id_scan_cursor: Cursor | None = None
    is_opt_in: bool = False
    since: str | None = None
    until: str | None = None
    ignored_attributes: frozenset[str] = frozenset()
    unlisted_attributes: frozenset[str] = frozenset()
    view_columns: tuple[ViewColumn, ...] = ()
    rollup: Rollup | None = None
    read_first: tuple[str, ...] = ()
    shape: str = OLDEST_SHAPE
    earlier: "Stream | None" = None
    is_partial: bool = False
    history_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the declaration is consistent.

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
        if self.earlier is not None and _table_shape(self.earlier) != _table_shape(self):
            raise ValueError(f"{self.name}: earlier revisions would write another table")
        if not set(self.history_columns) <= set(names) or (
            self.history_columns and self.partitioning != "none"
        ):
            raise ValueError(
                f"{self.name}: history columns are columns of a table without partitions"
            )
        self._check_soft_deletes(names)

    def _check_soft_deletes(self, names: list[str]) -> None:
        """Refuse soft deletes where a record missing from a complete read may still exist.

        Raises:
            ValueError: it may.
        """
        # A row whose cursor is a part of its key has the same cursor as long as it exists.
        can_go_back = self.cursor is not None and not (
            self.cursor.is_version or self.cursor.column in self.key
        )
        is_collection = isinstance(self.source, Collection | Children)
        is_plain = is_collection and self.partitioning == "none"
        if self.has_soft_deletes and (can_go_back or not is_plain):
            raise ValueError(
                f"{self.name}: only a collection whose cursor never goes back "
                "can tell what was deleted"
            )
        if self.id_scan_cursor is not None and (
            not self.has_soft_deletes
            or self.key != (KEY_COLUMN.name,)
            or self.id_scan_cursor.column not in names
        ):
            raise ValueError(
                f"{self.name}: an id scan is by a column, reads ids, and marks rows as deleted"
            )

    def is_offered_at(self, revision: str) -> bool:
        """Return whether the stream can be read at a revision of Klaviyo's API."""
        return (self.since or revision) <= revision <= (self.until or revision)

    def at_revision(self, revision: str) -> "Stream":
        """Return the stream as a revision of Klaviyo's API shows its records."""
        if self.earlier is None or revision >= self.shape:
            return self
        return self.earlier.at_revision(revision)

    @property
    def has_shapes(self) -> bool:
        """Return whether revisions show its records differently."""
        return REVISION_COLUMN in self.columns

    @property
    def is_snapshot(self) -> bool:
        """Return whether every sync reads everything and replaces the table."""
        return self.cursor is None and isinstance(self.source, Collection | Children)

    @property
    def is_read_by_parent(self) -> bool:
        """Return whether every sync takes at least a request for each record of another stream."""
        match self.source:
            case Children():
                return True
            case Detail(version_column=version):
                return version is None
            case _:
                return False

    @property
    def is_sorted_by_cursor(self) -> bool:
        """Return whether records sorted by the cursor's field have ascending cursor columns.

        They do not where the column is the latest of several: Klaviyo sorts by the first of them.
        """
        sources = {column.name: column.declared_source for column in self.columns}
        return self.cursor is None or not isinstance(sources.get(self.cursor.column), LatestOf)

    def rate_limit_buckets(
        self, *, excluded_fields: frozenset[str] = frozenset()
    ) -> tuple[RateLimitBucket, ...]:
        """Return the buckets that one request of this stream counts against; none for a view.

        `excluded_fields`: optional additional fields that are not requested.
        """
        if isinstance(self.source, ViewSource) or self.tier is None:
            return ()
        if isinstance(self.source, ReportEndpoint):
            return (RateLimitBucket(f"POST {self.source.path}", self.tier),)
        own = RateLimitBucket(f"GET {self.source.path}", self.tier)
        of_fields = (
            RateLimitBucket(f"additional-fields[{extra.resource}]={extra.name}", extra.tier)
            for extra in self.source.additional_fields
            if extra.tier is not None and extra.name not in excluded_fields
        )
        return (own, *of_fields)


def _table_shape(stream: Stream) -> tuple[object, ...]:
    """Return what of a stream decides how its table is stored."""
    columns = [(each.name, each.type) for each in stream.columns]
    return (stream.name, stream.key, columns, stream.cursor and stream.cursor.column)


def streams_at_revision(streams: Mapping[str, Stream], revision: str) -> dict[str, Stream]:
    """Return streams by name, each as a revision of Klaviyo's API shows its records."""
    return {name: each.at_revision(revision) for name, each in streams.items()}


def computed_view_columns(stream: Stream) -> tuple[ViewColumn, ...]:
    """Return the columns that the stream's relation has beyond those of its stored table."""
    stored = {each.name for each in stream.columns}
    rolled_up = stream.rollup.columns if stream.rollup is not None else ()
    return (*(each for each in rolled_up if each.column.name not in stored), *stream.view_columns)


def revision_note(stream: Stream) -> str:
    """Return the revisions that offer a stream, in brackets after a blank; empty: all of them."""
    bounds = [("since", stream.since), ("up to", stream.until)]
    words = [f"{word} {revision}" for word, revision in bounds if revision]
    return f" (revisions {', '.join(words)})" if words else ""


KEY_COLUMN = Column("id", "Klaviyo's id; once in the table.")
EXTRA_COLUMN = Column(EXTRA_FIELD, "Attributes that no column holds; NULL: none.", "json")
SYNCED_COLUMN = Column(
    "synced_at", "When the row was read, by the earlier of Klaviyo's clock and ours.", "timestamp"
)
SYNCED_IF_CHANGED_COLUMN = Column(
    "synced_at",
    "When the row was read first or with a change, by the earlier of Klaviyo's clock and ours.",
    "timestamp",
)
SYNC_STARTED_COLUMN = Column(
    "sync_started_at", "When the sync that read this version began, our clock.", "timestamp"
)
VALID_FROM_COLUMN = Column("valid_from", "When this version was read.", "timestamp")
VALID_TO_COLUMN = Column(
    "valid_to",
    "When the next version was read, or the deletion noticed; NULL: it is the newest.",
    "timestamp",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationDescription:
    """The meaning of a relation, and of each of its columns by name."""

    summary: str = ""
    columns: Mapping[str, str] = field(default_factory=dict[str, str])


def base_stream_name(stream: Stream) -> str | None:
    """Return the stream whose relation this one's extends by columns; None if it extends none."""
    match stream.source:
        case Join(left=name) | Detail(parent=name):
            return name
        case _:
            return None


def records_stream(stream: Stream, streams: Mapping[str, Stream]) -> str | None:
    """Return the stream that reads all records of which this one reads some; None: there is none.

    Both have requests of their own, so that one can be read without the other.
    """
    if not isinstance(stream.source, Collection):
        return None
    whole = streams.get(stream.source.path.rsplit("/", maxsplit=1)[-1].replace("-", "_"))
    return whole.name if whole is not None and whole.name != stream.name else None


def relation_columns(stream: Stream, streams: Mapping[str, Stream]) -> tuple[Column, ...]:
    """Return the columns of a stream's relation in their order.

    A relation that extends another's has all columns of that one first; `streams` must contain it.
    """
    if isinstance(stream.source, Unnest):
        has_deleted = streams[stream.source.parent].has_soft_deletes
        return (
            *([KEY_COLUMN] if KEY_COLUMN.name in stream.key else []),
            *stream.columns,
            synced_at_column(streams[stream.source.parent]),
            *([DELETED_COLUMN] if has_deleted else []),
        )
    computed = [each.column for each in computed_view_columns(stream)]
    base = base_stream_name(stream)
    if base is not None:
        return (*relation_columns(streams[base], streams), *stream.columns, *computed)
    return (
        *([KEY_COLUMN] if KEY_COLUMN.name in stream.key else []),
        *stream.columns,
        EXTRA_COLUMN,
        synced_at_column(stream),
        *([stream.deletion_column] if stream.has_soft_deletes else []),
        *computed,
    )


def synced_at_column(stream: Stream) -> Column:
    """Return the column; a row of a stream with a lookback that comes back unchanged keeps it."""
    has_lookback = stream.cursor is not None and stream.cursor.has_lookback
    return SYNCED_IF_CHANGED_COLUMN if has_lookback else SYNCED_COLUMN


def column_origins(stream: Stream, streams: Mapping[str, Stream]) -> dict[str, str]:
    """Return where each column's value comes from, by name: a path in what Klaviyo sends.

    In a view of other relations it is a relation and its column. Columns without an entry are made
    by us.
    """
    base = base_stream_name(stream)
    found = column_origins(streams[base], streams) if base else {KEY_COLUMN.name: "id"}
    match stream.source:
        case Join(right=right, columns=columns):
            own = {name: f"{right}.{there}" for name, there in columns.items()}
        case ReportEndpoint(group_by=groupings, statistics=statistics):
            own = {name: f"groupings.{name}" for name in groupings}
            own |= {name: f"statistics.{name}" for name in statistics}
        case Unnest(parent=parent, array=array, parent_columns=columns, reference=reference):
            element = f"{parent}.{array}[]"
            own = {
                each.name: ".".join(filter(None, (element, source_path(each))))
                for each in stream.columns
            }
            own |= {POSITION_COLUMN: "", KEY_COLUMN.name: f"{element}.id"}
            taken = {**columns, **(reference.columns if reference else {})}
            own |= {name: f"{parent}.{there}" for name, there in taken.items()}
        case _:
            own = {each.name: source_path(each) for each in stream.columns}
    names = {each.name for each in relation_columns(stream, streams)}
    return {name: path for name, path in {**found, **own}.items() if path and name in names}


def describe_stream(stream: Stream, streams: Mapping[str, Stream]) -> RelationDescription:
    """Return the description of a stream's relation; a column's ends with its origin."""
    origins = column_origins(stream, streams)
    return RelationDescription(
        summary=stream.description,
        columns={
            each.name: f"{each.description} `{origins[each.name]}`"
            if each.name in origins
            else each.description
            for each in relation_columns(stream, streams)
        },
    )


def describe_history(name: str, latest: RelationDescription) -> RelationDescription:
    """Return the description of the history table of `name`, whose own description is `latest`.

    Columns that a history lacks are described too.
    """
    added = (SYNC_STARTED_COLUMN, VALID_FROM_COLUMN, VALID_TO_COLUMN)
    return RelationDescription(
        summary=f"One row per version kept of each row of {name}: each that was read in an append "
        "mode, each that changed with KLAVIYO_HISTORY.",
        columns={
            **latest.columns,
            KEY_COLUMN.name: "Klaviyo's id; once for each version of the record.",
            **{each.name: each.description for each in added},
        },
    )
