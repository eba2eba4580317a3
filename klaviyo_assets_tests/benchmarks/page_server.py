"""A page server that costs next to nothing, beside the road that is measured.

Not the sandbox: it checks nothing. Collections by keyset, in half-open windows of the cursor; what
it was asked since the last look at `/bench`. Run as a process, which prints its address first:
`python -m klaviyo_assets_tests.benchmarks.page_server events=200000`.
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

from klaviyo_assets_tests.benchmarks.dataset import DAY_SECONDS, FIRST_TIME, Burst, Dataset

TIME_FILTER_PATTERN = re.compile(
    r"(greater-or-equal|greater-than|less-than)\((datetime|updated|updated_at),([^)]+)\)"
)
LINKS = b'"links":{"self":"x","next":null,"prev":null}'
ACCOUNT_BODY = (
    b'{"data":[{"type":"account","id":"BENCH1","attributes":{"timezone":"UTC"}}],' + LINKS + b"}"
)
EMPTY_BODY = b'{"data":[],' + LINKS + b"}"
ESTIMATE_BODY = b'{"data":{"type":"campaign-recipient-estimation","id":"%s","attributes":{%s}}}'
RECORDS_PER_YEAR = 2_000_000
"""Events a year in the account that the goals are stated for: 5,480 a day."""

UNPAGED_RECORDS = 200
"""Records on a page of a collection that takes no `page[size]`."""


@dataclass(slots=True, kw_only=True)
class ServerState:
    """What is served, how, and what was asked so far; `first` is the time of the first request."""

    datasets: dict[str, Dataset]
    latency_seconds: float
    uses_gzip: bool
    rest_seconds: int
    first: float = 0.0
    requests: int = 0
    paths: dict[str, int] = field(default_factory=dict[str, int])
    lock: Lock = field(default_factory=Lock)

    @property
    def date_header(self) -> str:
        """Return the `Date` header: `rest_seconds` seconds after the last record."""
        last = max(shelf.end for shelf in self.datasets.values())
        return format_datetime(last + timedelta(seconds=self.rest_seconds), usegmt=True)

    def count_request(self, path: str) -> None:
        """Count a request."""
        with self.lock:
            self.first = self.first or time.time()
            self.requests += 1
            self.paths[path] = self.paths.get(path, 0) + 1

    def take_stats(self) -> bytes:
        """Return what was asked since the last report, as JSON."""
        with self.lock:
            stats = {"first": self.first, "requests": self.requests, "paths": self.paths}
            self.first, self.requests, self.paths = 0.0, 0, {}
            return json.dumps(stats).encode()


class PageHandler(BaseHTTPRequestHandler):
    """Answers GET of the collections, of the account, and of the report."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    state: ServerState
    date_header: str

    def do_GET(self) -> None:
        """Send one page."""
        url = urlsplit(self.path)
        served = self.state
        if url.path == "/bench":
            self.send_body(served.take_stats())
            return
        served.count_request(url.path)
        if served.latency_seconds:
            time.sleep(served.latency_seconds)
        packed = served.uses_gzip and "gzip" in self.headers.get("Accept-Encoding", "")
        shelf = served.datasets.get(url.path.removeprefix("/api/"))
        query = parse_qs(url.query)
        if url.path == "/api/accounts":
            self.send_body(ACCOUNT_BODY)
        elif url.path.startswith("/api/campaign-recipient-estimations/"):
            name = url.path.rpartition("/")[2].encode()
            self.send_body(ESTIMATE_BODY % (name, b'"estimated_recipient_count":7'))
        elif shelf is None or is_empty_part(query):
            self.send_body(EMPTY_BODY)
        else:
            self.send_body(self.build_page(shelf, url.path, query, is_gzip=packed), is_gzip=packed)

    def build_page(
        self, dataset: Dataset, path: str, query: dict[str, list[str]], *, is_gzip: bool
    ) -> bytes:
        """Return the page that the query asks for."""
        size = int(query.get("page[size]", [str(UNPAGED_RECORDS)])[0])
        first, end = filtered_positions(dataset, query.get("filter", [""])[0])
        first = max(first, int(query.get("page[cursor]", ["0"])[0]))
        last = max(first, min(first + size, end))
        link = "null"
        if last < end:
            parameters = {
                name: values[0] for name, values in query.items() if name != "page[cursor]"
            }
            words = [f"{quote(name)}={quote(value)}" for name, value in parameters.items()]
            words.append(f"page%5Bcursor%5D={last}")
            link = json.dumps(f"http://{self.headers['Host']}{path}?{'&'.join(words)}")
        return dataset.build_body(first, last, link.encode(), packed=is_gzip)

    def send_body(self, body: bytes, *, is_gzip: bool = False) -> None:
        """Send a body with the headers that the product reads."""
        self.send_response_only(200)
        self.send_header("Date", self.date_header)
        self.send_header("Content-Type", "application/vnd.api+json")
        self.send_header("Content-Length", str(len(body)))
        if is_gzip:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


def is_empty_part(query: dict[str, list[str]]) -> bool:
    """Tell whether a part is requested that holds nothing: archived, not email, or suppressed."""
    filter_text = query.get("filter", [""])[0]
    others = ("archived,true", '"sms"', '"mobile_push"', "suppression.timestamp")
    return any(words in filter_text for words in others)


def filtered_positions(dataset: Dataset, filter_text: str) -> tuple[int, int]:
    """Return the positions `[first, end)` that the filter lets through."""
    first, end = 0, dataset.count
    for operator, _, text in TIME_FILTER_PATTERN.findall(filter_text):
        second = int((datetime.fromisoformat(text) - FIRST_TIME).total_seconds())
        if operator == "less-than":
            end = min(end, dataset.position_of_second(second))
        else:
            # The next second, for a whole one; the bounds of ours are whole.
            first = max(first, dataset.position_of_second(second + (operator == "greater-than")))
    return first, end


def parse_burst(text: str) -> Burst:
    """Return what `RECORDS:START:SECONDS` says."""
    records, start, seconds = map(int, text.split(":"))
    return Burst(records, start, seconds)


def main() -> int:
    """Serve until killed; print the address first."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("shelves", nargs="+", metavar="collection=count")
    options.add_argument("--a-year", type=int, default=RECORDS_PER_YEAR, help="records a year")
    options.add_argument("--latency-ms", type=float, default=0.0)
    options.add_argument("--gzip", action="store_true")
    options.add_argument(
        "--rest", type=int, default=DAY_SECONDS, help="seconds since the last record"
    )
    options.add_argument(
        "--burst",
        type=parse_burst,
        action="append",
        default=[],
        metavar="RECORDS:START:SECONDS",
        help="the records of all collections, in seconds after the first moment",
    )
    options.add_argument("--huge-every", type=int, default=0, help="one record of 5 MB in so many")
    wanted = options.parse_args()
    shelves: dict[str, Dataset] = {}
    for each in wanted.shelves:
        kind, _, count = each.partition("=")
        every = wanted.huge_every if kind == "events" else 0
        shelves[kind] = Dataset(
            kind,
            count=int(count or 0),
            a_year=wanted.a_year,
            packs=wanted.gzip,
            huge_every=every,
            bursts=wanted.burst,
        )
    served = ServerState(
        datasets=shelves,
        latency_seconds=wanted.latency_ms / 1000,
        uses_gzip=wanted.gzip,
        rest_seconds=wanted.rest,
    )
    PageHandler.state, PageHandler.date_header = served, served.date_header
    server = ThreadingHTTPServer(("127.0.0.1", 0), PageHandler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
