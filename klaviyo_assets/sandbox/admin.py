"""The control interface for tests below `/__`: clock, journal, faults, mutations, true records.

    GET, POST    /__clock                 {"advance_seconds": n} or {"now": iso}
    GET, DELETE  /__journal               all requests; ?summary=1 counts by path and status
    GET          /__journal/ids?path=     ids shown intact on a path, how many of them twice or more
    GET          /__truth/<collection>    ids with sort keys; events take start and end,
                                          members are lists/<id>/profiles
    GET          /__truth/reports/<name>  campaign_values, flow_values, flow_series, form_values,
                                          form_series, segment_values, segment_series: true rows,
                                          ?metric=&date= or &start=&end=; forms and segments
                                          without a metric
    GET          /__metrics               the conversion metrics that reports accept
    POST         /__events                {"events": [{datetime, metric, profile, properties,
                                          visible_at, count}]}
    POST         /__mutate                one change, see `mutations`
    GET, POST, DELETE /__faults           [{"match": {path, method, query, body, nth | from, to |
                                          every},
                                          "fault": {"kind": ..., options}}], see `faults`

Each is a small function of the request; what they change is in the modules they call.

For oracle comparisons only: ids with their sort keys, by collection name as in the API's paths.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from urllib.parse import parse_qsl

from klaviyo_assets.sandbox.account.events import EventSelection
from klaviyo_assets.sandbox.account.records import ResourceCollection
from klaviyo_assets.sandbox.account.store import AccountStore
from klaviyo_assets.sandbox.clock import (
    SECOND_MICROS,
    format_iso_micros,
    format_iso_seconds,
    parse_micros,
)
from klaviyo_assets.sandbox.facts.operations import OCTOBER, facts_for
from klaviyo_assets.sandbox.facts.reporting import REPORT_FACTS
from klaviyo_assets.sandbox.http_messages import ApiError, HttpRequest, HttpResponse
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, dump_json, load_json_object
from klaviyo_assets.sandbox.reports.endpoints import eligible_metric_ids
from klaviyo_assets.sandbox.service import SandboxService

CURSOR_FIELDS = {"campaign": "updated_at", "campaign-message": "updated_at"}
_FAR_SECONDS = 1 << 40


def list_true_records(
    store: AccountStore, name: str, *, now: float, parameters: Mapping[str, str]
) -> Json:
    """`{"count": n, "records": [[id, sort key], ...]}`; members as `lists/<id>/profiles`.

    `start` and `end` (ISO) bound events by their datetime, end excluded; `revision` chooses the
    shape of campaigns. `ValueError` for an unknown name.
    """
    if name == "events":
        return list_visible_events(store, now=now, parameters=parameters)
    parts = name.split("/")
    if parts[2:] == ["profiles"]:
        group = store.group_members(parts[0].removesuffix("s"), parts[1])
        if group is None:
            message = f"no such group: {parts[1]}"
            raise ValueError(message)
        return list_collection_records(group, "joined_group_at")
    revision = parameters.get("revision", OCTOBER)
    kind = facts_for(revision).kind_at(f"/api/{name}") or name.removesuffix("s")
    collection = store.collections_of(revision).get(kind)
    if collection is None:
        message = f"no such collection: {name}"
        raise ValueError(message)
    return list_collection_records(collection, CURSOR_FIELDS.get(collection.kind, "updated"))


def list_collection_records(collection: ResourceCollection, cursor: str) -> Json:
    """Ids and sort keys of living records."""
    found: list[Json] = []
    for ordinal in collection.sorted_ordinals(cursor):
        values = collection.field_values(ordinal, cursor)
        key = format_iso_micros(int(values[0])) if values and isinstance(values[0], int) else None
        found.append([collection.id_of(ordinal), key])
    return {"count": len(found), "records": found}


def list_visible_events(store: AccountStore, *, now: float, parameters: Mapping[str, str]) -> Json:
    """Ids and datetimes of events visible now, in order."""
    start = (
        parse_micros(parameters["start"]) // SECOND_MICROS
        if "start" in parameters
        else -_FAR_SECONDS
    )
    end = (
        -(-parse_micros(parameters["end"]) // SECOND_MICROS)
        if "end" in parameters
        else _FAR_SECONDS
    )
    events = store.events
    ordinals = events.iterate(
        EventSelection(start=start, end=end), now, after=None, descending=False
    )
    found: list[Json] = [[events.id_of(k), format_iso_seconds(events.seconds(k))] for k in ordinals]
    return {"count": len(found), "records": found}


AdminHandler = Callable[[HttpRequest], Json]


class AdminEndpoints:
    """Answers to `/__...`; a bad body is a 400 with a plain text."""

    def __init__(self, service: SandboxService) -> None:
        """Serve the tests of one sandbox."""
        self.service = service
        self.handlers: dict[tuple[str, str], AdminHandler] = {
            ("GET", "/__clock"): self.read_clock,
            ("POST", "/__clock"): self.move_clock,
            ("GET", "/__journal"): self.read_journal,
            ("DELETE", "/__journal"): self.clear_journal,
            ("GET", "/__journal/ids"): self.list_shown_ids,
            ("GET", "/__faults"): self.read_faults,
            ("POST", "/__faults"): self.add_faults,
            ("DELETE", "/__faults"): self.clear_faults,
            ("GET", "/__metrics"): self.list_eligible_metrics,
            ("POST", "/__events"): self.write_events,
            ("POST", "/__mutate"): self.apply_mutation,
        }

    def respond(self, request: HttpRequest) -> HttpResponse:
        """The JSON answer, 404 for an unknown path, 400 for a body that makes no sense."""
        try:
            route = self.handlers.get((request.method, request.path))
            if route is not None:
                return json_response(200, route(request))
            if request.method == "GET" and request.path.startswith("/__truth/"):
                return json_response(200, self.read_truth(request))
        except (ValueError, KeyError, TypeError, ApiError) as error:
            return json_response(400, {"error": f"{type(error).__name__}: {error}"})
        return json_response(404, {"error": "no such path"})

    def read_clock(self, request: HttpRequest) -> Json:
        """The sandbox's time."""
        _ = request
        now = self.service.clock.now()
        return {"now": datetime.fromtimestamp(now, UTC).isoformat(), "seconds": now}

    def move_clock(self, request: HttpRequest) -> Json:
        """`{"advance_seconds": n}` or `{"now": iso}`."""
        change = load_json_object(request.body)
        if "now" in change:
            self.service.clock.set_to(parse_micros(str(change["now"])) / SECOND_MICROS)
        else:
            self.service.clock.advance(float(str(change["advance_seconds"])))
        return self.read_clock(request)

    def read_journal(self, request: HttpRequest) -> Json:
        """All requests, or with `?summary=1` their counts."""
        if dict(parse_qsl(request.query)).get("summary"):
            return self.service.journal.summary()
        return {"requests": [entry.as_json() for entry in self.service.journal.requests()]}

    def clear_journal(self, request: HttpRequest) -> Json:
        """Forget the requests so far."""
        _ = request
        self.service.journal.clear()
        return {}

    def list_shown_ids(self, request: HttpRequest) -> Json:
        """The ids ever shown intact on `?path=`, sorted, and how many were shown twice or more."""
        path = dict(parse_qsl(request.query))["path"]
        kind, counts = self.service.journal.count_shown(path)
        found: JsonObject = {"path": path, "ids": [], "repeated": 0}
        if kind is not None:
            name = self.id_lookup(kind)
            found["ids"] = sorted(name(ordinal) for ordinal in counts)
            found["repeated"] = sum(1 for times in counts.values() if times > 1)
        return found

    def id_lookup(self, kind: str) -> Callable[[int], str]:
        """From ordinals of a collection to ids."""
        store = self.service.store
        if kind == "event":
            return store.events.id_of
        return store.collections_of(OCTOBER)[kind].id_of

    def read_faults(self, request: HttpRequest) -> Json:
        """The rules in force with their counts."""
        _ = request
        return self.service.faults.script.as_json()

    def add_faults(self, request: HttpRequest) -> Json:
        """Add rules to those in force."""
        script: Json = json.loads(request.body)
        self.service.faults.script.add(script)
        return self.read_faults(request)

    def clear_faults(self, request: HttpRequest) -> Json:
        """Drop all rules."""
        self.service.faults.script.clear()
        return self.read_faults(request)

    def write_events(self, request: HttpRequest) -> Json:
        """`{"events": [{datetime, metric, profile, properties, visible_at, count}]}`."""
        document = load_json_object(request.body)
        now = self.service.clock.now()
        return self.service.mutations.write_events(as_list(document["events"]), now)

    def apply_mutation(self, request: HttpRequest) -> Json:
        """One change, see `mutations`."""
        return self.service.mutations.apply(
            load_json_object(request.body), self.service.clock.now()
        )

    def read_truth(self, request: HttpRequest) -> Json:
        """What a complete reader must hold now; reports as `reports/campaign_values`."""
        name = request.path.removeprefix("/__truth/")
        given = dict(parse_qsl(request.query))
        if name.startswith("reports/"):
            return self.read_report_truth(name.removeprefix("reports/"), given)
        return list_true_records(
            self.service.store, name, now=self.service.clock.now(), parameters=given
        )

    def read_report_truth(self, name: str, parameters: Mapping[str, str]) -> Json:
        """True rows per day: `?metric=<id>&date=<day>`, or `start` and `end` days, both inside."""
        first = date.fromisoformat(parameters.get("date") or parameters["start"])
        last = date.fromisoformat(parameters.get("date") or parameters["end"])
        days = [first + timedelta(days=k) for k in range((last - first).days + 1)]
        kind = f"{name.replace('_', '-')}-report"
        if kind not in REPORT_FACTS:
            raise ValueError(f"no such report: {name}")
        now = self.service.clock.now()
        rows = self.service.report_endpoints.list_true_rows(
            kind, parameters.get("metric", ""), days=days, now=now
        )
        return {"count": len(rows), "rows": rows}

    def list_eligible_metrics(self, request: HttpRequest) -> Json:
        """The metric ids that reports accept."""
        _ = request
        return {"eligible": list(eligible_metric_ids(self.service.store))}


def json_response(status: int, value: Json) -> HttpResponse:
    """A JSON reply of the admin side."""
    return HttpResponse(
        status=status, body=dump_json(value), headers={"content-type": "application/json"}
    )
