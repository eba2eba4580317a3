"""Faults on the wire: bodies cut, slow, late, packed wrongly."""

import json
import time
import zlib
from http.client import BadStatusLine, HTTPException, IncompleteRead

import pytest

from klaviyo_assets_tests.sandbox.breaking import EVENTS, raw, shown
from klaviyo_assets_tests.sandbox.conftest import Start


def test_reset_and_short_body_stop_in_the_middle(start: Start) -> None:
    """Half a body comes, then a reset or an end; none of it counts as shown."""
    shop = start()
    for kind, end in (("reset", "reset"), ("short_body", "closed")):
        shop.admin("DELETE", "/__faults")
        shop.fault(kind)
        found, ended = raw(shop, EVENTS)
        head, _, body = found.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert ended == end
        assert len(body) < length
    assert shown(shop) == []


def test_a_client_sees_a_cut_body_as_incomplete(start: Start) -> None:
    """The standard client reports a short body, a silent close, and a chunked body without end."""
    for kind, error in (
        ("short_body", IncompleteRead),
        ("close", BadStatusLine),
        ("broken_chunks", IncompleteRead),
    ):
        shop = start()
        shop.fault(kind)
        with pytest.raises((error, HTTPException)):
            shop.ask(EVENTS)
        assert shown(shop) == []


def test_long_body_sends_more_than_it_says(start: Start) -> None:
    """More bytes follow than the length says, so that the JSON is cut for the client."""
    shop = start()
    shop.fault("long_body")
    found, ended = raw(shop, EVENTS)
    head, _, body = found.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert ended == "closed"
    assert len(body) > length
    json.loads(body)


def test_truncated_json_is_whole_for_http(start: Start) -> None:
    """A 200 of the right length holds only the beginning of the JSON."""
    shop = start()
    shop.fault("truncated_json")
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        json.loads(shop.ask(EVENTS).body)


def test_slow_and_hanging_answers(start: Start) -> None:
    """One byte a second, and none at all, until the client gives up."""
    shop = start()
    shop.fault("slow", {"to": 1})
    shop.fault("hang", {"from": 2})
    found, ended = raw(shop, EVENTS, 0.9)
    body = found.partition(b"\r\n\r\n")[2]
    assert (ended, len(body)) == ("open", 1)
    assert raw(shop, EVENTS, 0.3) == (b"", "open")


def test_latency_bandwidth_and_chunks_are_only_slow(start: Start) -> None:
    """A late answer, a thin line and one-byte chunks all bring the whole page."""
    shop = start()
    sound = shop.get(EVENTS)["data"]
    for kind, options in (
        ("latency", {"seconds": 0.15}),
        ("bandwidth", {"bytes_per_second": 60_000}),
        ("chunks", {"size": 1}),
    ):
        shop.admin("DELETE", "/__faults")
        shop.admin("POST", "/__faults", [{"fault": {"kind": kind, **options}}])
        before = time.monotonic()
        assert shop.get(EVENTS)["data"] == sound
        assert kind == "chunks" or time.monotonic() - before >= 0.1
    assert set(shown(shop)) == {record["id"] for record in sound}


def test_bytes_can_be_wrong(start: Start) -> None:
    """A byte order mark, another charset, and gzip that cannot be read."""
    shop = start()
    shop.fault("bom", {"to": 1})
    shop.fault("charset", {"from": 2, "to": 2})
    shop.fault("bad_gzip", {"from": 3, "to": 3})
    assert shop.ask(EVENTS).body.startswith(b"\xef\xbb\xbf{")
    assert shop.ask(EVENTS).body.startswith(b"\xff\xfe")
    broken = shop.ask(EVENTS)
    assert broken.headers["content-encoding"] == "gzip"
    with pytest.raises(EOFError):
        gunzip(broken.body)


def gunzip(body: bytes) -> bytes:
    """Unpack, and raise as programs do."""
    try:
        return zlib.decompress(body, 31)
    except zlib.error as error:
        raise EOFError from error
