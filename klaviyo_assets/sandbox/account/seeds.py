"""Randomness as a pure function of a seed and an index, the ids made from it, and word lists.

The mixer is splitmix64; ids are bijections of an index, so that a record is found from its id
without a table. No state, no clock. Source: Steele, Lea, Flood: "Fast Splittable Pseudorandom
Number Generators", 2014.

Word lists only.
"""

import random
from typing import Final

_MASK_64_BITS: Final = (1 << 64) - 1
_BASE62_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE62_PAIRS: Final = tuple((a + b).encode() for a in _BASE62_DIGITS for b in _BASE62_DIGITS)
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CROCKFORD_PAIRS: Final = tuple(a + b for a in _CROCKFORD for b in _CROCKFORD)
_CROCKFORD_VALUES: Final = {digit: value for value, digit in enumerate(_CROCKFORD)}
_BASE62_VALUES: Final = {digit: value for value, digit in enumerate(_BASE62_DIGITS)}
_EVENT_ID_LENGTH: Final = 11
_ULID_LENGTH: Final = 26
EVENT_ID_SPACE: Final = 62**_EVENT_ID_LENGTH
_EVENT_ID_FACTOR: Final = 36_028_797_018_963_913_757_291
_EVENT_ID_INVERSE: Final = pow(_EVENT_ID_FACTOR, -1, EVENT_ID_SPACE)


def mix_bits(seed: int, index: int) -> int:
    """64 bits that look random, always the same for the same two numbers."""
    z = (
        seed * 0x9E3779B97F4A7C15 + index * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019
    ) & _MASK_64_BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64_BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK_64_BITS
    return z ^ (z >> 31)


def random_source(seed: int, kind: str, index: int) -> random.Random:
    """A random source of its own for one record."""
    return random.Random(f"{seed}:{kind}:{index}")  # noqa: S311  (believable data, no secret)


def event_id(seed: int, ordinal: int) -> bytes:
    """Eleven base62 characters."""
    number = (ordinal * _EVENT_ID_FACTOR + seed * 7_919) % EVENT_ID_SPACE
    number, p5 = divmod(number, 3844)
    number, p4 = divmod(number, 3844)
    number, p3 = divmod(number, 3844)
    number, p2 = divmod(number, 3844)
    head, p1 = divmod(number, 3844)
    pairs = _BASE62_PAIRS
    return pairs[head][1:] + pairs[p1] + pairs[p2] + pairs[p3] + pairs[p4] + pairs[p5]


def event_ordinal(seed: int, record_id: str) -> int | None:
    """The ordinal behind an event id; None when it is not eleven base62 characters."""
    if len(record_id) != _EVENT_ID_LENGTH or not record_id.isascii() or not record_id.isalnum():
        return None
    number = 0
    for digit in record_id:
        number = number * 62 + _BASE62_VALUES[digit]
    return (number - seed * 7_919) * _EVENT_ID_INVERSE % EVENT_ID_SPACE


def ulid(seed: int, ordinal: int, seconds: int) -> str:
    """26 characters that begin with 01: time, then randomness, then the hidden ordinal."""
    shuffled = mix_bits(seed ^ 0x5EED, ordinal)
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
        value = _CROCKFORD_VALUES.get(digit)
        if value is None:
            return None
        number = number << 5 | value
    return (number ^ (number >> 32)) & 0xFFFF_FFFF


def sibling_id(record_id: str, kind: str) -> str:
    """Another ULID of the same time, for a record that belongs to this one."""
    source = random.Random(f"{record_id}:{kind}")  # noqa: S311  (believable data, no secret)
    return record_id[:10] + "".join(source.choices(_CROCKFORD, k=_ULID_LENGTH - 10))


def short_id(seed: int, kind: str, index: int) -> str:
    """Six letters and digits, as lists, segments, metrics, flows and templates have them."""
    source = random_source(seed, f"id:{kind}", index)
    return "".join(source.choices(_BASE62_DIGITS[10:] + _BASE62_DIGITS[:10], k=6))


FIRST_NAMES = (
    "Anna", "Liam", "Noor", "Mateo", "Zoë", "Yuki", "Olu", "Søren", "Chloé", "Ivan", "Priya",
    "Jack", "Emilia", "Łukasz", "Fatima", "Tom", "Ingrid", "José", "Mei", "Rosa",
)  # fmt: skip
LAST_NAMES = (
    "Nguyen", "O'Brien", "Müller", "García", "Smith", "Kowalski", "Okafor", "Jensen", "Tanaka",
    "de la Cruz", "Brown", "Rossi", "Haddad", "Kim", "D’Angelo", "Ivanova",
)  # fmt: skip
PLACES = (
    ("Boston", "Massachusetts", "United States", "02108", 42.3584, -71.0598, "America/New_York"),
    ("Austin", "Texas", "United States", "78701", 30.2711, -97.7437, "America/Chicago"),
    ("London", "England", "United Kingdom", "SW1A 1AA", 51.5014, -0.1419, "Europe/London"),
    ("Paris", "Île-de-France", "France", "75001", "48.8566", "2.3522", "Europe/Paris"),
    ("München", "Bayern", "Germany", "80331", 48.1374, 11.5755, "Europe/Berlin"),
    ("Sydney", "New South Wales", "Australia", "2000", -33.8688, 151.2093, "Australia/Sydney"),
    ("東京", None, "Japan", "100-0001", 35.6895, 139.6917, "Asia/Tokyo"),
    ("São Paulo", "SP", "Brazil", "01000-000", "-23.5505", "-46.6333", "America/Sao_Paulo"),
)
PRODUCTS = (
    ("Kettle No. 4", "KET-004", 49.0, "Kitchen"),
    ('Walnut Board 12"', "BRD/012", 34.5, "Kitchen"),
    ("Wool Socks, 2 pairs", "SOC-2", 18.0, "Clothing"),
    ("Rain Jacket “Storm”", "JCK-STORM", 129.0, "Clothing"),
    ("Desk Lamp 💡", "LMP-1", 79.95, "Home"),
    ("Coffee Beans 1 kg", "COF-1000", 21.9, "Food"),
    ("Olive Oil 0,5 l", "OIL-05", 14.25, "Food"),
    ("Linen Sheet", "SHT-LIN-<180>", 99.0, "Home"),
    ("Notebook A5", "NTB-A5", 7.5, "Office"),
    ("Gift Card", "$custom:::$default:::GC 1/2", 50.0, "Gifts"),
)  # fmt: skip
OCCASIONS = (
    "Spring Sale", "New Arrivals", "Weekly Digest", "Black Friday", "VIP Early Access",
    "Back in Stock", "Holiday Gift Guide", "Last Chance ⏰", "Summer Edit", "Loyalty News",
    "Flash Sale 24h", "Restock",
)  # fmt: skip
STREETS = ("Harbour Street", "Main St", "Rue des Lilas", "Lindenweg", "High Road", "Elm Ave")
