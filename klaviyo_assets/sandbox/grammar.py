r"""The filter grammar: text in, clauses out, 400 in Klaviyo's words for anything else.

Knows the grammar and the operators an operation offers; nothing of records. Comma means AND, there
is no OR; strings are quoted and escaped with a backslash; booleans, numbers and times are bare.
Source: https://developers.klaviyo.com/en/docs/filtering_, revision 2026-07-15.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from klaviyo_assets.sandbox.errors import ApiError, invalid
from klaviyo_assets.sandbox.facts.operation import Filter
from klaviyo_assets.sandbox.moments import SECOND, moment

Scalar = str | int | float | bool | None

_TOKEN: Final = re.compile(
    r"""\s*(?:
      (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<mark>[(),\[\]])
    | (?P<bare>[^\s"'(),\[\]]+)
    )\s*""",
    re.VERBOSE,
)
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")
_OFFSET: Final = re.compile(r"(Z|[+-]\d\d:?\d\d)$")
_BOOLEANS: Final = {"true": True, "false": False}
_OPERATORS: Final = frozenset(
    {
        "equals",
        "less-than",
        "less-or-equal",
        "greater-than",
        "greater-or-equal",
        "contains",
        "contains-any",
        "contains-all",
        "starts-with",
        "ends-with",
        "any",
        "has",
    }
)


@dataclass(frozen=True, slots=True)
class Literal:
    """A value of a filter and how it was written: `text`, `time`, `number`, `boolean`, `null`.

    `is_local` says that a time came without an offset.
    """

    value: Scalar
    kind: str
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition; `values` is empty for `has`, has many members for a list literal."""

    operator: str
    field: str
    values: tuple[Literal, ...]
    listed: bool = False


def bad_grammar() -> ApiError:
    """The one answer to a filter that cannot be read."""
    return invalid("Invalid filter provided", parameter="filter")


def tokens(text: str) -> list[str]:
    """Split a filter; quoted strings keep their quotes; raise 400 on a stray character."""
    found: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise bad_grammar()
        found.append(match.group().strip())
        at = match.end()
    return found


class Reader:
    """Reads tokens from left to right; every wrong step is a 400."""

    def __init__(self, text: str) -> None:
        """Take the decoded value of the `filter` parameter."""
        self.tokens = tokens(text)
        self.at = 0

    def take(self, expected: str | None = None) -> str:
        """The next token, which must be `expected` where that is given."""
        if self.at >= len(self.tokens):
            raise bad_grammar()
        token = self.tokens[self.at]
        if expected is not None and token != expected:
            raise bad_grammar()
        self.at += 1
        return token

    def peek(self) -> str | None:
        """The next token without taking it."""
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def clauses(self) -> list[Clause]:
        """The whole filter: clauses joined by commas, or one `and(...)`."""
        if self.peek() == "and":
            self.take()
            self.take("(")
            found = self.joined()
            self.take(")")
        else:
            found = self.joined()
        if self.peek() is not None:
            raise bad_grammar()
        return found

    def joined(self) -> list[Clause]:
        """One clause or more, between commas."""
        found = [self.clause()]
        while self.peek() == ",":
            self.take()
            found.append(self.clause())
        return found

    def clause(self) -> Clause:
        """`operator(field,literal)` or `has(field)`."""
        operator = self.take()
        if operator not in _OPERATORS:
            raise bad_grammar()
        self.take("(")
        field = self.take()
        if operator == "has":
            self.take(")")
            return Clause(operator, field, ())
        self.take(",")
        listed = self.peek() == "["
        values = self.listed() if listed else (literal(self.take()),)
        self.take(")")
        return Clause(operator, field, values, listed)

    def listed(self) -> tuple[Literal, ...]:
        """`[literal,...]`, at least one."""
        self.take("[")
        found = [literal(self.take())]
        while self.peek() == ",":
            self.take()
            found.append(literal(self.take()))
        self.take("]")
        return tuple(found)


def literal(token: str) -> Literal:
    """One literal; times become microseconds; an unquoted word is a 400."""
    if token[0] in "\"'":
        return Literal(re.sub(r"\\(.)", r"\1", token[1:-1]), "text")
    if token in _BOOLEANS:
        return Literal(_BOOLEANS[token], "boolean")
    if token == "null":  # noqa: S105  (a word of the grammar)
        return Literal(None, "null")
    if _NUMBER.fullmatch(token):
        return Literal(float(token) if "." in token else int(token), "number")
    if _TIME.fullmatch(token):
        try:
            return Literal(moment(token), "time", is_local=not _OFFSET.search(token))
        except ValueError:
            raise bad_grammar() from None
    raise bad_grammar()


def parse(text: str) -> tuple[Clause, ...]:
    """The clauses of a filter text."""
    return tuple(Reader(text).clauses())


def check(clauses: tuple[Clause, ...], offered: Mapping[str, Filter]) -> None:
    """Refuse fields and operators that are not offered, and literals of a wrong kind."""
    for clause in clauses:
        facts = offered.get(clause.field)
        if facts is None:
            fields = ",".join(sorted(offered))
            message = f"'{clause.field}' is not a filterable field. Filterable fields are {fields}"
            raise invalid(message, parameter="filter")
        if clause.operator not in facts.operators:
            # Two blanks before "Allowed": so the recorded answer.
            message = (
                f"'{clause.operator}' is not an allowed filter operator for {clause.field}.  "
                f"Allowed operators are {','.join(facts.operators)}"
            )
            raise invalid(message, parameter="filter")
        _check_values(clause, facts)


def _check_values(clause: Clause, facts: Filter) -> None:
    if clause.listed != (clause.operator in {"any", "contains-any", "contains-all"}) and not (
        # The reference lists `equals` among the list operators of the fields that take `any`.
        clause.listed and clause.operator == "equals" and "any" in facts.operators
    ):
        raise bad_grammar()
    for value in clause.values:
        if not _kind_fits(clause.field, value, facts):
            raise bad_grammar()
        if facts.values and value.value not in facts.values:
            allowed = ", ".join(facts.values)
            message = f"'{value.value}' is not a valid value for {clause.field}. Allowed: {allowed}"
            raise invalid(message, parameter="filter")


def _kind_fits(field: str, value: Literal, facts: Filter) -> bool:
    if field == "timestamp":
        return value.kind in {"number", "time"}
    return value.kind == facts.kind


def seconds_as_micros(value: Literal) -> int:
    """A bound in microseconds; bare numbers are seconds since 1970 (the events' `timestamp`)."""
    number = value.value if isinstance(value.value, int | float) else 0
    return int(number) if value.kind == "time" else int(number * SECOND)
