"""What every part of a sync shares: client, lake and settings, and how a page is fetched."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import TypeVar

from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.messages import Request, Response
from klaviyo_assets.api.requests import (
    has_page_cursor,
    included_resources,
    remove_includes,
)
from klaviyo_assets.api.retry import AdaptivePageSize
from klaviyo_assets.decode.decoder import DecodedPage, PageDecoder
from klaviyo_assets.errors import (
    CursorLostError,
    MissingScopeError,
    PageSizeError,
    RequestError,
    ServerError,
    SettingError,
)
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.column import FirstIncludedId, Included, RelatedIds
from klaviyo_assets.model.stream import SCOPE_BY_INCLUDE, Collection, Slice, Stream
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.concurrency import TimedLock
from klaviyo_assets.sync.window_reader import PageFetcher, RequestContext

_IncludedT = TypeVar("_IncludedT")


class RefusedIncludes:
    """The parts of a stream's `include` that this key was refused; safe for threads."""

    def __init__(self, stream: Stream, warn: Callable[[str], None]) -> None:
        """Know of none; `warn` takes a sentence once others have been read without them."""
        self._stream, self._warn = stream, warn
        self._lock = Lock()
        self._refused = frozenset[str]()
        self._is_unreported = False

    def fetch(self, request: Request, send: Callable[[Request], _IncludedT]) -> _IncludedT:
        """Return what `send` brings for the request, without what the key may not read of it.

        Raises:
            MissingScopeError: it is the stream itself that the key may not read; and all of `send`.
        """
        while True:
            sent = remove_includes(request, self._refused) if self._refused else request
            try:
                found = send(sent)
            except MissingScopeError as error:
                if not self._record_refusal(sent, error):
                    raise
            else:
                self._warn_once()
                return found

    def _record_refusal(self, sent: Request, error: MissingScopeError) -> bool:
        """Note what a refusal is about; tell whether the request is worth sending without it.

        Where Klaviyo names no scope, all is given up that needs another one than the stream does.
        """
        own = set(self._stream.scopes)
        if own.intersection(error.scopes):
            return False
        refused = {
            part
            for part in included_resources(sent)
            if (scope := SCOPE_BY_INCLUDE.get(part)) not in own
            and (scope in error.scopes or not error.scopes)
        }
        with self._lock:
            self._is_unreported = self._is_unreported or not refused <= self._refused
            self._refused |= refused
        return bool(refused)

    def _warn_once(self) -> None:
        """Say what is missing from the rows, once: a page without it has come."""
        if not self._is_unreported:
            return
        with self._lock:
            refused, is_told = self._refused, not self._is_unreported
            self._is_unreported = False
        if is_told:
            return
        scopes = sorted({SCOPE_BY_INCLUDE.get(each) or each for each in refused})
        columns = [
            each.name for each in self._stream.columns if _is_included_source(each.source, refused)
        ]
        missing = f"{', '.join(columns)} may be NULL in what was read" if columns else "no column"
        self._warn(
            f"{self._stream.name}: the key lacks the scope {' and '.join(scopes)}, so "
            f"{' and '.join(sorted(refused))} is not included and {missing}; all else is read. "
            "Make a key with it, then materialize the asset once with sync_mode "
            "full_refresh_overwrite"
        )


def _is_included_source(source: object, refused: frozenset[str]) -> bool:
    """Tell whether Klaviyo sends a column's values only with one of these parts of `include`."""
    is_included = isinstance(source, Included | FirstIncludedId | RelatedIds)
    return is_included and source.relationship in refused


_FetchedT = TypeVar("_FetchedT")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncContext:
    """Everything a sync works with."""

    client: KlaviyoClient
    lake: Lake
    settings: Settings
    account: str
    clock: Callable[[], datetime]
    warn: Callable[[str], None]
    """Takes a sentence for the operator: what was unexpected and what is done about it."""
    salt: bytes = field(default=b"", repr=False)
    """What hashed columns are hashed with; empty where there are none."""


def build_request_context(
    stream: Stream,
    decoder: PageDecoder,
    *,
    context: SyncContext,
    requested_fields: tuple[str, ...] | None = None,
) -> RequestContext:
    """Return what the walks of a sync of the stream ask with.

    `requested_fields`: only these attributes.
    """
    decode_lock, source = TimedLock(), stream.source
    size = AdaptivePageSize(source.page_size if isinstance(source, Collection) else None)
    return RequestContext(
        stream=stream,
        base_url=context.settings.base_url,
        excluded_fields=context.settings.excluded_additional_fields,
        fetch_page=build_page_fetcher(
            stream, decoder, context=context, decode_lock=decode_lock, page_size=size
        ),
        decode_lock=decode_lock,
        page_size=size,
        requested_fields=requested_fields,
    )


def build_page_fetcher(
    stream: Stream,
    decoder: PageDecoder,
    *,
    context: SyncContext,
    decode_lock: TimedLock,
    page_size: AdaptivePageSize,
) -> PageFetcher:
    """Return what sends a request and decodes its page, with when it was answered.

    One page is decoded at a time: threads do not speed it up, but each would hold a page thrice.
    """
    includes = RefusedIncludes(stream, context.warn)

    def read(request: Request, slice_: Slice) -> tuple[DecodedPage, datetime]:
        def decode(answer: Response) -> tuple[DecodedPage, datetime]:
            with decode_lock:
                page = decoder.decode(answer.body, synced_at=answer.responded_at, slice_=slice_)
            page_size.record_page(records=page.record_count, size=len(answer.body))
            return page, answer.responded_at

        def fetch(sent: Request) -> tuple[DecodedPage, datetime]:
            shrink = page_size.shrink_after_failure
            return context.client.fetch(sent, decode, stream=stream.name, shrink=shrink)

        def ask(sent: Request) -> tuple[DecodedPage, datetime]:
            return fetch_with_smaller_pages(sent, page_size, fetch)

        try:
            return includes.fetch(request, ask)
        except RequestError as error:
            if slice_.name not in context.settings.event_metric_ids:
                raise
            raise SettingError(
                f"KLAVIYO_EVENT_METRIC_IDS names {slice_.name!r}, and Klaviyo's filter of events "
                f"does not take it (ids of custom metrics are not taken). {error.message}",
                stream=stream.name,
            ) from error
        except ServerError as error:
            error.message += _suggest_workaround(stream, context.settings)
            raise

    return read


def fetch_with_smaller_pages(
    request: Request, page_size: AdaptivePageSize, send: Callable[[Request], _FetchedT]
) -> _FetchedT:
    """Return what `send` brings, with fewer records a page where Klaviyo refuses their number.

    Raises:
        PageSizeError: a single record is refused as well, or what a next link says as it comes.
        CursorLostError: a next link is refused whose size was changed; and all of `send`.
    """
    while True:
        fitted = page_size.resize(request)
        try:
            return send(fitted)
        except PageSizeError as error:
            if fitted is not request and has_page_cursor(request):
                raise CursorLostError(error.message, stream=error.stream) from error
            if not page_size.step_down(fitted):
                raise


def _suggest_workaround(stream: Stream, settings: Settings) -> str:
    """Return what an operator can do when Klaviyo fails again and again; empty: only wait.

    Of the fields that come only on request, some make Klaviyo's answers slow enough to fail.
    """
    extras = stream.source.additional_fields if isinstance(stream.source, Collection) else ()
    return "".join(
        f" Asking for {each.name} may be too much: KLAVIYO_DISABLE_{each.name.upper()}=true leaves "
        "it out, and the rest is read."
        for each in extras
        if each.is_optional and each.name not in settings.excluded_additional_fields
    )
