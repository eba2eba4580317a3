"""The bytes of an answer, before anything is known of what they say.

What belongs here: marks at the front and characters that no table can take. What does not: JSON's
shape (`structs`, `survey`).
"""

import codecs
import re

from klaviyo_assets.errors import BrokenBodyError

# A pair, any other escape (taken whole, so that `\\ud800` is no surrogate), or half a pair.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\."
)


def opened(body: bytes, stream: str) -> bytes:
    """Return the body without a byte order mark.

    Raises:
        BrokenBodyError: nothing in it, or plainly another format.
    """
    text = body.removeprefix(codecs.BOM_UTF8)
    start = text[:256].lstrip()
    if not start and not text.strip():
        raise BrokenBodyError("the answer is empty", stream=stream)
    if start.startswith(b"<"):
        raise BrokenBodyError("the answer is HTML or XML, not JSON", stream=stream)
    return text


def with_whole_characters(body: bytes) -> tuple[bytes, int]:
    r"""Return JSON text with each unpaired surrogate escape as `\ufffd`, and how many there were.

    JSON allows `"\ud800"`; UTF-8 cannot hold it, and neither msgspec nor DuckDB reads text with it.
    """
    halves = 0

    def whole(found: re.Match[bytes]) -> bytes:
        nonlocal halves
        if found["half"] is None:
            return found[0]
        halves += 1
        return rb"\ufffd"

    return _ESCAPE.sub(whole, body), halves
