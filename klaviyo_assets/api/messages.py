"""Requests and responses: as values, what may leave the process, and what a response means.

The guard checks the key, the server's address, and every request before it is sent. A refused
response or a lost connection is mapped to our exceptions.
"""

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import ip_address
from typing import cast
from urllib.parse import SplitResult, parse_qsl, urlsplit

from isal import isal_zlib

from klaviyo_assets.errors import (
    AccessDeniedError,
    BadKeyError,
    BrokenBodyError,
    ConfigError,
    ConnectionLostError,
    CursorLostError,
    IneligibleMetricError,
    KlaviyoAssetsError,
    LargeBodyError,
    MissingScopeError,
    NotFoundError,
    PageSizeError,
    PermanentError,
    PlanError,
    RateLimitError,
    RequestError,
    RevisionRetiredError,
    ServerError,
    SettingError,
    iterate_error_chain,
    redact_keys,
    register_secret,
)
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


PERSONAL_DATA_PATTERNS = (
    (re.compile(r"[^\s\"'<>(),;:=]+(?:@|%40)[^\s\"'<>(),;:=]+"), "[e-mail]"),
    (
        re.compile(
            r"(?:\+|%2B)\d[\d ().-]{5,}\d"
            r"|(?<![\w./:-])\(?\d{3,4}\)?[ .-]\d{3}[ .-]\d{4}(?!\w)"
            r"|(?<![\w./:-])\d{9,15}(?![\w:-])"
        ),
        "[number]",
    ),
)
PERSONAL_PARAMETERS = frozenset({"filter", "page[cursor]", "page_cursor"})
"""Parameters whose values are not shown: a filter may name a person, a paging cursor a record."""

METRIC_MEMBERS = ("conversion_metric_id", "metric_id")
"""The member of a report request that names its metric; Klaviyo's error pointer contains it too."""

METRIC_PATTERN = re.compile(r"(?i)\bmetrics?\b|conversion_metric")
"""Matches the text of an error without a pointer that is about the metric."""

SCOPE_NAME_PATTERN = re.compile(r"\b[a-z]+(?:-[a-z]+)*:(?:read|write|full)\b")
SCOPE_WORD_PATTERN = re.compile(r"(?i)\bscopes?\b")
PERMISSION_PATTERN = re.compile(
    r"(?i)\bpermissions? to\b|\b(?:missing|lacks?|insufficient|required) (?:the )?permissions?\b"
)
PLAN_PATTERN = re.compile(
    r"(?i)\bplans?\b|\bentitle|\bupgrade\b|\badvanced kdp\b|\badd-?ons?\b"
    r"|\bmust have\b.*\benabled\b"
)
ACCOUNT_OR_NETWORK_PATTERN = re.compile(
    r"(?i)\bsuspend|\bdeactivat|\bdisabled\b|\bclosed\b|\bblocked\b|\bbanned\b|\blocked\b"
    r"|\bnetworks?\b|\bIPs?\b|\bpast due\b|\boverdue\b|\bunpaid\b|\bpayments?\b"
)
"""Matches a 403 that is about the account or the network, whatever else it mentions."""

PAGE_SIZE_WORDS_PATTERN = re.compile(r"(?i)\bpage(?:%5B|[\s_\[-])*size\b")
"""Matches a mention of the page size, as a parameter or in a sentence."""

WHOLE_SECONDS_PATTERN = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiErrorDetails:
    """The first error object of a response, without keys and personal data.

    `is_json` is false for an empty body or a proxy's page. `is_from_klaviyo` is also false for JSON
    without the form of Klaviyo's errors, such as a gateway's.
    """

    is_json: bool
    is_from_klaviyo: bool = False
    code: str | None = None
    detail: str | None = None
    source: str | None = None


def map_error_response(response: Response, request: Request) -> KlaviyoAssetsError:
    """Return the error that a response other than 2xx stands for. Never raises, whatever the body.

    Its text says what was requested, what came back (status, code, source, detail) and who can do
    what about it.
    """
    details = parse_api_error(response.body)
    text = (
        f"{describe_request(request)} was answered with "
        f"{response.status}{describe_api_error(details)}. "
    )
    match response.status:
        case 401:
            advice = "Klaviyo does not know this key: set KLAVIYO_API_KEY to a live private key."
            return BadKeyError(text + advice)
        case 403 if details.is_from_klaviyo:
            return forbidden_error(text, details)
        case 429:
            advice = "The account's rate limit is spent, by this program or another one."
            return RateLimitError(
                text + advice,
                retry_after_seconds=parse_retry_after(response.headers),
            )
        case 403 | 408:
            return server_error(text, response.headers)
        case status if status >= 500:  # noqa: PLR2004 - the first of the server's own statuses
            return server_error(text, response.headers)
        case _:
            return client_error(text, response, details, request)


def server_error(text: str, headers: Mapping[str, str]) -> ServerError:
    """Return the error for a server, or a proxy in front of it, that could not respond just now."""
    return ServerError(
        text + "The server, or a proxy before it, could not respond; it is tried again.",
        retry_after_seconds=parse_retry_after(headers),
    )


def forbidden_error(text: str, details: ApiErrorDetails) -> KlaviyoAssetsError:
    """Return the error for a 403: the key lacks a scope, the plan lacks a feature, or another one.

    A stream is skipped only where Klaviyo's text names scopes, permissions or plans. Texts seen:
    "Your API key is missing required scopes: ...", just "You do not have permission to perform this
    action.", "You must have Advanced KDP enabled to use this endpoint.", "Entitlement to ... not
    found."
    """
    detail = details.detail or ""
    scopes = tuple(dict.fromkeys(SCOPE_NAME_PATTERN.findall(detail)))
    is_elsewhere = ACCOUNT_OR_NETWORK_PATTERN.search(detail) is not None
    if scopes:
        named = " and ".join(scopes)
        advice = f"The key lacks the scope {named}. "
    elif SCOPE_WORD_PATTERN.search(detail) or (
        PERMISSION_PATTERN.search(detail) and not is_elsewhere
    ):
        advice = "The key lacks a scope. "
    elif PLAN_PATTERN.search(detail) and not is_elsewhere:
        advice = "The account's plan does not have it: upgrade, or leave the asset out."
        return PlanError(text + advice, detail=details.detail)
    else:
        advice = (
            "That is no missing scope: Klaviyo refuses this account, key or network. Its own words "
            "are above; ask whoever manages the account, or Klaviyo's support."
        )
        return AccessDeniedError(text + advice)
    advice += "Scopes cannot be added to a key: make a new one with it."
    return MissingScopeError(text + advice, scopes=scopes, detail=details.detail)


def client_error(
    text: str, response: Response, details: ApiErrorDetails, request: Request
) -> PermanentError:
    """Return the error for a request that would fail the same way again."""
    detail = (details.detail or "").lower()
    kind, advice = RequestError, "It fails the same way again: the program is wrong, or a setting."
    if response.status == 410 or (response.status == 404 and "no valid revisions" in detail):  # noqa: PLR2004
        kind = RevisionRetiredError
        advice = (
            "This revision does not offer it (any more): set KLAVIYO_REVISION to a live one that "
            "this version reads, or update klaviyo_assets."
        )
    elif response.status == 404:  # noqa: PLR2004 - the status itself says it best
        kind, advice = NotFoundError, "It does not exist, or no longer does."
    elif response.status == 400 and "invalid cursor provided" in detail:  # noqa: PLR2004
        kind, advice = CursorLostError, "The paging cursor is lost: the slice is read again."
    elif response.status == 400 and refuses_page_size(request, details):  # noqa: PLR2004
        kind, advice = PageSizeError, "The page is requested again with fewer records."
    elif response.status == 400 and is_metric_refusal(request, details):  # noqa: PLR2004
        kind = IneligibleMetricError
        advice = "Klaviyo makes no report with this metric: it is left out."
    elif 300 <= response.status < 400:  # noqa: PLR2004 - the redirects
        place = urlsplit(response.headers.get("location", "")).hostname or "nowhere"
        advice = (
            f"Redirects (here to {redact_personal_data(place)}) are not followed, as they would "
            "carry the key "
            "along. Check KLAVIYO_BASE_URL and any proxy."
        )
    return kind(
        text + advice,
        status=response.status,
        code=details.code,
        source=details.source,
        detail=details.detail,
    )


def is_metric_refusal(request: Request, details: ApiErrorDetails) -> bool:
    """Return whether a 400 to a request of a report or of metric aggregates is about its metric.

    Klaviyo's error points at the metric in the body; an error that points at nothing in particular
    must mention a metric. Two cases were seen, a metric that no report accepts and an id that no
    metric has. Their texts differ, and there may be more.
    """
    if b'metric_id"' not in (request.body or b""):
        return False
    place = (details.source or "").strip("/")
    if place not in {"", "data", "data/attributes"}:
        return place.rpartition("/")[2] in METRIC_MEMBERS
    return METRIC_PATTERN.search(details.detail or "") is not None


def refuses_page_size(request: Request, details: ApiErrorDetails) -> bool:
    """Return whether a 400 to a request with a page size is about that size.

    Klaviyo's error points at the parameter; an error that points at nothing in particular, or at
    another paging parameter, must mention the page size.
    """
    # Unverified: no such response was recorded.
    if PAGE_SIZE_WORDS_PATTERN.search(request.target) is None:
        return False
    place = (details.source or "").strip("/")
    if PAGE_SIZE_WORDS_PATTERN.search(place):
        return True
    is_open = place in {"", "data"} or place.startswith("page")
    return is_open and PAGE_SIZE_WORDS_PATTERN.search(details.detail or "") is not None


def describe_request(request: Request) -> str:
    """Return method, path and query of a request, without values that could be personal data."""
    path, _, query = request.target.partition("?")
    pairs = (
        f"{name}={'…' if name in PERSONAL_PARAMETERS else value}"
        for name, value in parse_qsl(query, keep_blank_values=True)
    )
    shown = "&".join(pairs)
    return redact_personal_data(f"{request.method} {path}" + (f"?{shown}" if shown else ""))


def describe_api_error(details: ApiErrorDetails) -> str:
    """Return Klaviyo's code, source and detail in brackets, with a leading blank."""
    if not details.is_json:
        return " (no JSON: a proxy's page, or nothing)"
    if not details.is_from_klaviyo:
        return " (JSON that is not Klaviyo's: a proxy's or gateway's)"
    parts = (details.code, details.source, details.detail.rstrip(". ") if details.detail else None)
    words = ": ".join(part for part in parts if part)
    return f" ({words})" if words else ""


def describe_error_in_body(body: bytes) -> str:
    """Return the error that the body of a response with a 2xx status contains; empty without."""
    details = parse_api_error(body)
    return describe_api_error(details) if details.is_json else ""


def parse_api_error(body: bytes) -> ApiErrorDetails:
    """Return the first error of a body, even if it is far from the published form.

    Seen: HTML, nothing, `errors` as an object, `links` and `meta` as PHP's empty array.
    """
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        return ApiErrorDetails(is_json=False)
    errors = json_member(document, "errors")
    if isinstance(errors, list):
        errors = next(iter(cast("list[object]", errors)), None)
    source = json_member(errors, "source")
    return ApiErrorDetails(
        is_json=True,
        is_from_klaviyo=any(
            redacted_text(json_member(errors, each)) for each in ("code", "title", "detail")
        ),
        code=redacted_text(json_member(errors, "code")),
        detail=redacted_text(json_member(errors, "detail"))
        or redacted_text(json_member(errors, "title")),
        source=redacted_text(json_member(source, "parameter"))
        or redacted_text(json_member(source, "pointer")),
    )


def json_member(value: object, name: str) -> object:
    """Return a member of a decoded JSON object; None if it is not an object or lacks the member."""
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None


def redacted_text(value: object) -> str | None:
    """Return text without keys and personal data; None for any other value, or an empty text."""
    return redact_personal_data(value) if isinstance(value, str) and value else None


def redact_personal_data(text: str) -> str:
    """Return text without keys, e-mail addresses and phone numbers: one line, up to 300 characters.

    Klaviyo's error details quote the values of filters, and those may be a person's data.
    """
    text = redact_keys(text)
    for pattern, instead in PERSONAL_DATA_PATTERNS:
        text = pattern.sub(instead, text)
    plain = "".join(each if each.isprintable() else " " for each in text)
    return plain if len(plain) <= 300 else plain[:299] + "…"  # noqa: PLR2004 - stated above


def parse_retry_after(headers: Mapping[str, str]) -> int | None:
    """Return the whole seconds of `retry-after`; None for a date, a fraction, or nonsense."""
    text = headers.get("retry-after", "").strip()
    return int(text) if WHOLE_SECONDS_PATTERN.fullmatch(text) else None


BYTES_PER_MIB = 2**20
_GZIP_WBITS = 31
"""zlib's number for a window of 32 KiB within gzip."""

MIN_CHUNK_BYTES = 64 * 1024
MAX_CHUNK_BYTES = 32 * BYTES_PER_MIB
"""Most bytes decompressed in one step; more than a usual page, which so takes a single step."""

# The stubs take the exception's class for an exception.
GZIP_ERRORS = (OSError, EOFError, cast("type[Exception]", isal_zlib.error))
"""Raised for gzip that is truncated, of another format, corrupt, or has a wrong checksum."""


class DecodedBodyTooLargeError(ValueError):
    """The decompressed body exceeds the limit."""


def check_response(response: Response, request: Request, *, max_bytes: int) -> Response:
    """Return a 2xx response with its body decompressed, of at most `max_bytes`.

    An error status counts as such even if the body with its reason is lost.

    Raises:
        BrokenBodyError: the status is 2xx, but the body cannot be decompressed.
        LargeBodyError: the status is 2xx, but the body is larger, compressed or decompressed.
        KlaviyoAssetsError: any other status, as `map_error_response` maps it.
    """
    body, problem = b"", ""
    is_too_large = response.is_too_large
    try:
        body = decode_body(response, max_bytes)
    except DecodedBodyTooLargeError:
        is_too_large = True
    except ValueError as error:
        problem = str(error)
    response = replace(response, body=body)
    if not 200 <= response.status < 300:  # noqa: PLR2004 - the statuses of success
        raise map_error_response(response, request)
    if is_too_large:
        raise LargeBodyError(
            f"{describe_request(request)} was answered with {response.status} and a body of more "
            f"than {max_bytes // BYTES_PER_MIB} MiB, which was refused while it came in. If the "
            "records are meant to be as large, raise KLAVIYO_MAX_BODY_MIB; a page takes three "
            "times its size.",
        )
    if problem:
        text = f"{describe_request(request)} was answered with {response.status}, but {problem}."
        raise BrokenBodyError(text)
    return response


def decode_body(response: Response, max_bytes: int) -> bytes:
    """Return the body of a response as it was before `content-encoding`.

    Raises:
        ValueError: the gzip is truncated or corrupt, or the encoding is not gzip; says which.
        DecodedBodyTooLargeError: the body would exceed `max_bytes`.
    """
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding in {"identity", ""} or not response.body:
        return response.body
    if coding not in {"gzip", "x-gzip"}:
        raise ValueError(f"its coding {redact_personal_data(coding)[:20]!a} was not requested")
    try:
        return decompress_gzip(response.body, max_bytes=max_bytes)
    except GZIP_ERRORS as error:
        raise ValueError(f"its gzip is broken ({error})") from error


def decompress_gzip(compressed: bytes, *, max_bytes: int) -> bytes:
    """Return the decompressed content of one or more gzip members.

    It never holds more than `MAX_CHUNK_BYTES` beyond `max_bytes`.

    Raises:
        DecodedBodyTooLargeError: the content would exceed `max_bytes`.
        OSError, EOFError, isal_zlib.error: as for `GZIP_ERRORS`.
    """
    parts: list[bytes] = []
    left = max_bytes
    # The size that gzip's trailer claims (modulo 4 GiB, of the last member only). If it is right,
    # the buffer fits from the start, which takes a sixth of the time.
    claimed_bytes = int.from_bytes(compressed[-4:], "little") + 1
    step = min(max(claimed_bytes, MIN_CHUNK_BYTES), MAX_CHUNK_BYTES)
    while compressed:
        member = isal_zlib.decompressobj(wbits=_GZIP_WBITS)
        while not member.eof:
            part = member.decompress(compressed, step)
            compressed = member.unconsumed_tail
            if not part and not compressed and not member.eof:
                raise EOFError("it is cut")
            left -= len(part)
            if left < 0:
                raise DecodedBodyTooLargeError
            parts.append(part)
        # Zeros after a member are padding.
        compressed = member.unused_data.lstrip(b"\0")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def connection_error(
    request: Request, failure: Exception, *, host: str, addresses: list[str], was_sent: bool = True
) -> KlaviyoAssetsError:
    """Return the error for a request that got no complete response.

    `addresses`: those that the host name resolves to now, empty if unknown. `was_sent` is false if
    no server can have received the request. A certificate that cannot be verified is a
    `ConfigError`, which is never retried and never accepted; all other failures may pass.
    """
    causes = list(iterate_error_chain(failure, wrapped_error))
    # Libraries wrap the innermost error, and the texts of the wrappers contain URLs.
    reason = f"{type(causes[-1]).__name__}: {causes[-1]}".removesuffix(": ")
    text = (
        f"{describe_request(request)} got no response from {host}: {redact_personal_data(reason)}."
    )
    if is_blocked_by_dns(host, addresses):
        hint = (
            f"The name resolves to {addresses[0]}: a DNS filter on this network blocks it. Allow "
            f"{host} there."
        )
    elif any(isinstance(each, ssl.SSLCertVerificationError) for each in causes):
        return ConfigError(
            f"{text} The connection is not safe, and the key was not sent. If a proxy of yours "
            "signs certificates, name its authority's file in REQUESTS_CA_BUNDLE or SSL_CERT_FILE; "
            "check the clock as well."
        )
    else:
        hint = f"Check the network, any proxy, and that {host} can be reached."
    return ConnectionLostError(f"{text} {hint}", was_sent=was_sent)


def is_blocked_by_dns(host: str, addresses: list[str]) -> bool:
    """Return whether a public host name resolves to no machine or to this one: a DNS filter's."""
    if is_loopback_host(host) or not addresses:
        return False
    places = [ip_address(each.partition("%")[0]) for each in addresses]
    return all(place.is_unspecified or place.is_loopback for place in places)


def wrapped_error(failure: BaseException) -> BaseException | None:
    """Return the exception inside another one: an argument, as urllib3 has it, else the cause."""
    wrapped = [each for each in failure.args if isinstance(each, BaseException)]
    return wrapped[0] if wrapped else failure.__cause__
