"""The paths for tests, all below `/__`; they need no key and are not in the journal.

    GET, POST    /__clock                 {"advance_seconds": n} or {"now": iso}
    GET, DELETE  /__journal               all requests; ?summary=1 counts by path and status
    GET          /__journal/ids?path=     ids shown intact on a path, how many of them twice or more
    GET          /__truth/<collection>    ids with sort keys; events take start and end,
                                          members are lists/<id>/profiles
    GET          /__truth/reports/<name>  campaign_values, flow_values, flow_series: true rows,
                                          ?metric=&date= or &start=&end=
    GET          /__metrics               the conversion metrics that reports accept
    POST         /__events                {"events": [{datetime, metric, profile, properties,
                                          visible_at, count}]}
    POST         /__mutate                one change, see `mutations`
    GET, POST, DELETE /__faults           [{"match": {path, method, query, body, nth | from, to |
                                          every},
                                          "fault": {"kind": ..., options}}], see `faults`

Each is a small function of the request; what they change is in the rooms they call.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from urllib.parse import parse_qsl

from klaviyo_assets.sandbox.errors import ApiError
from klaviyo_assets.sandbox.facts.reporting import REPORTS
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, dumps, loads_object
from klaviyo_assets.sandbox.moments import SECOND, moment
from klaviyo_assets.sandbox.reply import Reply, Request
from klaviyo_assets.sandbox.reports.conversions import eligible
from klaviyo_assets.sandbox.service import Service
from klaviyo_assets.sandbox.truth import truth

Route = Callable[[Request], Json]


class Admin:
    """Answers to `/__...`; a bad body is a 400 with a plain text."""

    def __init__(self, service: Service) -> None:
        """Serve the tests of one sandbox."""
        self.service = service
        self.routes: dict[tuple[str, str], Route] = {
            ("GET", "/__clock"): self.clock,
            ("POST", "/__clock"): self.move_clock,
            ("GET", "/__journal"): self.journal,
            ("DELETE", "/__journal"): self.clear_journal,
            ("GET", "/__journal/ids"): self.shown_ids,
            ("GET", "/__faults"): self.faults,
            ("POST", "/__faults"): self.add_faults,
            ("DELETE", "/__faults"): self.clear_faults,
            ("GET", "/__metrics"): self.metrics,
            ("POST", "/__events"): self.write_events,
            ("POST", "/__mutate"): self.mutate,
        }

    def answer(self, request: Request) -> Reply:
        """The JSON answer, 404 for an unknown path, 400 for a body that makes no sense."""
        try:
            route = self.routes.get((request.method, request.path))
            if route is not None:
                return reply(200, route(request))
            if request.method == "GET" and request.path.startswith("/__truth/"):
                return reply(200, self.truth(request))
        except (ValueError, KeyError, TypeError, ApiError) as error:
            return reply(400, {"error": f"{type(error).__name__}: {error}"})
        return reply(404, {"error": "no such path"})

    def clock(self, request: Request) -> Json:
        """The sandbox's time."""
        _ = request
        now = self.service.clock.now()
        return {"now": datetime.fromtimestamp(now, UTC).isoformat(), "seconds": now}

    def move_clock(self, request: Request) -> Json:
        """`{"advance_seconds": n}` or `{"now": iso}`."""
        wish = loads_object(request.body)
        if "now" in wish:
            self.service.clock.set_to(moment(str(wish["now"])) / SECOND)
        else:
            self.service.clock.advance(float(str(wish["advance_seconds"])))
        return self.clock(request)

    def journal(self, request: Request) -> Json:
        """All requests, or with `?summary=1` their counts."""
        if dict(parse_qsl(request.query)).get("summary"):
            return self.service.journal.summary()
        return {"requests": [entry.as_json() for entry in self.service.journal.requests()]}

    def clear_journal(self, request: Request) -> Json:
        """Forget the requests so far."""
        _ = request
        self.service.journal.clear()
        return {}

    def shown_ids(self, request: Request) -> Json:
        """The ids ever shown intact on `?path=`, sorted, and how many were shown twice or more."""
        path = dict(parse_qsl(request.query))["path"]
        kind, counts = self.service.journal.shown(path)
        found: JsonObject = {"path": path, "ids": [], "repeated": 0}
        if kind is not None:
            name = self.namer(kind)
            found["ids"] = sorted(name(ordinal) for ordinal in counts)
            found["repeated"] = sum(1 for times in counts.values() if times > 1)
        return found

    def namer(self, kind: str) -> Callable[[int], str]:
        """From ordinals of a collection to ids."""
        shop = self.service.shop
        return shop.events.id_of if kind == "event" else shop.shelves[kind].id_of

    def faults(self, request: Request) -> Json:
        """The rules in force with their counts."""
        _ = request
        return self.service.faults.script.as_json()

    def add_faults(self, request: Request) -> Json:
        """Add rules to those in force."""
        wish: Json = json.loads(request.body)
        self.service.faults.script.add(wish)
        return self.faults(request)

    def clear_faults(self, request: Request) -> Json:
        """Drop all rules."""
        self.service.faults.script.clear()
        return self.faults(request)

    def write_events(self, request: Request) -> Json:
        """`{"events": [{datetime, metric, profile, properties, visible_at, count}]}`."""
        wish = loads_object(request.body)
        now = self.service.clock.now()
        return self.service.mutations.write_events(as_list(wish["events"]), now)

    def mutate(self, request: Request) -> Json:
        """One change, see `mutations`."""
        return self.service.mutations.apply(loads_object(request.body), self.service.clock.now())

    def truth(self, request: Request) -> Json:
        """What a complete reader must hold now; reports as `reports/campaign_values`."""
        name = request.path.removeprefix("/__truth/")
        given = dict(parse_qsl(request.query))
        if name.startswith("reports/"):
            return self.report_truth(name.removeprefix("reports/"), given)
        return truth(self.service.shop, name, now=self.service.clock.now(), given=given)

    def report_truth(self, name: str, given: Mapping[str, str]) -> Json:
        """True rows per day: `?metric=<id>&date=<day>`, or `start` and `end` days, both inside."""
        first = date.fromisoformat(given.get("date") or given["start"])
        last = date.fromisoformat(given.get("date") or given["end"])
        days = [first + timedelta(days=k) for k in range((last - first).days + 1)]
        kind = f"{name.replace('_', '-')}-report"
        if kind not in REPORTS:
            raise ValueError(f"no such report: {name}")
        now = self.service.clock.now()
        rows = self.service.reports.truth(kind, given["metric"], days=days, now=now)
        return {"count": len(rows), "rows": rows}

    def metrics(self, request: Request) -> Json:
        """The metric ids that reports accept."""
        _ = request
        return {"eligible": list(eligible(self.service.shop))}


def reply(status: int, value: Json) -> Reply:
    """A JSON reply of the admin side."""
    return Reply(status=status, body=dumps(value), headers={"content-type": "application/json"})
