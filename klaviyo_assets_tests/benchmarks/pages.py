"""A page server that costs next to nothing, beside the road that is measured.

Not the sandbox: it judges nothing. Collections by keyset, in half-open windows of the cursor; what
it was asked since the last look at `/bench`. Run as a process, which prints its address first:
`python -m klaviyo_assets_tests.benchmarks.pages events=200000`.
"""

import argparse
import json
import re
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import parse_qs, quote, urlsplit

from klaviyo_assets_tests.benchmarks.shelf import DAY, FIRST, Burst, Shelf

MOMENT = re.compile(
    r"(greater-or-equal|greater-than|less-than)\((datetime|updated|updated_at),([^)]+)\)"
)
ACCOUNT = b'{"data":[{"type":"account","id":"BENCH1","attributes":{"timezone":"UTC"}}]}'
NOTHING = b'{"data":[],"links":{"self":"x","next":null,"prev":null}}'
ESTIMATE = b'{"data":{"type":"campaign-recipient-estimation","id":"%s","attributes":{%s}}}'
A_YEAR = 2_000_000
"""Events a year in the account that the goals are stated for: 5,480 a day."""

UNPAGED = 200
"""Records on a page of a collection that takes no `page[size]`."""


@dataclass(slots=True, kw_only=True)
class Served:
    """What is served, how, and what was asked so far; `first` is the time of the first request."""

    shelves: dict[str, Shelf]
    latency: float
    packs: bool
    rest: int
    first: float = 0.0
    requests: int = 0
    paths: dict[str, int] = field(default_factory=dict[str, int])
    lock: Lock = field(default_factory=Lock)

    @property
    def clock(self) -> str:
        """Return the `Date` header: `rest` seconds after the last record."""
        last = max(shelf.end for shelf in self.shelves.values())
        return format_datetime(last + timedelta(seconds=self.rest), usegmt=True)

    def note(self, path: str) -> None:
        """Count a request."""
        with self.lock:
            self.first = self.first or time.time()
            self.requests += 1
            self.paths[path] = self.paths.get(path, 0) + 1

    def report(self) -> bytes:
        """Return what was asked since the last report, as JSON."""
        with self.lock:
            asked = {"first": self.first, "requests": self.requests, "paths": self.paths}
            self.first, self.requests, self.paths = 0.0, 0, {}
            return json.dumps(asked).encode()


class Answering(BaseHTTPRequestHandler):
    """Answers GET of the collections, of the account, and of the report."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    served: Served
    clock: str

    def do_GET(self) -> None:
        """Send one page."""
        url = urlsplit(self.path)
        served = self.served
        if url.path == "/bench":
            self.send(served.report())
            return
        served.note(url.path)
        if served.latency:
            time.sleep(served.latency)
        packed = served.packs and "gzip" in self.headers.get("Accept-Encoding", "")
        shelf = served.shelves.get(url.path.removeprefix("/api/"))
        query = parse_qs(url.query)
        if url.path == "/api/accounts":
            self.send(ACCOUNT)
        elif url.path.startswith("/api/campaign-recipient-estimations/"):
            name = url.path.rpartition("/")[2].encode()
            self.send(ESTIMATE % (name, b'"estimated_recipient_count":7'))
        elif shelf is None or is_another_part(query):
            self.send(NOTHING)
        else:
            self.send(self.page(shelf, url.path, query, packed=packed), packed=packed)

    def page(self, shelf: Shelf, path: str, query: dict[str, list[str]], *, packed: bool) -> bytes:
        """Return the page that the query asks for."""
        size = int(query.get("page[size]", [str(UNPAGED)])[0])
        first, end = window(shelf, query.get("filter", [""])[0])
        first = max(first, int(query.get("page[cursor]", ["0"])[0]))
        last = max(first, min(first + size, end))
        link = "null"
        if last < end:
            kept = {name: values[0] for name, values in query.items() if name != "page[cursor]"}
            words = [f"{quote(name)}={quote(value)}" for name, value in kept.items()]
            words.append(f"page%5Bcursor%5D={last}")
            link = json.dumps(f"http://{self.headers['Host']}{path}?{'&'.join(words)}")
        return shelf.body(first, last, link.encode(), packed=packed)

    def send(self, body: bytes, *, packed: bool = False) -> None:
        """Send a body with the headers that the product reads."""
        self.send_response_only(200)
        self.send_header("Date", self.clock)
        self.send_header("Content-Type", "application/vnd.api+json")
        self.send_header("Content-Length", str(len(body)))
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


def is_another_part(query: dict[str, list[str]]) -> bool:
    """Tell whether a part is asked for that holds nothing: archived, not email, or suppressed."""
    asked = query.get("filter", [""])[0]
    others = ("archived,true", '"sms"', '"mobile_push"', "suppression.timestamp")
    return any(words in asked for words in others)


def window(shelf: Shelf, asked: str) -> tuple[int, int]:
    """Return the positions `[first, end)` that the filter lets through."""
    first, end = 0, shelf.count
    for operator, _, text in MOMENT.findall(asked):
        second = int((datetime.fromisoformat(text) - FIRST).total_seconds())
        if operator == "less-than":
            end = min(end, shelf.position(second))
        else:
            # The next second, for a whole one; the bounds of ours are whole.
            first = max(first, shelf.position(second + (operator == "greater-than")))
    return first, end


def burst(text: str) -> Burst:
    """Return what `RECORDS:START:SECONDS` says."""
    records, start, seconds = map(int, text.split(":"))
    return Burst(records, start, seconds)


def main() -> int:
    """Serve until killed; print the address first."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("shelves", nargs="+", metavar="collection=count")
    options.add_argument("--a-year", type=int, default=A_YEAR, help="records a year")
    options.add_argument("--latency-ms", type=float, default=0.0)
    options.add_argument("--gzip", action="store_true")
    options.add_argument("--rest", type=int, default=DAY, help="seconds since the last record")
    options.add_argument(
        "--burst",
        type=burst,
        action="append",
        default=[],
        metavar="RECORDS:START:SECONDS",
        help="the records of all collections, in seconds after the first moment",
    )
    options.add_argument("--huge-every", type=int, default=0, help="one record of 5 MB in so many")
    wanted = options.parse_args()
    shelves: dict[str, Shelf] = {}
    for each in wanted.shelves:
        kind, _, count = each.partition("=")
        every = wanted.huge_every if kind == "events" else 0
        shelves[kind] = Shelf(
            kind,
            count=int(count or 0),
            a_year=wanted.a_year,
            packs=wanted.gzip,
            huge_every=every,
            bursts=wanted.burst,
        )
    served = Served(
        shelves=shelves, latency=wanted.latency_ms / 1000, packs=wanted.gzip, rest=wanted.rest
    )
    Answering.served, Answering.clock = served, served.clock
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
