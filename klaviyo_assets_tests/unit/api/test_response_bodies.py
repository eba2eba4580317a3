"""A good response is decompressed, a refusal raised, and a broken body is neither."""

import gzip
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.api.messages import check_response
from klaviyo_assets.errors import BrokenBodyError, LargeBodyError, RateLimitError, ServerError
from klaviyo_assets_tests.unit.api.samples import build_request, build_response

PAGE = b'{"data":[]}' * 100
PACKED = gzip.compress(PAGE)
GZIP = {"content-encoding": "gzip"}


def test_a_plain_body_passes() -> None:
    """Without a coding the bytes are the body."""
    assert check_response(build_response(200, PAGE), build_request(), max_bytes=2**20).body == PAGE


@pytest.mark.parametrize("name", ["gzip", "GZIP", " gzip ", "x-gzip"])
def test_gzip_is_undone(name: str) -> None:
    """However the coding is spelled, the reader gets what was meant."""
    answer = build_response(200, PACKED, {"content-encoding": name})
    assert check_response(answer, build_request(), max_bytes=2**20).body == PAGE


def test_gzip_of_several_members_is_one_body() -> None:
    """A proxy may pack piece by piece."""
    packed = gzip.compress(PAGE[:50]) + gzip.compress(PAGE[50:])
    assert (
        check_response(build_response(200, packed, GZIP), build_request(), max_bytes=2**20).body
        == PAGE
    )


@pytest.mark.parametrize(
    "body",
    [PACKED[:-1], PACKED[:40], b"plain after all", PACKED[:30] + b"\xff" * 9 + PACKED[39:]],
    ids=["crc", "cut", "plain", "garbled"],
)
def test_broken_gzip_is_a_broken_body(body: bytes) -> None:
    """Half or garbled gzip never reaches the reader; it is worth another try."""
    with pytest.raises(BrokenBodyError, match="its gzip is broken") as caught:
        check_response(build_response(200, body, GZIP), build_request(), max_bytes=2**20)
    assert str(caught.value).startswith("GET /api/events was answered with 200")


@given(
    text=st.binary(max_size=300),
    level=st.integers(0, 9),
    at=st.integers(0, 400),
    byte=st.integers(0, 255),
    end=st.integers(0, 400),
)
def test_no_damage_passes_for_the_text(
    text: bytes, level: int, at: int, byte: int, end: int
) -> None:
    """Whichever byte is another one, wherever the body ends: it is the text, or it is refused."""
    packed = bytearray(gzip.compress(text, level, mtime=0))
    packed[at % len(packed)] = byte
    answer = build_response(200, bytes(packed[: max(1, end)]), GZIP)
    with suppress(BrokenBodyError):
        assert check_response(answer, build_request(), max_bytes=2**20).body == text


def test_a_coding_that_was_not_requested_is_broken() -> None:
    """Only gzip is requested; any other encoding is a broken body."""
    answer = build_response(200, zlib.compress(PAGE), {"content-encoding": "deflate"})
    with pytest.raises(BrokenBodyError, match="'deflate' was not requested"):
        check_response(answer, build_request(), max_bytes=2**20)


def test_a_refusal_is_raised_with_its_reason_unpacked() -> None:
    """The body of an error is packed like any other."""
    packed = gzip.compress(b'{"errors":[{"code":"throttled","detail":"Slow down."}]}')
    with pytest.raises(RateLimitError, match=r"throttled: Slow down"):
        check_response(build_response(429, packed, GZIP), build_request(), max_bytes=2**20)


def test_a_refusal_with_a_broken_body_stays_a_refusal() -> None:
    """The status says enough."""
    with pytest.raises(ServerError, match="503"):
        check_response(build_response(503, PACKED[:20], GZIP), build_request(), max_bytes=2**20)


BLANKS = gzip.compress(b" " * 2**19)
LYING = gzip.compress(b" " * 2**21)[:-4] + b"\1\0\0\0"


@pytest.mark.parametrize("packed", [gzip.compress(b" " * (2**20 + 1)), BLANKS * 3, LYING])
def test_what_unpacks_to_too_much_is_refused(packed: bytes) -> None:
    """By what comes out, not by what gzip says of itself; up to the bound it is a body."""
    with pytest.raises(LargeBodyError, match="more than 1 MiB, which was refused"):
        check_response(build_response(200, packed, GZIP), build_request(), max_bytes=2**20)
    with pytest.raises(ServerError, match="503"):
        check_response(build_response(503, packed, GZIP), build_request(), max_bytes=2**20)
    two = check_response(build_response(200, BLANKS * 2, GZIP), build_request(), max_bytes=2**20)
    assert len(two.body) == 2**20


def test_an_empty_body_needs_no_unpacking() -> None:
    """Nothing, said to be gzip, is nothing; the reader decides what that means."""
    assert (
        check_response(build_response(200, b"", GZIP), build_request(), max_bytes=2**20).body == b""
    )
