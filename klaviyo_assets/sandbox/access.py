"""Which requests are let in: API keys, scopes, revisions, content types and rate limits.

A retired revision is answered as the oldest live one unless the caller opted out, then 410.
Sources: https://developers.klaviyo.com/en/docs/api_versioning_and_deprecation_policy and the
recorded refusals of 2026-09-04.

Windows are floor(t / 1), floor(t / 60) and, for reports, floor(t / 86400); every request counts,
also those that are refused. Time is an argument; nothing here reads a clock. Source:
https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling, headers as recorded on
2026-09-04.
"""

import hashlib
import math
import re
import threading
from collections.abc import Mapping
from datetime import UTC, date, datetime

from klaviyo_assets.sandbox.account.config import AccountConfig, PrivateApiKey
from klaviyo_assets.sandbox.facts.operations import load_revisions
from klaviyo_assets.sandbox.facts.schema import Operation, PublishedTier
from klaviyo_assets.sandbox.http_messages import ApiError, invalid_input_error

_REVISION_PATTERN = re.compile(r"\d{4}-\d{2}-\d{2}(\.[a-z0-9-]+)?")
_OPT_OUT_HEADER = "x-klaviyo-revision-fall-forward-opt-out"
_REVISION_LIFETIME_YEARS = 2


def hash_authorization(header: str | None) -> str | None:
    """The first twelve digits of the key's SHA-256, for the journal."""
    if header is None:
        return None
    return hashlib.sha256(header.rpartition(" ")[2].encode()).hexdigest()[:12]


def authorize(config: AccountConfig, operation: Operation, headers: Mapping[str, str]) -> None:
    """Refuse with 401 or 403, in that order; return when the key may use the operation."""
    key = authenticate(config, headers.get("authorization"))
    if key.scopes is None:
        return
    missing = [scope for scope in operation.scopes if scope not in key.scopes]
    if missing:
        raise ApiError(
            403,
            "permission_denied",
            title="You do not have permission to perform this action.",
            detail=f"Your API key is missing required scopes: {', '.join(missing)}",
            source={"pointer": "/data/"},
        )


def authenticate(config: AccountConfig, header: str | None) -> PrivateApiKey:
    """The account's key in the header; 401 for none and for a wrong one."""
    if not header:
        raise ApiError(
            401,
            "not_authenticated",
            title="Authentication credentials were not provided.",
            detail="Missing or invalid private key.",
            source={"pointer": "/data/"},
        )
    scheme, _, value = header.partition(" ")
    for key in config.keys:
        if scheme == "Klaviyo-API-Key" and value == key.value:
            return key
    raise ApiError(
        401,
        "authentication_failed",
        title="Incorrect authentication credentials.",
        detail="Incorrect authentication credentials.",
        source={"pointer": "/data/"},
    )


def resolve_revision(headers: Mapping[str, str], now: float) -> str:
    """The revision that answers; 400 without one, 410 for a retired one after opting out."""
    requested = headers.get("revision")
    if not requested:
        # Status not recorded; the reference marks the header as required.
        raise invalid_input_error("The 'revision' header is required.", parameter="revision")
    if not _REVISION_PATTERN.fullmatch(requested):
        raise invalid_input_error(f"Invalid revision: '{requested}'.", parameter="revision")
    try:
        published_on = date.fromisoformat(requested[:10])
    except ValueError:
        raise invalid_input_error(
            f"Invalid revision: '{requested}'.", parameter="revision"
        ) from None
    today = datetime.fromtimestamp(now, UTC).date()
    if requested in load_revisions():
        # Known, though the sandbox's clock may stand before its day.
        return requested
    if published_on > today:
        raise invalid_input_error(f"Invalid revision: '{requested}'.", parameter="revision")
    if (today - published_on).days <= _REVISION_LIFETIME_YEARS * 365 + 1:
        return requested
    if headers.get(_OPT_OUT_HEADER) in {"1", "true"}:
        raise ApiError(
            410,
            "gone",
            title="Revision retired.",
            detail=f"The revision {requested} has been retired. See the migration guide.",
            source={"pointer": "/data/"},
        )
    return today.replace(
        year=today.year - _REVISION_LIFETIME_YEARS, day=min(today.day, 28)
    ).isoformat()


def check_content_type(operation: Operation, headers: Mapping[str, str]) -> None:
    """415 for a POST that is not JSON:API."""
    given = headers.get("content-type", "").partition(";")[0].strip()
    if operation.method == "POST" and given not in {"application/vnd.api+json", "application/json"}:
        raise ApiError(
            415,
            "unsupported_media_type",
            title="Unsupported media type.",
            detail=f'Unsupported media type "{given}" in request.',
            source={"pointer": "/data/"},
        )


def applicable_tiers(
    operation: Operation, parameters: Mapping[str, str]
) -> dict[str, PublishedTier]:
    """The budgets one call spends: the operation's own first, then those bound to parameters."""
    found = {operation.name: operation.tier}
    for parameter, tier in operation.reduced_tiers.items():
        name, _, value = parameter.partition("=")
        if value in parameters.get(name, "").split(","):
            found[parameter] = tier
    return found


_GUIDE_URL = "https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling"


class FixedWindowCounter:
    """Counts of one budget in its current windows."""

    def __init__(self, tier: PublishedTier, scale: float) -> None:
        """Scale every limit, daily included; at least one request stays."""
        limits = [(1, tier.burst), (60, tier.steady)]
        if tier.daily is not None:
            limits.append((86_400, tier.daily))
        self.limits = [(span, max(1, math.ceil(limit * scale))) for span, limit in limits]
        self.counts: dict[int, tuple[int, int]] = {}

    def count_request(self, now: float) -> float | None:
        """Count one request; seconds until all broken windows end, or None when none is broken."""
        wait: float | None = None
        for span, limit in self.limits:
            window = math.floor(now / span)
            last, used = self.counts.get(span, (window, 0))
            used = used + 1 if last == window else 1
            self.counts[span] = (window, used)
            if used > limit:
                wait = max(wait or 0.0, (window + 1) * span - now)
        return wait

    def headers(self, now: float) -> dict[str, str]:
        """The three headers of an answer that is not 429; the burst window is the one reported."""
        span, limit = self.limits[0]
        window, used = self.counts.get(span, (0, 0))
        remaining = limit - used if window == math.floor(now / span) else limit
        listed = ", ".join(f"{bound};w={seconds}" for seconds, bound in self.limits)
        return {
            "ratelimit-limit": f"{limit}, {listed}",
            "ratelimit-remaining": str(max(0, remaining)),
            "ratelimit-reset": str(int((math.floor(now / span) + 1) * span - now)),
        }


class SandboxRateLimiter:
    """All budgets of the account; keys of one account share them."""

    def __init__(self, scale: float) -> None:
        """Multiply every published limit by `scale`."""
        self.scale = scale
        self.counters: dict[str, FixedWindowCounter] = {}
        self.lock = threading.Lock()

    def count_request(self, tiers: dict[str, PublishedTier], now: float) -> dict[str, str]:
        """Count a request in each named budget; its headers, or a 429 with `retry-after` only.

        The first budget is the operation's own; its headers are the ones shown.
        """
        with self.lock:
            windows = [self.counter_for(name, tier) for name, tier in tiers.items()]
            waits = [wait for each in windows if (wait := each.count_request(now)) is not None]
            if waits:
                raise throttling_error(max(waits))
            return windows[0].headers(now)

    def counter_for(self, name: str, tier: PublishedTier) -> FixedWindowCounter:
        """The windows of that name, made at their first use."""
        if name not in self.counters:
            self.counters[name] = FixedWindowCounter(tier, self.scale)
        return self.counters[name]


def throttling_error(wait: float, *, retry_after: str | None = None) -> ApiError:
    """A 429; `wait` in seconds, sent as whole seconds rounded up."""
    seconds = max(1, math.ceil(wait))
    plural = "" if seconds == 1 else "s"
    error = ApiError(
        429,
        "throttled",
        title="Request was throttled.",
        detail=f"Request was throttled. Expected available in {seconds} second{plural}.",
        source={"pointer": "/data"},
    )
    error.links = {"type": _GUIDE_URL}
    error.headers = {"retry-after": str(seconds) if retry_after is None else retry_after}
    return error
