"""What names a person in a text, however it is written, and what only looks like it."""

import json

import pytest

from klaviyo_assets.lake.maintenance.file_search import MAX_LINEAR_TERMS, SearchTerms

MAIL, ID, PHONE = "ada@example.com", "01KB5TJ8R4", "+15550123"
MANY = [f"nobody{at}" for at in range(MAX_LINEAR_TERMS + 1)]


def terms(*others: str) -> SearchTerms:
    """Return the three, and others."""
    return SearchTerms([MAIL, ID, PHONE, *others])


@pytest.mark.parametrize("others", [(), MANY], ids=["few", "many"])
@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        ("see Ada@EXAMPLE.com.", True),
        (f'"{ID.lower()}"', True),
        (f"profile_{ID}?x", True),
        (r"ada\u0040example.com", True),
        (r"\\\u0041da\\u0040example.com", True),
        (json.dumps(json.dumps({"e": json.dumps({"e": "ada\u0040example.com"})})), True),
        ("?email=ada%40example.com&tel=", True),
        ("?tel=%2B15550123", True),
        ("%2541da%2540example.com", True),
        ("&#97;da&#x40;example.com", True),
        ("é ada@example.com é", True),
        ("tel+15550123", True),
        ("nada@example.com", False),
        ("x.ada@example.com", False),
        ("ada@example.com.au", False),
        (f"{ID}A", False),
        ("155501234", False),
        ("", False),
    ],
)
def test_a_text_names_somebody_or_does_not(text: str, others: list[str], *, is_named: bool) -> None:
    """Case and escapes hide nothing, and a part of a longer word is another one."""
    assert terms(*others).is_any_in_text(text.encode()) is is_named


def test_a_name_beyond_ascii_has_one_case() -> None:
    """An address of another script is found in capitals, and behind JSON's escapes."""
    known = SearchTerms(["jürgen@exämple.de"])
    assert known.is_any_in_text("JÜRGEN@EXÄMPLE.DE".encode())
    assert known.is_any_in_text(json.dumps("Jürgen@Exämple.de").encode())


def test_values_wall_to_wall_are_found_in_bytes() -> None:
    """A page of a database separates nothing."""
    assert terms().is_any_in_bytes(b"\x01A" + ID.encode() + MAIL.upper().encode())
    assert not terms().is_any_in_bytes(b"\x00\x01")


def test_a_longer_word_of_the_rows_is_no_find_in_their_pages() -> None:
    """An address inside a longer one of the rows is no match; elsewhere it counts as one."""
    longer: set[bytes] = set()
    assert not terms().is_any_in_text(b"of Nada@Example.com, x", longer)
    assert longer == {b"nada@example.com"}
    page = b"\x02Bobnada@example.com\x07"
    assert not terms().is_any_in_bytes(page, longer)
    assert not terms().is_any_in_bytes(page[6:], longer)
    assert terms().is_any_in_bytes(page)
    assert terms().is_any_in_bytes(page + b"ada@example.com", longer)
    assert terms().is_any_in_bytes(b"\x02Bobada@example.com", longer)


def test_nobody_is_in_no_text() -> None:
    """Without terms nothing is named, and empty ones are left out."""
    assert not SearchTerms([""])
    assert not SearchTerms([""]).is_any_in_text(b"anything")
