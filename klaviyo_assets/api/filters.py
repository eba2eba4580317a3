r"""Klaviyo's filter grammar, written: `operator(field,literal)`, joined by commas, which mean AND.

What belongs here: literals and clauses. What does not: the clauses of a stream (`protocol.py`).
Strings are quoted and escaped with a backslash, booleans and times are bare; there is no OR.
Source: https://developers.klaviyo.com/en/docs/filtering_, revision 2026-07-15.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import quote

Literal = str | bool | int | datetime


def encoded(text: str) -> str:
    """Return text percent-encoded for a query or one path segment; only letters, digits, -._~ stay.

    A lone surrogate, which JSON can carry into an id, is encoded as its three bytes.
    """
    return quote(text, safe="", errors="surrogatepass")


def time_text(moment: datetime) -> str:
    """Return `2026-01-31T00:00:00Z`, in UTC; microseconds are written only where there are some.

    Raises:
        ValueError: the moment has no zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no zone; times are told to Klaviyo in UTC")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def literal(value: Literal) -> str:
    """Return a value as the grammar writes it."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case datetime():
            return time_text(value)
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'


def clause(operator: str, field: str, value: Literal) -> str:
    """Return one condition, not yet percent-encoded."""
    return f"{operator}({field},{literal(value)})"


def any_of(field: str, values: Sequence[str]) -> str:
    """Return the condition of a report's filter that a field is one of `values`."""
    return f"contains-any({field},[{','.join(literal(value) for value in values)}])"


def and_joined(*clauses: str) -> str:
    """Return the clauses joined by AND; empty ones are left out, and nothing at all is empty."""
    return ",".join(each for each in clauses if each)
