"""What a card of the page is made of: its value types, and how numbers, days and shares read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import cast
from zoneinfo import ZoneInfo

from klaviyo_assets.dashboard.questions import MissingData, Question, Row, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureTable:
    """A table of texts, as wide as `columns`; the first column names the row."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


Drawing = Mapping[str, object]
"""What a figure draws, as the page's template reads it; JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One card of the page.

    `answer` is the title's question, answered in words; `source` says period, zone, source and
    unit; `method` how it is counted. `figure` names the drawing in the page's template, and is
    empty where there is nothing to draw. `missing` says what to switch on; it is HTML, and ours,
    while all other texts are escaped.
    """

    name: str
    title: str
    answer: str = ""
    source: str = ""
    method: str = ""
    figure: str = ""
    drawing: Drawing = field(default_factory=dict[str, object])
    table: FigureTable | None = None
    missing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """A number of the top row, None where it is not known; `context` puts it into proportion."""

    name: str
    label: str
    value: float | None
    text: str
    context: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestQuota:
    """How many of a report's requests a day were used, as this machine has counted them."""

    report: str
    used: int
    limit: int


Answers = Mapping[str, Sequence[Row] | MissingData]
"""What came of each question, by its name."""


def rows_of(answers: Answers, question: Question) -> Sequence[Row]:
    """Return the rows of an answer; none where something is missing."""
    found = answers[question.name]
    return [] if isinstance(found, MissingData) else found


def build_missing_section(question: Question, found: MissingData) -> Section:
    """Return the card of a question that cannot be answered."""
    return Section(name=question.name, title=question.title, missing=found.sentence)


def read_number(row: Row, name: str) -> float:
    """Return a number of a row; 0 where it is NULL."""
    return float(cast("float | None", row[name]) or 0)


def read_day(row: Row, name: str) -> date:
    """Return a day of a row."""
    return cast("date", row[name])


def add_up_column(rows: Sequence[Row], name: str) -> float:
    """Return the sum of a column."""
    return sum(read_number(row, name) for row in rows)


NO_NUMBER = "\N{EN DASH}"
"""What stands where there is no number."""

WHOLE_PERCENT = 9.95
"""From here on a share has no decimal."""


def format_count(value: float) -> str:
    """Return a number of things: `1,234`."""
    return f"{value:,.0f}"


def format_money(value: float, currency: str | None) -> str:
    """Return an amount with its currency, in whole units: `USD 1,234`."""
    return f"{currency or ''} {value:,.0f}".strip()


def format_share(part: float, whole: float) -> str:
    """Return a share in percent, with a decimal below ten: `41%`, `6.2%`; a dash of nothing."""
    if not whole:
        return NO_NUMBER
    percent = 100 * part / whole
    return f"{percent:.0f}%" if percent >= WHOLE_PERCENT or not percent else f"{percent:.1f}%"


def format_day(day: date) -> str:
    """Return a day as people write it: `2 Sep 2026`."""
    return f"{day.day} {day:%b %Y}"


def format_moment(moment: datetime, zone: str) -> str:
    """Return a moment in a zone, to the minute."""
    local = moment.astimezone(ZoneInfo(zone))
    return f"{format_day(local.date())}, {local:%H:%M}"


def format_period(scope: Scope) -> str:
    """Return the days of the overview, and of which zone they are."""
    days = f"{format_day(scope.first_day)} to {format_day(scope.last_day)}"
    return f"{days}, days of {scope.zone}"


def join_words(words: Sequence[str]) -> str:
    """Return words as a list in a sentence: `a, b and c`."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def bar_width(part: float, whole: float) -> float:
    """Return how wide a bar is, in percent."""
    return round(max(0.0, min(100.0, 100 * part / whole)), 1) if whole else 0.0


def build_ranking(
    bars: Sequence[tuple[str, float]], color: str, texts: Sequence[tuple[str, str]]
) -> Drawing:
    """Return bars with names, the first the longest; `texts` are beside each, the second small."""
    most = max((value for _, value in bars), default=0.0)
    return {
        "color": color,
        "bars": [
            {"name": name, "width": bar_width(value, most), "text": text, "more": more}
            for (name, value), (text, more) in zip(bars, texts, strict=True)
        ],
    }


def build_share_parts(counts: Sequence[tuple[str, str, float]]) -> list[Drawing]:
    """Return the parts of a bar of shares from their names, colours and counts."""
    whole = sum(count for _, _, count in counts)
    return [
        {
            "name": name,
            "color": color,
            "width": bar_width(count, whole),
            "share": format_share(count, whole),
            "count": format_count(count),
        }
        for name, color, count in counts
        if count
    ]
