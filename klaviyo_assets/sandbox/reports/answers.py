"""Answers of the report operations: pages of results, and the truth by day for comparisons."""

import base64
import binascii
import hashlib
import uuid
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from klaviyo_assets.sandbox.answers import Answer, Place
from klaviyo_assets.sandbox.facts.operation import Operation
from klaviyo_assets.sandbox.facts.reporting import REPORTS
from klaviyo_assets.sandbox.json_types import Json, JsonObject, dumps
from klaviyo_assets.sandbox.paging import bad_cursor, query_text
from klaviyo_assets.sandbox.query import Query
from klaviyo_assets.sandbox.reports.asks import ReportAsk, read_ask
from klaviyo_assets.sandbox.reports.conversions import conversion
from klaviyo_assets.sandbox.reports.counts import Counts, statistics
from klaviyo_assets.sandbox.reports.results import Tally, series_rows, spans_of, values_rows
from klaviyo_assets.sandbox.reports.sends import Message, Sends
from klaviyo_assets.sandbox.reports.timeframes import Timeframe
from klaviyo_assets.sandbox.shop.store import Shop


class ReportAnswers:
    """Reports of one shop."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.zone = ZoneInfo(shop.account.timezone)
        self.sends = Sends(shop)

    def messages(self, kind: str) -> list[Message]:
        """What a report of that type can show."""
        return self.sends.campaigns if kind.startswith("campaign") else self.sends.flows()

    def tag_names(self) -> dict[str, str]:
        """Names of tags by id."""
        return {each.id: str(each.attributes["name"]) for each in self.shop.tags.records}

    def answer(
        self, operation: Operation, body: bytes, *, place: Place, query: Query, now: float
    ) -> Answer:
        """One page of a report."""
        ask = read_ask(body, operation.kind, zone=self.zone, now=now)
        tally = Tally(conversion=conversion(self.shop, ask.metric_id), now=now)
        make = series_rows if REPORTS[ask.kind].is_series else values_rows
        rows = make(self.messages(ask.kind), ask, tally, tag_names=self.tag_names())
        size = self.shop.account.report_page
        start = offset_of(query, body)
        following = None
        if start + size < len(rows):
            cursor = cursor_of(start + size, body)
            following = f"{place.origin}{place.path}?{query_text((('page_cursor', cursor),))}"
        shown: list[Json] = list(rows[start : start + size])
        links = {"self": f"{place.origin}{place.path}", "next": following, "prev": None}
        data = document(ask, shown, query)
        return Answer(body=dumps({"data": data, "links": links}), kind=ask.kind, shown=[])

    def truth(self, kind: str, metric_id: str, *, days: list[date], now: float) -> list[Json]:
        """Per local day and message all statistics, at this time; days without a send have none."""
        tally = Tally(conversion=conversion(self.shop, metric_id), now=now)
        found: list[Json] = []
        for day in days:
            start = datetime.combine(day, time())
            spans = spans_of(Timeframe(start, start + timedelta(days=1), self.zone))
            for message in self.messages(kind):
                counts = tally.over(message, spans)
                if counts.recipients:
                    found.append(true_row(kind, message, counts=counts, day=day))
        return found


def true_row(kind: str, message: Message, *, counts: Counts, day: date) -> Json:
    """A row as a report table must hold it, but for the metric."""
    keys: JsonObject = {name: message.groupings[name] for name in REPORTS[kind].default}
    numbers: JsonObject = {**statistics(counts)}
    return {"date": day.isoformat(), **keys, **numbers}


def document(ask: ReportAsk, shown: list[Json], query: Query) -> JsonObject:
    """The report as a resource; its id is ephemeral."""
    attributes: JsonObject = {"results": shown}
    if ask.interval is not None:
        attributes["date_times"] = [label for label, _, _ in ask.frame.buckets(ask.interval)]
    fields = query.fields.get(ask.kind)
    if fields is not None:
        attributes = {name: value for name, value in attributes.items() if name in fields}
    return {"type": ask.kind, "id": str(uuid.uuid4()), "attributes": attributes}


def fingerprint(body: bytes) -> str:
    """Eight digits that name a body."""
    return hashlib.sha256(body).hexdigest()[:8]


def cursor_of(start: int, body: bytes) -> str:
    """Where the next page starts, of no use with another body."""
    return base64.b64encode(f"{start}:{fingerprint(body)}".encode()).decode()


def offset_of(query: Query, body: bytes) -> int:
    """The first row of the page asked for; 400 for a cursor that does not fit the body."""
    cursor = dict(query.pairs).get("page_cursor")
    if cursor is None:
        return 0
    try:
        start, _, name = base64.b64decode(cursor, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise bad_cursor() from None
    if name != fingerprint(body) or not start.isdigit():
        raise bad_cursor()
    return int(start)
