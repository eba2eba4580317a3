"""Answers as they come over the wire: unpacked, and judged.

What belongs here: content codings, and good or not. What does not: what a refusal means
(`refusals.py`), JSON (`tables` reads pages).
"""

from dataclasses import replace
from typing import cast

from isal import igzip, isal_zlib

from klaviyo_assets.api.exchange import Answer, Request
from klaviyo_assets.api.refusals import asked, error_for, scrubbed
from klaviyo_assets.errors import BrokenBodyError

# The stubs take the exception's class for an exception.
BROKEN = (OSError, EOFError, cast("type[Exception]", isal_zlib.error))
"""What is raised for gzip that is cut, of another format, garbled, or of another checksum."""


class UnreadableBodyError(ValueError):
    """The bytes are not in the coding that the headers claim."""


def judged(answer: Answer, request: Request, stream: str) -> Answer:
    """Return a good answer, unpacked.

    Raises:
        BrokenBodyError: the answer is good, but its body cannot be unpacked.
        KlaviyoAssetsError: it is a refusal, as `error_for` maps it.
    """
    is_good = 200 <= answer.status < 300  # noqa: PLR2004 - the statuses of success
    said = ""
    try:
        answer = unpacked(answer)
    except UnreadableBodyError as error:
        # A refusal stays one, even where its reason is lost on the way.
        answer = replace(answer, body=b"")
        said = f"{asked(request)} was answered with {answer.status}, but {error}."
    if not is_good:
        raise error_for(answer, request, stream)
    if said:
        raise BrokenBodyError(said, stream=stream)
    return answer


def unpacked(answer: Answer) -> Answer:
    """Return an answer with its body as it was before `content-encoding`.

    Raises:
        UnreadableBodyError: the gzip is cut or broken, or the coding is one we never ask for.
    """
    coding = answer.headers.get("content-encoding", "identity").strip().lower()
    if coding in {"identity", ""} or not answer.body:
        return answer
    if coding not in {"gzip", "x-gzip"}:
        raise UnreadableBodyError(f"its coding {scrubbed(coding)[:20]!a} was not asked for")
    try:
        return replace(answer, body=igzip.decompress(answer.body))
    except BROKEN as error:
        raise UnreadableBodyError(f"its gzip is broken ({error})") from error
