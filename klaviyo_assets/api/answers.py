"""Answers as they come over the wire: unpacked, and judged.

What belongs here: content codings, and good or not. What does not: what a refusal means
(`refusals.py`), JSON (`tables` reads pages).
"""

from dataclasses import replace
from typing import cast

from isal import isal_zlib

from klaviyo_assets.api.exchange import Answer, Request
from klaviyo_assets.api.refusals import asked, error_for, scrubbed
from klaviyo_assets.errors import BrokenBodyError, LargeBodyError

MIB = 2**20
_GZIP = 31
"""zlib's number for a window of 32 KiB within gzip."""

LEAST_STEP_BYTES = 64 * 1024
STEP_BYTES = 32 * MIB
"""Unpacked at a time: more than a usual page, so that one is unpacked at once."""

# The stubs take the exception's class for an exception.
BROKEN = (OSError, EOFError, cast("type[Exception]", isal_zlib.error))
"""What is raised for gzip that is cut, of another format, garbled, or of another checksum."""


class UnreadableBodyError(ValueError):
    """The bytes are not in the coding that the headers claim."""


class TooLargeError(ValueError):
    """The bytes become more than there may be."""


def judged(answer: Answer, request: Request, stream: str, *, most_bytes: int) -> Answer:
    """Return a good answer, unpacked, of `most_bytes` at the most.

    Raises:
        BrokenBodyError: the answer is good, but its body cannot be unpacked.
        LargeBodyError: the answer is good, but its body is larger, packed or unpacked.
        KlaviyoAssetsError: it is a refusal, as `error_for` maps it.
    """
    is_good = 200 <= answer.status < 300  # noqa: PLR2004 - the statuses of success
    said = ""
    try:
        answer = unpacked(answer, most_bytes=most_bytes)
    except TooLargeError:
        answer = replace(answer, body=b"", is_too_large=True)
    except UnreadableBodyError as error:
        # A refusal stays one, even where its reason is lost on the way.
        answer = replace(answer, body=b"")
        said = f"{asked(request)} was answered with {answer.status}, but {error}."
    if not is_good:
        raise error_for(answer, request, stream)
    if answer.is_too_large:
        raise LargeBodyError(
            f"{asked(request)} was answered with {answer.status} and a body of more than "
            f"{most_bytes // MIB} MiB, which was refused while it came in. If the records are "
            "meant to be as large, raise KLAVIYO_MAX_BODY_MIB; a page takes three times its size.",
            stream=stream,
        )
    if said:
        raise BrokenBodyError(said, stream=stream)
    return answer


def unpacked(answer: Answer, *, most_bytes: int) -> Answer:
    """Return an answer with its body as it was before `content-encoding`.

    Raises:
        UnreadableBodyError: the gzip is cut or broken, or the coding is one we never ask for.
        TooLargeError: it would be of more than `most_bytes`.
    """
    coding = answer.headers.get("content-encoding", "identity").strip().lower()
    if coding in {"identity", ""} or not answer.body:
        return answer
    if coding not in {"gzip", "x-gzip"}:
        raise UnreadableBodyError(f"its coding {scrubbed(coding)[:20]!a} was not asked for")
    try:
        return replace(answer, body=decompressed(answer.body, most_bytes=most_bytes))
    except BROKEN as error:
        raise UnreadableBodyError(f"its gzip is broken ({error})") from error


def decompressed(packed: bytes, *, most_bytes: int) -> bytes:
    """Return what gzip of one or more members holds; no more than `STEP_BYTES` beyond the most.

    Raises:
        TooLargeError: it would be of more than `most_bytes`.
        OSError, EOFError, isal_zlib.error: as for `BROKEN`.
    """
    parts: list[bytes] = []
    left = most_bytes
    # What gzip says of its own size (modulo 4 GiB, and of the last member alone), if it is true: a
    # body that has room from the start is unpacked in a sixth of the time.
    told = int.from_bytes(packed[-4:], "little") + 1
    step = min(max(told, LEAST_STEP_BYTES), STEP_BYTES)
    while packed:
        member = isal_zlib.decompressobj(wbits=_GZIP)
        while not member.eof:
            part = member.decompress(packed, step)
            packed = member.unconsumed_tail
            if not part and not packed and not member.eof:
                raise EOFError("it is cut")
            left -= len(part)
            if left < 0:
                raise TooLargeError
            parts.append(part)
        # Zeros behind the end are padding.
        packed = member.unused_data.lstrip(b"\0")
    return parts[0] if len(parts) == 1 else b"".join(parts)
