"""A fan-out of details that is stopped while requests are in flight."""

from datetime import UTC, datetime
from threading import Event, Thread

from klaviyo_assets.api.messages import Request
from klaviyo_assets.api.retry import AdaptivePageSize
from klaviyo_assets.decode.decoder import DecodedPage, PageDecoder
from klaviyo_assets.model.stream import Slice
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.sync.details import FanOut
from klaviyo_assets.sync.window_reader import RequestContext

STREAM = STREAMS["lists_detailed"]
NOW = datetime(2026, 9, 30, 12, tzinfo=UTC)


def test_what_is_stopped_does_not_wait_for_its_requests() -> None:
    """A request may wait minutes for the rate limit, until the client is cancelled after this."""
    decoder, is_cancelled = PageDecoder(STREAM), Event()

    def fetch_page(request: Request, slice_: Slice) -> tuple[DecodedPage, datetime]:
        if not request.path.endswith("/first"):
            assert is_cancelled.wait(60)
        body = b'{"data":{"type":"list","id":"first","attributes":{"profile_count":1}}}'
        return decoder.decode(body, synced_at=NOW, slice_=slice_), NOW

    fan_out = FanOut(
        context=RequestContext(
            stream=STREAM,
            base_url="http://127.0.0.1",
            excluded_fields=frozenset(),
            fetch_page=fetch_page,
            page_size=AdaptivePageSize(None),
        ),
        parents=dict.fromkeys(("first", "second", "third")),
        decoder=decoder,
        requested_at=NOW,
        has_stored_rows=False,
        read_stored=None,
    )
    results = fan_out.results()
    next(results)
    stopping = Thread(target=results.close)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType]
    stopping.start()
    stopping.join(20)
    is_waiting = stopping.is_alive()
    is_cancelled.set()
    stopping.join()
    assert not is_waiting
