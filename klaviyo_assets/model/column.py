"""Columns of a table, and the places in a record from which they are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ColumnType = Literal["string", "integer", "number", "boolean", "timestamp", "date", "json", "ids"]
"""`json` is JSON text; `ids` a list of strings; `timestamp` is UTC in microseconds."""

PersonalDataKind = Literal["email", "phone_number"]
"""Kinds of personal data that occur in several places, named as the column of profiles."""

EXTRA_FIELD = "extra"
"""The column of every table for values without a column, as one JSON object: path to value."""


@dataclass(frozen=True, slots=True)
class FieldPath:
    """A dotted path below `attributes`.

    `epoch_seconds_path`: a second path, to seconds since 1970, used where the first value is null.
    """

    path: str
    epoch_seconds_path: str | None = None


@dataclass(frozen=True, slots=True)
class RecordId:
    """The record's own id, in a table whose key is more than that id."""


@dataclass(frozen=True, slots=True)
class RelatedId:
    """The id of a to-one relationship."""

    relationship: str


@dataclass(frozen=True, slots=True)
class RelatedIds:
    """The ids of a to-many relationship, in Klaviyo's order."""

    relationship: str


@dataclass(frozen=True, slots=True)
class Included:
    """The included resources of a to-many relationship, as a JSON array of the whole objects."""

    relationship: str


@dataclass(frozen=True, slots=True)
class FirstIncludedId:
    """The id that the first included resource of `relationship` relates to as `related_name`."""

    relationship: str
    related_name: str


@dataclass(frozen=True, slots=True)
class LatestOf:
    """The latest `timestamp_member` among the objects of the array at `path`."""

    path: str
    timestamp_member: str


@dataclass(frozen=True, slots=True)
class SliceConstant:
    """A constant of the slice, for a value that Klaviyo does not put into the record.

    The first included resource of `included_relationship` may contain it, at the dotted path
    `included_path` below its attributes. That value, if there is one, is used instead of the
    slice's: what was received counts, not what was requested.
    """

    name: str
    included_relationship: str = ""
    included_path: str = ""


@dataclass(frozen=True, slots=True)
class Derived:
    """In no record: NULL in the stored table. A `Rollup` may compute it where the relation is read.

    `origin`: what it is computed from, `table.column`; empty: it stays NULL.
    """

    origin: str = ""


JsonPath = tuple[str, ...]
"""The names of an attribute's members, from the top of `attributes` down to a value."""

ColumnSource = (
    FieldPath
    | RecordId
    | RelatedId
    | RelatedIds
    | Included
    | FirstIncludedId
    | LatestOf
    | SliceConstant
    | Derived
)
"""Every place from which a column can be read."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name in the table, its meaning, its type, and where it is read from.

    Every column except keys and cursors may be NULL: real responses lack fields that Klaviyo
    documents as `required`. Without `declared_source` the value is at `attributes.<name>`.

    `personal_kind`: the kind of personal data that a text column holds. `personal_members`: the
    members of a JSON column, at any depth, that hold personal data, each with its kind.
    `is_free_form`: the account chooses the members of the JSON, so any data may be in it.
    `is_personal`: it says otherwise who somebody is, where they are or what they wrote.
    `is_additive`: of a statistic, whether the values of several days may be added up.
    """

    name: str
    description: str
    type: ColumnType = "string"
    declared_source: ColumnSource | None = None
    personal_kind: PersonalDataKind | None = None
    personal_members: tuple[tuple[str, PersonalDataKind], ...] = ()
    is_free_form: bool = False
    is_personal: bool = False
    is_additive: bool | None = None

    @property
    def source(self) -> ColumnSource:
        """Return the place from which the column is read."""
        return self.declared_source if self.declared_source is not None else FieldPath(self.name)


def split_path(dotted: str) -> JsonPath:
    """Return the path that a declaration writes with dots."""
    return tuple(dotted.split("."))


def column_fields(column: Column) -> Iterator[tuple[JsonPath, ColumnType]]:
    """Yield each path below `attributes` that a column reads, and the type it is read as."""
    match column.source:
        case FieldPath(path, epoch_seconds_path):
            yield split_path(path), column.type
            if epoch_seconds_path is not None:
                yield split_path(epoch_seconds_path), "integer"
        case LatestOf(path, _):
            yield split_path(path), "json"
        case _:
            return


def source_path(column: Column) -> str:  # noqa: C901 - one case for each source
    """Return where a record has the column's value: a dotted path, `[]` for each of an array.

    It begins below `attributes`, but for `relationships` and `included`, which stand beside them.
    Empty: Klaviyo does not send the value with the record.
    """
    match column.source:
        case FieldPath(path, epoch_seconds_path):
            return f"{path}, else {epoch_seconds_path}" if epoch_seconds_path else path
        case RecordId():
            return "id"
        case RelatedId(name):
            return f"relationships.{name}.data.id"
        case RelatedIds(name):
            return f"relationships.{name}.data[].id"
        case Included():
            return "included[]"
        case FirstIncludedId(_, name):
            return f"included[0].relationships.{name}.data.id"
        case LatestOf(path, member):
            return f"{path}[].{member}"
        case SliceConstant(included_path=path):
            return f"included[0].attributes.{path}" if path else ""
        case Derived(origin):
            return origin


def attribute_column(
    path: str,
    description: str,
    kind: ColumnType = "string",
    *,
    personal_kind: PersonalDataKind | None = None,
    is_personal: bool = False,
) -> Column:
    """Return the column of a nested attribute, named by its path joined with `_`."""
    return Column(
        path.replace(".", "_"),
        description,
        kind,
        FieldPath(path),
        personal_kind=personal_kind,
        is_personal=is_personal,
    )
