"""Who may ask: keys, scopes, revisions, content types, in the order Klaviyo checks them.

A retired revision is answered as the oldest live one unless the caller opted out, then 410.
Sources: https://developers.klaviyo.com/en/docs/api_versioning_and_deprecation_policy and the
recorded refusals of 2026-09-04.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime

from klaviyo_assets.sandbox.account import Account, Key
from klaviyo_assets.sandbox.errors import ApiError, invalid
from klaviyo_assets.sandbox.facts.operation import Operation, Tier

_REVISION = re.compile(r"\d{4}-\d{2}-\d{2}(\.[a-z0-9-]+)?")
_OPT_OUT = "x-klaviyo-revision-fall-forward-opt-out"
_LIFE_YEARS = 2


def key_hash(header: str | None) -> str | None:
    """The first twelve digits of the key's SHA-256, for the journal."""
    if header is None:
        return None
    return hashlib.sha256(header.rpartition(" ")[2].encode()).hexdigest()[:12]


def admit(account: Account, operation: Operation, headers: Mapping[str, str]) -> None:
    """Refuse with 401 or 403, in that order; return when the key may use the operation."""
    key = identified(account, headers.get("authorization"))
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


def identified(account: Account, header: str | None) -> Key:
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
    for key in account.keys:
        if scheme == "Klaviyo-API-Key" and value == key.value:
            return key
    raise ApiError(
        401,
        "authentication_failed",
        title="Incorrect authentication credentials.",
        detail="Incorrect authentication credentials.",
        source={"pointer": "/data/"},
    )


def check_revision(headers: Mapping[str, str], now: float) -> str:
    """The revision that answers; 400 without one, 410 for a retired one after opting out."""
    asked = headers.get("revision")
    if not asked:
        # Status not recorded; the reference marks the header as required.
        raise invalid("The 'revision' header is required.", parameter="revision")
    if not _REVISION.fullmatch(asked):
        raise invalid(f"Invalid revision: '{asked}'.", parameter="revision")
    try:
        born = date.fromisoformat(asked[:10])
    except ValueError:
        raise invalid(f"Invalid revision: '{asked}'.", parameter="revision") from None
    today = datetime.fromtimestamp(now, UTC).date()
    if born > today:
        raise invalid(f"Invalid revision: '{asked}'.", parameter="revision")
    if (today - born).days <= _LIFE_YEARS * 365 + 1:
        return asked
    if headers.get(_OPT_OUT) in {"1", "true"}:
        raise ApiError(
            410,
            "gone",
            title="Revision retired.",
            detail=f"The revision {asked} has been retired. See the migration guide.",
            source={"pointer": "/data/"},
        )
    return today.replace(year=today.year - _LIFE_YEARS, day=min(today.day, 28)).isoformat()


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


def budgets(operation: Operation, pairs: Mapping[str, str]) -> dict[str, Tier]:
    """The budgets one call spends: the operation's own first, then those bound to parameters."""
    found = {operation.name: operation.tier}
    for parameter, tier in operation.reduced.items():
        name, _, value = parameter.partition("=")
        if value in pairs.get(name, "").split(","):
            found[parameter] = tier
    return found
