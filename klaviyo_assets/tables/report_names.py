"""Two names for one message: results that differ in a name alone become one row a key.

What belongs here: merging rows of one answer. What does not: reading them (`report_answers`), days
that a total is placed on (`sync/reports`).

Klaviyo groups by what is asked for, names included: of a message that was renamed inside the time
frame there may be a result for each name, with the numbers of its time. Counts and values are added
up; a rate is the mean of the parts, weighted by what it is a share of, which is exact.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date

from klaviyo_assets.model.report import Report
from klaviyo_assets.tables.report_answers import ReportRow

CHANNEL = "send_channel"
UNKNOWN = "unknown"
"""What the table has where a row names no channel."""

Message = tuple[str | None, ...]
Names = tuple[tuple[str, str | None], ...]


def with_one_name(rows: Sequence[ReportRow], report: Report) -> Sequence[ReportRow]:
    """Return the rows of one answer, each key once, with the newest name where there are several.

    A row that comes twice, as pages that shift bring it, is there once. Rows of one key and one
    name that differ are left as they are: nothing tells which of them is right.
    """
    by_key: dict[tuple[Message, date | None], list[ReportRow]] = defaultdict(list)
    for row in rows:
        by_key[message_of(row, report), row.day].append(row)
    if len(by_key) == len(rows):
        return rows
    newest = newest_names(by_key)
    return [
        row
        for (message, _), parts in by_key.items()
        for row in merged_parts(parts, newest[message], report)
    ]


def message_of(row: ReportRow, report: Report) -> Message:
    """Return what a row is about, whatever its names: subject, message and channel."""
    found = row.groupings
    subject, message = found.get(f"{report.subject}_id"), found.get(report.message_field)
    return (subject, message, found.get(CHANNEL) or UNKNOWN)


def names_of(row: ReportRow) -> Names:
    """Return all that a row is grouped by."""
    return tuple(sorted(row.groupings.items()))


def newest_names(
    by_key: Mapping[tuple[Message, date | None], Sequence[ReportRow]],
) -> Mapping[Message, ReportRow]:
    """Return by message the row with the newest names: the last day on which there is a number.

    Of those that no day tells apart the one that Klaviyo gave last counts.
    """
    newest: dict[Message, tuple[date, ReportRow]] = {}
    for (message, day), parts in by_key.items():
        for row in parts:
            is_blank = not any(row.statistics.values())
            at = date.min if day is None or is_blank else day
            if message not in newest or at >= newest[message][0]:
                newest[message] = (at, row)
    return {message: row for message, (_, row) in newest.items()}


def merged_parts(
    parts: Sequence[ReportRow], named: ReportRow, report: Report
) -> Sequence[ReportRow]:
    """Return the one row of a key, or all of them where two of one name differ."""
    by_name: dict[Names, ReportRow] = {}
    for row in parts:
        known = by_name.setdefault(names_of(row), row)
        if known.statistics != row.statistics:
            return parts
    found = list(by_name.values())
    statistics = {name: None for row in found for name in row.statistics}
    extra = {name: raw for row in found for name, raw in row.extra.items()}
    return [
        ReportRow(
            day=found[0].day,
            groupings=named.groupings,
            statistics={name: merged_number(name, found, report) for name in statistics},
            extra=extra,
        )
    ]


def merged_number(name: str, rows: Sequence[ReportRow], report: Report) -> float | None:
    """Return one statistic of several rows of a key; None where none of them has it."""
    whole = report.rates.get(name)
    parts = [
        (number, row.statistics.get(whole) or 0.0 if whole is not None else 1.0)
        for row in rows
        if (number := row.statistics.get(name)) is not None
    ]
    if not parts:
        return None
    weights = sum(weight for _, weight in parts)
    if not weights:
        return max(number for number, _ in parts)
    added = sum(number * weight for number, weight in parts)
    return added if whole is None else added / weights
