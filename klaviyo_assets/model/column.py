"""Columns and the places in a record that they are read from.

What belongs here: where a value lies and what it is. What does not: how it is decoded (`tables`).
"""

from dataclasses import dataclass
from typing import Literal

ColumnType = Literal["string", "integer", "number", "boolean", "timestamp", "date", "json", "ids"]
"""`json` is JSON text; `ids` a list of strings; `timestamp` is UTC in microseconds."""

PersonalKind = Literal["email", "phone_number"]
"""Kinds of values that tell a person and lie in several places, named as the profile's column."""

EXTRA = "extra"
"""The column of every table that holds what no other does, as one JSON object: path to value."""


@dataclass(frozen=True, slots=True)
class At:
    """A dotted path below `attributes`; `or_else` is a path to epoch seconds, used where null."""

    path: str
    or_else: str | None = None


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
    """The id that the first included resource of `relationship` relates to as `related`."""

    relationship: str
    related: str


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest timestamp `item` among the objects of the array at `path` below `attributes`."""

    path: str
    item: str


@dataclass(frozen=True, slots=True)
class OfSlice:
    """A constant that the slice brings, because Klaviyo does not say it in the record.

    `first` and `path` name what the record brings along that may say it all the same: the first
    included resource of a relationship, and a dotted path below its attributes. What came counts,
    not what was asked for.
    """

    name: str
    first: str = ""
    path: str = ""


Place = At | RelatedId | RelatedIds | Included | FirstIncludedId | Newest | OfSlice
"""Every place a column can be read from; the set is closed."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name in the table, what it tells, its type, and where it is read from.

    Every column may be NULL but for keys and cursors: the published `required` is not kept by real
    answers. Without `place` the value lies at `attributes.<name>`.

    `holds` is the personal kind of a text. Of JSON `members` are names, at any depth, with the kind
    of their values; `is_free_form` tells that people choose its members, so that any may be there.
    """

    name: str
    about: str
    type: ColumnType = "string"
    place: Place | None = None
    holds: PersonalKind | None = None
    members: tuple[tuple[str, PersonalKind], ...] = ()
    is_free_form: bool = False

    @property
    def source(self) -> Place:
        """Return where the value lies."""
        return self.place if self.place is not None else At(self.name)


def attribute(
    path: str, about: str, kind: ColumnType = "string", *, holds: PersonalKind | None = None
) -> Column:
    """Return the column of a nested attribute, named by its path joined with `_`."""
    return Column(path.replace(".", "_"), about, kind, At(path), holds=holds)
