"""How large lists and segments are: by Klaviyo's count where it is stored, and by our rows."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import cast

import pyarrow.compute as pc

from klaviyo_assets.decode.schema import DELETED_AT_FIELD
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.stream import PARENT_ID, Children, Detail, Stream
from klaviyo_assets.settings import Settings

PROFILE_COUNT_COLUMN = "profile_count"

MAX_SIZE_DIFFERENCE_SHARE, MAX_SIZE_DIFFERENCE = 0.01, 10
"""A list that differs by more than this share and this number from Klaviyo's count is told of.

Both are read at different times, and who left is known only from the next full read on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSize:
    """A list or segment: Klaviyo's count of its members, and our rows of those that have not left.

    Both are None where they are not stored. `is_chosen`: whether its members are to be read.
    """

    id: str
    name: str
    counted: int | None
    stored: int | None
    is_chosen: bool

    @property
    def is_different(self) -> bool:
        """Return whether the two numbers differ by more than time explains."""
        if self.counted is None or self.stored is None:
            return False
        allowed = max(MAX_SIZE_DIFFERENCE, self.counted * MAX_SIZE_DIFFERENCE_SHARE)
        return abs(self.counted - self.stored) > allowed

    def full_read_requests(self, page_size: int) -> int | None:
        """Return the requests that reading all members takes; None where no size is known."""
        members = self.counted if self.counted is not None else self.stored
        return None if members is None else max(1, ceil(members / page_size))


def find_count_stream(stream: Stream, streams: Mapping[str, Stream]) -> Stream | None:
    """Return the stream that stores how many children each parent has; None: there is none."""
    source = stream.source
    if not isinstance(source, Children):
        return None
    return next(
        (
            each
            for each in streams.values()
            if isinstance(each.source, Detail)
            and each.source.parent == source.parent
            and any(column.name == PROFILE_COUNT_COLUMN for column in each.columns)
        ),
        None,
    )


def read_group_sizes(
    stream: Stream, count_stream: Stream | None, *, lake: Lake, settings: Settings
) -> list[GroupSize]:
    """Return the stored parents that exist, the largest first; none where none was ever read.

    Raises:
        CorruptFileError, StorageError: a table cannot be read.
    """
    source = cast("Children", stream.source)
    if lake.read_table_state(source.parent) is None:
        return []
    rows = lake.read_columns(source.parent, ["id", "name", DELETED_AT_FIELD]).to_pylist()
    counted = _read_counts(count_stream, lake)
    stored = _count_stored_rows(stream, lake)
    chosen = settings.members_of
    sizes = [
        GroupSize(
            id=str(row["id"]),
            name=str(row["name"] or ""),
            counted=counted.get(str(row["id"])),
            stored=None if stored is None else stored.get(str(row["id"]), 0),
            is_chosen=not chosen or str(row["id"]) in chosen,
        )
        for row in rows
        if row[DELETED_AT_FIELD] is None
    ]
    return sorted(sizes, key=lambda each: (-(each.counted or each.stored or 0), each.id))


def _read_counts(count_stream: Stream | None, lake: Lake) -> Mapping[str, int]:
    if count_stream is None or lake.read_table_state(count_stream.name) is None:
        return {}
    rows = lake.read_columns(count_stream.name, ["id", PROFILE_COUNT_COLUMN]).to_pylist()
    counts = {str(row["id"]): row[PROFILE_COUNT_COLUMN] for row in rows}
    return {each: count for each, count in counts.items() if count is not None}


def _count_stored_rows(stream: Stream, lake: Lake) -> Mapping[str, int] | None:
    """Return our rows without a mark by parent; None where the stream was never read."""
    if lake.read_table_state(stream.name) is None:
        return None
    parent = next(each.name for each in stream.columns if each.source == PARENT_ID)
    left = stream.deletion_column.name
    rows = lake.read_columns(stream.name, [parent, left])
    here = rows[parent].filter(pc.is_null(rows[left]))
    return Counter(cast("list[str]", here.to_pylist()))
