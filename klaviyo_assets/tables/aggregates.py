"""The answer to a metric-aggregates request, read into a number of events a day.

What belongs here: the shape of Klaviyo's answer. What does not: comparing (`sync/completeness.py`).
Unlike the labels of series reports, `dates` are true instants.
Source: https://developers.klaviyo.com/en/reference/query_metric_aggregates, revision 2026-07-15.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime

import msgspec

from klaviyo_assets.errors import BrokenBodyError, MalformedPageError
from klaviyo_assets.tables.body import opened
from klaviyo_assets.tables.envelope import refuse_no_answer


class _Measurements(msgspec.Struct):
    count: list[float]


class _Row(msgspec.Struct):
    measurements: _Measurements


class _Attributes(msgspec.Struct):
    dates: list[datetime]
    data: list[_Row]


class _Resource(msgspec.Struct):
    attributes: _Attributes


class _Answer(msgspec.Struct):
    data: _Resource


_answer = msgspec.json.Decoder(_Answer)


def read_counts(body: bytes) -> Mapping[date, int]:
    """Return how many events each UTC day of the answer has, days without any included.

    Raises:
        BrokenBodyError: not JSON, without `data` or with `errors`; asking again may help.
        MalformedPageError: not the shape of an answer without dimensions; no number is guessed.
    """
    text = opened(body, "events")
    refuse_no_answer(text, stream="events", is_paged=False)
    try:
        found = _answer.decode(text).data.attributes
    except msgspec.ValidationError as problem:
        raise MalformedPageError(f"the counts have not the documented shape: {problem}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BrokenBodyError("the answer is not JSON in UTF-8", stream="events") from None
    counts = dict.fromkeys((each.astimezone(UTC).date() for each in found.dates), 0)
    for row in found.data:
        numbers = row.measurements.count
        if len(numbers) != len(found.dates):
            said = f"{len(numbers)} counts for {len(found.dates)} dates"
            raise MalformedPageError(f"the shape of the counts is broken: {said}")
        for moment, number in zip(found.dates, numbers, strict=True):
            counts[moment.astimezone(UTC).date()] += int(number)
    return counts
