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

# A string, taken whole, or what most readers and writers of JSON take for a number.
_TEXT_OR_NUMBER = re.compile(
    rb'"(?:[^"\\]*+(?:\\.[^"\\]*+)*+)"|(?P<number>-?Infinity|NaN)', re.DOTALL
)
_CONTROL = re.compile(rb"[\x00-\x1f]")

NO_NUMBER = "number: NaN or Infinity, which JSON does not have, read as null"
NO_UTF8 = "text: bytes that are not UTF-8, replaced by U+FFFD"
BARE_CONTROL = "text: control characters that were not escaped, escaped"
HALF_A_PAIR = "text: half of a surrogate pair, replaced by U+FFFD"


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


def mended(body: bytes) -> tuple[bytes, tuple[str, ...]]:
    r"""Return as JSON what JSON's usual readers take for it, and what was changed, in words.

    Without NaN and infinities, bytes that are not UTF-8, bare control characters in strings, and
    unpaired surrogate escapes: JSON allows `"\ud800"`, UTF-8 cannot hold it, and neither msgspec
    nor DuckDB reads text with it. In an `id` the four digits stay behind U+FFFD, so that two ids
    remain two. What stays broken is as it came.
    """
    notices: set[str] = set()
    before = b""
    try:
        body.decode()
    except UnicodeDecodeError:
        body = body.decode(errors="replace").encode()
        notices.add(NO_UTF8)

    def mend(found: re.Match[bytes]) -> bytes:
        nonlocal before
        is_id, before = before == b'"id"', found[0]
        if found["number"] is not None:
            notices.add(NO_NUMBER)
            return b"null"
        return _mended_text(found[0], notices, is_id=is_id)

    return _TEXT_OR_NUMBER.sub(mend, body), tuple(sorted(notices))


def _mended_text(text: bytes, notices: set[str], *, is_id: bool) -> bytes:
    escaped = _CONTROL.sub(lambda each: b"\\u%04x" % each[0][0], text)
    if escaped != text:
        notices.add(BARE_CONTROL)

    def whole(found: re.Match[bytes]) -> bytes:
        if found["half"] is None:
            return found[0]
        notices.add(HALF_A_PAIR)
        return rb"\ufffd" + (found[0][2:].lower() if is_id else b"")

    return _ESCAPE.sub(whole, escaped) if b"\\u" in escaped else escaped
