"""Faults of whole pages: where `next` leads, and which records a page repeats or lacks.

Pages keep a memory of what they sent, so that a cycle leads back and a duplicate is a real one. A
link that the right answer would not contain carries an alias in place of its cursor; `original`
gives back the query it stands for.
"""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from klaviyo_assets.sandbox.faults.script import Fault
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, as_object, dumps
from klaviyo_assets.sandbox.paging import query_text
from klaviyo_assets.sandbox.reply import Reply, Request


@dataclass(slots=True)
class Sent:
    """The last page sent on a path: its query, its records in order."""

    query: str
    rows: list[Json]
    shown: list[int] = field(default_factory=list[int])


class PageFaults:
    """Faults of pages, with the memory of each path."""

    def __init__(self) -> None:
        self.last: dict[str, Sent] = {}
        self.aliases: dict[str, str] = {}

    def original(self, request: Request) -> Request:
        """The request with an alias in its cursor replaced by the query it stands for."""
        cursor = dict(parse_qsl(request.query, keep_blank_values=True)).get("page[cursor]", "")
        query = self.aliases.get(cursor)
        return request if query is None else request.with_query(query)

    def alias(self, request: Request, query: str) -> str:
        """A fresh link that answers as `query` would."""
        name = f"YWxpYXM6{len(self.aliases):06d}"
        self.aliases[name] = query
        pairs = [pair for pair in parse_qsl(query) if pair[0] != "page[cursor]"]
        return f"{request.origin}{request.path}?{query_text((*pairs, ('page[cursor]', name)))}"

    def remember(self, request: Request, rows: list[Json], reply: Reply) -> None:
        """Keep what a page sent."""
        self.last[request.path] = Sent(request.query, rows, list(reply.shown))

    def apply(self, fault: Fault, request: Request, reply: Reply, document: JsonObject) -> None:
        """Change the document, and the reply's ids where they change."""
        rows, links = as_list(document.get("data")), as_object(document.get("links"))
        match fault.kind:
            case "same_next":
                links["next"] = f"{request.origin}{request.path}?{request.query}"
            case "cycle":
                links["next"] = self.back(request)
            case "next_link":
                links["next"] = fault.text("url", "https://elsewhere.example/api/events")
            case "next_host":
                origin = fault.text("origin", "http://localhost:9")
                links["next"] = str(links.get("next") or "").replace(request.origin, origin)
            case "no_links":
                links, reply.shown = {}, []
            case "empty_page":
                links["next"] = self.alias(request, request.query)
                rows, reply.shown = [], []
            case "duplicates":
                rows = self.repeated(int(fault.number("count", 2)), request, rows, reply)
            case _:
                shorten(document)
                return
        document["data"], document["links"] = rows, links

    def back(self, request: Request) -> str:
        """A link back to the page before this one, or to this one when there was none."""
        before = self.last.get(request.path)
        return self.alias(request, request.query if before is None else before.query)

    def repeated(self, count: int, request: Request, rows: list[Json], reply: Reply) -> list[Json]:
        """The page with the last records of the page before once more in front."""
        before = self.last.get(request.path)
        if before is None or not before.rows:
            return rows
        reply.shown = before.shown[-count:] + reply.shown
        return before.rows[-count:] + rows


def shorten(document: JsonObject) -> None:
    """Cut the last value off every statistic of a series report."""
    data = as_object(document.get("data"))
    attributes = as_object(data.get("attributes"))
    results: list[Json] = []
    for result in map(as_object, as_list(attributes.get("results"))):
        statistics = as_object(result.get("statistics"))
        cut: JsonObject = {name: as_list(value)[:-1] for name, value in statistics.items()}
        results.append({**result, "statistics": cut})
    document["data"] = {**data, "attributes": {**attributes, "results": results}}


def written(document: JsonObject) -> bytes:
    """The document as bytes again."""
    return dumps(document)
