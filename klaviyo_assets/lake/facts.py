"""Facts of report cells, packed into the state of each commit: which days are there, and how.

What belongs here: the facts and their packed form. What does not: replacing rows (`cells`).

A cell without rows is done all the same, so the rows alone cannot tell what is missing. Every
commit carries the facts of all cells, a text a metric: differences, compressed. Measured for 20
metrics fetched day by day, each day final at another moment: 29 kB in the commit for a year and
127 kB for five; read in 40 ms, and only the texts of touched metrics are written anew.
"""

import binascii
import json
import zlib
from base64 import b85decode, b85encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import accumulate, pairwise
from typing import cast

from klaviyo_assets.errors import CorruptFileError
from klaviyo_assets.model.report import Cell

CELLS = "cells"
REFUSED = "refused"
"""The keys that a report table's state holds these under; all other keys are the sync's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFacts:
    """A cell that is stored: when Klaviyo computed it (UTC, whole seconds), and how many rows.

    `is_final` tells whether the attribution window had passed by then.
    """

    fetched_at: datetime
    is_final: bool
    rows: int


Days = Mapping[date, CellFacts]
"""The stored days of one metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRefusal:
    """Klaviyo made no report with a metric: the day it said so, in the account's zone, and why.

    `reason` is in Klaviyo's words, empty where they were not kept. `is_known` tells whether the
    account had a metric of that id then.
    """

    on: date
    reason: str = ""
    is_known: bool = True


def packed(days: Days) -> str:
    """Return the facts of one metric's days as text."""
    ordered = sorted(days.items())
    columns = (
        differences([day.toordinal() for day, _ in ordered]),
        differences([int(each.fetched_at.timestamp()) for _, each in ordered]),
        [int(each.is_final) for _, each in ordered],
        [each.rows for _, each in ordered],
    )
    plain = json.dumps(columns, separators=(",", ":")).encode()
    return b85encode(zlib.compress(plain, 9)).decode()


def unpacked(text: str) -> dict[date, CellFacts]:
    """Return what `packed` wrote; errors of its parts pass."""
    columns = cast("list[list[int]]", json.loads(zlib.decompress(b85decode(text))))
    days, moments, finals, rows = columns
    return {
        date.fromordinal(day): CellFacts(
            fetched_at=datetime.fromtimestamp(moment, UTC), is_final=bool(final), rows=count
        )
        for day, moment, final, count in zip(
            accumulate(days), accumulate(moments), finals, rows, strict=True
        )
    }


def differences(numbers: list[int]) -> list[int]:
    """Return the first number, then how much each one exceeds the one before."""
    return [*numbers[:1], *(after - before for before, after in pairwise(numbers))]


def with_facts(
    state: Mapping[str, object], facts: Mapping[Cell, CellFacts], *, stream: str
) -> dict[str, object]:
    """Return the facts of a table's state, as packed text by metric, with those of some cells new.

    Raises:
        CorruptFileError: a touched metric's facts cannot be read.
    """
    packs = cast("Mapping[str, str]", state.get(CELLS, {}))
    touched: dict[str, dict[date, CellFacts]] = {}
    for cell, each in facts.items():
        if cell.metric_id not in touched:
            touched[cell.metric_id] = read(packs.get(cell.metric_id), stream)
        touched[cell.metric_id][cell.day] = each
    return {**packs, **{metric_id: packed(days) for metric_id, days in touched.items()}}


def facts_of(state: Mapping[str, object], *, stream: str) -> dict[Cell, CellFacts]:
    """Return the facts of all cells that a table's state tells of.

    Raises:
        CorruptFileError: they cannot be read.
    """
    packs = cast("Mapping[str, str]", state.get(CELLS, {}))
    return {
        Cell(metric_id, day): each
        for metric_id, text in packs.items()
        for day, each in read(text, stream).items()
    }


def refused_of(state: Mapping[str, object]) -> dict[str, MetricRefusal]:
    """Return the metrics that Klaviyo refused."""
    written = cast("Mapping[str, str | list[object]]", state.get(REFUSED, {}))
    return {metric_id: read_refusal(each) for metric_id, each in written.items()}


def read_refusal(written: str | list[object]) -> MetricRefusal:
    """Return a refusal as `written_refusal` writes it; 2026.11.0 wrote its day alone."""
    if isinstance(written, str):
        return MetricRefusal(on=date.fromisoformat(written))
    on, reason, is_known = written
    return MetricRefusal(
        on=date.fromisoformat(str(on)), reason=str(reason), is_known=bool(is_known)
    )


def written_refusal(refusal: MetricRefusal) -> list[object]:
    """Return a refusal as a table's state holds it."""
    return [refusal.on.isoformat(), refusal.reason, refusal.is_known]


def read(text: str | None, stream: str) -> dict[date, CellFacts]:
    """Return one metric's facts, nothing for None.

    Raises:
        CorruptFileError: they cannot be read.
    """
    if text is None:
        return {}
    try:
        return unpacked(text)
    except (ValueError, TypeError, OverflowError, zlib.error, binascii.Error):
        raise CorruptFileError(
            "the newest commit's facts of days cannot be read: was it written by another version "
            f"of klaviyo_assets? Put the table away with `klaviyo-assets set-aside {stream}` and "
            "fetch the report again",
            stream=stream,
        ) from None
