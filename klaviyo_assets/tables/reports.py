"""The rows of reports as they are stored: the table's schema, and rows to a record batch.

What belongs here: columns. What does not: the answers (`report_answers.py`, whose words are offered
here as well), and which rows belong to a day (`sync/reports`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec
import pyarrow as pa

from klaviyo_assets.errors import MalformedPageError
from klaviyo_assets.model.report import Cell, Report, storable
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.tables.report_answers import ReportPage, ReportRow, read_report
from klaviyo_assets.tables.report_names import CHANNEL, UNKNOWN
from klaviyo_assets.tables.schema import ARROW_TYPES, EXTRA, MOMENT, SYNCED_AT

__all__ = [
    "ReportPage",
    "ReportRow",
    "StoredRow",
    "read_report",
    "report_schema",
    "rows_to_batch",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """A row and the cell it belongs to; `row.day` does not count here.

    `is_final` tells whether the attribution window had passed at `fetched_at` (UTC).
    """

    cell: Cell
    row: ReportRow
    is_final: bool
    fetched_at: datetime


def report_schema(stream: Stream) -> pa.Schema:
    """Return the stream's columns in order, `extra` and `synced_at`."""
    fields = [pa.field(column.name, ARROW_TYPES[column.type]) for column in stream.columns]
    return pa.schema([*fields, pa.field(EXTRA, pa.string()), pa.field(SYNCED_AT, MOMENT)])


def rows_to_batch(stream: Stream, rows: Iterable[StoredRow]) -> pa.RecordBatch:
    """Return the rows in the columns of `report_schema`, in their order, each key once.

    A row without a channel has the channel 'unknown'. Groupings and statistics without a column are
    in `extra`. A row that comes twice, as pages that shift bring it, is there once.

    Raises:
        MalformedPageError: two rows of one key differ.
        TypeError: the stream is no report.
    """
    if not isinstance(stream.source, Report):
        raise TypeError(f"{stream.name} is no report")
    by_key: dict[tuple[object, ...], tuple[ReportRow, dict[str, object]]] = {}
    for stored in rows:
        values = values_of(stored, stream.source)
        key = tuple(values[name] for name in stream.key)
        known, _ = by_key.setdefault(key, (stored.row, values))
        if (known.statistics, known.groupings) != (stored.row.statistics, stored.row.groupings):
            raise MalformedPageError(
                "the answer has two rows for one message and channel that differ, and the table "
                "could keep only one of them: tell this project's developers",
                stream=stream.name,
            )
    schema = report_schema(stream)
    table = [values for _, values in by_key.values()]
    arrays = [
        pa.array([values.get(name) for values in table], kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def values_of(stored: StoredRow, report: Report) -> dict[str, object]:
    """Return a row's values by column; those of groupings and statistics without one in `extra`."""
    row = stored.row
    extra = dict(row.extra)
    for part, found, asked in (
        ("groupings", row.groupings, report.group_by),
        ("statistics", row.statistics, report.statistics),
    ):
        for name in found.keys() - asked:
            if found[name] is not None:
                extra.setdefault(f"{part}.{name}", msgspec.json.encode(found[name]))
    asked = ((name, row.groupings.get(name)) for name in report.group_by)
    texts = {name: None if text is None else storable(text) for name, text in asked}
    return {
        **texts,
        **{name: row.statistics.get(name) for name in report.statistics},
        CHANNEL: texts[CHANNEL] or UNKNOWN,
        "date": stored.cell.day,
        "conversion_metric_id": stored.cell.metric_id,
        "is_final": stored.is_final,
        "fetched_at": stored.fetched_at,
        EXTRA: json_object(extra),
        SYNCED_AT: stored.fetched_at,
    }


def json_object(members: Mapping[str, bytes]) -> str | None:
    """Return an object of JSON texts, its keys sorted; None for one without members."""
    if not members:
        return None
    parts = (msgspec.json.encode(name) + b":" + members[name] for name in sorted(members))
    return (b"{" + b",".join(parts) + b"}").decode()
