"""The filter language: parses and checks the `filter` parameter, and tests records against it.

Knows the grammar and the operators an operation offers; nothing of records. Comma means AND, there
is no OR; strings are quoted and escaped with a backslash; booleans, numbers and times are bare.
Source: https://developers.klaviyo.com/en/docs/filtering_, revision 2026-07-15.

A field with many values (suppressions) meets a condition when one of them does; null meets none.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from klaviyo_assets.sandbox.account.records import FieldValue, ResourceCollection
from klaviyo_assets.sandbox.clock import SECOND_MICROS, parse_micros
from klaviyo_assets.sandbox.facts.schema import FilterableField
from klaviyo_assets.sandbox.http_messages import ApiError, invalid_input_error

FilterScalar = str | int | float | bool | None

_TOKEN_PATTERN: Final = re.compile(
    r"""\s*(?:
      (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<mark>[(),\[\]])
    | (?P<bare>[^\s"'(),\[\]]+)
    )\s*""",
    re.VERBOSE,
)
_NUMBER_PATTERN: Final = re.compile(r"-?\d+(\.\d+)?")
_TIME_PATTERN: Final = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")
_OFFSET_PATTERN: Final = re.compile(r"(Z|[+-]\d\d:?\d\d)$")
_BOOLEAN_WORDS: Final = {"true": True, "false": False}
_FILTER_OPERATORS: Final = frozenset(
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
class FilterLiteral:
    """A value of a filter and how it was written: `text`, `time`, `number`, `boolean`, `null`.

    `is_local` says that a time came without an offset.
    """

    value: FilterScalar
    kind: str
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class FilterClause:
    """One condition; `values` is empty for `has`, has many members for a list literal."""

    operator: str
    field: str
    values: tuple[FilterLiteral, ...]
    is_list: bool = False


def invalid_filter_error() -> ApiError:
    """The one answer to a filter that cannot be read."""
    return invalid_input_error("Invalid filter provided", parameter="filter")


def tokenize_filter(text: str) -> list[str]:
    """Split a filter; quoted strings keep their quotes; raise 400 on a stray character."""
    found: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN_PATTERN.match(text, at)
        if match is None:
            raise invalid_filter_error()
        found.append(match.group().strip())
        at = match.end()
    return found


class FilterParser:
    """Reads tokens from left to right; every wrong step is a 400."""

    def __init__(self, text: str) -> None:
        """Take the decoded value of the `filter` parameter."""
        self.tokens = tokenize_filter(text)
        self.position = 0

    def next_token(self, expected: str | None = None) -> str:
        """The next token, which must be `expected` where that is given."""
        if self.position >= len(self.tokens):
            raise invalid_filter_error()
        token = self.tokens[self.position]
        if expected is not None and token != expected:
            raise invalid_filter_error()
        self.position += 1
        return token

    def peek_token(self) -> str | None:
        """The next token without taking it."""
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def parse_filter(self) -> list[FilterClause]:
        """The whole filter: clauses joined by commas, or one `and(...)`."""
        if self.peek_token() == "and":
            self.next_token()
            self.next_token("(")
            found = self.parse_clause_list()
            self.next_token(")")
        else:
            found = self.parse_clause_list()
        if self.peek_token() is not None:
            raise invalid_filter_error()
        return found

    def parse_clause_list(self) -> list[FilterClause]:
        """One clause or more, between commas."""
        found = [self.parse_clause()]
        while self.peek_token() == ",":
            self.next_token()
            found.append(self.parse_clause())
        return found

    def parse_clause(self) -> FilterClause:
        """`operator(field,literal)` or `has(field)`."""
        operator = self.next_token()
        if operator not in _FILTER_OPERATORS:
            raise invalid_filter_error()
        self.next_token("(")
        field = self.next_token()
        if operator == "has":
            self.next_token(")")
            return FilterClause(operator, field, ())
        self.next_token(",")
        listed = self.peek_token() == "["
        values = self.parse_literal_list() if listed else (parse_filter_literal(self.next_token()),)
        self.next_token(")")
        return FilterClause(operator, field, values, listed)

    def parse_literal_list(self) -> tuple[FilterLiteral, ...]:
        """`[literal,...]`, at least one."""
        self.next_token("[")
        found = [parse_filter_literal(self.next_token())]
        while self.peek_token() == ",":
            self.next_token()
            found.append(parse_filter_literal(self.next_token()))
        self.next_token("]")
        return tuple(found)


def parse_filter_literal(token: str) -> FilterLiteral:
    """One literal; times become microseconds; an unquoted word is a 400."""
    if token[0] in "\"'":
        return FilterLiteral(re.sub(r"\\(.)", r"\1", token[1:-1]), "text")
    if token in _BOOLEAN_WORDS:
        return FilterLiteral(_BOOLEAN_WORDS[token], "boolean")
    if token == "null":  # noqa: S105  (a word of the grammar)
        return FilterLiteral(None, "null")
    if _NUMBER_PATTERN.fullmatch(token):
        return FilterLiteral(float(token) if "." in token else int(token), "number")
    if _TIME_PATTERN.fullmatch(token):
        try:
            return FilterLiteral(
                parse_micros(token), "time", is_local=not _OFFSET_PATTERN.search(token)
            )
        except ValueError:
            raise invalid_filter_error() from None
    raise invalid_filter_error()


def parse_filter(text: str) -> tuple[FilterClause, ...]:
    """The clauses of a filter text."""
    return tuple(FilterParser(text).parse_filter())


def check_filter(
    clauses: tuple[FilterClause, ...], offered_fields: Mapping[str, FilterableField]
) -> None:
    """Refuse fields and operators that are not offered, and literals of a wrong kind."""
    for clause in clauses:
        facts = offered_fields.get(clause.field)
        if facts is None:
            fields = ",".join(sorted(offered_fields))
            message = f"'{clause.field}' is not a filterable field. Filterable fields are {fields}"
            raise invalid_input_error(message, parameter="filter")
        if clause.operator not in facts.operators:
            # Two blanks before "Allowed": so the recorded answer.
            message = (
                f"'{clause.operator}' is not an allowed filter operator for {clause.field}.  "
                f"Allowed operators are {','.join(facts.operators)}"
            )
            raise invalid_input_error(message, parameter="filter")
        _check_clause_values(clause, facts)


def _check_clause_values(clause: FilterClause, facts: FilterableField) -> None:
    if clause.is_list != (clause.operator in {"any", "contains-any", "contains-all"}) and not (
        # The reference lists `equals` among the list operators of the fields that take `any`.
        clause.is_list and clause.operator == "equals" and "any" in facts.operators
    ):
        raise invalid_filter_error()
    for value in clause.values:
        if not _is_fitting_kind(clause.field, value, facts):
            raise invalid_filter_error()
        if facts.values and value.value not in facts.values:
            allowed = ", ".join(facts.values)
            message = f"'{value.value}' is not a valid value for {clause.field}. Allowed: {allowed}"
            raise invalid_input_error(message, parameter="filter")


def _is_fitting_kind(field: str, value: FilterLiteral, facts: FilterableField) -> bool:
    if field == "timestamp":
        return value.kind in {"number", "time"}
    return value.kind == facts.kind


def literal_micros(value: FilterLiteral) -> int:
    """A bound in microseconds; bare numbers are seconds since 1970 (the events' `timestamp`)."""
    number = value.value if isinstance(value.value, int | float) else 0
    return int(number) if value.kind == "time" else int(number * SECOND_MICROS)


RecordPredicate = Callable[[int], bool]
# Recorded as without effect: the API accepts these filters and returns everything.
# Archived records of these types come only when a filter selects them.
ARCHIVABLE_KINDS = frozenset({"campaign", "flow"})
IGNORED_FILTERS = frozenset({("segment", "is_starred"), ("metric", "integration.category")})


def build_record_predicate(
    collection: ResourceCollection, clauses: tuple[FilterClause, ...]
) -> RecordPredicate:
    """A test of ordinals for all clauses together."""
    tests = [
        _build_clause_predicate(collection, c)
        for c in clauses
        if (collection.kind, c.field) not in IGNORED_FILTERS
    ]
    if collection.kind in ARCHIVABLE_KINDS and not any(
        clause.field == "archived" for clause in clauses
    ):
        tests.append(lambda k: collection.field_values(k, "archived") == (False,))
    if not tests:
        return lambda _: True
    if len(tests) == 1:
        return tests[0]
    return lambda k: all(test(k) for test in tests)


def _build_clause_predicate(
    collection: ResourceCollection, clause: FilterClause
) -> RecordPredicate:
    if collection.kind == "review" and clause.field == "status" and _names_all(clause):
        return lambda _: True
    meets = build_value_predicate(clause)
    field = clause.field
    return lambda k: any(meets(value) for value in collection.field_values(k, field))


def _names_all(clause: FilterClause) -> bool:
    """Whether the clause is the reviews' own word for every status."""
    return any(each.value == "all" for each in clause.values)


def build_value_predicate(clause: FilterClause) -> Callable[[FieldValue], bool]:
    """The clause as a test of one value; times compare in microseconds."""
    wanted = tuple(
        literal_micros(each) if each.kind == "time" else each.value for each in clause.values
    )
    match clause.operator:
        case "equals" | "any":
            return lambda value: value in wanted
        case "contains":
            return lambda value: str(wanted[0]) in str(value)
        case "starts-with":
            return lambda value: str(value).startswith(str(wanted[0]))
        case "ends-with":
            return lambda value: str(value).endswith(str(wanted[0]))
        case _:
            return build_comparison(clause.operator, wanted[0])


def build_comparison(operator: str, limit_value: FieldValue) -> Callable[[FieldValue], bool]:
    """A comparison of numbers, strict or inclusive as its name says."""
    limit = limit_value if isinstance(limit_value, int | float) else 0
    compare: dict[str, Callable[[float], bool]] = {
        "greater-than": lambda value: value > limit,
        "greater-or-equal": lambda value: value >= limit,
        "less-than": lambda value: value < limit,
        "less-or-equal": lambda value: value <= limit,
    }
    test = compare[operator]
    return lambda value: isinstance(value, int | float) and test(value)
