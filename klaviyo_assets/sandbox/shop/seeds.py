"""Randomness as a pure function of (seed, index), and the ids made from it.

The mixer is splitmix64; ids are bijections of an index, so that a record is found from its id
without a table. No state, no clock. Source: Steele, Lea, Flood: "Fast Splittable Pseudorandom
Number Generators", 2014.
"""

import random
from typing import Final

_MASK: Final = (1 << 64) - 1
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS: Final = tuple((a + b).encode() for a in _DIGITS for b in _DIGITS)
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CROCKFORD_PAIRS: Final = tuple(a + b for a in _CROCKFORD for b in _CROCKFORD)
_CROCKFORD_VALUE: Final = {digit: value for value, digit in enumerate(_CROCKFORD)}
_VALUE: Final = {digit: value for value, digit in enumerate(_DIGITS)}
_EVENT_LENGTH: Final = 11
_ULID_LENGTH: Final = 26
EVENT_SPACE: Final = 62**_EVENT_LENGTH
_EVENT_STEP: Final = 36_028_797_018_963_913_757_291
_EVENT_BACK: Final = pow(_EVENT_STEP, -1, EVENT_SPACE)


def mix(seed: int, index: int) -> int:
    """64 bits that look random, always the same for the same two numbers."""
    z = (seed * 0x9E3779B97F4A7C15 + index * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def draw(seed: int, kind: str, index: int) -> random.Random:
    """A random source of its own for one record."""
    return random.Random(f"{seed}:{kind}:{index}")  # noqa: S311  (believable data, no secret)


def event_id(seed: int, ordinal: int) -> bytes:
    """Eleven base62 characters."""
    number = (ordinal * _EVENT_STEP + seed * 7_919) % EVENT_SPACE
    number, p5 = divmod(number, 3844)
    number, p4 = divmod(number, 3844)
    number, p3 = divmod(number, 3844)
    number, p2 = divmod(number, 3844)
    head, p1 = divmod(number, 3844)
    pairs = _PAIRS
    return pairs[head][1:] + pairs[p1] + pairs[p2] + pairs[p3] + pairs[p4] + pairs[p5]


def event_ordinal(seed: int, record_id: str) -> int | None:
    """The ordinal behind an event id; None when it is not eleven base62 characters."""
    if len(record_id) != _EVENT_LENGTH or not record_id.isascii() or not record_id.isalnum():
        return None
    number = 0
    for digit in record_id:
        number = number * 62 + _VALUE[digit]
    return (number - seed * 7_919) * _EVENT_BACK % EVENT_SPACE


def ulid(seed: int, ordinal: int, seconds: int) -> str:
    """26 characters that begin with 01: time, then randomness, then the hidden ordinal."""
    shuffled = mix(seed ^ 0x5EED, ordinal)
    number = ((seconds * 1000 + shuffled % 1000) << 80) | ((shuffled >> 16) << 32)
    number |= (ordinal ^ (shuffled >> 16)) & 0xFFFF_FFFF
    pairs = _CROCKFORD_PAIRS
    return "".join([pairs[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def ulid_ordinal(record_id: str) -> int | None:
    """The ordinal hidden in such an id; None when it is no ULID. The caller must compare ids."""
    if len(record_id) != _ULID_LENGTH:
        return None
    number = 0
    for digit in record_id:
        value = _CROCKFORD_VALUE.get(digit)
        if value is None:
            return None
        number = number << 5 | value
    return (number ^ (number >> 32)) & 0xFFFF_FFFF


def short_id(seed: int, kind: str, index: int) -> str:
    """Six letters and digits, as lists, segments, metrics, flows and templates have them."""
    source = draw(seed, f"id:{kind}", index)
    return "".join(source.choices(_DIGITS[10:] + _DIGITS[:10], k=6))
