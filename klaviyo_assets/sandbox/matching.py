"""Whether a record meets the conditions of a filter, with every operator exactly as named.

A field with many values (suppressions) meets a condition when one of them does; null meets none.
"""

from collections.abc import Callable

from klaviyo_assets.sandbox.grammar import Clause, seconds_as_micros
from klaviyo_assets.sandbox.shop.record import Shelf, Value

Test = Callable[[int], bool]
# Recorded as without effect: the API accepts these filters and returns everything.
# Archived records of these types come only when asked for.
ARCHIVABLE = frozenset({"campaign", "flow"})
IGNORED = frozenset({("segment", "is_starred"), ("metric", "integration.category")})


def keeps(shelf: Shelf, clauses: tuple[Clause, ...]) -> Test:
    """A test of ordinals for all clauses together."""
    tests = [_test(shelf, c) for c in clauses if (shelf.kind, c.field) not in IGNORED]
    if shelf.kind in ARCHIVABLE and not any(clause.field == "archived" for clause in clauses):
        tests.append(lambda k: shelf.values(k, "archived") == (False,))
    if not tests:
        return lambda _: True
    if len(tests) == 1:
        return tests[0]
    return lambda k: all(test(k) for test in tests)


def _test(shelf: Shelf, clause: Clause) -> Test:
    meets = condition(clause)
    field = clause.field
    return lambda k: any(meets(value) for value in shelf.values(k, field))


def condition(clause: Clause) -> Callable[[Value], bool]:
    """The clause as a test of one value; times compare in microseconds."""
    wanted = tuple(
        seconds_as_micros(each) if each.kind == "time" else each.value for each in clause.values
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
            return bound(clause.operator, wanted[0])


def bound(operator: str, edge: Value) -> Callable[[Value], bool]:
    """A comparison of numbers, strict or inclusive as its name says."""
    limit = edge if isinstance(edge, int | float) else 0
    compare: dict[str, Callable[[float], bool]] = {
        "greater-than": lambda value: value > limit,
        "greater-or-equal": lambda value: value >= limit,
        "less-than": lambda value: value < limit,
        "less-or-equal": lambda value: value <= limit,
    }
    test = compare[operator]
    return lambda value: isinstance(value, int | float) and test(value)
