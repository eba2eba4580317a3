"""The cursor of a page: rows without one, and the span of the others.

What belongs here: what every row must have where a stream has a cursor. What does not: the mark,
and whether pages come in order (the sync's).
"""

from datetime import UTC, datetime, timedelta
from typing import cast

import numpy as np
import pyarrow as pa
from msgspec import Raw

from klaviyo_assets.tables.gathered import Gathered, Quarantined
from klaviyo_assets.tables.layout import Layout
from klaviyo_assets.tables.resources import NOTHING

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rows_with_cursor(
    batch: pa.RecordBatch, cursor: str, *, layout: Layout, gathered: Gathered
) -> pa.RecordBatch:
    """Return the rows that have a cursor; the records of the others go into quarantine.

    But where the cursor is the newest of several, a record with none of them is no row at all:
    Klaviyo's filters are known to be ignored at times. `gathered` must be of the slow path.
    """
    several = gathered.values.get(layout.several, ())
    is_there = batch[cursor].is_valid()
    for row, there in enumerate(is_there.to_pylist()):
        if there:
            continue
        if several and bytes(cast("Raw", several[row])) in NOTHING:
            gathered.findings.note(cursor, "none, so the record is no row of this stream")
        else:
            broken = Quarantined(f"the record has no {cursor}", bytes(gathered.raws[row]))
            gathered.quarantined.append(broken)
    return batch.filter(is_there)


def span_of(batch: pa.RecordBatch, cursor: str) -> tuple[datetime, datetime, bool] | None:
    """Return the lowest and the highest moment, and whether none is lower than the one before.

    None without rows. No row may be without cursor.
    """
    micros = cast("list[int]", np.from_dlpack(batch[cursor].cast(pa.int64())).tolist())
    if not micros:
        return None
    ordered = sorted(micros)
    return _moment(ordered[0]), _moment(ordered[-1]), micros == ordered


def is_ascending_by_second(batch: pa.RecordBatch, cursor: str) -> bool:
    """Tell whether no row lies in an earlier second than the one before; none may be NULL."""
    micros = cast("list[int]", np.from_dlpack(batch[cursor].cast(pa.int64())).tolist())
    seconds = [each // 1_000_000 for each in micros]
    return seconds == sorted(seconds)


def _moment(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
