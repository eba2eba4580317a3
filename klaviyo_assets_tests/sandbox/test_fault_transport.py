"""Faults on the wire: bodies cut, slow, late, packed wrongly."""

import json
import time
import zlib
from http.client import BadStatusLine, HTTPException, IncompleteRead

import pytest

from klaviyo_assets_tests.sandbox.conftest import StartSandbox
from klaviyo_assets_tests.sandbox.raw_responses import EVENTS_TARGET, read_raw_response, shown_ids


def test_reset_and_short_body_stop_in_the_middle(start_sandbox: StartSandbox) -> None:
    """Half a body comes, then a reset or an end; none of it counts as shown."""
    client = start_sandbox()
    for kind, end in (("reset", "reset"), ("short_body", "closed")):
        client.call_admin("DELETE", "/__faults")
        client.add_fault(kind)
        found, ended = read_raw_response(client, EVENTS_TARGET)
        head, _, body = found.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert ended == end
        assert len(body) < length
    assert shown_ids(client) == []


def test_a_client_sees_a_cut_body_as_incomplete(start_sandbox: StartSandbox) -> None:
    """The standard client reports a short body, a silent close, and a chunked body without end."""
    for kind, error in (
        ("short_body", IncompleteRead),
        ("close", BadStatusLine),
        ("broken_chunks", IncompleteRead),
    ):
        client = start_sandbox()
        client.add_fault(kind)
        with pytest.raises((error, HTTPException)):
            client.request(EVENTS_TARGET)
        assert shown_ids(client) == []


def test_long_body_sends_more_than_it_says(start_sandbox: StartSandbox) -> None:
    """More bytes follow than the length says, so that the JSON is cut for the client."""
    client = start_sandbox()
    client.add_fault("long_body")
    found, ended = read_raw_response(client, EVENTS_TARGET)
    head, _, body = found.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert ended == "closed"
    assert len(body) > length
    json.loads(body)


def test_truncated_json_is_whole_for_http(start_sandbox: StartSandbox) -> None:
    """A 200 of the right length holds only the beginning of the JSON."""
    client = start_sandbox()
    client.add_fault("truncated_json")
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        json.loads(client.request(EVENTS_TARGET).body)


def test_slow_and_hanging_answers(start_sandbox: StartSandbox) -> None:
    """One byte a second, and none at all, until the client gives up."""
    client = start_sandbox()
    client.add_fault("slow", {"to": 1})
    client.add_fault("hang", {"from": 2})
    found, ended = read_raw_response(client, EVENTS_TARGET, 0.9)
    body = found.partition(b"\r\n\r\n")[2]
    assert (ended, len(body)) == ("open", 1)
    assert read_raw_response(client, EVENTS_TARGET, 0.3) == (b"", "open")


def test_latency_bandwidth_and_chunks_are_only_slow(start_sandbox: StartSandbox) -> None:
    """Latency, low bandwidth and one-byte chunks all bring the whole page."""
    client = start_sandbox()
    sound = client.get_document(EVENTS_TARGET)["data"]
    for kind, options in (
        ("latency", {"seconds": 0.15}),
        ("bandwidth", {"bytes_per_second": 60_000}),
        ("chunks", {"size": 1}),
    ):
        client.call_admin("DELETE", "/__faults")
        client.call_admin("POST", "/__faults", [{"fault": {"kind": kind, **options}}])
        before = time.monotonic()
        assert client.get_document(EVENTS_TARGET)["data"] == sound
        assert kind == "chunks" or time.monotonic() - before >= 0.1
    assert set(shown_ids(client)) == {record["id"] for record in sound}


def test_bytes_can_be_wrong(start_sandbox: StartSandbox) -> None:
    """A byte order mark, another charset, and gzip that cannot be read."""
    client = start_sandbox()
    client.add_fault("bom", {"to": 1})
    client.add_fault("charset", {"from": 2, "to": 2})
    client.add_fault("bad_gzip", {"from": 3, "to": 3})
    assert client.request(EVENTS_TARGET).body.startswith(b"\xef\xbb\xbf{")
    assert client.request(EVENTS_TARGET).body.startswith(b"\xff\xfe")
    broken = client.request(EVENTS_TARGET)
    assert broken.headers["content-encoding"] == "gzip"
    with pytest.raises(EOFError):
        gunzip(broken.body)


def gunzip(body: bytes) -> bytes:
    """Unpack, and raise as programs do."""
    try:
        return zlib.decompress(body, 31)
    except zlib.error as error:
        raise EOFError from error
