"""Points in time as whole microseconds since 1970, UTC, and the texts Klaviyo writes them in.

Every sort key and filter bound of a time is such an integer, so that strict and inclusive bounds
are exact. Parsing, formatting and nothing else.
"""

from datetime import UTC, datetime, timedelta

SECOND = 1_000_000
DAY_SECONDS = 86_400
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(text: str) -> int:
    """Microseconds of an ISO 8601 text; no offset means UTC; `ValueError` if unreadable."""
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return (parsed - EPOCH) // timedelta(microseconds=1)


def seconds_text(seconds: int) -> str:
    """`2026-01-31T00:00:00+00:00` for whole seconds."""
    return (EPOCH + timedelta(seconds=seconds)).isoformat()


def micro_text(micros: int) -> str:
    """As `seconds_text`, with the six digits that campaigns carry."""
    return (EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds")


def blank_text(seconds: int) -> str:
    """The form with a blank instead of `T`, as subscriptions carry it."""
    return seconds_text(seconds).replace("T", " ")
