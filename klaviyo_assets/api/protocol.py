"""What we ask of Klaviyo, as values: requests, next links, headers, and settings that may be sent.

What belongs here: knowledge of the protocol; no I/O, no clock. What does not: the filter grammar
(`filters.py`), the meaning of refusals (`refusals.py`), sending (`client.py`).
Sources: https://developers.klaviyo.com/en/reference/api_overview and the OpenAPI document of
revision 2026-07-15.
"""

import re
from collections.abc import Collection as Several
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, parse_qsl, urljoin, urlsplit

from klaviyo_assets import __version__
from klaviyo_assets.api.exchange import Answer, Request
from klaviyo_assets.api.filters import and_joined, clause, encoded
from klaviyo_assets.api.gate import address_of, checked_base_url, checked_key
from klaviyo_assets.api.refusals import error_for
from klaviyo_assets.errors import ForeignLinkError, RepeatedPageError
from klaviyo_assets.model.stream import AdditionalField, Collection, Cursor, Detail, Slice, Stream
from klaviyo_assets.model.window import Window

__all__ = [
    "MEDIA_TYPE",
    "REVISION",
    "Answer",
    "Request",
    "checked_base_url",
    "checked_key",
    "clause",
    "detail_request",
    "error_for",
    "first_request",
    "has_cursor",
    "headers",
    "included_in",
    "next_request",
    "page_size_of",
    "server_time",
    "with_page_size",
    "without_included",
]

REVISION = "2026-07-15"
MEDIA_TYPE = "application/vnd.api+json"


def first_request(  # noqa: PLR0913 - the pieces of one request, each with a name
    stream: Stream,
    slice_: Slice,
    window: Window,
    *,
    base_url: str,
    without: frozenset[str] = frozenset(),
    fields: tuple[str, ...] | None = None,
) -> Request:
    """Return the request for the first page of a slice, records ascending by the cursor.

    `without` names additional fields that are not asked for; `fields` are the only attributes
    wanted, empty for all. Without a cursor the window is not said: Klaviyo could not tell.

    Raises:
        TypeError: the stream is no collection.
    """
    source = stream.source
    if not isinstance(source, Collection):
        raise TypeError(f"{stream.name} is not read page by page")
    bounds = bounds_of(stream.cursor, window) if stream.cursor else ""
    parameters = {
        "filter": and_joined(slice_.filter, bounds),
        "sort": stream.cursor.field if stream.cursor else "",
        "page[size]": str(source.page_size) if source.page_size is not None else "",
        "include": ",".join(source.include),
        **additional(source.additional_fields, without),
        f"fields[{resource_of(source.path)}]": ",".join(fields or ()),
    }
    return Request(
        method="GET",
        url=base_url + source.path + query_of(parameters),
        budgets=stream.budgets(without=without),
        path=source.path,
    )


def detail_request(
    stream: Stream, record_id: str, *, base_url: str, without: frozenset[str] = frozenset()
) -> Request:
    """Return the request for what one parent record lacks.

    Raises:
        TypeError: the stream is no detail of another.
        ValueError: the id is empty, which would ask for the whole collection.
    """
    source = stream.source
    if not isinstance(source, Detail):
        raise TypeError(f"{stream.name} is not read record by record")
    if not record_id:
        raise ValueError(f"{stream.name}: a record without an id cannot be asked for")
    # A segment of dots alone is a folder to URL parsers unless it is encoded.
    segment = encoded(record_id) if record_id.strip(".") else "%2E" * len(record_id)
    path = source.path.replace("{id}", segment)
    # What the parent's own pages brought is not asked for again.
    only = {
        f"fields[{extra.resource}]": ",".join(column.name for column in stream.columns)
        for extra in source.additional_fields
    }
    query = query_of({**additional(source.additional_fields, without), **only})
    return Request(
        method="GET",
        url=base_url + path + query,
        budgets=stream.budgets(without=without),
        path=path,
    )


def included_in(request: Request) -> tuple[str, ...]:
    """Return the parts of a request's `include`."""
    pairs = parse_qsl(urlsplit(request.url).query)
    return tuple(part for name, value in pairs if name == "include" for part in value.split(","))


def without_included(request: Request, refused: Several[str]) -> Request:
    """Return the request without those parts of `include`; as it is where it asks for none."""
    asked = included_in(request)
    kept = [part for part in asked if part not in refused]
    if len(kept) == len(asked):
        return request
    url = urlsplit(request.url)
    pairs = parse_qsl(url.query, keep_blank_values=True)
    parameters = {name: ",".join(kept) if name == "include" else value for name, value in pairs}
    return replace(request, url=url._replace(query="").geturl() + query_of(parameters))


def bounds_of(cursor: Cursor, window: Window) -> str:
    r"""Return the clauses that keep a collection to a window; an open side has none.

    But for a cursor with an `earliest`, which is asked for where the window has no start.

                      start floored to 1 s        end
    ───────────────────────────┼───────────────────┼──────▶ UTC, 1 s ticks
    greater-or-equal(start) ───[═══════════════════)──────▶ where Klaviyo offers it
    greater-than(start - 1 s) ═(═══════════════════)──────▶ strict cursors: keys collapse the extra
    """
    start, end = "", ""
    asked_from = window.start or cursor.earliest
    if asked_from is not None:
        floored = asked_from.replace(microsecond=0)
        if cursor.inclusive:
            start = clause("greater-or-equal", cursor.field, floored)
        else:
            start = clause("greater-than", cursor.field, floored - timedelta(seconds=1))
    if window.end is not None:
        end = clause("less-than", cursor.field, window.end)
    return and_joined(start, end)


def additional(extras: tuple[AdditionalField, ...], without: frozenset[str]) -> dict[str, str]:
    """Return the `additional-fields` parameters, one for each resource."""
    wanted: dict[str, str] = {}
    for extra in extras:
        if extra.name not in without:
            name = f"additional-fields[{extra.resource}]"
            wanted[name] = ",".join(filter(None, (wanted.get(name), extra.name)))
    return wanted


def resource_of(path: str) -> str:
    """Return the JSON:API type of a collection: its path's last segment in the singular.

    True of every collection of revision 2026-07-15 (checked against the OpenAPI document).
    """
    plural = path.rsplit("/", maxsplit=1)[-1]
    return plural[:-3] + "y" if plural.endswith("ies") else plural.removesuffix("s")


def query_of(parameters: Mapping[str, str]) -> str:
    """Return the query with its `?`; parameters without a value are left out."""
    pairs = [f"{encoded(name)}={encoded(value)}" for name, value in parameters.items() if value]
    return "?" + "&".join(pairs) if pairs else ""


def next_request(request: Request, link: str | None, *, seen: set[str]) -> Request | None:
    """Return the request for the next page, or None after the last one.

    `seen` holds the URLs of the pages read in this walk; the page of `request` is added to it.
    The next one keeps the scheme, host and port of `request` whatever the link says: it carries
    the key.

    Raises:
        ForeignLinkError: the link leaves the scheme, host, port or path.
        RepeatedPageError: the link leads to a page of `seen`: paging runs in a circle.
    """
    seen.add(request.url)
    if not link:
        return None
    here = urlsplit(request.url)
    there = split_link(request, link)
    if address_of(there) != address_of(here) or there.path.rstrip("/") != here.path.rstrip("/"):
        raise foreign(request, there)
    url = f"{here.scheme}://{here.netloc}{there.path}" + (f"?{there.query}" if there.query else "")
    if url in seen:
        raise RepeatedPageError(
            f"{request.method} {request.path}: the next link leads back to a page already read "
            f"({len(seen)} pages so far). Klaviyo's paging runs in a circle: run it again, and "
            "tell Klaviyo's support if it stays so."
        )
    return replace(request, url=url)


CURSOR = re.compile(r"(?i)(?<=[?&])page(?:%5B|\[)cursor(?:%5D|\])=")
PAGE_SIZE = re.compile(r"(?i)(?<=[?&])(page(?:%5B|\[)size(?:%5D|\]))=([0-9]+)(?=&|$)")


def page_size_of(request: Request) -> int | None:
    """Return how many records a page is asked for; None where that is Klaviyo's to choose."""
    found = PAGE_SIZE.search(request.url)
    return None if found is None else int(found[2])


def has_cursor(request: Request) -> bool:
    """Return whether a request is for a page behind the first."""
    return CURSOR.search(request.url) is not None


def with_page_size(request: Request, size: int) -> Request:
    """Return the request for so many records a page; next links carry a size as first pages do.

    Unverified for next links: cursors name the last record alone, and the document lists both
    parameters side by side. Should one be refused, it is a lost cursor, and the slice starts again.
    """
    return replace(request, url=PAGE_SIZE.sub(rf"\g<1>={size}", request.url, count=1))


def split_link(request: Request, link: str) -> SplitResult:
    """Return a link in its parts; one that cannot be read is foreign."""
    try:
        there = urlsplit(urljoin(request.url, link))
        address_of(there)
    except ValueError:
        there = urlsplit("")
    # Control characters and blanks would end the request line and begin another.
    return there if re.fullmatch(r"[\x21-\x7e]+", link) else urlsplit("")


def foreign(request: Request, there: SplitResult) -> ForeignLinkError:
    """Return the error for a link that leaves the endpoint; queries are not shown."""
    shown = f"{there.scheme}://{there.hostname}{there.path}"[:200] if there.hostname else "no URL"
    return ForeignLinkError(
        f"{request.method} {request.path}: the next link leaves the endpoint ({shown!a}) and was "
        "not followed: it would carry the key along. Check KLAVIYO_BASE_URL and any proxy."
    )


def headers(key: str, revision: str) -> dict[str, str]:
    """Return the headers of every request.

    The opt-out turns a retired revision into a 410. Without it Klaviyo answers 200 in the shape of
    another revision: silent drift is worse than a stop.
    Source: https://developers.klaviyo.com/en/docs/api_versioning_and_deprecation_policy
    """
    return {
        "Authorization": f"Klaviyo-API-Key {key}",
        "revision": revision,
        "X-Klaviyo-Revision-Fall-Forward-Opt-Out": "1",
        "Accept": MEDIA_TYPE,
        "Accept-Encoding": "gzip",
        "User-Agent": f"klaviyo-assets/{__version__}",
    }


def server_time(answer_headers: Mapping[str, str]) -> datetime | None:
    """Return the server's clock in UTC from the `date` header; None where there is none to read."""
    try:
        moment = parsedate_to_datetime(answer_headers.get("date", ""))
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError):
        return None
