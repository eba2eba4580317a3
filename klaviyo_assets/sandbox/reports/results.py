"""The rows of a report: messages chosen, grouped, counted.

Per message first over local days, so that a unique counts once per message and frame; then over the
messages of a group. A series has one value per bucket and statistic.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from klaviyo_assets.sandbox.json_types import Json, JsonObject
from klaviyo_assets.sandbox.reports.asks import ReportAsk
from klaviyo_assets.sandbox.reports.conversions import Conversion
from klaviyo_assets.sandbox.reports.counts import Counts, statistics
from klaviyo_assets.sandbox.reports.outcomes import outcome
from klaviyo_assets.sandbox.reports.sends import Message
from klaviyo_assets.sandbox.reports.timeframes import Timeframe
from klaviyo_assets.sandbox.shop.seeds import mix

Key = tuple[str | None, ...]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts messages for a conversion metric at a time (sandbox seconds)."""

    conversion: Conversion
    now: float

    def between(self, message: Message, start: int, end: int) -> list[Counts]:
        """Counts of each hour's send in [start, end)."""
        conversion = self.conversion
        return [
            outcome(
                message.channel,
                bits_of(message, conversion, hour),
                recipients,
                age=self.now - hour,
                weight=conversion.weight,
            )
            for hour, recipients in message.sent(start, min(end, int(self.now) + 1))
        ]

    def over(self, message: Message, days: Sequence[Span]) -> Counts:
        """Counts of a message over the local days of a frame or of a bucket."""
        if not message.is_flow:
            # Everyone gets a campaign once, so that its days simply add up.
            return Counts.total(self.between(message, days[0][0], days[-1][1]))
        each_day = [Counts.total(self.between(message, low, high)) for low, high in days]
        return Counts.over_days(each_day)


def spans_of(frame: Timeframe) -> list[Span]:
    """The local days of a frame as instants [start, end)."""
    return [(low, high) for _, low, high in frame.days()]


def within(days: Sequence[Span], start: int, end: int) -> list[Span]:
    """The days, or parts of them, that lie in [start, end)."""
    return [(max(low, start), min(high, end)) for low, high in days if low < end and high > start]


def bits_of(message: Message, conversion: Conversion, hour: int) -> int:
    """Random bits of a send: the low half is the message's own, the high half the conversion's."""
    own = mix(message.seed, hour) & 0xFFFF_FFFF
    return own | (mix(message.seed ^ conversion.seed, hour) & 0xFFFF_FFFF) << 32


def passes(message: Message, ask: ReportAsk, tag_names: dict[str, str]) -> bool:
    """Whether a message meets every clause of the ask."""
    for clause in ask.clauses:
        wanted = {str(each.value) for each in clause.values}
        if clause.field in {"tag_id", "tag_name"}:
            named = clause.field == "tag_name"
            own = {tag_names[tag] if named else tag for tag in message.tags}
            met = wanted <= own if clause.operator == "contains-all" else bool(wanted & own)
        else:
            met = message.groupings.get(clause.field) in wanted
        if not met:
            return False
    return True


def keys_of(message: Message, group_by: tuple[str, ...], tag_names: dict[str, str]) -> list[Key]:
    """The groups that a message belongs to: one, or one per tag when grouped by tags."""
    tags: tuple[str | None, ...] = (None,)
    if {"tag_id", "tag_name"} & set(group_by):
        tags = message.tags or (None,)
    found: list[Key] = []
    for tag in tags:
        name = None if tag is None else tag_names[tag]
        values = {**message.groupings, "tag_id": tag, "tag_name": name}
        found.append(tuple(values[each] for each in group_by))
    return found


def values_rows(
    messages: list[Message], ask: ReportAsk, tally: Tally, *, tag_names: dict[str, str]
) -> list[JsonObject]:
    """The results of a values report; messages without sends in the frame have no row."""
    days = spans_of(ask.frame)
    groups: dict[Key, list[Counts]] = {}
    for message in messages:
        if not passes(message, ask, tag_names):
            continue
        counts = tally.over(message, days)
        if counts.recipients:
            for key in keys_of(message, ask.group_by, tag_names):
                groups.setdefault(key, []).append(counts)
    rows: list[JsonObject] = []
    for key, parts in groups.items():
        numbers = statistics(Counts.total(parts))
        chosen: JsonObject = {name: numbers[name] for name in ask.statistics}
        rows.append({"groupings": groupings(ask, key), "statistics": chosen})
    return rows


def series_rows(
    messages: list[Message], ask: ReportAsk, tally: Tally, *, tag_names: dict[str, str]
) -> list[JsonObject]:
    """The results of a series report: per statistic one value per bucket."""
    buckets = ask.frame.buckets(ask.interval or "daily")
    days = spans_of(ask.frame)
    parts = [within(days, low, high) for _, low, high in buckets]
    groups: dict[Key, list[list[Counts]]] = {}
    for message in messages:
        if not passes(message, ask, tag_names):
            continue
        line = [tally.over(message, part) for part in parts]
        if any(counts.recipients for counts in line):
            for key in keys_of(message, ask.group_by, tag_names):
                groups.setdefault(key, []).append(line)
    rows: list[JsonObject] = []
    for key, lines in groups.items():
        totals = [Counts.total(list(column)) for column in zip(*lines, strict=True)]
        numbers = [statistics(counts) for counts in totals]
        chosen: JsonObject = {name: [each[name] for each in numbers] for name in ask.statistics}
        rows.append({"groupings": groupings(ask, key), "statistics": chosen})
    return rows


def groupings(ask: ReportAsk, key: Key) -> Json:
    """The names and values of a group."""
    return dict(zip(ask.group_by, key, strict=True))
