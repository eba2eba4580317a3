"""How an answer travels: whole, cut, slowly, or not at all.

A plan is made of the reply here; the socket work is in `server`.
"""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from klaviyo_assets.sandbox.faults.script import Fault

_HANG_SECONDS = 3600.0
_BLANKS = b" " * 2**20
_MIB_OF_A_BOMB, _MIB_OF_A_FLOOD = 4096, 2253


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Pieces to send, each after a pause in seconds, and how the connection ends.

    `declared` is the Content-Length that the headers claim (None: chunked), `end` one of `keep`,
    `close`, `reset`.
    """

    pieces: tuple[bytes, ...]
    pause: float = 0.0
    before: float = 0.0
    declared: int | None = None
    chunked: bool = False
    terminated: bool = True
    end: str = "keep"
    silent: bool = False


def plan(fault: Fault | None, body: bytes) -> Plan:
    """How to send a body under a fault; the whole body at once without one."""
    maker = None if fault is None else _PLANS.get(fault.kind)
    if fault is None or maker is None:
        return Plan(pieces=(body,), declared=len(body))
    return maker(fault, body)


def cut(fault: Fault, body: bytes) -> Plan:
    """Half a body, then an end or a reset."""
    half = body[: max(1, len(body) // 2)]
    return Plan(
        pieces=(half,), declared=len(body), end="reset" if fault.kind == "reset" else "close"
    )


def overlong(fault: Fault, body: bytes) -> Plan:
    """A whole body whose length is given as the half."""
    _ = fault
    return Plan(pieces=(body,), declared=max(1, len(body) // 2), end="close")


def silent(fault: Fault, body: bytes) -> Plan:
    """No byte at all: at once, or after `"seconds"`."""
    _ = body
    seconds = fault.number("seconds", _HANG_SECONDS if fault.kind == "hang" else 0.0)
    return Plan(pieces=(), before=seconds, end="close", silent=True)


def delayed(fault: Fault, body: bytes) -> Plan:
    """A whole body after `"seconds"`."""
    return Plan(pieces=(body,), before=fault.number("seconds", 0.2), declared=len(body))


def trickled(fault: Fault, body: bytes) -> Plan:
    """A body at so many bytes a second; `slow` is one byte a second unless told otherwise."""
    rate = fault.number("bytes_per_second", 1 if fault.kind == "slow" else 10_240)
    size = max(1, int(rate / 10))
    pause = size / rate
    return Plan(pieces=tuple(pieces_of(body, size)), pause=pause, declared=len(body))


def chunked(fault: Fault, body: bytes) -> Plan:
    """A chunked body of small chunks; the broken one never ends."""
    size = int(fault.number("size", 1))
    # One-byte chunks of a whole page would take minutes of system calls: only the first are small.
    small = list(pieces_of(body[: size * 2000], size))
    rest = body[size * 2000 :]
    pieces = (*small, rest) if rest else tuple(small)
    if fault.kind == "chunks":
        return Plan(pieces=pieces, chunked=True)
    return Plan(pieces=pieces[: len(pieces) // 2 + 1], chunked=True, terminated=False, end="close")


def flooded(fault: Fault, body: bytes) -> Plan:
    """A body with `"mib"` MiB of blanks behind it: of a known length, or in chunks."""
    pieces = (body, *[_BLANKS] * int(fault.number("mib", _MIB_OF_A_FLOOD)))
    if fault.options.get("chunked"):
        return Plan(pieces=pieces, chunked=True, end="close")
    return Plan(pieces=pieces, declared=sum(map(len, pieces)), end="close")


_PLANS: dict[str, Callable[[Fault, bytes], Plan]] = {
    "reset": cut,
    "short_body": cut,
    "long_body": overlong,
    "close": silent,
    "hang": silent,
    "latency": delayed,
    "slow": trickled,
    "bandwidth": trickled,
    "chunks": chunked,
    "broken_chunks": chunked,
    "flood": flooded,
}


def pieces_of(body: bytes, size: int) -> Iterator[bytes]:
    """Slices of a body."""
    for at in range(0, len(body), size):
        yield body[at : at + size]


def recoded(fault: Fault, body: bytes) -> tuple[bytes, dict[str, str]]:
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
            member = gzip.compress(_BLANKS, mtime=0)
            members = member * int(fault.number("mib", _MIB_OF_A_BOMB))
            return gzip.compress(body, mtime=0) + members, {"content-encoding": "gzip"}
        case _:
            return body, {}
