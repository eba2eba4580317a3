"""What every sync works with, and how it asks: requests sent, pages decoded, refusals explained.

What belongs here: what the windows of a collection and a fan-out share. What does not: choosing
what to ask for (`begin`), and carrying it out (`pull`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from klaviyo_assets.api.client import Answer, Client
from klaviyo_assets.api.page_size import PageSize
from klaviyo_assets.api.protocol import Request, has_cursor
from klaviyo_assets.errors import (
    CursorLostError,
    PageSizeError,
    RequestError,
    ServerError,
    SettingError,
)
from klaviyo_assets.lake import Lake
from klaviyo_assets.model.stream import Collection, Slice, Stream
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.includes import RefusedIncludes
from klaviyo_assets.sync.pace import Turn
from klaviyo_assets.sync.walk import Ask, PageReader
from klaviyo_assets.tables.decode import Page, PageDecoder

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Everything a sync works with."""

    client: Client
    lake: Lake
    settings: Settings
    account: str
    clock: Callable[[], datetime]
    say: Callable[[str], None]
    """Takes a sentence for the operator: what was unexpected and what is done about it."""
    salt: bytes = field(default=b"", repr=False)
    """What hashed columns are hashed with; empty where there are none."""


def ask_of(
    stream: Stream, decoder: PageDecoder, *, desk: Desk, fields: tuple[str, ...] | None = None
) -> Ask:
    """Return what the walks of a sync of the stream ask with; `fields`: only these attributes."""
    turn, source = Turn(), stream.source
    size = PageSize(source.page_size if isinstance(source, Collection) else None)
    return Ask(
        stream=stream,
        base_url=desk.settings.base_url,
        left_out=desk.settings.left_out,
        read=page_reader(stream, decoder, desk=desk, turn=turn, page_size=size),
        turn=turn,
        page_size=size,
        fields=fields,
    )


def page_reader(
    stream: Stream, decoder: PageDecoder, *, desk: Desk, turn: Turn, page_size: PageSize
) -> PageReader:
    """Return what sends a request and decodes its page, with when it was answered.

    One page is decoded at a time: threads do not speed it up, but each would hold a page thrice.
    """
    includes = RefusedIncludes(stream, desk.say)

    def read(request: Request, slice_: Slice) -> tuple[Page, datetime]:
        def decode(answer: Answer) -> tuple[Page, datetime]:
            with turn:
                page = decoder.decode(answer.body, synced_at=answer.at, slice_=slice_)
            page_size.note(records=page.records, size=len(answer.body))
            return page, answer.at

        def ask(sent: Request) -> tuple[Page, datetime]:
            return in_a_size_taken(
                sent,
                page_size,
                lambda fitted: desk.client.read(
                    fitted, decode, stream=stream.name, smaller=page_size.smaller
                ),
            )

        try:
            return includes.read(request, ask)
        except RequestError as error:
            if slice_.name not in desk.settings.event_metric_ids:
                raise
            raise SettingError(
                f"KLAVIYO_EVENT_METRIC_IDS names {slice_.name!r}, and Klaviyo's filter of events "
                f"does not take it (ids of custom metrics are not taken). {error.message}",
                stream=stream.name,
            ) from error
        except ServerError as error:
            error.message += _way_round(stream, desk.settings)
            raise

    return read


def in_a_size_taken(
    request: Request, page_size: PageSize, ask: Callable[[Request], Found]
) -> Found:
    """Return what `ask` brings, with fewer records a page where Klaviyo refuses their number.

    Raises:
        PageSizeError: a single record is refused as well, or what a next link says as it comes.
        CursorLostError: a next link is refused whose size was changed; and all of `ask`.
    """
    while True:
        fitted = page_size.fitted(request)
        try:
            return ask(fitted)
        except PageSizeError as error:
            if fitted is not request and has_cursor(request):
                raise CursorLostError(error.message, stream=error.stream) from error
            if not page_size.step_down(fitted):
                raise


def _way_round(stream: Stream, settings: Settings) -> str:
    """Return what an operator can do when Klaviyo fails again and again; empty: only wait.

    Of the fields that come only on request, some make Klaviyo's answers slow enough to fail.
    """
    extras = stream.source.additional_fields if isinstance(stream.source, Collection) else ()
    return "".join(
        f" Asking for {each.name} may be too much: KLAVIYO_DISABLE_{each.name.upper()}=true leaves "
        "it out, and the rest is read."
        for each in extras
        if each.optional and each.name not in settings.left_out
    )
