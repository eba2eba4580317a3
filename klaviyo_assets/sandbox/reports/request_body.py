"""The body of a report request, parsed and checked against the published facts.

Every unknown field, statistic, grouping or operator is a 400 that points at its place.

Offsets of given times are ignored, both ends are inclusive, the end is rounded up to :59:59 of its
hour. Labels of series are local wall-clock times written with +00:00, as recorded on 2026-09-04: on
the day a clock goes back, one hourly label comes twice.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from klaviyo_assets.sandbox.facts.reporting import (
    INTERVAL_MAX_DAYS,
    REPORT_FACTS,
    SEND_CHANNELS,
    TAG_GROUPINGS,
    TIMEFRAME_KEYS,
    ReportFacts,
)
from klaviyo_assets.sandbox.facts.schema import FilterableField
from klaviyo_assets.sandbox.filters import FilterClause, check_filter, parse_filter
from klaviyo_assets.sandbox.http_messages import ApiError, invalid_input_error
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, as_object

_TIMEFRAME_POINTER = "/data/attributes/timeframe"
_MAX_TIMEFRAME = timedelta(days=366)
_ONE_HOUR = timedelta(hours=1)
_ROLLING_DAYS = {"last_7_days": 7, "last_30_days": 30, "last_90_days": 90, "last_365_days": 365}


@dataclass(frozen=True, slots=True)
class ReportTimeframe:
    """Local times [start, end) in a zone, on whole hours."""

    start: datetime
    end: datetime
    zone: ZoneInfo

    @property
    def instants(self) -> tuple[int, int]:
        """[start, end) in seconds since 1970; a repeated hour at an end is in it both times."""
        return local_seconds(self.start, self.zone), local_seconds(self.end, self.zone)

    def days(self) -> Iterator[tuple[date, int, int]]:
        """Each local day with its instants [start, end), the frame's ends kept."""
        start, end = self.instants
        day = self.start.date()
        while day <= self.end.date():
            low = local_seconds(datetime.combine(day, time()), self.zone)
            high = local_seconds(datetime.combine(day + timedelta(days=1), time()), self.zone)
            if max(low, start) < min(high, end):
                yield day, max(low, start), min(high, end)
            day += timedelta(days=1)

    def buckets(self, interval: str) -> list[tuple[str, int, int]]:
        """Labels with instants [start, end), in order."""
        if interval == "hourly":
            start, end = self.instants
            hours = range(start, end, 3600)
            return [(hour_label(hour, self.zone), hour, hour + 3600) for hour in hours]
        found: dict[str, tuple[int, int]] = {}
        for day, low, high in self.days():
            label = f"{interval_start(day, interval).isoformat()}T00:00:00+00:00"
            found[label] = (found.get(label, (low, high))[0], high)
        return [(label, low, high) for label, (low, high) in found.items()]


def local_seconds(local: datetime, zone: ZoneInfo) -> int:
    """Seconds since 1970 of a local time; of a repeated one the first."""
    return int(local.replace(tzinfo=zone).astimezone(UTC).timestamp())


def hour_label(seconds: int, zone: ZoneInfo) -> str:
    """The local hour of an instant, labelled as if it were UTC."""
    local = datetime.fromtimestamp(seconds, zone)
    return local.strftime("%Y-%m-%dT%H:00:00+00:00")


def interval_start(day: date, interval: str) -> date:
    """The first day of the interval that holds the day; weeks begin on Monday."""
    if interval == "weekly":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if interval == "monthly" else day


def parse_timeframe(given: JsonObject, zone: ZoneInfo, now: float) -> ReportTimeframe:
    """The frame of a request's `parse_timeframe`; 400 for anything the reference does not offer."""
    if "start" in given or "end" in given:
        strange = sorted(set(given) - {"start", "end"})
        if strange:
            message = f"'{strange[0]}' is not a valid field for the resource 'custom_timeframe'"
            raise invalid_input_error(message, pointer=f"{_TIMEFRAME_POINTER}/{strange[0]}")
        return parse_custom_timeframe(given, zone, now)
    key = given.get("key")
    if set(given) != {"key"} or key not in TIMEFRAME_KEYS:
        raise timeframe_error(
            f"'{key}' is not a valid timeframe. Options: {', '.join(TIMEFRAME_KEYS)}"
        )
    here = datetime.fromtimestamp(now, zone).replace(tzinfo=None)
    start, end = named_frame_dates(str(key), here.date())
    low, high = datetime.combine(start, time()), datetime.combine(end, time())
    return ReportTimeframe(low, min(high, round_up_to_hour(here)), zone)


def parse_custom_timeframe(given: JsonObject, zone: ZoneInfo, now: float) -> ReportTimeframe:
    """A timeframe by `start` and `end`; its end must not be after the current hour."""
    start, end = (parse_local_time(given.get(name), name) for name in ("start", "end"))
    timeframe = ReportTimeframe(start.replace(minute=0, second=0), round_up_to_hour(end), zone)
    if end < start:
        raise timeframe_error("The start of the timeframe must be before its end.")
    if timeframe.end - timeframe.start > _MAX_TIMEFRAME:
        raise timeframe_error("The timeframe may not be longer than 1 year.")
    here = datetime.fromtimestamp(now, zone).replace(tzinfo=None)
    if timeframe.end > round_up_to_hour(here):
        # Reported both as a 400 and as an empty answer; the sandbox takes the stricter.
        raise timeframe_error(f"End date may not be in the future: {given.get('end')}")
    return timeframe


def parse_local_time(value: object, name: str) -> datetime:
    """A time whose offset is dropped; 400 when it is none."""
    try:
        return datetime.fromisoformat(str(value)).replace(tzinfo=None, microsecond=0)
    except ValueError:
        message = f"Invalid datetime: '{value}'."
        raise invalid_input_error(message, pointer=f"{_TIMEFRAME_POINTER}/{name}") from None


def round_up_to_hour(local: datetime) -> datetime:
    """The first moment after :59:59 of its hour."""
    return local.replace(minute=0, second=0, microsecond=0) + _ONE_HOUR


def named_frame_dates(key: str, today: date) -> tuple[date, date]:
    """First day and the day after the last of a named frame; rolling ones have today in them."""
    tomorrow = today + timedelta(days=1)
    monday = today - timedelta(days=today.weekday())
    month, year = today.replace(day=1), today.replace(month=1, day=1)
    if key in _ROLLING_DAYS:
        return today - timedelta(days=_ROLLING_DAYS[key]), tomorrow
    frames = {
        "today": (today, tomorrow),
        "yesterday": (today - timedelta(days=1), today),
        "this_week": (monday, tomorrow),
        "last_week": (monday - timedelta(days=7), monday),
        "this_month": (month, tomorrow),
        "last_month": (subtract_months(month, 1), month),
        "last_3_months": (subtract_months(month, 3), tomorrow),
        "last_12_months": (subtract_months(month, 12), tomorrow),
        "this_year": (year, tomorrow),
        "last_year": (year.replace(year=year.year - 1), year),
    }
    return frames[key]


def subtract_months(first: date, count: int) -> date:
    """The first day of the month so many before."""
    months = first.year * 12 + first.month - 1 - count
    return date(months // 12, months % 12 + 1, 1)


def check_series_length(timeframe: ReportTimeframe, interval: str) -> None:
    """400 for a series over more days than its interval allows."""
    allowed = INTERVAL_MAX_DAYS[interval]
    if timeframe.end - timeframe.start > timedelta(days=allowed):
        span = f"{allowed} days" if allowed < 100 else "52 weeks"
        raise timeframe_error(
            f"The timeframe for a {interval} interval may not be longer than {span}."
        )


def timeframe_error(detail: str) -> ApiError:
    """A 400 about the time frame."""
    return invalid_input_error(detail, pointer=_TIMEFRAME_POINTER)


_ATTRIBUTES_POINTER = "/data/attributes"
_MAX_FILTER_ITEMS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRequestBody:
    """A parsed request for a report; `interval` only for series.

    `metric_id` is empty for reports without conversions.
    """

    kind: str
    statistics: tuple[str, ...]
    timeframe: ReportTimeframe
    metric_id: str
    group_by: tuple[str, ...]
    clauses: tuple[FilterClause, ...]
    interval: str | None


def parse_body_attributes(body: bytes, kind: str) -> JsonObject:
    """The attributes of a JSON:API body of that type; 400 when it is none."""
    try:
        document: Json = json.loads(body)
    except ValueError:
        raise invalid_input_error("Invalid JSON.", pointer="/data") from None
    data = as_object(as_object(document).get("data"))
    if data.get("type") != kind:
        raise invalid_input_error(
            f"'{data.get('type')}' is not a valid type; use '{kind}'.", pointer="/data/type"
        )
    attributes = data.get("attributes")
    if not isinstance(attributes, dict):
        raise missing_field_error("attributes", "/data")
    return as_object(attributes)


def parse_report_body(body: bytes, kind: str, *, zone: ZoneInfo, now: float) -> ReportRequestBody:
    """The ask in a body; 400 for everything that is not offered."""
    facts = REPORT_FACTS[kind]
    attributes = parse_body_attributes(body, kind)
    needed = ["statistics", "timeframe"]
    needed += ["conversion_metric_id"] if facts.has_conversion_metric else []
    needed += ["interval"] if facts.is_series else []
    optional = ["group_by", "filter"] if facts.group_by else ["filter"]
    check_attribute_names(attributes, kind, [*needed, *optional], needed)
    frame = parse_timeframe(as_object(attributes["timeframe"]), zone, now)
    if facts.first_day is not None and frame.start.date() < facts.first_day:
        # How Klaviyo refuses it is not recorded; the reference says that there is no data.
        raise timeframe_error(f"Data is unavailable before {facts.first_day:%B %-d, %Y}.")
    interval = parse_interval(attributes) if facts.is_series else None
    if interval is not None:
        check_series_length(frame, interval)
    return ReportRequestBody(
        kind=kind,
        statistics=parse_choices(attributes["statistics"], facts.statistics, "statistics"),
        timeframe=frame,
        metric_id=str(attributes.get("conversion_metric_id", "")),
        group_by=parse_groupings(attributes.get("group_by"), facts),
        clauses=parse_report_filter(attributes.get("filter"), facts),
        interval=interval,
    )


def check_attribute_names(
    attributes: JsonObject, kind: str, known: list[str], required: list[str]
) -> None:
    """Refuse attributes that are unknown or missing."""
    for name in attributes:
        if name not in known:
            message = f"'{name}' is not a valid field for the resource '{kind}'"
            raise invalid_input_error(message, pointer=f"{_ATTRIBUTES_POINTER}/{name}")
    for name in required:
        if attributes.get(name) is None:
            raise missing_field_error(name, _ATTRIBUTES_POINTER)


def missing_field_error(name: str, pointer: str) -> ApiError:
    """A 400 for a field that is required."""
    return invalid_input_error(f"'{name}' is a required field.", pointer=f"{pointer}/{name}")


def parse_choices(value: Json, offered: tuple[str, ...], name: str) -> tuple[str, ...]:
    """A list that is not empty and holds only what is offered."""
    requested = tuple(str(each) for each in as_list(value))
    if not requested:
        raise missing_field_error(name, _ATTRIBUTES_POINTER)
    for each in requested:
        if each not in offered:
            message = f"'{each}' is not a valid choice for {name}. Options: {', '.join(offered)}"
            raise invalid_input_error(message, pointer=f"{_ATTRIBUTES_POINTER}/{name}")
    return requested


def parse_interval(attributes: JsonObject) -> str:
    """The interval of a series."""
    return parse_choices([attributes["interval"]], tuple(INTERVAL_MAX_DAYS), "interval")[0]


def parse_groupings(value: Json, facts: ReportFacts) -> tuple[str, ...]:
    """The groupings; those that are required must be among them."""
    if value is None:
        return facts.default_groupings
    requested = parse_choices(value, facts.group_by, "group_by")
    for name in facts.required_groupings:
        if name not in requested:
            required = ", ".join(facts.required_groupings)
            message = f"The following group by attributes are required: {required}"
            raise invalid_input_error(message, pointer=f"{_ATTRIBUTES_POINTER}/group_by")
    return requested


def parse_report_filter(value: Json, facts: ReportFacts) -> tuple[FilterClause, ...]:
    """The clauses of the filter: one per attribute, at most a hundred items each."""
    if value is None:
        return ()
    clauses = parse_filter(str(value))
    check_filter(clauses, {name: report_filterable_field(name, facts) for name in facts.filters})
    fields = [clause.field for clause in clauses]
    for clause in clauses:
        if fields.count(clause.field) > 1:
            message = f"Only one filter can be used per attribute: {clause.field}"
            raise invalid_input_error(message, pointer=f"{_ATTRIBUTES_POINTER}/filter")
        if len(clause.values) > _MAX_FILTER_ITEMS:
            message = (
                f"At most {_MAX_FILTER_ITEMS} items are allowed in a filter on {clause.field}."
            )
            raise invalid_input_error(message, pointer=f"{_ATTRIBUTES_POINTER}/filter")
    return clauses


def report_filterable_field(name: str, facts: ReportFacts) -> FilterableField:
    """The operators of a filterable attribute."""
    if name in TAG_GROUPINGS:
        return FilterableField(("contains-any", "contains-all"))
    values = SEND_CHANNELS if name == "send_channel" else ()
    return FilterableField(("equals", facts.list_operator), values=values)
