"""What every page of a stream is built into.

What belongs here: the columns that are wanted, and whether they make sense together. What does not:
any page.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa

from klaviyo_assets.model.column import (
    At,
    Column,
    ColumnType,
    FirstIncludedId,
    Included,
    Newest,
    OfSlice,
    Place,
    RelatedId,
    RelatedIds,
)
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.tables.schema import arrow_schema
from klaviyo_assets.tables.tree import Branch, Path, is_excluded, path_of, tree_of

_TYPE_OF_PLACE: Mapping[type[Place], ColumnType] = MappingProxyType(
    {
        RelatedId: "string",
        FirstIncludedId: "string",
        OfSlice: "string",
        RelatedIds: "ids",
        Included: "json",
        Newest: "timestamp",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A stream's columns, sorted by how they are filled.

    `root` is all that is known of the attributes. `attributes`: name, type and path of the columns
    read from there; `others`: the columns of other places; `seconds`: columns that take the seconds
    at a path where they are null. `relationships` are those that any column is declared for,
    `cursor` is a column's name, `several` the array that it is the newest of, else empty;
    `schema` is that of every batch.
    """

    stream: str
    root: Branch
    attributes: tuple[tuple[str, ColumnType, Path], ...]
    others: tuple[Column, ...]
    seconds: tuple[tuple[str, Path], ...]
    relationships: frozenset[str]
    cursor: str | None
    several: Path
    schema: pa.Schema


def layout_of(stream: Stream, *, exclude: frozenset[str]) -> Layout:
    """Return the layout of a stream's pages without the columns or paths in `exclude`.

    Raises:
        ValueError: the columns contradict each other, or the cursor is left out.
    """
    kept = tuple(column for column in stream.columns if not is_excluded(column, exclude))
    dropped = frozenset(column.name for column in stream.columns if column not in kept)
    cursor = stream.cursor.column if stream.cursor is not None else None
    if cursor in dropped:
        raise ValueError(f"{stream.name}: the cursor {cursor} cannot be left out")
    for column in kept:
        _check(stream, column)
    read = [(column, column.source) for column in kept if isinstance(column.source, At)]
    return Layout(
        stream=stream.name,
        root=tree_of(stream, exclude=exclude),
        attributes=tuple((column.name, column.type, path_of(at.path)) for column, at in read),
        others=tuple(column for column in kept if not isinstance(column.source, At)),
        seconds=tuple((column.name, path_of(at.or_else)) for column, at in read if at.or_else),
        relationships=frozenset(filter(None, map(_relationship_of, stream.columns))),
        cursor=cursor,
        several=_several_of(kept, cursor),
        schema=arrow_schema(stream, exclude=dropped),
    )


def _several_of(columns: tuple[Column, ...], cursor: str | None) -> Path:
    """Return the path of the array that the cursor is the newest of; empty for other cursors."""
    for column in columns:
        if column.name == cursor and isinstance(column.source, Newest):
            return path_of(column.source.path)
    return ()


def _check(stream: Stream, column: Column) -> None:
    wanted = _TYPE_OF_PLACE.get(type(column.source), column.type)
    if column.type != wanted:
        place = type(column.source).__name__
        raise ValueError(f"{stream.name}: {column.name} is {column.type}, but {place} is {wanted}")


def _relationship_of(column: Column) -> str | None:
    match column.source:
        case (
            RelatedId(name) | RelatedIds(name) | Included(name) | FirstIncludedId(relationship=name)
        ):
            return name
        case _:
            return None
