"""The faults of one sandbox: picks the fault of a request and carries it out on the answer.

The right answer is always made first, so that rate windows count; a refusal stays a refusal.
"""

from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qsl

from klaviyo_assets.sandbox.faults import kinds, lies, records, replies, wire
from klaviyo_assets.sandbox.faults.pages import PageFaults, written
from klaviyo_assets.sandbox.faults.script import Fault, Script
from klaviyo_assets.sandbox.json_types import JsonObject, as_list, as_object, loads_object
from klaviyo_assets.sandbox.paging import query_text
from klaviyo_assets.sandbox.reply import Reply, Request

Mutate = Callable[[JsonObject], object]


class Faults:
    """The script and the memory of pages."""

    def __init__(self, mutate: Mutate) -> None:
        self.script = Script()
        self.pages = PageFaults()
        self.mutate = mutate

    def pick(self, request: Request) -> Fault | None:
        """The fault of this request; a mutation is made at once."""
        fault = self.script.pick(request)
        if fault is not None and fault.kind == "mutate":
            for wish in as_list(fault.options.get("mutations")):
                self.mutate(as_object(wish))
        return fault

    def rewritten(self, request: Request, fault: Fault | None) -> Request:
        """The request that is really answered: aliases resolved, page size stretched."""
        if self.pages.aliases:
            request = self.pages.original(request)
        if fault is not None and fault.kind == "page_factor":
            return request.with_factor(fault.number("factor", 2))
        if fault is not None and fault.kind == "unsorted":
            return with_sort(request, fault.text("sort", "id"))
        return request

    def applied(self, fault: Fault | None, request: Request, reply: Reply, number: int) -> Reply:
        """The answer after the fault."""
        if fault is None or fault.kind in kinds.OTHER:
            self.note(request, reply)
            return reply
        if fault.kind in kinds.REPLIES:
            return replies.replaced(fault, number=number)
        if reply.status != HTTPStatus.OK:
            return reply
        if fault.kind in kinds.LINKS | kinds.LIES | kinds.RECORDS:
            self.reworked(fault, request, reply)
        body, headers = wire.recoded(fault, reply.body)
        reply.body = body
        reply.headers.update(headers)
        if fault.kind in kinds.UNREAD:
            reply.shown = []
        return reply

    def note(self, request: Request, reply: Reply) -> None:
        """Remember a sound page where a later fault may need it; costs nothing without a script."""
        if reply.status == HTTPStatus.OK and request.method == "GET" and self.script.looks_back():
            rows = as_list(loads_object(reply.body).get("data"))
            self.pages.remember(request, rows, reply)

    def reworked(self, fault: Fault, request: Request, reply: Reply) -> None:
        """The document read, changed and written again."""
        document = loads_object(reply.body)
        rows, shown = as_list(document.get("data")), list(reply.shown)
        if fault.kind in kinds.RECORDS:
            records.apply(fault, reply, document)
        elif fault.kind in kinds.LIES:
            lies.apply(fault, request, reply, document, self.pages)
        elif fault.kind != "page_factor":
            self.pages.apply(fault, request, reply, document)
        sound = Reply(status=200, body=b"", shown=shown)
        self.pages.remember(request, rows, sound)
        reply.body = records.raw(fault, written(document))


def with_sort(request: Request, sort: str) -> Request:
    """The same request, as if another order had been asked for."""
    pairs = [pair for pair in parse_qsl(request.query) if pair[0] != "sort"]
    return request.with_query(query_text((*pairs, ("sort", sort))))
