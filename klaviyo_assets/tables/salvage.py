"""The sound records of a page that holds one which cannot be read at all.

What belongs here: telling where each record begins and ends without reading it. What does not: what
usual readers take for JSON (`body`), and records that are read and cannot be stored (`survey`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import msgspec
from msgspec import Raw

from klaviyo_assets.tables.gathered import Quarantined

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{},]', re.DOTALL)
_OPENED_BY = {ord("]"): ord("["), ord("}"): ord("{")}
_QUOTE, _COMMA, _ARRAY, _ARRAY_END = map(ord, '",[]')
_IN_PAGE, _IN_DATA = 1, 2
"""Brackets that are open around a page's members, and around its records."""
_EDGES = {(_COMMA, _IN_DATA), (_ARRAY_END, _IN_PAGE)}
"""What stands between records, and behind the last."""

_page = msgspec.json.Decoder(dict[str, Raw])


@dataclass(frozen=True, slots=True)
class Salvaged:
    """A page without the records that cannot be read, and those as they came."""

    body: bytes
    broken: tuple[Quarantined, ...]


def salvaged(body: bytes) -> Salvaged | None:
    """Return what can be read of a page; None where that is all of it, or no page can be made out.

    Every bracket must be closed: half a page is none.
    """
    found = _split(body)
    if found is None:
        return None
    head, records, tail = found
    reasons = [_reason(each) for each in records]
    sound = [each for each, why in zip(records, reasons, strict=True) if not why]
    if len(sound) == len(records):
        return None
    broken = zip(reasons, records, strict=True)
    return Salvaged(
        head + b",".join(sound) + tail,
        tuple(Quarantined(why, record.strip()) for why, record in broken if why),
    )


def _reason(record: bytes) -> str:
    try:
        # As deep as in its page.
        _page.decode(b'{"data":[' + record + b"]}")
    except RecursionError:
        return "the record is nested too deep to read"
    except msgspec.DecodeError:
        return "the record is not JSON"
    return ""


def _split(body: bytes) -> tuple[bytes, list[bytes], bytes] | None:
    """Return what stands before a page's records, these, and what stands behind."""
    name, is_over = b"", False
    edges: list[int] = []
    for token, depth in _signs(body):
        sign = body[token.start()]
        if (sign, depth) == (_QUOTE, _IN_PAGE):
            name = token[0]
        is_first = (sign, depth, name) == (_ARRAY, _IN_PAGE, b'"data"') and not edges
        if is_first or (edges and not is_over and (sign, depth) in _EDGES):
            edges.append(token.start())
            is_over = sign == _ARRAY_END
        if depth < 0:
            return None
    if not is_over:
        return None
    records = [body[one + 1 : other] for one, other in pairwise(edges)]
    return body[: edges[0] + 1], records, body[edges[-1] :]


def _signs(body: bytes) -> Iterator[tuple[re.Match[bytes], int]]:
    """Yield strings, brackets and commas, each with the number of brackets that are around it.

    It is -1 at the end where they do not match.
    """
    opened = bytearray()
    token = None
    for token in _TOKEN.finditer(body):
        sign = body[token.start()]
        if sign in _OPENED_BY:
            if not opened or opened.pop() != _OPENED_BY[sign]:
                yield token, -1
                return
            yield token, len(opened)
        else:
            yield token, len(opened)
            if sign in _OPENED_BY.values():
                opened.append(sign)
    if token is not None and opened:
        yield token, -1
