"""Resources that were requested separately stand in a page as included ones do."""

import json

from klaviyo_assets.decode.jsonapi import add_included_resources, parse_record_ids

PAGE = json.dumps(
    {
        "data": [
            {"type": "letter", "id": "a", "attributes": {"n": 1}, "relationships": {"box": {}}},
            {"type": "letter", "id": "b", "relationships": {"stamps": {"links": {"self": "/b"}}}},
            {"type": "letter", "id": "c"},
            {"type": "letter", "id": ""},
        ],
        "included": [{"type": "box", "id": "x"}],
        "links": {"self": "/letters"},
    }
).encode()
STAMP = {"type": "stamp", "id": "s", "attributes": {"price": 1.50}}


def test_a_page_is_as_if_the_resources_had_been_included() -> None:
    """Each record names its own, and all stand beside what the page included already."""
    assert parse_record_ids(PAGE) == ["a", "b", "c"]
    related = {"b": json.dumps({"data": [STAMP]}).encode(), "c": b'{"data": null}'}
    page = json.loads(add_included_resources(PAGE, related, relationship="stamps"))
    assert page["included"] == [{"type": "box", "id": "x"}, STAMP]
    assert page["links"] == {"self": "/letters"}
    a, b, c, nameless = page["data"]
    assert a["relationships"] == {"box": {}, "stamps": {"data": []}}
    assert a["attributes"] == {"n": 1}
    assert b["relationships"]["stamps"] == {
        "links": {"self": "/b"},
        "data": [{"type": "stamp", "id": "s"}],
    }
    assert c["relationships"]["stamps"] == {"data": []}
    assert nameless == {"type": "letter", "id": ""}


def test_text_that_is_no_strict_json_is_mended_on_the_way() -> None:
    """What lenient readers take from Klaviyo is taken here too."""
    related = {"a": b'{"data":[{"type":"stamp","id":"s","attributes":{"price":NaN}}]}'}
    page = json.loads(add_included_resources(PAGE, related, relationship="stamps"))
    assert page["included"][1]["attributes"] == {"price": None}
