"""How an answer travels: whole, cut, slowly, or not at all.

A plan is made of the reply here; the socket work is in `server`.
"""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from klaviyo_assets.sandbox.faults.rules import Fault

_HANG_SECONDS = 3600.0
_BLANK_MIB = b" " * 2**20
_GZIP_BOMB_MIB, _FLOOD_MIB = 4096, 2253


@dataclass(frozen=True, slots=True, kw_only=True)
class TransmissionPlan:
    """Pieces to send, each after a pause in seconds, and how the connection ends.

    `content_length` is the Content-Length that the headers claim (None: chunked), `connection_end`
    one of `keep`, `close`, `reset`.
    """

    pieces: tuple[bytes, ...]
    pause_seconds: float = 0.0
    initial_pause_seconds: float = 0.0
    content_length: int | None = None
    is_chunked: bool = False
    has_final_chunk: bool = True
    connection_end: str = "keep"
    is_silent: bool = False


def plan_transmission(fault: Fault | None, body: bytes) -> TransmissionPlan:
    """How to send a body under a fault; the whole body at once without one."""
    maker = None if fault is None else _TRANSMISSION_PLANS.get(fault.kind)
    if fault is None or maker is None:
        return TransmissionPlan(pieces=(body,), content_length=len(body))
    return maker(fault, body)


def plan_truncated_body(fault: Fault, body: bytes) -> TransmissionPlan:
    """Half a body, then an end or a reset."""
    half = body[: max(1, len(body) // 2)]
    return TransmissionPlan(
        pieces=(half,),
        content_length=len(body),
        connection_end="reset" if fault.kind == "reset" else "close",
    )


def plan_overlong_body(fault: Fault, body: bytes) -> TransmissionPlan:
    """A whole body whose length is given as the half."""
    _ = fault
    return TransmissionPlan(
        pieces=(body,), content_length=max(1, len(body) // 2), connection_end="close"
    )


def plan_silence(fault: Fault, body: bytes) -> TransmissionPlan:
    """No byte at all: at once, or after `"seconds"`."""
    _ = body
    seconds = fault.number("seconds", _HANG_SECONDS if fault.kind == "hang" else 0.0)
    return TransmissionPlan(
        pieces=(), initial_pause_seconds=seconds, connection_end="close", is_silent=True
    )


def plan_delayed_body(fault: Fault, body: bytes) -> TransmissionPlan:
    """A whole body after `"seconds"`."""
    return TransmissionPlan(
        pieces=(body,), initial_pause_seconds=fault.number("seconds", 0.2), content_length=len(body)
    )


def plan_slow_body(fault: Fault, body: bytes) -> TransmissionPlan:
    """A body at so many bytes a second; `slow` is one byte a second by default."""
    rate = fault.number("bytes_per_second", 1 if fault.kind == "slow" else 10_240)
    size = max(1, int(rate / 10))
    pause = size / rate
    return TransmissionPlan(
        pieces=tuple(split_bytes(body, size)), pause_seconds=pause, content_length=len(body)
    )


def plan_chunked_body(fault: Fault, body: bytes) -> TransmissionPlan:
    """A chunked body of small chunks; the broken one never ends."""
    size = int(fault.number("size", 1))
    # One-byte chunks of a whole page would take minutes of system calls: only the first are small.
    small = list(split_bytes(body[: size * 2000], size))
    rest = body[size * 2000 :]
    pieces = (*small, rest) if rest else tuple(small)
    if fault.kind == "chunks":
        return TransmissionPlan(pieces=pieces, is_chunked=True)
    return TransmissionPlan(
        pieces=pieces[: len(pieces) // 2 + 1],
        is_chunked=True,
        has_final_chunk=False,
        connection_end="close",
    )


def plan_flood(fault: Fault, body: bytes) -> TransmissionPlan:
    """A body with `"mib"` MiB of blanks behind it: of a known length, or in chunks."""
    pieces = (body, *[_BLANK_MIB] * int(fault.number("mib", _FLOOD_MIB)))
    if fault.options.get("chunked"):
        return TransmissionPlan(pieces=pieces, is_chunked=True, connection_end="close")
    return TransmissionPlan(
        pieces=pieces, content_length=sum(map(len, pieces)), connection_end="close"
    )


_TRANSMISSION_PLANS: dict[str, Callable[[Fault, bytes], TransmissionPlan]] = {
    "reset": plan_truncated_body,
    "short_body": plan_truncated_body,
    "long_body": plan_overlong_body,
    "close": plan_silence,
    "hang": plan_silence,
    "latency": plan_delayed_body,
    "slow": plan_slow_body,
    "bandwidth": plan_slow_body,
    "chunks": plan_chunked_body,
    "broken_chunks": plan_chunked_body,
    "flood": plan_flood,
}


def split_bytes(body: bytes, size: int) -> Iterator[bytes]:
    """Slices of a body."""
    for at in range(0, len(body), size):
        yield body[at : at + size]


def recode_body(fault: Fault, body: bytes) -> tuple[bytes, dict[str, str]]:
    """The body as other bytes, with the headers that come with it."""
    match fault.kind:
        case "truncated_json":
            return body[: max(1, len(body) * 2 // 3)], {}
        case "bom":
            return b"\xef\xbb\xbf" + body, {}
        case "charset":
            text = body.decode().encode("utf-16")
            return text, {"content-type": "application/vnd.api+json; charset=utf-8"}
        case "bad_gzip":
            return b"\x1f\x8b\x08\x00" + body[:200], {"content-encoding": "gzip"}
        case "gzip_bomb":
            # Blanks behind a page are JSON still; each member is a MiB of them in a kilobyte.
            member = gzip.compress(_BLANK_MIB, mtime=0)
            members = member * int(fault.number("mib", _GZIP_BOMB_MIB))
            return gzip.compress(body, mtime=0) + members, {"content-encoding": "gzip"}
        case _:
            return body, {}
