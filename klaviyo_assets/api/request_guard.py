"""Requests and responses as values, and the guard: what may leave the process, and where to.

The guard checks the key, the server's address, and every request.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from klaviyo_assets.errors import PermanentError, SettingError, register_secret
from klaviyo_assets.model.stream import RateLimitBucket
from klaviyo_assets.settings import KEY_VARIABLE


@dataclass(frozen=True, slots=True)
class Request:
    """One request, and the rate limit buckets it counts against.

    It names no server, so it can only go to the client's own. `target` is the request target of
    HTTP, path and query; `path` is the endpoint's, which next links must keep to; `body` is JSON,
    for the POSTs that only read.
    """

    method: str
    target: str = field(repr=False)
    """Left out of `repr`: a filter may name a person."""
    buckets: tuple[RateLimitBucket, ...]
    path: str
    body: bytes | None = field(default=None, repr=False)


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


PRIVATE_KEY_PATTERN = re.compile(r"pk_[A-Za-z0-9_]{10,}")
PUBLIC_KEY_PATTERN = re.compile(r"[A-Za-z0-9]{6}")

READ_ONLY_POST_PATHS = frozenset(
    {
        "/api/campaign-values-reports",
        "/api/flow-series-reports",
        "/api/flow-values-reports",
        "/api/form-series-reports",
        "/api/form-values-reports",
        "/api/metric-aggregates",
        "/api/segment-series-reports",
        "/api/segment-values-reports",
    }
)
"""All POST endpoints of Klaviyo that change nothing; besides these only GETs are sent."""


def validate_api_key(raw: str, *, variable: str = KEY_VARIABLE) -> str:
    """Return the key if it has the form of a private key; `variable` is where it was set.

    From then on every text of this process is redacted of it.

    Raises:
        SettingError: it has another form; the text never quotes it.
    """
    wanted = "Set it to a private key: pk_ and at least ten letters, digits or underscores."
    if not raw:
        raise SettingError(f"{variable} is empty. {wanted}")
    if re.search(r"\s", raw):
        raise SettingError(f"{variable} holds a blank or a line end. {wanted}")
    if PUBLIC_KEY_PATTERN.fullmatch(raw):
        raise SettingError(
            f"{variable} holds the public key (the account's six characters). {wanted}"
        )
    if not PRIVATE_KEY_PATTERN.fullmatch(raw):
        raise SettingError(f"{variable} has not the form of a private key. {wanted}")
    register_secret(raw)
    return raw


def validate_base_url(raw: str) -> str:
    """Return the address of the API without a trailing slash.

    Raises:
        SettingError: it is neither https to a host nor plain http to a loopback address.
    """
    try:
        url = urlsplit(raw)
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    allowed = "Allowed: https://<host>[:port], and plain http to a loopback address only."
    is_bare = url.path in {"", "/"} and not (url.query or url.fragment or "@" in url.netloc)
    if not url.hostname or not is_bare or not re.fullmatch(r"[\x21-\x7e]+", raw) or port == 0:
        raise SettingError(
            f"KLAVIYO_BASE_URL {format_url_without_login(url)} is no address of a server. {allowed}"
        )
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback_host(url.hostname)):
        raise SettingError(
            f"KLAVIYO_BASE_URL {format_url_without_login(url)} would send the key unencrypted. "
            f"{allowed}"
        )
    return f"{url.scheme}://{url.netloc}"


def format_url_without_login(url: SplitResult) -> str:
    """Return a URL for a message, without the user and password that it may contain."""
    place = url.netloc.rsplit("@", maxsplit=1)[-1]
    return ascii(f"{url.scheme}://{place}{url.path}"[:200] if place else url.path[:200])


def is_loopback_host(host: str) -> bool:
    """Return whether a host is this machine: `localhost` or a loopback address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_request(request: Request) -> None:
    """Refuse a request that could write, or whose target is no path of the API.

    Raises:
        PermanentError: it is neither a GET nor one of the POSTs that only read.
    """
    path = request.target.partition("?")[0]
    reads = request.method == "GET" or (request.method == "POST" and path in READ_ONLY_POST_PATHS)
    if not reads or not path.startswith("/api/"):
        raise PermanentError(
            f"{request.method} {path[:200]!a} was not sent: this client only reads, by GET and "
            f"by the {len(READ_ONLY_POST_PATHS)} POSTs that change nothing."
        )
