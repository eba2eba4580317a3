"""A Klaviyo without a socket: a request's values in, an answer's values out.

Puts the rooms in order (path, key, revision, rate, query, records) and writes the journal. The
socket is in `server`, what goes wrong on purpose in `faults`.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from threading import RLock
from urllib.parse import parse_qsl

from klaviyo_assets.sandbox.account import Account
from klaviyo_assets.sandbox.admission import (
    admit,
    budgets,
    check_content_type,
    check_revision,
    identified,
    key_hash,
)
from klaviyo_assets.sandbox.answers import Answer, Answers, Place
from klaviyo_assets.sandbox.clock import Clock
from klaviyo_assets.sandbox.errors import ApiError
from klaviyo_assets.sandbox.event_answers import EventAnswers
from klaviyo_assets.sandbox.facts.operation import Operation
from klaviyo_assets.sandbox.faults.engine import Faults
from klaviyo_assets.sandbox.journal import Entry, Journal
from klaviyo_assets.sandbox.limits import Limits
from klaviyo_assets.sandbox.mutations import Mutations
from klaviyo_assets.sandbox.query import Query, read_query
from klaviyo_assets.sandbox.reply import JSON_API, Reply, Request
from klaviyo_assets.sandbox.reports.aggregates import Aggregates
from klaviyo_assets.sandbox.reports.answers import ReportAnswers
from klaviyo_assets.sandbox.routes import Route, route
from klaviyo_assets.sandbox.shop.store import Shop


class Service:
    """The sandbox's state and its one entry, `answer`."""

    def __init__(self, account: Account) -> None:
        """Make the shop; the clock starts at the account's `now`, or at the machine's time."""
        base = account.now.timestamp() if account.now else float(int(time.time()))
        self.account = account
        self.clock = Clock(base, frozen=account.frozen)
        self.shop = Shop(account, int(base))
        self.journal = Journal()
        # Rate windows run on the machine's time, as the caller's patience does; tests set it.
        self.wall: Callable[[], float] = time.time
        self.limits = Limits(account.rate_limit_scale)
        self.answers = Answers(self.shop)
        self.event_answers = EventAnswers(self.shop)
        self.reports = ReportAnswers(self.shop)
        self.aggregates = Aggregates(self.shop, self.event_answers.rendered(""))
        self.mutations = Mutations(self.shop)
        self.faults = Faults(lambda wish: self.mutations.apply(wish, self.clock.now()))
        # Changes and answers take turns, so that a page never shows half a change.
        self.lock = RLock()

    def open_entry(self, request: Request) -> Entry:
        """A journal entry for a request."""
        return self.journal.open(
            Entry(
                number=0,
                seconds=time.time(),
                sandbox_seconds=self.clock.now(),
                method=request.method,
                path=request.path.rstrip("/"),
                query=request.query,
                key_hash=key_hash(request.headers.get("authorization")),
                body=request.body,
            )
        )

    def answer(self, request: Request, entry: Entry) -> Reply:
        """The answer to a request; refusals come as replies too."""
        limit_headers: dict[str, str] = {}
        try:
            found = route(request.method, request.path)
            entry.operation = found.operation.name
            self.admit(request, found.operation, limit_headers)
            with self.lock:
                return self.accepted(request, found, limit_headers)
        except ApiError as error:
            headers = {"content-type": JSON_API, **limit_headers, **error.headers}
            return Reply(status=error.status, body=error.body(entry.number), headers=headers)

    def admit(self, request: Request, operation: Operation, limit_headers: dict[str, str]) -> None:
        """Key, rate, scope, revision, content type; fills the rate headers once they are known."""
        identified(self.account, request.headers.get("authorization"))
        pairs = dict(parse_qsl(request.query, keep_blank_values=True))
        spent = self.limits.spend(budgets(operation, pairs), self.wall())
        limit_headers.update(spent)
        admit(self.account, operation, request.headers)
        revision = check_revision(request.headers, self.clock.now())
        limit_headers["x-klaviyo-api-revision"] = revision
        check_content_type(operation, request.headers)

    def accepted(self, request: Request, found: Route, headers: dict[str, str]) -> Reply:
        """The answer to a request that may be made."""
        now = self.clock.now()
        self.shop.profiles.grow(int(now))
        query = read_query(found.operation, request.query, now)
        if request.page_factor != 1:
            query = replace(query, size=max(1, int(query.size * request.page_factor)))
        place = Place(
            origin=request.origin, path=request.path.rstrip("/"), record_id=found.record_id
        )
        if found.operation.role == "report":
            answer = self.report(found.operation, request.body, place=place, query=query, now=now)
        else:
            answer = self.dispatch(found.operation, place, query=query, now=now)
        return Reply(
            status=200,
            body=answer.body,
            headers={"content-type": JSON_API, **headers},
            kind=answer.kind,
            shown=answer.shown,
        )

    def report(
        self, operation: Operation, body: bytes, *, place: Place, query: Query, now: float
    ) -> Answer:
        """The answer to a POST that reads."""
        if operation.kind == "metric-aggregate":
            return self.aggregates.answer(body, place=place, now=now)
        return self.reports.answer(operation, body, place=place, query=query, now=now)

    def dispatch(self, operation: Operation, place: Place, *, query: Query, now: float) -> Answer:
        """The answer by the operation's type and role; what is left over are members."""
        shop, answers = self.shop, self.answers
        match operation.kind, operation.role:
            case "event", "collection":
                found = self.event_answers.collection(place, query, now)
            case "event", _:
                found = self.event_answers.detail(place, query, now)
            case kind, "collection":
                found = answers.collection(shop.shelves[kind], place, query)
            case kind, "detail":
                found = answers.detail(shop.shelves[kind], place, query)
            case _, "children":
                found = answers.children(shop.campaigns, place, query)
            case _, "linkage":
                found = answers.linked(shop.campaigns, place)
            case _:
                found = answers.members(operation, place, query)
        return found
