"""Sparse fields: what the settings exclude is not even asked for, where Klaviyo lets us choose.

What belongs here: the names for `fields[resource]`. What does not: the request (`protocol`).
A parent stands for all that is under it. Attributes that are not published come only without the
parameter, so it is sent only where something is excluded.
Source: https://developers.klaviyo.com/en/docs/sparse_fieldsets, revision 2026-07-15.
"""

from klaviyo_assets.model.column import At, Column, Newest
from klaviyo_assets.model.stream import Collection, Stream

Path = tuple[str, ...]


def sparse_fields(stream: Stream, excluded: frozenset[str]) -> tuple[str, ...]:
    """Return the only attributes to ask a collection for, dotted and sorted; empty: ask for all.

    All as well where a column is read from a relationship: whether `fields` takes those away is
    documented in two ways, and their names are not among those that it is documented to take.
    """
    if not isinstance(stream.source, Collection):
        return ()
    if not all(isinstance(column.source, At | Newest) for column in stream.columns):
        return ()
    kept = {path for each in stream.columns if each.name not in excluded for path in paths(each)}
    gone = {path for each in stream.columns if each.name in excluded for path in paths(each)} - kept
    if not gone or not kept:
        return ()
    return tuple(sorted({".".join(_widest(path, gone)) for path in kept}))


def paths(column: Column) -> set[Path]:
    """Return the paths below `attributes` that a column is read from."""
    match column.source:
        case At(path, or_else):
            return {tuple(each.split(".")) for each in (path, or_else) if each is not None}
        case Newest(path):
            return {tuple(path.split("."))}
        case _:
            return set()


def _widest(path: Path, gone: set[Path]) -> Path:
    """Return the shortest beginning of a path that nothing of `gone` lies under."""
    beginnings = [path[:end] for end in range(1, len(path) + 1)]
    return next(
        (each for each in beginnings if not any(one[: len(each)] == each for one in gone)), path
    )
