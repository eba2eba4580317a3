"""Descriptions: what a relation and each of its columns hold, in words.

Dagster's UI and the comments in klaviyo.duckdb show the same words, and both take them from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from klaviyo_assets.model.column import EXTRA, Column
from klaviyo_assets.model.stream import Detail, Join, Stream

KEY_COLUMN = Column("id", "Klaviyo's id; once in the table.")
EXTRA_COLUMN = Column(EXTRA, "Attributes that no column holds; NULL: none.", "json")
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
class Description:
    """What a relation holds, and what each of its columns tells, by name."""

    about: str = ""
    columns: Mapping[str, str] = field(default_factory=dict[str, str])


def widened_by(stream: Stream) -> str | None:
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
    widened = widened_by(stream)
    if widened is not None:
        return (*relation_columns(streams[widened], streams), *stream.columns)
    return (
        *([KEY_COLUMN] if KEY_COLUMN.name in stream.key else []),
        *stream.columns,
        EXTRA_COLUMN,
        SYNCED_COLUMN,
        *([DELETED_COLUMN] if stream.marks_deleted else []),
    )


def stream_description(stream: Stream, streams: Mapping[str, Stream]) -> Description:
    """Return the description of a stream's relation."""
    columns = relation_columns(stream, streams)
    return Description(about=stream.about, columns={each.name: each.about for each in columns})


def history_description(name: str, newest: Description) -> Description:
    """Return the description of the history of the table `name`, whose own is `newest`."""
    return Description(
        about=f"One row per version seen of each row of {name}, where a sync mode keeps them.",
        columns={
            **newest.columns,
            KEY_COLUMN.name: "Klaviyo's id; once for each version of the record.",
            SYNC_STARTED_COLUMN.name: SYNC_STARTED_COLUMN.about,
        },
    )
