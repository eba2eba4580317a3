"""What a refusal means: status, code and body of an answer to one error of our tree.

What belongs here: the one table from answers to errors, their sentences, and the scrubbing of what
Klaviyo says. What does not: whether to try again (`retries.py`).
Sources: https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling; answers recorded at
revision 2026-07-15; klaviyo/klaviyo-api-python issues 9 (lost cursors) and 84 (HTML with 403).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl, urlsplit

from klaviyo_assets.api.exchange import Answer, Request
from klaviyo_assets.errors import (
    AccessDeniedError,
    BadKeyError,
    CursorLostError,
    IneligibleMetricError,
    KlaviyoAssetsError,
    MissingScopeError,
    NotFoundError,
    PageSizeError,
    PermanentError,
    PlanError,
    RateLimitError,
    RequestError,
    RevisionRetiredError,
    ServerError,
)
from klaviyo_assets.redaction import redact

PEOPLE = (
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
"""Their values are not shown: a filter may name a person, and a paging cursor holds a record's."""

CONVERSION_METRIC = "conversion_metric_id"
"""The member of a report request that names its metric, and of the pointer in a refusal of it."""

METRIC = re.compile(r"(?i)\bmetrics?\b|conversion_metric")
"""What a refusal without a pointer says where it is about the metric, whatever else it says."""

SCOPE = re.compile(r"\b[a-z]+(?:-[a-z]+)*:(?:read|write|full)\b")
SCOPES = re.compile(r"(?i)\bscopes?\b")
PERMISSION = re.compile(
    r"(?i)\bpermissions? to\b|\b(?:missing|lacks?|insufficient|required) (?:the )?permissions?\b"
)
PLAN = re.compile(
    r"(?i)\bplans?\b|\bentitle|\bupgrade\b|\badvanced kdp\b|\badd-?ons?\b"
    r"|\bmust have\b.*\benabled\b"
)
ELSEWHERE = re.compile(
    r"(?i)\bsuspend|\bdeactivat|\bdisabled\b|\bclosed\b|\bblocked\b|\bbanned\b|\blocked\b"
    r"|\bnetworks?\b|\bIPs?\b|\bpast due\b|\boverdue\b|\bunpaid\b|\bpayments?\b"
)
"""Words of a 403 that is about the account or the way to it, whatever else it mentions."""

PAGE_SIZE = re.compile(r"(?i)\bpage(?:%5B|[\s_\[-])*size\b")
"""A page size, as parameters are written and as sentences have it."""

WHOLE_SECONDS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What Klaviyo says is wrong, scrubbed.

    `is_json` is false for a proxy's page or nothing, `is_klaviyos` also for JSON without the form
    of Klaviyo's errors: a gateway's.
    """

    is_json: bool
    is_klaviyos: bool = False
    code: str | None = None
    detail: str | None = None
    source: str | None = None


def error_for(answer: Answer, request: Request, stream_name: str) -> KlaviyoAssetsError:
    """Return the error that an answer other than 2xx stands for. Never raises, whatever the body.

    The text says what was asked, what came back (status, code, source, detail) and who does what.
    """
    said = complaint_of(answer.body)
    text = f"{asked(request)} was answered with {answer.status}{told(said)}. "
    match answer.status:
        case 401:
            advice = "Klaviyo does not know this key: set KLAVIYO_API_KEY to a live private key."
            return BadKeyError(text + advice, stream=stream_name)
        case 403 if said.is_klaviyos:
            return denied(text, said, stream_name)
        case 429:
            advice = "The account's rate limit is spent, by this program or another one."
            return RateLimitError(
                text + advice,
                stream=stream_name,
                retry_after_seconds=retry_after_of(answer.headers),
            )
        case 403 | 408:
            return unanswered(text, answer.headers, stream_name)
        case status if status >= 500:  # noqa: PLR2004 - the first of the server's own statuses
            return unanswered(text, answer.headers, stream_name)
        case _:
            return permanent(text, answer, said, request=request, stream_name=stream_name)


def unanswered(text: str, headers: Mapping[str, str], stream_name: str) -> ServerError:
    """Return the error for a server, or a proxy before it, that could not answer just now."""
    return ServerError(
        text + "The server, or a proxy before it, could not answer; this is tried again.",
        stream=stream_name,
        retry_after_seconds=retry_after_of(headers),
    )


def denied(text: str, said: Complaint, stream_name: str) -> KlaviyoAssetsError:
    """Return the error for a 403: a scope that the key lacks, a plan gate, or anything else.

    Only Klaviyo's own words on scopes or plans make a stream one to skip. Seen: "Your API key is
    missing required scopes: ...", the bare "You do not have permission to perform this action.",
    "You must have Advanced KDP enabled to use this endpoint.", "Entitlement to ... not found."
    """
    detail = said.detail or ""
    scopes = tuple(dict.fromkeys(SCOPE.findall(detail)))
    is_elsewhere = ELSEWHERE.search(detail) is not None
    if scopes:
        named = " and ".join(scopes)
        advice = f"The key lacks the scope {named}. "
    elif SCOPES.search(detail) or (PERMISSION.search(detail) and not is_elsewhere):
        advice = "The key lacks a scope. "
    elif PLAN.search(detail) and not is_elsewhere:
        advice = "The account's plan does not have it: upgrade, or leave the asset out."
        return PlanError(text + advice, stream=stream_name, detail=said.detail)
    else:
        advice = (
            "That is no missing scope: Klaviyo refuses this account, key or network. Its own words "
            "are above; ask whoever manages the account, or Klaviyo's support."
        )
        return AccessDeniedError(text + advice, stream=stream_name)
    advice += "Scopes cannot be added to a key: make a new one with it."
    return MissingScopeError(text + advice, stream=stream_name, scopes=scopes, detail=said.detail)


def permanent(
    text: str, answer: Answer, said: Complaint, *, request: Request, stream_name: str
) -> PermanentError:
    """Return the error for a request that would fail again just so."""
    detail = (said.detail or "").lower()
    kind, advice = RequestError, "It fails the same way again: the program is wrong, or a setting."
    if answer.status == 410 or (answer.status == 404 and "no valid revisions" in detail):  # noqa: PLR2004
        kind = RevisionRetiredError
        advice = (
            "This revision does not offer it (any more): set KLAVIYO_REVISION to a live one that "
            "this version reads, or update klaviyo_assets."
        )
    elif answer.status == 404:  # noqa: PLR2004 - the status itself says it best
        kind, advice = NotFoundError, "It is gone, or was never there."
    elif answer.status == 400 and "invalid cursor provided" in detail:  # noqa: PLR2004
        kind, advice = CursorLostError, "The paging cursor is lost: the slice is read again."
    elif answer.status == 400 and refuses_page_size(request, said):  # noqa: PLR2004
        kind, advice = PageSizeError, "Fewer records are asked for, as long as there are fewer."
    elif answer.status == 400 and refuses_metric(request, said):  # noqa: PLR2004
        kind = IneligibleMetricError
        advice = "Klaviyo makes no reports with this conversion metric: it is left out."
    elif 300 <= answer.status < 400:  # noqa: PLR2004 - the redirects
        place = urlsplit(answer.headers.get("location", "")).hostname or "nowhere"
        advice = (
            f"Redirects (here to {scrubbed(place)}) are not followed, as they would carry the key "
            "along. Check KLAVIYO_BASE_URL and any proxy."
        )
    return kind(
        text + advice,
        stream=stream_name,
        status=answer.status,
        code=said.code,
        source=said.source,
        detail=said.detail,
    )


def refuses_metric(request: Request, said: Complaint) -> bool:
    """Return whether a 400 to a report request is about its conversion metric.

    Klaviyo points at the metric's place in the body; where it points nowhere in particular, the
    sentence has to mention a metric. Seen: a metric that no report takes, and an id that no metric
    has; the sentences differ, and more may come.
    """
    if CONVERSION_METRIC.encode() not in (request.body or b""):
        return False
    place = (said.source or "").strip("/")
    if place not in {"", "data", "data/attributes"}:
        return CONVERSION_METRIC in place
    return METRIC.search(said.detail or "") is not None


def refuses_page_size(request: Request, said: Complaint) -> bool:
    """Return whether a 400 to a request that names a page size is about that.

    Klaviyo points at the parameter; where it points nowhere in particular, or at another one of
    paging, the sentence has to mention it. No such refusal was recorded.
    """
    if PAGE_SIZE.search(request.url) is None:
        return False
    place = (said.source or "").strip("/")
    if PAGE_SIZE.search(place):
        return True
    is_open = place in {"", "data"} or place.startswith("page")
    return is_open and PAGE_SIZE.search(said.detail or "") is not None


def asked(request: Request) -> str:
    """Return method, path and query of a request, without values that could be personal."""
    url = urlsplit(request.url)
    pairs = (
        f"{name}={'…' if name in PERSONAL_PARAMETERS else value}"
        for name, value in parse_qsl(url.query, keep_blank_values=True)
    )
    query = "&".join(pairs)
    return scrubbed(f"{request.method} {url.path}" + (f"?{query}" if query else ""))


def told(said: Complaint) -> str:
    """Return Klaviyo's own words in brackets, with a leading blank."""
    if not said.is_json:
        return " (no JSON: a proxy's page, or nothing)"
    if not said.is_klaviyos:
        return " (JSON that is not Klaviyo's: a proxy's or gateway's)"
    parts = (said.code, said.source, said.detail.rstrip(". ") if said.detail else None)
    words = ": ".join(part for part in parts if part)
    return f" ({words})" if words else ""


def words_in(body: bytes) -> str:
    """Return the error that a body tells of although it came as a good answer, as `told` does."""
    said = complaint_of(body)
    return told(said) if said.is_json else ""


def complaint_of(body: bytes) -> Complaint:
    """Return the first error of a body, however little it keeps to the published form.

    Seen: HTML, nothing, `errors` as an object, `links` and `meta` as PHP's empty array.
    """
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        return Complaint(is_json=False)
    errors = member(document, "errors")
    if isinstance(errors, list):
        errors = next(iter(cast("list[object]", errors)), None)
    source = member(errors, "source")
    return Complaint(
        is_json=True,
        is_klaviyos=any(text_of(member(errors, each)) for each in ("code", "title", "detail")),
        code=text_of(member(errors, "code")),
        detail=text_of(member(errors, "detail")) or text_of(member(errors, "title")),
        source=text_of(member(source, "parameter")) or text_of(member(source, "pointer")),
    )


def member(value: object, name: str) -> object:
    """Return a member of what should be a JSON object; None of anything else."""
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None


def text_of(value: object) -> str | None:
    """Return text scrubbed, and None for what is no text or empty."""
    return scrubbed(value) if isinstance(value, str) and value else None


def scrubbed(text: str) -> str:
    """Return text without keys, e-mail addresses and telephone numbers, in one line of up to 300.

    Klaviyo's details quote the values of filters, and those may be a person's.
    """
    text = redact(text)
    for pattern, instead in PEOPLE:
        text = pattern.sub(instead, text)
    plain = "".join(each if each.isprintable() else " " for each in text)
    return plain if len(plain) <= 300 else plain[:299] + "…"  # noqa: PLR2004 - stated above


def retry_after_of(headers: Mapping[str, str]) -> int | None:
    """Return the whole seconds of `retry-after`; None for a date, a fraction, or nonsense."""
    text = headers.get("retry-after", "").strip()
    return int(text) if WHOLE_SECONDS.fullmatch(text) else None
