"""The subscriptions of a profile: pools of every consent state, with suppressions.

Timestamps here carry a blank instead of `T`, as recorded ones do. A pool entry belongs to many
profiles; a profile that a test changed gets a copy of its own.
"""

import random

from klaviyo_assets.sandbox.json_types import Json, JsonObject
from klaviyo_assets.sandbox.moments import DAY_SECONDS, blank_text, seconds_text
from klaviyo_assets.sandbox.shop.seeds import draw

POOL = 96
REASONS = ("HARD_BOUNCE", "INVALID_EMAIL", "SPAM_COMPLAINT", "UNSUBSCRIBE", "USER_SUPPRESSED")
_CONSENTS = ("SUBSCRIBED", "UNSUBSCRIBED", "NEVER_SUBSCRIBED")


def consent_pool(seed: int, *, base: int, days: int, list_ids: list[str]) -> list[JsonObject]:
    """`POOL` subscriptions objects; about one in eight is suppressed, some twice."""
    start = base - days * DAY_SECONDS
    return [
        _subscriptions(draw(seed, "consent", k), start=start, end=base, list_ids=list_ids)
        for k in range(POOL)
    ]


def _moment(source: random.Random, start: int, end: int) -> int:
    return source.randrange(start, max(start + 1, end))


def _suppressions(source: random.Random, start: int, end: int) -> list[Json]:
    if source.random() > 0.125:
        return []
    return [
        {"reason": source.choice(REASONS), "timestamp": seconds_text(_moment(source, start, end))}
        for _ in range(source.choice((1, 1, 1, 2)))
    ]


def _list_suppressions(
    source: random.Random, *, start: int, end: int, list_ids: list[str]
) -> list[Json]:
    if not list_ids or source.random() > 0.1:
        return []
    return [
        {
            "list_id": source.choice(list_ids),
            "reason": source.choice(("UNSUBSCRIBE", "USER_SUPPRESSED")),
            "timestamp": seconds_text(_moment(source, start, end)),
        }
    ]


def _subscriptions(
    source: random.Random, *, start: int, end: int, list_ids: list[str]
) -> JsonObject:
    suppressions = _suppressions(source, start, end)
    consent = source.choice(_CONSENTS)
    at: Json = None if consent == "NEVER_SUBSCRIBED" else blank_text(_moment(source, start, end))
    email: JsonObject = {
        "can_receive_email_marketing": consent != "UNSUBSCRIBED" and not suppressions,
        "consent": consent,
        "consent_timestamp": at,
        "last_updated": at,
        "method": source.choice(("FORM_METHOD", "MANUAL_IMPORT", "API", None)),
        "method_detail": source.choice(("", "Klaviyo Sign-Up Form", "XVEvBP", None)),
        "custom_method_detail": source.choice((None, "Popup “10 % off”")),
        "double_optin": source.choice((True, False, None)),
        "suppression": suppressions,
        "list_suppressions": _list_suppressions(source, start=start, end=end, list_ids=list_ids),
    }
    return {
        "email": {"marketing": email, "open_tracking": _tracking(at)},
        "sms": _sms(source, start, end),
        "mobile_push": _push(source, at),
        "whatsapp": _whatsapp(source, at),
    }


def _tracking(at: Json) -> JsonObject:
    return {
        "consent": "SUBSCRIBED" if at else None,
        "consent_timestamp": at,
        "last_updated": at,
        "created_timestamp": at,
        "metadata": {},
        "can_receive": True,
        "valid_until": None,
    }


def _sms(source: random.Random, start: int, end: int) -> Json:
    consent = source.choice((*_CONSENTS, None))
    if consent is None:
        return None
    at = blank_text(_moment(source, start, end))
    shared: JsonObject = {
        "consent": consent,
        "consent_timestamp": at,
        "method": "FORM_METHOD",
        "method_detail": source.choice(("XVEvBP", None)),
        "last_updated": at,
    }
    marketing: JsonObject = {"can_receive_sms_marketing": consent == "SUBSCRIBED", **shared}
    transactional: JsonObject = {"can_receive_sms_transactional": True, **shared}
    return {"marketing": marketing, "transactional": transactional}


def _push(source: random.Random, at: Json) -> JsonObject:
    consent = source.choice(("SUBSCRIBED", "NEVER_SUBSCRIBED"))
    subscribed = consent == "SUBSCRIBED"
    marketing: JsonObject = {
        "can_receive_push_marketing": subscribed,
        "consent": consent,
        "consent_timestamp": at if subscribed else None,
    }
    return {"marketing": marketing}


def _whatsapp(source: random.Random, at: Json) -> Json:
    if source.random() < 0.5:
        return None
    one: JsonObject = {
        "consent": source.choice(_CONSENTS),
        "consent_timestamp": at,
        "last_updated": at,
        "created_timestamp": at,
        "metadata": {"vendor": "meta", "template": [1, None, "a"]},
        "can_receive": source.choice((True, False)),
        "valid_until": None,
        "phone_number": "+15550123",
    }
    return {"marketing": one, "transactional": one, "conversational": one}
