"""The two values of a conversation with Klaviyo: a request and its response."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from klaviyo_assets.model.stream import RateLimitBucket


@dataclass(frozen=True, slots=True)
class Request:
    """One request: an absolute `url`, the budgets that it spends, and its endpoint's `path`.

    `path` is what a next link must keep to; `body` is JSON, for the few POSTs that read.
    """

    method: str
    url: str = field(repr=False)
    """Not shown: a filter may name a person."""
    buckets: tuple[RateLimitBucket, ...]
    path: str
    body: bytes | None = field(default=None, repr=False)

    @property
    def target(self) -> str:
        """Return what stands in the request line: the URL's path and query."""
        url = urlsplit(self.url)
        return f"{url.path}?{url.query}" if url.query else url.path


@dataclass(frozen=True, slots=True)
class Response:
    """One answer: names of headers in lower case, and the body unpacked.

    `responded_at` is when it was given, UTC, by the earlier of Klaviyo's clock and this machine's.
    `is_too_large` tells that the body was refused while it came in, and `body` is empty.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    responded_at: datetime
    is_too_large: bool = False
