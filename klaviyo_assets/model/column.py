"""Columns and the places in a record that they are read from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ColumnType = Literal["string", "integer", "number", "boolean", "timestamp", "date", "json", "ids"]
"""`json` is JSON text; `ids` a list of strings; `timestamp` is UTC in microseconds."""

PersonalDataKind = Literal["email", "phone_number"]
"""Kinds of values that tell a person and lie in several places, named as the profile's column."""

EXTRA_FIELD = "extra"
"""The column of every table that holds what no other does, as one JSON object: path to value."""


@dataclass(frozen=True, slots=True)
class FieldPath:
    """A dotted path below `attributes`.

    `epoch_seconds_path` is a path to epoch seconds, used where null.
    """

    path: str
    epoch_seconds_path: str | None = None


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
    """The newest `timestamp_member` among the objects of the array at `included_path`."""

    path: str
    timestamp_member: str


@dataclass(frozen=True, slots=True)
class SliceConstant:
    """A constant that the slice brings, because Klaviyo does not say it in the record.

    `included_relationship` and `included_path` name what the record brings along that may say it
    all the same: the first included resource of a relationship, and a dotted path below its
    attributes. What came counts, not what was asked for.
    """

    name: str
    included_relationship: str = ""
    included_path: str = ""


JsonPath = tuple[str, ...]
"""The names of an attribute's members, from the top of `attributes` down to a value."""

ColumnSource = (
    FieldPath | RelatedId | RelatedIds | Included | FirstIncludedId | LatestOf | SliceConstant
)
"""Every place a column can be read from; the set is closed."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name in the table, what it tells, its type, and where it is read from.

    Every column may be NULL but for keys and cursors: the published `required` is not kept by real
    answers. Without `declared_source` the value lies at `attributes.<name>`.

    `personal_kind` is the personal kind of a text. Of JSON `personal_members` are names, at any
    depth, with the kind of their values; `is_free_form` tells that people choose its members, so
    that any may be there.
    """

    name: str
    description: str
    type: ColumnType = "string"
    declared_source: ColumnSource | None = None
    personal_kind: PersonalDataKind | None = None
    personal_members: tuple[tuple[str, PersonalDataKind], ...] = ()
    is_free_form: bool = False

    @property
    def source(self) -> ColumnSource:
        """Return where the value lies."""
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


def attribute_column(
    path: str,
    description: str,
    kind: ColumnType = "string",
    *,
    personal_kind: PersonalDataKind | None = None,
) -> Column:
    """Return the column of a nested attribute, named by its path joined with `_`."""
    return Column(
        path.replace(".", "_"), description, kind, FieldPath(path), personal_kind=personal_kind
    )
