"""The attributes of a record as a tree: what is read where, and as what.

What belongs here: the declared paths, and what real answers taught us about them. What does not:
how they are decoded (`structs`, `survey`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from msgspec import json

from klaviyo_assets.model.column import At, Column, ColumnType, Newest
from klaviyo_assets.model.stream import Stream

Path = tuple[str, ...]
"""The names from the top of `attributes` to a value."""

Purpose = Literal["column", "extra", "ignored"]
"""What a field is read for; `extra`: no column is for it; `ignored`: known, and not wanted."""

RESERVED = frozenset({"record", "relationships"})
"""First parts of the keys of what `extra` holds from beside the attributes."""


@dataclass(frozen=True, slots=True)
class Field:
    """A value that is read whole. `is_loose`: answers with another type than declared came.

    Without a column the type is `json`: as it was sent.
    """

    path: Path
    type: ColumnType
    purpose: Purpose = "column"
    is_loose: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """An object whose members are read one by one; anything beyond `children` is news."""

    path: Path
    children: "Mapping[str, Field | Branch]"


_NO_CHILDREN: Mapping[str, Field | Branch] = {}


def tree_of(stream: Stream, *, exclude: frozenset[str]) -> Branch:
    """Return what the stream's columns read.

    Args:
        stream: whose columns.
        exclude: columns by name, or paths below `attributes`, to read over.

    Raises:
        ValueError: one path is read as two things, or both whole and by its members.
    """
    fields: dict[Path, Field] = {}
    for column in stream.columns:
        if not is_excluded(column, exclude):
            for path, kind in fields_of(column):
                other = fields.setdefault(path, Field(path, kind)).type
                if other != kind:
                    raise ValueError(f"{stream.name}: {'.'.join(path)} is both {kind} and {other}")
    known = {path for column in stream.columns for path, _ in fields_of(column)}
    for path in (*known, *map(path_of, sorted(exclude))):
        if not any(is_at_or_below(each, path) for each in fields):
            fields[path] = Field(path, "json", "ignored")
    return _branch(stream, (), fields)


def is_at_or_below(path: Path, top: Path) -> bool:
    """Tell whether `path` is `top` or lies under it."""
    return path[: len(top)] == top


def path_of(dotted: str) -> Path:
    """Return the path that a declaration writes with dots."""
    return tuple(dotted.split("."))


def fields_of(column: Column) -> Iterator[tuple[Path, ColumnType]]:
    """Yield each path below `attributes` that a column reads, and as what."""
    match column.source:
        case At(path, or_else):
            yield path_of(path), column.type
            if or_else is not None:
                yield path_of(or_else), "integer"
        case Newest(path, _):
            yield path_of(path), "json"
        case _:
            return


def is_excluded(column: Column, exclude: frozenset[str]) -> bool:
    """Tell whether a column is named, or all that it reads lies at or below an excluded path."""
    if column.name in exclude:
        return True
    paths = [path for path, _ in fields_of(column)]
    return bool(paths) and all(
        any(".".join(path[:depth]) in exclude for depth in range(1, len(path) + 1))
        for path in paths
    )


def _branch(stream: Stream, at: Path, fields: Mapping[Path, Field]) -> Branch:
    names = dict.fromkeys(path[len(at)] for path in fields)
    return Branch(at, {name: _child(stream, (*at, name), fields) for name in names})


def _child(stream: Stream, at: Path, fields: Mapping[Path, Field]) -> Field | Branch:
    below = {path: field for path, field in fields.items() if is_at_or_below(path, at)}
    if all(field.purpose == "ignored" for field in below.values()):
        # Whole, whatever else may be in there.
        return Field(at, "json", "ignored")
    if at in below and len(below) > 1:
        raise ValueError(f"{stream.name}: {'.'.join(at)} is read whole and by its members")
    return below[at] if at in below else _branch(stream, at, below)


def taught(branch: Branch, *, extras: frozenset[Path], loose: frozenset[Path]) -> Branch:
    """Return the tree with fields no column is for, and with declared ones read loosely."""
    children: dict[str, Field | Branch] = {}
    for name, child in branch.children.items():
        if isinstance(child, Branch):
            children[name] = taught(child, extras=extras, loose=loose)
        else:
            children[name] = replace(child, is_loose=child.path in loose)
    depth = len(branch.path)
    for path in sorted(extras):
        if path[:-1] == branch.path and path[depth] not in children:
            children[path[depth]] = Field(path, "json", "extra")
    return Branch(branch.path, children)


def extra_key(root: Branch, path: Path) -> str:
    """Return the key in `extra` of what lies at `path`: its names joined by dots.

    A name that would make two paths look alike stands in double quotes, as JSON text.
    """
    parts: list[str] = []
    here: Field | Branch | None = root
    for name in path:
        children = here.children if isinstance(here, Branch) else _NO_CHILDREN
        head = name.partition(".")[0]
        is_ambiguous = head != name and (
            isinstance(children.get(head), Branch) or (not parts and head in RESERVED)
        )
        is_quoted = is_ambiguous or name.startswith('"')
        parts.append(json.encode(name).decode() if is_quoted else name)
        here = children.get(name)
    return ".".join(parts)
