"""The answer to a report request, read into rows: one a message, or one a message and day.

What belongs here: the shape of Klaviyo's answers. What does not: the table's columns
(`reports.py`), which day a total belongs to (`sync/reports`).

The labels of a series are the account's local time with `+00:00` behind it, so the date is taken
from the text and the offset left alone. Source: recorded answers of revision 2026-07-15, and
https://developers.klaviyo.com/en/reference/reporting_api_overview
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from types import MappingProxyType

import msgspec
from msgspec import Raw

from klaviyo_assets.errors import BrokenBodyError, MalformedPageError
from klaviyo_assets.model.report import Report
from klaviyo_assets.tables.body import mended, opened
from klaviyo_assets.tables.coercion import coerced
from klaviyo_assets.tables.envelope import refuse_no_answer
from klaviyo_assets.tables.findings import is_null, json_type
from klaviyo_assets.tables.gathered import Quarantined
from klaviyo_assets.tables.resources import ABSENT, NOTHING, Links
from klaviyo_assets.wording import quantity

MOST_PUT_ASIDE, PUT_ASIDE_SHARE, ALL_PUT_ASIDE = 100, 0.01, 10
"""Results put aside that fail an answer: their number and share, both exceeded, or these at all."""


def nothing() -> Mapping[str, bytes]:
    """Return an empty mapping that nobody can fill."""
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """What one message earned: on `day` of the account's zone, or in the whole time frame (None).

    `groupings` and `statistics` are as Klaviyo names them; the ids of subject and message are
    always text. `extra` is JSON text of what is neither, by dotted path in the result.
    """

    day: date | None
    groupings: Mapping[str, str | None]
    statistics: Mapping[str, float | None]
    extra: Mapping[str, bytes] = field(default_factory=nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPage:
    """One page of an answer; where the next one is, if any, by link or by `page_cursor`.

    `days` are those that a series tells of, rows or not; none where it is no series. `put_aside`
    are results of which nobody can say what message they are of.
    """

    days: tuple[date, ...]
    rows: tuple[ReportRow, ...]
    next_link: str | None
    page_cursor: str | None
    put_aside: tuple[Quarantined, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Return whether it tells of no day and of no row: nothing happened on any day."""
        return not self.days and not self.rows and not self.put_aside


class _Attributes(msgspec.Struct):
    results: list[dict[str, Raw]]
    date_times: list[str] | None = None


class _Data(msgspec.Struct):
    attributes: _Attributes


class _Meta(msgspec.Struct):
    page_cursor: str | None = None


class _Answer(msgspec.Struct):
    data: _Data
    links: Raw = ABSENT
    meta: Raw = ABSENT


_answer = msgspec.json.Decoder(_Answer)
_members = msgspec.json.Decoder(dict[str, Raw])
_numbers = msgspec.json.Decoder(list[float | None])
_values = msgspec.json.Decoder(list[Raw])


def read_report(body: bytes, report: Report) -> ReportPage:
    """Return the rows of one page.

    Every row that Klaviyo sends is given: a series repeats each message on every day, also on those
    on which all of its statistics are 0 or null. A series without a day and a result is empty.

    Raises:
        BrokenBodyError: not JSON, not UTF-8, no JSON object, or one that is no answer of Klaviyo's
            (without `data` or `links.self`, or with `errors`); asking again may help.
        MalformedPageError: not the shape of this report; no row is guessed.
    """
    text, _ = mended(opened(body, report.type))
    refuse_no_answer(text, stream=report.type, is_paged=True)
    try:
        # What is only passed on, msgspec does not look at.
        text.decode()
        answer = _answer.decode(text)
        found = answer.data.attributes
        days = _days(found.date_times) if report.interval else ()
        reading = _Reading(report, days)
        rows, put_aside = _rows_of(found.results, reading)
        links = _links.decode(answer.links)
        meta = _Meta() if bytes(answer.meta) in NOTHING else _meta.decode(answer.meta)
    except msgspec.ValidationError as problem:
        # msgspec says what it expected and where, not what stands there.
        raise MalformedPageError(f"the answer has not the shape of a report: {problem}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BrokenBodyError("the answer is not JSON in UTF-8", stream=report.type) from None
    return ReportPage(
        days=days,
        rows=rows,
        next_link=links.next,
        page_cursor=meta.page_cursor,
        put_aside=put_aside,
    )


_links = msgspec.json.Decoder(Links)
# Unverified: the document has the parameter but not where its value comes from; JSON:API's own
# place for what is no link is `meta`.
_meta = msgspec.json.Decoder(_Meta)

Parts = tuple[dict[str, Raw], dict[str, Raw], dict[str, bytes]]
"""Groupings, statistics, and what else a result holds."""


class _BrokenResultError(ValueError):
    """A result that belongs to no message; the text is the reason. It never leaves this file."""


def _rows_of(
    results: Sequence[dict[str, Raw]], reading: "_Reading"
) -> tuple[tuple[ReportRow, ...], tuple[Quarantined, ...]]:
    """Return the rows of sound results, and the others as they came.

    Raises:
        MalformedPageError: the others are many, or all there is: days would be stored as empty.
    """
    rows: list[ReportRow] = []
    put_aside: list[Quarantined] = []
    for result in results:
        try:
            rows += reading.rows(*_members_of(result))
        except _BrokenResultError as broken:
            put_aside.append(Quarantined(str(broken), msgspec.json.encode(result)))
    is_many = len(put_aside) > max(MOST_PUT_ASIDE, len(results) * PUT_ASIDE_SHARE)
    if is_many or (len(put_aside) == len(results) >= ALL_PUT_ASIDE):
        raise MalformedPageError(
            f"{quantity(len(put_aside), 'result')} of {len(results)} cannot be stored: "
            f"{put_aside[0].reason}"
        )
    return tuple(rows), tuple(put_aside)


def _members_of(result: dict[str, Raw]) -> Parts:
    for name in ("groupings", "statistics"):
        if name not in result or json_type(result[name]) != "object":
            raise _BrokenResultError(f"a result of the answer has no {name}")
    others = {
        name: bytes(raw)
        for name, raw in result.items()
        if name not in {"groupings", "statistics"} and bytes(raw) not in NOTHING
    }
    return _members.decode(result["groupings"]), _members.decode(result["statistics"]), others


def _days(labels: Sequence[str] | None) -> tuple[date, ...]:
    """Return the local days that the labels of a daily series name."""
    if labels is None:
        raise MalformedPageError("the series has no date_times")
    try:
        days = tuple(datetime.fromisoformat(label).date() for label in labels)
    except ValueError:
        raise MalformedPageError("a label of the series is no time") from None
    if len(set(days)) != len(days):
        raise MalformedPageError("the series has two labels of one day")
    return days


class _Reading:
    """Reads results of one answer, given the days of its series."""

    def __init__(self, report: Report, days: tuple[date, ...]) -> None:
        self.report = report
        self.days = days
        self.needed = (f"{report.subject}_id", report.message_field)

    def rows(
        self, groupings: dict[str, Raw], statistics: dict[str, Raw], others: dict[str, bytes]
    ) -> Iterator[ReportRow]:
        """Yield the rows of one result."""
        extra = dict(others)
        texts = {name: _text(name, raw, extra) for name, raw in groupings.items()}
        for name in self.needed:
            if not texts.get(name):
                raise _BrokenResultError(f"a result of the answer has no {name}")
        if self.report.interval is None:
            numbers = {name: _number(name, raw, extra) for name, raw in statistics.items()}
            yield ReportRow(day=None, groupings=texts, statistics=numbers, extra=extra)
            return
        odd: dict[int, dict[str, bytes]] = {}
        columns = [self.column(name, raw, odd) for name, raw in statistics.items()]
        for at, day in enumerate(self.days):
            by_name = {name: column[at] for name, column in zip(statistics, columns, strict=True)}
            kept = extra | odd.get(at, {})
            yield ReportRow(day=day, groupings=texts, statistics=by_name, extra=kept)

    def column(
        self, name: str, raw: Raw, odd: dict[int, dict[str, bytes]]
    ) -> Sequence[float | None]:
        """Return one statistic's value a day; what is no number goes to `odd`, by the day's place.

        Raises:
            MalformedPageError: there are more or fewer values than days.
        """
        if is_null(raw):
            return [None] * len(self.days)
        try:
            numbers = _numbers.decode(raw)
        except msgspec.ValidationError:
            numbers: list[float | None] = []
            for at, value in enumerate(_values.decode(raw)):
                extra: dict[str, bytes] = {}
                numbers.append(_number(name, value, extra))
                if extra:
                    odd.setdefault(at, {}).update(extra)
        if len(numbers) != len(self.days):
            said = f"{quantity(len(numbers), 'value')} for {quantity(len(self.days), 'day')}"
            raise MalformedPageError(f"the shape of the series is broken: {name[:80]!a} has {said}")
        return numbers


def _text(name: str, raw: Raw, extra: dict[str, bytes]) -> str | None:
    value, fits = coerced(bytes(raw), "string")
    if not fits:
        extra[f"groupings.{name}"] = bytes(raw)
    return value if isinstance(value, str) else None


def _number(name: str, raw: Raw, extra: dict[str, bytes]) -> float | None:
    value, fits = coerced(bytes(raw), "number")
    if not fits:
        extra[f"statistics.{name}"] = bytes(raw)
    return value if isinstance(value, float) else None
