"""The two HTTP messages as values: a request and its response."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from klaviyo_assets.model.stream import RateLimitBucket


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its absolute `url`, the rate limit buckets it counts against, and its `path`.

    `path` is the endpoint's, which next links must keep to; `body` is JSON, for the POSTs that
    only read.
    """

    method: str
    url: str = field(repr=False)
    """Left out of `repr`: a filter may name a person."""
    buckets: tuple[RateLimitBucket, ...]
    path: str
    body: bytes | None = field(default=None, repr=False)

    @property
    def target(self) -> str:
        """Return the request target of HTTP: the URL's path and query."""
        url = urlsplit(self.url)
        return f"{url.path}?{url.query}" if url.query else url.path


@dataclass(frozen=True, slots=True)
class Response:
    """One response: header names in lower case, the body decompressed.

    `responded_at` is in UTC, by the earlier of Klaviyo's clock and this machine's. `is_too_large`:
    the body exceeded the limit while it was received, and `body` is empty.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    responded_at: datetime
    is_too_large: bool = False
