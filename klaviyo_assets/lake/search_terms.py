r"""What is looked for when a person is erased, and whether a text names it.

What belongs here: ids, addresses and numbers, and matching them in bytes of any origin. What does
not: which files there are and how they are decoded (`file_search`).

A text names a term in any letter case, behind JSON escapes however often they were escaped
(`\u0040`), percent signs of an address (`%40`) and numbers of HTML (`&#64;`). A term that is part
of a longer word is another one: `da@example.com` is not in `ada@example.com`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

DEPTH = 4
"""How often a text can be encoded one time upon another: JSON in JSON in an address."""

FEW = 16
"""Up to so many terms are looked for one by one; of more, those that share a word with the text.

Measured with properties of events, decoded: 65 MB a second for up to 16 terms, 26 for 20,000.
"""

_WORD = re.compile(rb"[a-z0-9]+")
_ESCAPES: tuple[tuple[bytes, "re.Pattern[bytes]", int], ...] = (
    (b"\\u", re.compile(rb"\\+u([0-9a-f]{4})"), 16),
    (b"%", re.compile(rb"%([0-9a-f]{2})"), 16),
    (b"&#x", re.compile(rb"&#x([0-9a-f]{1,5});"), 16),
    (b"&#", re.compile(rb"&#([0-9]{1,6});"), 10),
)
"""What a text holds that has such escapes, how they look in lower case, and their base."""

_WORD_BYTES = 256
_WORD_BEFORE = re.compile(rb"[a-z0-9._+-]*\Z")
_WORD_AFTER = re.compile(rb"[a-z0-9.-]*")
_LONGER_BEFORE = re.compile(rb"[a-z0-9._-]\Z")
_LONGER_AFTER = re.compile(rb"[a-z0-9]|[.-][a-z0-9]")


def plain_text(raw: bytes) -> bytes:
    """Return a text in lower case without escapes, as UTF-8."""
    text = raw.lower()
    if not raw.isascii():
        text = raw.decode("utf-8", "replace").casefold().encode("utf-8", "replace")
    for _ in range(DEPTH):
        before = text
        for mark, pattern, base in _ESCAPES:
            if mark in text:
                text = pattern.sub(_unescaped(base), text)
        if text == before:
            break
    return text


def _unescaped(base: int) -> "Callable[[re.Match[bytes]], bytes]":
    def one(found: "re.Match[bytes]") -> bytes:
        code = int(found[1], base)
        # Bytes behind percent signs are parts of UTF-8; beyond ASCII they are left to the others.
        if found[0].startswith(b"%"):
            return bytes([code]).lower()
        return chr(code).casefold().encode("utf-8", "replace") if code else found[0]

    return one


class SearchTerms:
    """Ids, addresses and numbers of people; never shown."""

    def __init__(self, terms: Iterable[str]) -> None:
        """Take what is looked for; empty texts are left out."""
        self._terms = sorted({plain_text(each.encode()) for each in terms} - {b""})
        self._by_word: dict[bytes, list[bytes]] = defaultdict(list)
        for term in self._terms:
            # Where a term stands alone, each of its words is a whole word of the text.
            words = _WORD.findall(term) or [b""]
            self._by_word[max(words, key=len)].append(term)

    def __bool__(self) -> bool:
        """Tell whether there is anything to look for."""
        return bool(self._terms)

    def are_named_in(self, raw: bytes, longer: set[bytes] | None = None) -> bool:
        """Tell whether a text, of whatever encoding upon encoding, names one of the terms.

        `longer` takes the words of the text that a term is only a part of.
        """
        text = plain_text(raw)
        return any(_stands_in(each, text, longer) for each in self._near(text))

    def are_in_bytes(self, raw: bytes, longer: Collection[bytes] = ()) -> bool:
        """Tell whether bytes of which no text can be made hold one of the terms, however bounded.

        Values of a database page stand wall to wall: `ann@x` may be an address, or `n@x` behind a
        value that ends with `an`. It is taken for the first where `longer` has it, the words that
        the rows of the same file hold, and for the second, a false alarm perhaps, everywhere else.
        """
        text = raw.lower()
        return any(_lies_in(each, text, longer) for each in self._terms)

    def _near(self, text: bytes) -> Iterable[bytes]:
        if len(self._terms) <= FEW:
            return self._terms
        words = self._by_word.keys() & {*_WORD.findall(text), b""}
        return [each for word in words for each in self._by_word[word]]


def _lies_in(term: bytes, text: bytes, longer: Collection[bytes]) -> bool:
    """Tell whether bytes hold a term other than as a part of one of the longer words."""
    words = [(each, each.find(term)) for each in longer if term in each]
    at = text.find(term)
    while at >= 0:
        # Of a word that begins before the piece, the piece holds the end.
        if not any(text.startswith(each[max(0, n - at) :], max(0, at - n)) for each, n in words):
            return True
        at = text.find(term, at + 1)
    return False


def _whole_word(text: bytes, at: int, end: int) -> bytes:
    """Return the word of a text that holds what lies between two places."""
    before = _WORD_BEFORE.search(text, max(0, at - _WORD_BYTES), at)
    after = _WORD_AFTER.match(text, end, end + _WORD_BYTES)
    return text[before.start() if before else at : after.end() if after else end]


def _stands_in(term: bytes, text: bytes, longer: set[bytes] | None = None) -> bool:
    """Tell whether a text holds a term that is not part of a longer one; note the longer ones."""
    at = text.find(term)
    while at >= 0:
        end = at + len(term)
        if b"@" in term:
            is_longer = _LONGER_BEFORE.search(text, max(0, at - 1), at)
            is_longer = is_longer or _LONGER_AFTER.match(text, end)
        else:
            # Nothing can come before a number's plus that would make it another number.
            is_longer = text[end : end + 1].isalnum()
            is_longer |= term[:1].isalnum() and at > 0 and text[at - 1 : at].isalnum()
        if not is_longer:
            return True
        if longer is not None:
            longer.add(_whole_word(text, at, end))
        at = text.find(term, at + 1)
    return False
