"""Records, pages and bodies that cannot be stored, and text that not every program takes."""

import json
from dataclasses import replace

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.decode.jsonapi import QuarantinedRecord
from klaviyo_assets.errors import BrokenBodyError, MalformedPageError
from klaviyo_assets.model.column import Column, Included, LatestOf, RelatedIds
from klaviyo_assets.model.stream import Detail
from klaviyo_assets_tests.unit.decode.samples import (
    build_record,
    build_stream,
    decode_page,
    page_body,
    page_issues,
    page_rows,
    raw_page,
    resource_identifier,
    with_relationships,
)

THINGS = build_stream(
    Column("name", "Name."),
    Column("free", "Anything.", "json"),
    Column("tag_ids", "Tags.", "ids", RelatedIds("tags")),
)
EVENTS = build_stream(Column("name", "Name."), Column("at", "Moment.", "timestamp"), cursor="at")
EXCLUSIONS = build_stream(
    Column("suppressed_at", "Newest.", "timestamp", LatestOf("suppression", "timestamp")),
    cursor="suppressed_at",
)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('{"attributes":{}}', "the record has no id"),
        ('{"id":null,"attributes":{}}', "the record's id is null"),
        ('{"id":"","attributes":{}}', "the record's id is empty"),
        ('{"id":["a"],"attributes":{}}', "the record's id is array"),
        ('{"id":true,"attributes":{}}', "the record's id is boolean"),
        ('{"id":"b"}', "the record has no attributes"),
        ('{"id":"b","attributes":null}', "the record's attributes are not an object but null"),
        ('{"id":"b","attributes":[]}', "the record's attributes are not an object but array"),
        ('"b"', "the record is not an object but string"),
        ("null", "the record is not an object but null"),
        ("[]", "the record is not an object but array"),
    ],
)
def test_a_broken_record_goes_to_quarantine(broken: str, reason: str) -> None:
    """It is quarantined with its reason, byte for byte; the good ones around it are stored."""
    good = ['{"id":"a","attributes":{"name":"x"}}', '{"id":"c","attributes":{"name":"y"}}']
    page = decode_page(THINGS, raw_page(good[0], broken, good[1]))
    assert page.quarantined == (QuarantinedRecord(reason, broken.encode()),)
    assert page.batch["id"].to_pylist() == ["a", "c"]
    assert page.batch["name"].to_pylist() == ["x", "y"]
    assert page.record_count == 3


def test_a_number_as_id_is_read_as_text() -> None:
    """An id that became a number still names its record."""
    page = decode_page(THINGS, page_body(build_record("a"), build_record("b") | {"id": 12}))
    assert page.batch["id"].to_pylist() == ["a", "12"]
    assert page_issues(page) == ("id: number, read as text",)


def test_a_record_without_cursor_goes_to_quarantine() -> None:
    """A cursor column is never NULL: a row without one would be in no partition and no window."""
    page = decode_page(
        EVENTS,
        raw_page(
            '{"id":"a","attributes":{"name":"x","at":"2026-01-31T00:00:00Z"}}',
            '{"id":"b","attributes":{"name":"y","at":null}}',
            '{"id":"c","attributes":{"at":"soon","rank":1}}',
        ),
    )
    assert page.batch["id"].to_pylist() == ["a"]
    assert [each.reason for each in page.quarantined] == ["the record has no at"] * 2
    assert json.loads(page.quarantined[0].record)["id"] == "b"
    assert page.batch["at"].null_count == 0
    assert page.lowest_cursor == page.highest_cursor is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  \n",
        b"<html><body>403</body></html>",
        b" \n<!DOCTYPE html>",
        b"null",
        b"[]",
        b'"text"',
        b"upstream connect error",
        b'{"data": [',
        b'{"data": [{"id": "a", "attributes": {"name": "secret',
        b'{"data": []} {"data": []}',
        b'{"data": [{"id": "a", "attributes": {"free": nan}}]}',
        b'{"data": [{"id": "a", "attributes": {"free": NaN',
        b'{"data": [{"id": "a", "attributes": {"name": "secret\xff',
        b'{"data": [{"id": "a", "attributes": {"name": "secret\n',
        b'{"data": [{"id": "a", \x00"attributes": {"name": "secret"}}]}',
        '{"data": []}'.encode("utf-16"),
        '{"data": []}'.encode("utf-32-le"),
        "{}".encode("utf-16"),
        b"\x1f\x8b\x08\x00",
    ],
    ids=repr,
)
def test_what_is_no_json_object_is_a_broken_body(body: bytes) -> None:
    """Asking again may help; the text says what is wrong, and nothing that stood there."""
    with pytest.raises(BrokenBodyError) as caught:
        decode_page(THINGS, body)
    assert str(caught.value).startswith("things: the response is ")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_plain_reason_is_named() -> None:
    """An operator who reads of a proxy's page need not look for a missing comma."""
    for body, reason in (
        (b"  \n", "things: the response is empty"),
        (b"\xef\xbb\xbf <html>", "things: the response is HTML or XML, not JSON"),
        (b"[]", "things: the response is JSON, but not an object"),
        (b'{"data": [],', "things: the response is not JSON: Input data was truncated"),
    ):
        with pytest.raises(BrokenBodyError) as caught:
            decode_page(THINGS, body)
        assert str(caught.value) == reason


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"errors": [{"detail": "secret"}]}',
        b'{"data": null}',
        b'{"data": "secret"}',
        b'{"data": []}',
        b'{"data": [{"id": "a", "attributes": {"name": "secret"}}]}',
        b'{"data": [{"id": "a", "attributes": {"secret": 1}}], "links": {}}',
        b'{"data": [], "links": []}',
        b'{"data": [], "links": null}',
        b'{"data": [], "links": "secret"}',
        b'{"data": [], "links": {"next": null}}',
        b'{"data": [], "links": {"self": ""}}',
        b'{"data": [], "links": {"self": null}}',
        b'{"data": [], "links": {"self": "x", "next": 7}}',
        b'{"data": {"id": "a", "attributes": {}}, "links": {"self": "x"}}',
        b'{"data": [], "errors": [{"detail": "secret"}], "links": {"self": "x"}}',
        b'{"data": [], "errors": {"detail": "secret"}, "links": {"self": "x"}}',
        b'{"data": [{"id": 7, "attributes": {}}], "errors": ["secret"], "links": {"self": "x"}}',
    ],
    ids=repr,
)
def test_an_object_that_is_no_page_is_a_broken_body(body: bytes) -> None:
    """Taken for the last page it would lose the ones behind it; asking again may help."""
    with pytest.raises(
        BrokenBodyError, match=r"things: the response is (no page|an object without)"
    ):
        decode_page(THINGS, body)


@pytest.mark.parametrize("nothing", [b"null", b"[]", b"{}"])
def test_no_errors_beside_data_are_none(nothing: bytes) -> None:
    """PHP sends empty arrays for what is not there."""
    body = b'{"data": [], "errors": ' + nothing + b', "links": {"self": "x"}}'
    assert decode_page(THINGS, body).record_count == 0


def test_errors_beside_one_record_are_no_answer() -> None:
    """A single record has no page behind it, and needs no links; errors are errors."""
    about_one = replace(THINGS, source=Detail(parent="things", path="/api/things/{id}"))
    assert decode_page(about_one, b'{"data": {"id": "a", "attributes": {}}}').record_count == 1
    with pytest.raises(BrokenBodyError, match="`errors` beside `data`"):
        decode_page(about_one, b'{"data": {"id": "a", "attributes": {}}, "errors": ["secret"]}')


def test_the_error_for_a_page_quotes_nothing_of_it() -> None:
    """Klaviyo's own words are added by the client, which takes out what is secret or personal."""
    with pytest.raises(BrokenBodyError) as caught:
        decode_page(
            THINGS, b'{"data": [], "errors": [{"detail": "secret"}], "links": {"self": "x"}}'
        )
    assert "secret" not in str(caught.value)


def test_a_byte_order_mark_is_read_over() -> None:
    """Some proxies put one in front."""
    page = decode_page(THINGS, b"\xef\xbb\xbf" + page_body(build_record("a", name="ä")))
    assert page_rows(page)[0]["name"] == "ä"


def test_nesting_without_end_is_refused() -> None:
    """A body that would exhaust the stack is an error with a name, not a crash."""
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(MalformedPageError, match="nested"):
        decode_page(THINGS, b'{"data":[],"links":{"self":"x"},"meta":%s}' % deep)


UNREADABLE = {
    "the record is nested too deep to read": "[" * 100_000 + "]" * 100_000,
    "the record is not JSON": 'undefined, "b": [1,2,{"c":"}]\\"{"}]',
}


@pytest.mark.parametrize("reason", UNREADABLE)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_record_that_cannot_be_read_at_all_goes_to_quarantine(reason: str, place: int) -> None:
    """It alone is quarantined, with its bytes, and the next page's link is found."""
    broken = f'{{"id":"x","attributes":{{"free":{UNREADABLE[reason]}}}}}'
    sound = [f'{{"id":"{each}","attributes":{{"name":"[{each}]}}, {{"}}}}' for each in "ab"]
    records = [*sound[:place], broken, *sound[place:]]
    body = raw_page(*records).replace(b'"self":"x"', b'"self":"x","next":"y"')
    page = decode_page(THINGS, body)
    assert [row["id"] for row in page_rows(page)] == ["a", "b"]
    assert [row["name"] for row in page_rows(page)] == ["[a]}, {", "[b]}, {"]
    assert page.record_count == 3
    assert page.next_link == "y"
    (aside,) = page.quarantined
    assert (aside.reason, aside.record) == (reason, broken.encode())


@given(st.integers(0, 10_000))
def test_no_part_of_a_page_passes_for_a_page(end: int) -> None:
    """Wherever a page with a broken record is cut, nothing of it is read."""
    sound = ['{"id":"a","attributes":{"free":["]}",{}]}}', '{"id":"b","attributes":{}}']
    whole = raw_page(sound[0], '{"id":"x","attributes":{"free":undefined}}', sound[1])
    with pytest.raises(BrokenBodyError):
        decode_page(THINGS, whole[: end % len(whole)])


FREE = [
    '{"a":"' + "x" * 5_000_000 + '"}',
    "[" * 200 + "]" * 200,
    "9" * 80,
    "-1e400",
    "1.10",
    '"\\u0000"',
    '{"a\\u0000b": "\\u0000"}',
    '"\\ud83d\\ude00"',
    '"\\\\ud800"',
    '{"Name":1,"name":2,"a b":3,"a.b":4,"\\"":5,"$v":6}',
    '"größe 😀"',
    '{ "spaced" : [ 1 , 2 ] }',
    "false",
    "0",
    '""',
    "{}",
    '"null"',
]


@pytest.mark.parametrize("free", FREE, ids=lambda text: text[:20])
def test_free_form_values_pass_byte_for_byte(free: str) -> None:
    """Whatever is under a free-form attribute is in the table as sent, and DuckDB reads it."""
    page = decode_page(THINGS, raw_page(f'{{"id":"a","attributes":{{"free": {free} }}}}'))
    assert page.is_fast
    assert page.batch["free"].to_pylist() == [free]
    table = pa.Table.from_batches([page.batch])
    with duckdb.connect() as connection:
        connection.register("things", table)
        found = connection.execute("select json_valid(free), free from things").fetchone()
    assert found == (True, free)


PAGE = b'{"data":[%s],"links":{"self":"https://127.0.0.1/api/things","next":null}}'

LENIENT: dict[str, tuple[bytes, object, str]] = {
    "NaN": (b"NaN", None, "number: NaN or Infinity"),
    "infinities": (b'[Infinity,-Infinity,1,"NaN"]', [None, None, 1, "NaN"], "number: NaN or"),
    "NaN in a string's escapes": (b'{"a\\"NaN":NaN}', {'a"NaN': None}, "number: NaN or Infinity"),
    "a stray byte": (
        b'"caf\xe9, na\xc3\xafve"',
        "caf\ufffd, na\u00efve",
        "bytes that are not UTF-8",
    ),
    "a line break": (b'"two\nlines\tand \\n"', "two\nlines\tand \n", "control characters"),
    "all of them": (
        b'{"\xff\x01":[NaN,"\\ud800"]}',
        {"\ufffd\x01": [None, "\ufffd"]},
        "control characters",
    ),
}
"""What usual readers of JSON take, what it is read as, and a part of the notice."""


@pytest.mark.parametrize("case", LENIENT)
def test_what_usual_readers_take_for_json_is_taken(case: str) -> None:
    """It is stored as valid JSON that DuckDB reads, in every kind of place, with a notice."""
    raw, expected, message = LENIENT[case]
    one = b'{"id":"a","attributes":{"name":"x","free":%s,"new":[%s]}}' % (raw, raw)
    two = b'{"id":"b","attributes":{"name":"y","free":1}}'
    page = decode_page(THINGS, PAGE % (one + b"," + two))
    assert page.record_count == 2
    assert not page.quarantined
    first, second = page_rows(page)
    assert json.loads(first["free"] or "null") == expected
    assert json.loads(first["extra"])["new"] == [expected]
    assert second["free"] == "1"
    assert any(message in each for each in page_issues(page))
    with duckdb.connect() as connection:
        connection.register("things", pa.Table.from_batches([page.batch]))
        valid = "select bool_and(json_valid(free) and json_valid(coalesce(extra, '{}')) is true) "
        assert connection.execute(valid + "from things where free is not null").fetchone() == (
            True,
        )


def test_lenient_values_of_columns_are_null_or_text() -> None:
    """NaN where a number is declared is NULL; stray bytes in a text become U+FFFD."""
    body = PAGE % b'{"id":"a","attributes":{"name":"x\xffy\x02","free":-Infinity}}'
    page = decode_page(THINGS, body)
    first = page_rows(page)[0]
    assert (first["name"], first["free"]) == ("x\ufffdy\x02", None)


def test_ids_that_differ_in_half_a_surrogate_pair_alone_stay_two() -> None:
    """Both become U+FFFD and the digits: a record and a relationship still have the same id."""
    tags = '{"tags":{"data":[{"type":"tag","id":"x\\uD801"},{"type":"tag","id":"x\\ud802"}]}}'
    first = f'{{"type":"thing","id":"x\\ud801","attributes":{{}},"relationships":{tags}}}'
    page = decode_page(THINGS, raw_page(first, '{"type":"thing","id": "x\\ud802","attributes":{}}'))
    assert [each["id"] for each in page_rows(page)] == ["x\ufffdd801", "x\ufffdd802"]
    assert page_rows(page)[0]["tag_ids"] == ["x\ufffdd801", "x\ufffdd802"]


@pytest.mark.parametrize("half", ["\\ud800", "\\uDFFF", "\\ud83dx", "\\ude00\\ud83d", "\\ud800\\n"])
def test_half_a_surrogate_pair_is_replaced(half: str) -> None:
    """No UTF-8 and no JSON reader of DuckDB's takes half a pair: it becomes U+FFFD everywhere."""
    text = f'"a{half}b \\ud83d\\ude00 \\\\ud800"'
    one = f'{{"id":"a","attributes":{{"name":{text},"free":[{text}],"new":{text}}}}}'
    page = decode_page(THINGS, raw_page(one))
    expected = "".join(
        "\ufffd" if "\ud800" <= each <= "\udfff" else each for each in json.loads(text)
    )
    assert expected.endswith("b 😀 \\ud800")
    assert page_rows(page)[0]["name"] == expected
    assert json.loads(page_rows(page)[0]["free"]) == [expected]
    assert json.loads(page_rows(page)[0]["extra"]) == {"new": expected}
    assert "text: half of a surrogate pair, replaced by U+FFFD" in page_issues(page)
    with duckdb.connect() as connection:
        connection.register("things", pa.Table.from_batches([page.batch]))
        assert connection.execute("select json_valid(free) from things").fetchone() == (True,)


def test_nul_is_replaced_in_columns_of_text() -> None:
    """C programs end a string at NUL: columns and ids get U+FFFD, JSON text keeps its escape."""
    tags = [resource_identifier("tag", "t\0"), resource_identifier("tag", "u")]
    page = decode_page(
        THINGS,
        page_body(
            with_relationships(build_record("a", name="x\0y", free="\0"), tags=tags),
            build_record("b"),
        ),
    )
    assert page_rows(page)[0] == {
        "id": "a",
        "name": "x\ufffdy",
        "free": '"\\u0000"',
        "tag_ids": ["t\ufffd", "u"],
        "extra": None,
    }
    assert page_issues(page) == (
        "name: string with NUL characters, replaced by U+FFFD",
        "tag_ids: string with NUL characters, replaced by U+FFFD",
    )


@pytest.mark.parametrize(
    ("odd", "is_list"),
    [
        (None, False),
        ({}, False),
        ("none", False),
        (1, True),
        ("x", True),
        ({"id": "t"}, True),
        ({"type": "tag", "id": 7}, True),
    ],
)
def test_included_of_another_shape_harms_no_record(odd: object, *, is_list: bool) -> None:
    """Records are stored whatever is included; what they refer to is stored as an identifier."""
    stream = build_stream(Column("tags", "Whole.", "json", Included("tags")))
    good = resource_identifier("tag", "u") | {"n": 1}
    included = [odd, good] if is_list else odd
    tags = [resource_identifier("tag", "t"), resource_identifier("tag", "u")]
    page = decode_page(
        stream, page_body(with_relationships(build_record("a"), tags=tags), included=included)
    )
    first, second = json.loads(page_rows(page)[0]["tags"])
    assert first == resource_identifier("tag", "t")
    assert second == (good if is_list else resource_identifier("tag", "u"))
    assert page_issues(page)


def test_a_profile_that_nothing_suppresses_is_no_exclusion() -> None:
    """Profiles without a suppression are left out, those without its time are stored."""
    page = decode_page(
        EXCLUSIONS,
        page_body(
            build_record("a", suppression=[{"timestamp": "2026-01-31T00:00:00Z"}]),
            build_record("b", suppression=[]),
            build_record("c", suppression=None),
            build_record("d"),
            build_record("e", suppression=[{"timestamp": None}]),
        ),
    )
    assert page.batch["id"].to_pylist() == ["a"]
    assert [json.loads(each.record)["id"] for each in page.quarantined] == ["e"]
    assert page.record_count == 5
    assert page_issues(page) == ("suppressed_at: none, so the record is no row of this stream",)
