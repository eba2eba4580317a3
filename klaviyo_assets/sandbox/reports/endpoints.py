"""The report endpoints: messages selected, grouped and counted for a metric, in pages.

Per message first over local days, so that a unique counts once per message and frame; then over the
messages of a group. A series has one value per bucket and statistic. Forms and segments have no
metric; what they count is in `forms_and_segments`.

Metrics of behaviour on messages and lists are not eligible; custom metrics are, though
`/api/metrics` does not list them.
"""

import base64
import binascii
import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from klaviyo_assets.sandbox.account.metrics import METRIC_TEMPLATES
from klaviyo_assets.sandbox.account.seeds import mix_bits
from klaviyo_assets.sandbox.account.store import AccountStore
from klaviyo_assets.sandbox.facts.reporting import REPORT_FACTS
from klaviyo_assets.sandbox.facts.schema import Operation
from klaviyo_assets.sandbox.http_messages import ApiError, invalid_input_error
from klaviyo_assets.sandbox.json_types import Json, JsonObject, dump_json
from klaviyo_assets.sandbox.query import ParsedQuery, encode_query, invalid_cursor_error
from klaviyo_assets.sandbox.record_endpoints import RequestTarget, ResponseDocument
from klaviyo_assets.sandbox.reports.forms_and_segments import (
    InstantRange,
    ReportedObject,
    Statistics,
    add_form_counts,
    list_reported_objects,
)
from klaviyo_assets.sandbox.reports.request_body import (
    ReportRequestBody,
    ReportTimeframe,
    parse_report_body,
)
from klaviyo_assets.sandbox.reports.sends import MessageSends, ReportedMessage
from klaviyo_assets.sandbox.reports.statistics import (
    SendCounts,
    compute_outcome,
    compute_statistics,
)

_PLACED_ORDER_SHARE = 50


@dataclass(frozen=True, slots=True)
class ConversionMetric:
    """A conversion metric: `weight` 1 converts as often as the main Placed Order."""

    metric_id: str
    weight: float
    seed: int


def eligible_metric_ids(store: AccountStore) -> list[str]:
    """The ids that reports accept."""
    listed = [
        store.metrics.id_of(k) for k, kind in enumerate(METRIC_TEMPLATES) if kind.is_conversion
    ]
    return listed + [record.id for record in store.custom_metrics.records]


def find_conversion_metric(store: AccountStore, metric_id: str) -> ConversionMetric:
    """The conversion of a metric; 400 in Klaviyo's words for one that is unknown or refused."""
    ordinal = store.metrics.ordinal_of(metric_id)
    custom = store.custom_metrics.ordinal_of(metric_id)
    if custom is not None:
        return ConversionMetric(metric_id, 0.3, mix_bits(store.config.seed, 900 + custom))
    if ordinal is None:
        raise unknown_metric_error()
    if ordinal >= len(METRIC_TEMPLATES) or not METRIC_TEMPLATES[ordinal].is_conversion:
        raise ineligible_metric_error()
    return ConversionMetric(
        metric_id,
        METRIC_TEMPLATES[ordinal].share / _PLACED_ORDER_SHARE,
        mix_bits(store.config.seed, 500 + ordinal),
    )


def ineligible_metric_error() -> ApiError:
    """The recorded answer for a metric whose events no report counts."""
    return conversion_metric_error(
        "Passed in conversion metric does not support querying for values data"
    )


def unknown_metric_error() -> ApiError:
    """The recorded answer for an id that no metric of the account has."""
    return conversion_metric_error("Passed in conversion metric does not exist")


def conversion_metric_error(detail: str) -> ApiError:
    """A 400 that points at the conversion metric; its words are Klaviyo's to change."""
    return invalid_input_error(detail, pointer="/data/attributes/conversion_metric_id")


GroupKey = tuple[str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SendCounter:
    """Counts messages for a conversion metric at a time (sandbox seconds)."""

    conversion: ConversionMetric
    now: float

    def count_hours(self, message: ReportedMessage, start: int, end: int) -> list[SendCounts]:
        """Counts of each hour's send in [start, end)."""
        conversion = self.conversion
        return [
            compute_outcome(
                message.channel,
                send_bits(message, conversion, hour),
                recipients,
                age=self.now - hour,
                weight=conversion.weight,
            )
            for hour, recipients in message.sends_between(start, min(end, int(self.now) + 1))
        ]

    def count_days(self, message: ReportedMessage, days: Sequence[InstantRange]) -> SendCounts:
        """Counts of a message over the local days of a frame or of a bucket."""
        if not message.is_flow:
            # Everyone gets a campaign once, so that its days simply add up.
            return SendCounts.sum_counts(self.count_hours(message, days[0][0], days[-1][1]))
        each_day = [
            SendCounts.sum_counts(self.count_hours(message, low, high)) for low, high in days
        ]
        return SendCounts.combine_days(each_day)


def day_ranges(timeframe: ReportTimeframe) -> list[InstantRange]:
    """The local days of a frame as instants [start, end)."""
    return [(low, high) for _, low, high in timeframe.days()]


def clip_ranges(days: Sequence[InstantRange], start: int, end: int) -> list[InstantRange]:
    """The days, or parts of them, that lie in [start, end)."""
    return [(max(low, start), min(high, end)) for low, high in days if low < end and high > start]


def send_bits(message: ReportedMessage, conversion: ConversionMetric, hour: int) -> int:
    """Random bits of a send: the low half is the message's own, the high half the conversion's."""
    own = mix_bits(message.seed, hour) & 0xFFFF_FFFF
    return own | (mix_bits(message.seed ^ conversion.seed, hour) & 0xFFFF_FFFF) << 32


def is_selected(
    message: ReportedMessage, request: ReportRequestBody, tag_names: dict[str, str]
) -> bool:
    """Whether a message meets every clause of the ask."""
    for clause in request.clauses:
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


def group_keys(
    message: ReportedMessage, group_by: tuple[str, ...], tag_names: dict[str, str]
) -> list[GroupKey]:
    """The groups that a message belongs to: one, or one per tag when grouped by tags."""
    tags: tuple[str | None, ...] = (None,)
    if {"tag_id", "tag_name"} & set(group_by):
        tags = message.tags or (None,)
    found: list[GroupKey] = []
    for tag in tags:
        name = None if tag is None else tag_names[tag]
        values = {**message.groupings, "tag_id": tag, "tag_name": name}
        found.append(tuple(values[each] for each in group_by))
    return found


def build_values_rows(
    messages: list[ReportedMessage],
    request: ReportRequestBody,
    counter: SendCounter,
    *,
    tag_names: dict[str, str],
) -> list[JsonObject]:
    """The results of a values report; messages without sends in the frame have no row."""
    days = day_ranges(request.timeframe)
    groups: dict[GroupKey, list[SendCounts]] = {}
    for message in messages:
        if not is_selected(message, request, tag_names):
            continue
        counts = counter.count_days(message, days)
        if counts.recipients:
            for key in group_keys(message, request.group_by, tag_names):
                groups.setdefault(key, []).append(counts)
    rows: list[JsonObject] = []
    for key, parts in groups.items():
        numbers = compute_statistics(SendCounts.sum_counts(parts))
        chosen: JsonObject = {name: numbers[name] for name in request.statistics}
        rows.append({"groupings": build_groupings(request, key), "statistics": chosen})
    return rows


def build_series_rows(
    messages: list[ReportedMessage],
    request: ReportRequestBody,
    counter: SendCounter,
    *,
    tag_names: dict[str, str],
) -> list[JsonObject]:
    """The results of a series report: per statistic one value per bucket."""
    buckets = request.timeframe.buckets(request.interval or "daily")
    days = day_ranges(request.timeframe)
    parts = [clip_ranges(days, low, high) for _, low, high in buckets]
    groups: dict[GroupKey, list[list[SendCounts]]] = {}
    for message in messages:
        if not is_selected(message, request, tag_names):
            continue
        line = [counter.count_days(message, part) for part in parts]
        if any(counts.recipients for counts in line):
            for key in group_keys(message, request.group_by, tag_names):
                groups.setdefault(key, []).append(line)
    rows: list[JsonObject] = []
    for key, lines in groups.items():
        totals = [SendCounts.sum_counts(list(column)) for column in zip(*lines, strict=True)]
        numbers = [compute_statistics(counts) for counts in totals]
        chosen: JsonObject = {name: [each[name] for each in numbers] for name in request.statistics}
        rows.append({"groupings": build_groupings(request, key), "statistics": chosen})
    return rows


def build_object_rows(
    objects: Iterable[ReportedObject], request: ReportRequestBody
) -> list[JsonObject]:
    """The results of a report of forms or segments; one without any count has no row."""
    days = day_ranges(request.timeframe)
    buckets = request.timeframe.buckets(request.interval) if request.interval else []
    parts = [clip_ranges(days, low, high) for _, low, high in buckets] or [days]
    groups: dict[GroupKey, list[list[Statistics]]] = {}
    for each in objects:
        if is_selected_object(each, request):
            key = tuple(each.groupings[name] for name in request.group_by)
            groups.setdefault(key, []).append([each.count(part) for part in parts])
    rows: list[JsonObject] = []
    for key, lines in groups.items():
        totals = [add_objects(column) for column in zip(*lines, strict=True)]
        if any(total[name] for total in totals for name in request.statistics):
            chosen: JsonObject = {
                name: [total[name] for total in totals] if buckets else totals[0][name]
                for name in request.statistics
            }
            rows.append({"groupings": build_groupings(request, key), "statistics": chosen})
    return rows


def is_selected_object(each: ReportedObject, request: ReportRequestBody) -> bool:
    """Whether a form version or a segment meets every clause of the ask."""
    return all(
        each.groupings[clause.field] in {str(value.value) for value in clause.values}
        for clause in request.clauses
    )


def add_objects(parts: Sequence[Statistics]) -> Statistics:
    """The counts of the versions of a form together; a segment is alone in its group."""
    return parts[0] if len(parts) == 1 else add_form_counts(parts)


def build_groupings(request: ReportRequestBody, key: GroupKey) -> Json:
    """The names and values of a group."""
    return dict(zip(request.group_by, key, strict=True))


class ReportEndpoints:
    """Reports of one account."""

    def __init__(self, store: AccountStore) -> None:
        self.store = store
        self.zone = ZoneInfo(store.config.timezone)
        self.sends = MessageSends(store)

    def list_messages(self, kind: str) -> list[ReportedMessage]:
        """What a report of that type can show."""
        return (
            self.sends.campaign_messages
            if kind.startswith("campaign")
            else self.sends.list_flow_messages()
        )

    def tag_names(self) -> dict[str, str]:
        """Names of tags by id."""
        return {each.id: str(each.attributes["name"]) for each in self.store.tags.records}

    def respond(
        self,
        operation: Operation,
        body: bytes,
        *,
        target: RequestTarget,
        query: ParsedQuery,
        now: float,
    ) -> ResponseDocument:
        """One page of a report."""
        request = parse_report_body(body, operation.kind, zone=self.zone, now=now)
        rows = self.build_rows(request, now)
        # Reports of forms and segments come in one page.
        is_paged = REPORT_FACTS[request.kind].has_conversion_metric
        size = self.store.config.report_page if is_paged else max(1, len(rows))
        start = decode_report_cursor(query, body)
        following = None
        if start + size < len(rows):
            cursor = encode_report_cursor(start + size, body)
            following = f"{target.origin}{target.path}?{encode_query((('page_cursor', cursor),))}"
        shown: list[Json] = list(rows[start : start + size])
        links = {"self": f"{target.origin}{target.path}", "next": following, "prev": None}
        data = build_report_resource(request, shown, query)
        return ResponseDocument(
            body=dump_json({"data": data, "links": links}), kind=request.kind, shown_ordinals=[]
        )

    def build_rows(self, request: ReportRequestBody, now: float) -> list[JsonObject]:
        """All results of a report."""
        facts = REPORT_FACTS[request.kind]
        if not facts.has_conversion_metric:
            return build_object_rows(list_reported_objects(self.store, request.kind, now), request)
        counter = SendCounter(
            conversion=find_conversion_metric(self.store, request.metric_id), now=now
        )
        make = build_series_rows if facts.is_series else build_values_rows
        return make(self.list_messages(request.kind), request, counter, tag_names=self.tag_names())

    def list_true_rows(
        self, kind: str, metric_id: str, *, days: list[date], now: float, by_month: bool = False
    ) -> list[Json]:
        """Per local day and message all statistics, at this time; days without a send have none.

        Forms have a row for each version, segments one each; they have no metric. `by_month`: each
        day stands for the month that it begins.
        """
        frames = [(day, day_ranges(self.local_timeframe(day, by_month=by_month))) for day in days]
        if not REPORT_FACTS[kind].has_conversion_metric:
            return self.list_true_objects(kind, frames, now)
        counter = SendCounter(conversion=find_conversion_metric(self.store, metric_id), now=now)
        found: list[Json] = []
        for day, spans in frames:
            for message in self.list_messages(kind):
                counts = counter.count_days(message, spans)
                if counts.recipients:
                    found.append(build_true_row(kind, message, counts=counts, day=day))
        return found

    def local_timeframe(self, day: date, *, by_month: bool) -> ReportTimeframe:
        """The frame of a local day, or of the month that it begins."""
        start = datetime.combine(day, time())
        following = start + timedelta(days=32 if by_month else 1)
        return ReportTimeframe(
            start, following.replace(day=1) if by_month else following, self.zone
        )

    def list_true_objects(
        self, kind: str, frames: list[tuple[date, list[InstantRange]]], now: float
    ) -> list[Json]:
        """Per frame and form version or segment all statistics, unless all are zero."""
        objects = list(list_reported_objects(self.store, kind, now))
        found: list[Json] = []
        for day, spans in frames:
            for each in objects:
                counts = each.count(spans)
                if any(counts.values()):
                    found.append({"date": day.isoformat(), **each.groupings, **counts})
        return found


def build_true_row(kind: str, message: ReportedMessage, *, counts: SendCounts, day: date) -> Json:
    """A row as a report table must hold it, but for the metric."""
    keys: JsonObject = {
        name: message.groupings[name] for name in REPORT_FACTS[kind].default_groupings
    }
    numbers: JsonObject = {**compute_statistics(counts)}
    return {"date": day.isoformat(), **keys, **numbers}


def build_report_resource(
    request: ReportRequestBody, rows: list[Json], query: ParsedQuery
) -> JsonObject:
    """The report as a resource; its id is ephemeral."""
    attributes: JsonObject = {"results": rows}
    if request.interval is not None:
        attributes["date_times"] = [
            label for label, _, _ in request.timeframe.buckets(request.interval)
        ]
    fields = query.fieldsets.get(request.kind)
    if fields is not None:
        attributes = {name: value for name, value in attributes.items() if name in fields}
    return {"type": request.kind, "id": str(uuid.uuid4()), "attributes": attributes}


def body_fingerprint(body: bytes) -> str:
    """Eight digits that name a body."""
    return hashlib.sha256(body).hexdigest()[:8]


def encode_report_cursor(start: int, body: bytes) -> str:
    """Where the next page starts, of no use with another body."""
    return base64.b64encode(f"{start}:{body_fingerprint(body)}".encode()).decode()


def decode_report_cursor(query: ParsedQuery, body: bytes) -> int:
    """The first row of the requested page; 400 for a cursor that does not fit the body."""
    cursor = dict(query.pairs).get("page_cursor")
    if cursor is None:
        return 0
    try:
        start, _, name = base64.b64decode(cursor, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise invalid_cursor_error() from None
    if name != body_fingerprint(body) or not start.isdigit():
        raise invalid_cursor_error()
    return int(start)
