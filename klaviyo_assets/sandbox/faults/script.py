"""Which request a fault hits: rules in the order given, and a seeded random share.

A rule counts the requests that it matches, from one; the first rule that fires wins.
"""

import fnmatch
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from klaviyo_assets.sandbox.faults.kinds import KINDS, RECOVERABLE
from klaviyo_assets.sandbox.json_types import Json, JsonObject, as_list, as_object
from klaviyo_assets.sandbox.reply import Request
from klaviyo_assets.sandbox.shop.seeds import mix


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
class Match:
    """Which requests a rule looks at, and which of those it fires on (counted from one)."""

    path: str = "*"
    method: str | None = None
    query: str = ""
    body: str = ""
    first: int = 1
    last: int | None = None
    every: int = 1
    size_above: int | None = None

    def sees(self, asked: Request) -> bool:
        """Whether the rule counts this request; `path` may hold `*`, the others are parts.

        `size_above` leaves out requests for pages of no more records than that.
        """
        return (
            fnmatch.fnmatchcase(asked.path, self.path)
            and self.method in {None, asked.method}
            and self.query in asked.query
            and self.body.encode() in asked.body
            and (self.size_above is None or page_size(asked) > self.size_above)
        )

    def fires(self, count: int) -> bool:
        """Whether the rule fires on its count-th request."""
        inside = self.first <= count and (self.last is None or count <= self.last)
        return inside and (count - self.first) % self.every == 0


def page_size(asked: Request) -> int:
    """The page size that a request names; 0 where it names none."""
    text = dict(parse_qsl(asked.query)).get("page[size]", "")
    return int(text) if text.isdigit() else 0


class Rule:
    """A match and its fault, with the requests seen and hit so far."""

    def __init__(self, match: Match, fault: Fault) -> None:
        self.match = match
        self.fault = fault
        self.seen = 0
        self.hits = 0

    def try_on(self, asked: Request) -> bool:
        """Count a request; whether the fault is to happen on it."""
        if not self.match.sees(asked):
            return False
        self.seen += 1
        if not self.match.fires(self.seen):
            return False
        self.hits += 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """Random faults: a share of all requests, the same ones for the same seed."""

    seed: int
    rate: float
    kinds: tuple[str, ...]

    def fault(self, number: int) -> Fault | None:
        """The fault of request `number`, if it has one."""
        bits = mix(self.seed, number)
        if (bits & 0xFFFFFF) / 0x1000000 >= self.rate:
            return None
        return Fault(self.kinds[(bits >> 24) % len(self.kinds)], {})


class Script:
    """All rules in force."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.chance: Chance | None = None
        self.number = 0
        self.lock = threading.Lock()

    def add(self, wish: Json) -> None:
        """Add rules: a list of them, one of them, or `{"rules": [...], "random": {...}}`.

        `ValueError` for a kind that does not exist.
        """
        whole = as_object(wish)
        listed = as_list(whole.get("rules")) if "rules" in whole else as_list(wish)
        if "fault" in whole:
            listed = [wish]
        made = [rule_of(as_object(each)) for each in listed if "random" not in as_object(each)]
        chances = [c for c in (whole, *map(as_object, listed)) if "random" in c]
        if not made and not chances:
            raise ValueError("a script is a list of {match, fault}")
        with self.lock:
            self.rules += made
            for each in chances:
                self.chance = chance_of(as_object(each["random"]))

    def clear(self) -> None:
        """Drop all rules."""
        with self.lock:
            self.rules = []
            self.chance = None

    def pick(self, asked: Request) -> Fault | None:
        """The fault for this request; every rule that matches counts it."""
        with self.lock:
            self.number += 1
            fired = [rule.fault for rule in self.rules if rule.try_on(asked)]
            if fired:
                return fired[0]
            return self.chance.fault(self.number) if self.chance else None

    def looks_back(self) -> bool:
        """Whether any fault in force needs the page sent before."""
        with self.lock:
            kinds = {rule.fault.kind for rule in self.rules}
            kinds |= set(self.chance.kinds if self.chance else ())
        return not kinds.isdisjoint({"cycle", "duplicates"})

    def as_json(self) -> Json:
        """Kinds with their counts."""
        with self.lock:
            rules: list[Json] = [
                {"kind": rule.fault.kind, "seen": rule.seen, "hits": rule.hits}
                for rule in self.rules
            ]
        return {"rules": rules, "random": None if self.chance is None else self.chance.rate}


def rule_of(wish: JsonObject) -> Rule:
    """A rule from `{"match": {...}, "fault": {"kind": ...}}`."""
    match, fault = as_object(wish.get("match")), as_object(wish.get("fault"))
    kind = fault.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"unknown fault kind {kind!r}; there are {', '.join(sorted(KINDS))}")
    nth = match.get("nth")
    first, last = match.get("from", nth), match.get("to", nth)
    every, above = match.get("every"), match.get("size_above")
    if every is not None and first is None:
        first = every
    method = match.get("method")
    return Rule(
        Match(
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


def chance_of(wish: JsonObject) -> Chance:
    """Random faults from `{"seed": n, "rate": 0.05, "kinds": [...]}`."""
    kinds = tuple(str(kind) for kind in as_list(wish.get("kinds"))) or RECOVERABLE
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"unknown fault kind {kind!r}")
    return Chance(
        seed=int(str(wish.get("seed", 1))), rate=float(str(wish.get("rate", 0.05))), kinds=kinds
    )
