"""The kinds of faults, and the rules that decide which request a fault hits.

Names only; `documents`, `injector` and `transport` carry them out.

A rule counts the requests that it matches, from one; the first rule that fires wins.
"""

import fnmatch
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from klaviyo_assets.sandbox.account.seeds import mix_bits
from klaviyo_assets.sandbox.http_messages import HttpRequest
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, as_object

RESPONSE_FAULT_KINDS = frozenset(
    {
        "throttle",
        "error",
        "challenge",
        "invalid_cursor",
        "redirect",
        "html_body",
        "empty_body",
        "null_body",
        "list_body",
        "text_body",
    }
)
PAGE_FAULT_KINDS = frozenset(
    {
        "same_next",
        "cycle",
        "next_link",
        "next_host",
        "no_links",
        "empty_page",
        "duplicates",
        "page_factor",
        "short_series",
    }
)
CLAIM_FAULT_KINDS = frozenset({"bare_page", "errors_beside", "cut_list", "endless", "unsorted"})
RECORD_FAULT_KINDS = frozenset(
    {
        "no_id",
        "null_id",
        "null_attributes",
        "string_record",
        "new_field",
        "new_relationship",
        "new_value",
        "type_change",
        "removed_field",
        "huge_integer",
        "overflow",
        "nan_text",
        "nan_literal",
        "infinity_literal",
        "stray_byte",
        "bare_control",
        "deep_nesting",
        "huge_string",
        "nul_character",
        "lone_surrogate",
        "odd_text",
    }
)
TRANSPORT_FAULT_KINDS = frozenset(
    {
        "reset",
        "close",
        "short_body",
        "long_body",
        "truncated_json",
        "slow",
        "hang",
        "bad_gzip",
        "bom",
        "charset",
        "latency",
        "bandwidth",
        "chunks",
        "broken_chunks",
        "date",
        "gzip_bomb",
        "flood",
    }
)
SIDE_EFFECT_KINDS = frozenset({"mutate"})
FAULT_KINDS = (
    RESPONSE_FAULT_KINDS
    | PAGE_FAULT_KINDS
    | CLAIM_FAULT_KINDS
    | RECORD_FAULT_KINDS
    | TRANSPORT_FAULT_KINDS
    | SIDE_EFFECT_KINDS
)

# Half of a body does not count as shown, however much of it was read.
UNREADABLE_KINDS = frozenset(
    {
        "reset",
        "close",
        "short_body",
        "long_body",
        "truncated_json",
        "slow",
        "hang",
        "bad_gzip",
        "charset",
        "broken_chunks",
        "gzip_bomb",
        "flood",
    }
)
LENIENT_JSON_KINDS = ("nan_literal", "infinity_literal", "stray_byte", "bare_control")
"""No JSON to the letter, and read as if it were by most readers."""

OVERSIZED_KINDS = ("gzip_bomb", "flood")

RECOVERABLE_KINDS = (
    "throttle",
    "error",
    "challenge",
    "html_body",
    "empty_body",
    "reset",
    "close",
    "short_body",
    "truncated_json",
    "bad_gzip",
    "bare_page",
    "errors_beside",
    "empty_page",
    "duplicates",
    "chunks",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind and its options, as the script gave them."""

    kind: str
    options: Mapping[str, Json]

    def number(self, name: str, default: float) -> float:
        """An option that is a number."""
        value = self.options.get(name)
        return float(value) if isinstance(value, int | float) else default

    def text(self, name: str, default: str) -> str:
        """An option that is a text."""
        value = self.options.get(name)
        return value if isinstance(value, str) else default


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPattern:
    """Which requests a rule looks at, and which of those it fires on (counted from one)."""

    path: str = "*"
    method: str | None = None
    query: str = ""
    body: str = ""
    first: int = 1
    last: int | None = None
    every: int = 1
    size_above: int | None = None

    def matches(self, request: HttpRequest) -> bool:
        """Whether the rule counts this request; `path` may hold `*`, the others are parts.

        `size_above` leaves out requests for pages of no more records than that.
        """
        return (
            fnmatch.fnmatchcase(request.path, self.path)
            and self.method in {None, request.method}
            and self.query in request.query
            and self.body.encode() in request.body
            and (self.size_above is None or read_page_size(request) > self.size_above)
        )

    def should_fire(self, count: int) -> bool:
        """Whether the rule fires on its count-th request."""
        inside = self.first <= count and (self.last is None or count <= self.last)
        return inside and (count - self.first) % self.every == 0


def read_page_size(request: HttpRequest) -> int:
    """The page size that a request names; 0 where it names none."""
    text = dict(parse_qsl(request.query)).get("page[size]", "")
    return int(text) if text.isdigit() else 0


class FaultRule:
    """A match and its fault, with the requests seen and hit so far."""

    def __init__(self, match: RequestPattern, fault: Fault) -> None:
        self.pattern = match
        self.fault = fault
        self.seen_count = 0
        self.hit_count = 0

    def register_request(self, request: HttpRequest) -> bool:
        """Count a request; whether the fault is to happen on it."""
        if not self.pattern.matches(request):
            return False
        self.seen_count += 1
        if not self.pattern.should_fire(self.seen_count):
            return False
        self.hit_count += 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomFaults:
    """Random faults: a share of all requests, the same ones for the same seed."""

    seed: int
    rate: float
    kinds: tuple[str, ...]

    def pick_fault(self, number: int) -> Fault | None:
        """The fault of request `request_number`, if it has one."""
        bits = mix_bits(self.seed, number)
        if (bits & 0xFFFFFF) / 0x1000000 >= self.rate:
            return None
        return Fault(self.kinds[(bits >> 24) % len(self.kinds)], {})


class FaultScript:
    """All rules in force."""

    def __init__(self) -> None:
        self.rules: list[FaultRule] = []
        self.random_faults: RandomFaults | None = None
        self.request_number = 0
        self.lock = threading.Lock()

    def add(self, script: Json) -> None:
        """Add rules: a list of them, one of them, or `{"rules": [...], "random": {...}}`.

        `ValueError` for a kind that does not exist.
        """
        whole = as_object(script)
        listed = as_list(whole.get("rules")) if "rules" in whole else as_list(script)
        if "fault" in whole:
            listed = [script]
        made = [
            parse_fault_rule(as_object(each)) for each in listed if "random" not in as_object(each)
        ]
        chances = [c for c in (whole, *map(as_object, listed)) if "random" in c]
        if not made and not chances:
            raise ValueError("a script is a list of {match, fault}")
        with self.lock:
            self.rules += made
            for each in chances:
                self.random_faults = parse_random_faults(as_object(each["random"]))

    def clear(self) -> None:
        """Drop all rules."""
        with self.lock:
            self.rules = []
            self.random_faults = None

    def pick_fault(self, request: HttpRequest) -> Fault | None:
        """The fault for this request; every rule that matches counts it."""
        with self.lock:
            self.request_number += 1
            fired = [rule.fault for rule in self.rules if rule.register_request(request)]
            if fired:
                return fired[0]
            return (
                self.random_faults.pick_fault(self.request_number) if self.random_faults else None
            )

    def needs_previous_page(self) -> bool:
        """Whether any fault in force needs the page sent before."""
        with self.lock:
            kinds = {rule.fault.kind for rule in self.rules}
            kinds |= set(self.random_faults.kinds if self.random_faults else ())
        return not kinds.isdisjoint({"cycle", "duplicates"})

    def as_json(self) -> Json:
        """Kinds with their counts."""
        with self.lock:
            rules: list[Json] = [
                {"kind": rule.fault.kind, "seen": rule.seen_count, "hits": rule.hit_count}
                for rule in self.rules
            ]
        return {
            "rules": rules,
            "random": None if self.random_faults is None else self.random_faults.rate,
        }


def parse_fault_rule(description: JsonObject) -> FaultRule:
    """A rule from `{"match": {...}, "fault": {"kind": ...}}`."""
    match, fault = as_object(description.get("match")), as_object(description.get("fault"))
    kind = fault.pop("kind", None)
    if not isinstance(kind, str) or kind not in FAULT_KINDS:
        raise ValueError(f"unknown fault kind {kind!r}; there are {', '.join(sorted(FAULT_KINDS))}")
    nth = match.get("nth")
    first, last = match.get("from", nth), match.get("to", nth)
    every, above = match.get("every"), match.get("size_above")
    if every is not None and first is None:
        first = every
    method = match.get("method")
    return FaultRule(
        RequestPattern(
            path=str(match.get("path") or "*"),
            method=None if method is None else str(method),
            query=str(match.get("query") or ""),
            body=str(match.get("body") or ""),
            first=int(str(first or 1)),
            last=None if last is None else int(str(last)),
            every=int(str(every or 1)),
            size_above=None if above is None else int(str(above)),
        ),
        Fault(kind, fault),
    )


def parse_random_faults(description: JsonObject) -> RandomFaults:
    """Random faults from `{"seed": n, "rate": 0.05, "kinds": [...]}`."""
    kinds = tuple(str(kind) for kind in as_list(description.get("kinds"))) or RECOVERABLE_KINDS
    for kind in kinds:
        if kind not in FAULT_KINDS:
            raise ValueError(f"unknown fault kind {kind!r}")
    return RandomFaults(
        seed=int(str(description.get("seed", 1))),
        rate=float(str(description.get("rate", 0.05))),
        kinds=kinds,
    )
