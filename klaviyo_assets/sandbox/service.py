"""The sandbox without a socket: routes a request, checks it, answers it and keeps the journal.

Applies the checks in order (path, key, revision, rate limit, query, records) and writes the
journal. The socket is in `server`, what goes wrong on purpose in `faults`.

404 for a path this revision does not have, 405 for a known path with another method.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from threading import RLock
from urllib.parse import parse_qsl, unquote

from klaviyo_assets.sandbox.access import (
    SandboxRateLimiter,
    applicable_tiers,
    authenticate,
    authorize,
    check_content_type,
    hash_authorization,
    resolve_revision,
)
from klaviyo_assets.sandbox.account.config import AccountConfig
from klaviyo_assets.sandbox.account.store import AccountStore
from klaviyo_assets.sandbox.clock import SandboxClock
from klaviyo_assets.sandbox.event_endpoints import EventEndpoints
from klaviyo_assets.sandbox.facts.operations import (
    PublishedRevision,
    facts_for,
    load_revisions,
)
from klaviyo_assets.sandbox.facts.schema import Operation
from klaviyo_assets.sandbox.faults.injector import FaultInjector
from klaviyo_assets.sandbox.http_messages import (
    JSON_API_TYPE,
    ApiError,
    HttpRequest,
    HttpResponse,
    unknown_path_error,
)
from klaviyo_assets.sandbox.journal import JournalEntry, RequestJournal
from klaviyo_assets.sandbox.mutations import AccountMutations
from klaviyo_assets.sandbox.query import ParsedQuery, parse_query
from klaviyo_assets.sandbox.record_endpoints import RecordEndpoints, RequestTarget, ResponseDocument
from klaviyo_assets.sandbox.reports.aggregates import AggregateEndpoint
from klaviyo_assets.sandbox.reports.endpoints import ReportEndpoints


@dataclass(frozen=True, slots=True)
class MatchedRoute:
    """An operation and the id in its path, empty where it has none."""

    operation: Operation
    record_id: str


def _compile_path(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w+\\\}", "([^/]+)", re.escape(path)) + "/?")


@cache
def _path_patterns(revision: str) -> list[tuple[re.Pattern[str], Operation]]:
    operations = load_revisions()[revision].operations.values()
    return [(_compile_path(operation.path), operation) for operation in operations]


def match_route(method: str, path: str, revision: str) -> MatchedRoute:
    """The operation for a path as sent (still percent-encoded); 404 or 405 otherwise."""
    known = False
    for pattern, operation in _path_patterns(revision):
        match = pattern.fullmatch(path)
        if match is None:
            continue
        known = True
        if operation.method == method:
            return MatchedRoute(operation, unquote(match.group(1)) if match.groups() else "")
    raise method_not_allowed_error(method) if known else unknown_path_error()


def method_not_allowed_error(method: str) -> ApiError:
    """A 405; the sandbox has no writes at all."""
    return ApiError(
        405,
        "method_not_allowed",
        title="Method not allowed.",
        detail=f'Method "{method}" not allowed.',
        source={"pointer": "/data/"},
    )


class SandboxService:
    """The sandbox's state and its one entry, `respond`."""

    def __init__(self, account: AccountConfig) -> None:
        """Generate the account; the clock starts at its `now`, or at the machine's time."""
        base = account.now.timestamp() if account.now else float(int(time.time()))
        self.config = account
        self.clock = SandboxClock(base, frozen=account.frozen)
        self.store = AccountStore(account, int(base))
        self.journal = RequestJournal()
        # Rate windows run on the machine's time, as the caller's patience does; tests set it.
        self.wall_clock: Callable[[], float] = time.time
        self.rate_limiter = SandboxRateLimiter(account.rate_limit_scale)
        self.record_endpoints = RecordEndpoints(self.store)
        self.event_endpoints = EventEndpoints(self.store)
        self.report_endpoints = ReportEndpoints(self.store)
        self.aggregate_endpoint = AggregateEndpoint(
            self.store, self.event_endpoints.renderer_for("")
        )
        self.mutations = AccountMutations(self.store)
        self.faults = FaultInjector(
            lambda mutation: self.mutations.apply(mutation, self.clock.now())
        )
        # Changes and answers take turns, so that a page never shows half a change.
        self.lock = RLock()

    def open_journal_entry(self, request: HttpRequest) -> JournalEntry:
        """A journal entry for a request."""
        return self.journal.append(
            JournalEntry(
                number=0,
                received_at=time.time(),
                sandbox_time=self.clock.now(),
                method=request.method,
                path=request.path.rstrip("/"),
                query=request.query,
                key_hash=hash_authorization(request.headers.get("authorization")),
                body=request.body,
            )
        )

    def respond(self, request: HttpRequest, entry: JournalEntry) -> HttpResponse:
        """The answer to a request; refusals come as replies too."""
        limit_headers: dict[str, str] = {}
        try:
            facts = facts_for(request.headers.get("revision", ""))
            found = match_route(request.method, request.path, facts.name)
            entry.operation = found.operation.name
            self.check_access(request, found.operation, limit_headers)
            with self.lock:
                return self.call_endpoint(request, found, facts, limit_headers)
        except ApiError as error:
            headers = {"content-type": JSON_API_TYPE, **limit_headers, **error.headers}
            return HttpResponse(
                status=error.status, body=error.render_body(entry.number), headers=headers
            )

    def check_access(
        self, request: HttpRequest, operation: Operation, rate_headers: dict[str, str]
    ) -> None:
        """Key, rate, scope, revision, content type; fills the rate headers once they are known."""
        authenticate(self.config, request.headers.get("authorization"))
        pairs = dict(parse_qsl(request.query, keep_blank_values=True))
        spent = self.rate_limiter.count_request(
            applicable_tiers(operation, pairs), self.wall_clock()
        )
        rate_headers.update(spent)
        authorize(self.config, operation, request.headers)
        revision = resolve_revision(request.headers, self.clock.now())
        rate_headers["x-klaviyo-api-revision"] = revision
        check_content_type(operation, request.headers)

    def call_endpoint(
        self,
        request: HttpRequest,
        route: MatchedRoute,
        facts: PublishedRevision,
        rate_headers: dict[str, str],
    ) -> HttpResponse:
        """The answer to a request that may be made."""
        now = self.clock.now()
        self.store.profiles.advance_to(int(now))
        query = parse_query(route.operation, request.query, now)
        if request.page_factor != 1:
            query = replace(query, page_size=max(1, int(query.page_size * request.page_factor)))
        target = RequestTarget(
            origin=request.origin,
            path=request.path.rstrip("/"),
            record_id=route.record_id,
            collections=self.store.collections_of(facts.name),
        )
        if route.operation.role == "report":
            answer = self.call_report_endpoint(
                route.operation, request.body, target=target, query=query, now=now
            )
        else:
            answer = self.call_record_endpoint(
                route.operation,
                target,
                parent=facts.kind_at(route.operation.path) or "",
                query=query,
                now=now,
            )
        return HttpResponse(
            status=200,
            body=answer.body,
            headers={"content-type": JSON_API_TYPE, **rate_headers},
            kind=answer.kind,
            shown_ordinals=answer.shown_ordinals,
        )

    def call_report_endpoint(
        self,
        operation: Operation,
        body: bytes,
        *,
        target: RequestTarget,
        query: ParsedQuery,
        now: float,
    ) -> ResponseDocument:
        """The answer to a POST that reads."""
        if operation.kind == "metric-aggregate":
            return self.aggregate_endpoint.respond(body, target=target, now=now)
        return self.report_endpoints.respond(operation, body, target=target, query=query, now=now)

    def call_record_endpoint(
        self,
        operation: Operation,
        target: RequestTarget,
        *,
        parent: str,
        query: ParsedQuery,
        now: float,
    ) -> ResponseDocument:
        """The answer by the operation's type and role; what is left over are members."""
        answers, collections = self.record_endpoints, target.collections
        match operation.kind, operation.role:
            case "event", "collection":
                found = self.event_endpoints.get_collection(target, query, now)
            case "event", _:
                found = self.event_endpoints.get_detail(target, query, now)
            case kind, "collection":
                found = answers.get_collection(collections[kind], target, query)
            case kind, "detail":
                found = answers.get_detail(collections[kind], target, query)
            case kind, "children":
                found = answers.get_children(collections[parent], kind, target, query)
            case kind, "linkage":
                found = answers.get_linkage(collections[parent], kind, target, query)
            case _, "related":
                found = answers.get_related(collections[parent], target, query)
            case _:
                found = answers.get_members(operation, target, query)
        return found
