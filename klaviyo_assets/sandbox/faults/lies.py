"""Faults of what a good answer claims: pages that are none, lists cut short, paging without end.

`unsorted` is not here: its request is answered as it stands, in another order.
"""

from klaviyo_assets.sandbox.faults.pages import PageFaults
from klaviyo_assets.sandbox.faults.script import Fault
from klaviyo_assets.sandbox.json_types import JsonObject, as_list, as_object
from klaviyo_assets.sandbox.reply import Reply, Request


def apply(
    fault: Fault, request: Request, reply: Reply, document: JsonObject, pages: PageFaults
) -> None:
    """Change the document, and the reply's ids: of what is no page nothing counts as shown.

    With `"count"` a list is cut to so many records.
    """
    if "count" in fault.options:
        count = int(fault.number("count", 0))
        document["data"], reply.shown = as_list(document.get("data"))[:count], reply.shown[:count]
    match fault.kind:
        case "bare_page":
            document.pop("links", None)
            reply.shown = []
        case "errors_beside":
            document["errors"] = [{"status": 500, "code": "error", "detail": "timed out"}]
            reply.shown = []
        case "cut_list":
            document["links"] = {**as_object(document.get("links")), "next": None}
        case "endless":
            link = pages.alias(request, request.query)
            document["links"] = {**as_object(document.get("links")), "next": link}
        case _:
            pass
