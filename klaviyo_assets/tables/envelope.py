"""What must lie around the records of an answer, or it is none of Klaviyo's.

What belongs here: telling a page from what only looks like one. What does not: the records
(`structs`, `survey`), and asking again (the client's).

Taken for the last page, half an answer loses all that was to follow. Klaviyo always says where a
page is (`links.self`), and never sends `errors` with records.
Source: the OpenAPI document of revision 2026-07-15.
"""

import msgspec
from msgspec import Raw

from klaviyo_assets.errors import BrokenBodyError
from klaviyo_assets.tables.resources import NO_LINKS, NOTHING, Envelope, Links

WITHOUT_DATA = "the answer is an object without `data`"

_envelope = msgspec.json.Decoder(Envelope)
_links = msgspec.json.Decoder(Links)


def refuse_no_page(links: Links | None, errors: Raw, *, stream: str) -> None:
    """Refuse a page that does not say where it is, or that tells of errors.

    `links` are None for what no page can follow, such as a single record.

    Raises:
        BrokenBodyError: asking again may help.
    """
    said = ""
    if bytes(errors) not in NOTHING:
        said = "it has `errors` beside `data`"
    elif links is not None and not links.self_:
        said = "it has no `links.self`, and nothing tells whether another page follows"
    if said:
        raise BrokenBodyError(f"the answer is no page: {said}", stream=stream)


def refuse_no_answer(body: bytes, *, stream: str, is_paged: bool) -> None:
    """Refuse a body that is no answer of Klaviyo's, whatever it was asked for.

    Raises:
        BrokenBodyError: no JSON object, or one without `data`, with `errors`, or, where it is of
            several pages, without `links.self`; asking again may help.
    """
    try:
        found = _envelope.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BrokenBodyError("the answer is no JSON object in UTF-8", stream=stream) from None
    if not len(found.data):
        raise BrokenBodyError(WITHOUT_DATA, stream=stream)
    links = links_of(found.links, stream) if is_paged else None
    refuse_no_page(links, found.errors, stream=stream)


def links_of(raw: Raw, stream: str) -> Links:
    """Return where a page is, and where the next one.

    Raises:
        BrokenBodyError: it cannot be read; to stop here would lose the pages behind it.
    """
    if bytes(raw) in NOTHING:
        return NO_LINKS
    try:
        return _links.decode(raw)
    except msgspec.ValidationError:
        text = "the answer is no page: where the next one is cannot be read from its `links`"
        raise BrokenBodyError(text, stream=stream) from None
