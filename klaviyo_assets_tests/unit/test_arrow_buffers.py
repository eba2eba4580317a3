"""Arrays built from buffers are those that Arrow itself makes of the same values."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from klaviyo_assets import arrow_buffers
from klaviyo_assets.arrow_buffers import (
    build_array,
    build_json_array,
    build_timestamp_array,
    timestamp_scalar,
)

TEXT = st.one_of(st.sampled_from(["", "a", "é", "\0", "𝄞 clef"]), st.text(max_size=8))
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): TEXT,
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.list_(pa.string()): st.lists(TEXT, max_size=3),
}


@pytest.mark.parametrize("kind", VALUES, ids=str)
@given(data=st.data())
def test_values_are_as_arrow_reads_them(kind: pa.DataType, data: st.DataObject) -> None:
    """Of every type, NULL among them or not, none at all or all NULL."""
    some = data.draw(st.lists(VALUES[kind], max_size=20))
    mixed = data.draw(st.permutations([*some, *[None] * data.draw(st.integers(0, 9))]))
    for found in (some, mixed, [None] * 3):
        made = build_array(found, kind)
        made.validate(full=True)
        assert made.equals(pa.array(found, kind))


def test_a_type_that_is_not_built_here_is_refused() -> None:
    """No value becomes something else in silence."""
    with pytest.raises(KeyError):
        build_array([1], pa.int32())


def test_more_text_than_offsets_can_tell_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets of 32 bits would wrap around; shown with a limit of three bytes."""
    monkeypatch.setattr(arrow_buffers, "_MAX_TEXT_BYTES", 3)
    assert build_array(["abc"], pa.string()).to_pylist() == ["abc"]
    with pytest.raises(OverflowError, match="4 bytes of text"):
        build_array(["abc", "d"], pa.string())
    with pytest.raises(OverflowError):
        build_json_array([b'"ab"'])


def test_json_is_as_it_was_sent() -> None:
    """Spaces stay; null and absent values are NULL, other values of four bytes are not."""
    sent = [Raw(b'{"a": 1}'), b"null", b"", b"true", b'"null"', Raw(b"null"), '"é"'.encode()]
    assert build_json_array(sent).to_pylist() == [
        '{"a": 1}',
        None,
        None,
        "true",
        '"null"',
        None,
        '"é"',
    ]


@given(
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7, minutes=30))])),
    st.integers(0, 3),
)
def test_a_moment_is_as_arrow_reads_it(at: datetime, rows: int) -> None:
    """To the microsecond, before 1970 and after, whatever its zone."""
    kind = pa.timestamp("us", tz="UTC")
    assert build_timestamp_array(at, rows).equals(pa.array([at] * rows, kind))
    assert timestamp_scalar(at).equals(pa.scalar(at, kind))
