"""Our requests are within Klaviyo's published offer: paths, limits, filters, sorts."""

import re

import pytest

from klaviyo_assets.model.stream import (
    WHOLE_COLLECTION,
    AdditionalField,
    Children,
    Collection,
    Detail,
    Stream,
)
from klaviyo_assets_tests.contract.facts import FACTS, Operation
from klaviyo_assets_tests.contract.published import READ_NAMES, READS, published_operation

CLAUSE = re.compile(r'(?P<operator>[a-z-]+)\((?P<field>[\w.]+),"?(?P<value>[^")]*)"?\)')


def extras(stream: Stream) -> tuple[AdditionalField, ...]:
    """Return the additional fields that a stream asks for."""
    assert isinstance(stream.source, Collection | Detail | Children)
    return stream.source.additional_fields


def answers(facts: Operation, field: str) -> list[str]:
    """Return every value that a slice can compare a field with; booleans have no list published."""
    return facts.choices.get(field, ["true", "false"])


def clauses(stream: Stream) -> list[re.Match[str]]:
    """Return every clause of every slice of a stream."""
    slices = stream.source.slices if isinstance(stream.source, Collection) else ()
    found = [list(CLAUSE.finditer(each.filter)) for each in slices]
    read = [",".join(match.group() for match in matches) for matches in found]
    assert read == [each.filter for each in slices]
    return [match for matches in found for match in matches]


each_asking = pytest.mark.parametrize(("stream", "revision"), READS, ids=READ_NAMES)
each_revision = pytest.mark.parametrize("revision", FACTS)


@each_asking
def test_limits_and_scopes_are_the_published_ones(stream: Stream, revision: str) -> None:
    """A stream spends from the tier of its path and needs the scopes of its path."""
    facts = published_operation(stream, revision)
    assert stream.tier is not None
    assert (stream.tier.burst, stream.tier.steady, stream.tier.daily) == (
        facts.burst,
        facts.steady,
        None,
    )
    assert stream.scopes == tuple(facts.scopes)
    assert stream.section == facts.section


@each_asking
def test_pages_are_as_large_as_they_may_be(stream: Stream, revision: str) -> None:
    """Every page is requested at the maximum; where the size is refused, none is given."""
    page_size = (
        stream.source.page_size if isinstance(stream.source, Collection | Children) else None
    )
    assert page_size == published_operation(stream, revision).page_size


@each_asking
def test_additional_fields_are_offered_and_cost_what_is_published(
    stream: Stream, revision: str
) -> None:
    """An additional field is one that the path offers, at the limit that it is lowered to."""
    facts = published_operation(stream, revision)
    for extra in extras(stream):
        parameter = f"additional-fields[{extra.resource}]={extra.name}"
        tier = [extra.tier.burst, extra.tier.steady] if extra.tier else None
        assert extra.name in facts.additional_fields[extra.resource]
        assert tier == facts.lowered.get(parameter)


@each_asking
def test_includes_are_offered_and_lower_no_limit(stream: Stream, revision: str) -> None:
    """A stream includes only what the path offers, and nothing that makes it slower."""
    include = stream.source.include if isinstance(stream.source, Collection) else ()
    assert set(include) <= set(published_operation(stream, revision).include)
    assert not {f"include={name}" for name in include} & set(
        published_operation(stream, revision).lowered
    )


@each_asking
def test_a_cursor_is_filtered_and_sorted_by_as_offered(stream: Stream, revision: str) -> None:
    """Windows use operators that exist, and strict ones only where there is no other."""
    cursor, facts = stream.cursor, published_operation(stream, revision)
    if cursor is None:
        return
    operators = facts.filters[cursor.field]
    assert cursor.is_inclusive == ("greater-or-equal" in operators)
    assert {"greater-than", "less-than"} <= set(operators)
    assert cursor.field in facts.sort


@each_asking
def test_ids_are_swept_in_an_order_that_is_offered(stream: Stream, revision: str) -> None:
    """An id scan sorts and filters by a field that the path offers for both."""
    order, facts = stream.id_scan_cursor, published_operation(stream, revision)
    if order is None:
        return
    operators = facts.filters[order.field]
    assert order.is_inclusive == ("greater-or-equal" in operators)
    assert {"greater-than", "less-than"} <= set(operators)
    assert order.field in facts.sort


@each_asking
def test_slices_ask_what_klaviyo_can_answer(stream: Stream, revision: str) -> None:
    """A slice compares a field by an operator that is offered, with a value that it knows."""
    facts = published_operation(stream, revision)
    for clause in clauses(stream):
        assert clause["operator"] in facts.filters[clause["field"]]
        assert clause["value"] in answers(facts, clause["field"])


@each_asking
def test_slices_leave_nothing_out(stream: Stream, revision: str) -> None:
    """The slices of a stream are all combinations of the values they request, or `all`."""
    facts, found = published_operation(stream, revision), clauses(stream)
    combinations = 1
    for field in {clause["field"] for clause in found}:
        values = {clause["value"] for clause in found if clause["field"] == field}
        assert values == set(answers(facts, field)) or values == {"all"}
        combinations *= len(values)
    slices = stream.source.slices if isinstance(stream.source, Collection) else (WHOLE_COLLECTION,)
    assert len({each.filter for each in slices}) == len(slices) == combinations
    assert len({each.name for each in slices}) == len(slices)


@each_asking
def test_a_required_filter_is_given(stream: Stream, revision: str) -> None:
    """A path that needs a filter is always requested in slices."""
    slices = stream.source.slices if isinstance(stream.source, Collection) else ()
    assert (
        not published_operation(stream, revision).is_filter_required
        or WHOLE_COLLECTION not in slices
    )


@each_revision
def test_hidden_records_are_requested(revision: str) -> None:
    """Archived records, which come only on request, are read wherever a path can hide them."""
    read = {published_operation(stream, at).path for stream, at in READS if at == revision}
    facts = FACTS[revision].operations
    assert {
        published_operation(stream, revision).path
        for stream, at in READS
        if at == revision and any(clause["field"] == "archived" for clause in clauses(stream))
    } == {path for path in read if "archived" in facts[path].filters}


@each_asking
def test_the_metric_filter_is_offered(stream: Stream, revision: str) -> None:
    """Only a path that compares by metric id is restricted to metrics."""
    if isinstance(stream.source, Collection) and stream.source.has_metric_filter:
        assert "equals" in published_operation(stream, revision).filters["metric_id"]


@each_revision
def test_every_fact_is_used(revision: str) -> None:
    """The facts are those of the operations in use, and no others."""
    read = {published_operation(stream, at).path for stream, at in READS if at <= revision}
    assert read == set(FACTS[revision].operations)
