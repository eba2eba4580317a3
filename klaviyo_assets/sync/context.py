"""Holds what all parts of a sync share: client, lake, privacy, and how a page is fetched.

A page is fetched without the included resources that are refused. A key without their scope leaves
their columns NULL. Where Klaviyo does not offer an include, which no published fact settles for all
of them, the resources are requested record by record, and put into the page where the include would
have had them.
"""

import hmac
import shlex
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from threading import Lock
from typing import TypeVar, cast

from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.messages import Request, Response
from klaviyo_assets.api.requests import (
    has_page_cursor,
    included_resources,
    related_request,
    remove_includes,
    sparse_fieldset,
)
from klaviyo_assets.api.retry import AdaptivePageSize
from klaviyo_assets.decode.decoder import DecodedPage, PageDecoder
from klaviyo_assets.decode.jsonapi import (
    add_included_resources,
    check_response_envelope,
    parse_record_ids,
)
from klaviyo_assets.errors import (
    CorruptFileError,
    CursorLostError,
    MissingScopeError,
    NotFoundError,
    PageSizeError,
    RequestError,
    ServerError,
    SettingError,
)
from klaviyo_assets.lake.delta.state import TableState
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import HISTORY_SUFFIX
from klaviyo_assets.model.column import EXTRA_FIELD, FirstIncludedId, Included, RelatedIds
from klaviyo_assets.model.privacy import PrivacyRules, resolve_privacy_rules
from klaviyo_assets.model.stream import SCOPE_BY_INCLUDE, Collection, Slice, Stream
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.window_reader import PageFetcher, RequestContext

_FetchedT = TypeVar("_FetchedT")

BAD_REQUEST = 400


class RefusedIncludes:
    """Fetches pages without the included resources that were refused. Thread-safe.

    Each refusal is remembered, so that a sync learns of it once.
    """

    def __init__(self, stream: Stream, warn: Callable[[str], None]) -> None:
        """Start with no refusals; `warn` is called once a page was read without a resource."""
        self._stream, self._warn = stream, warn
        source = stream.source
        self._paths = source.related_paths if isinstance(source, Collection) else {}
        """The paths of what can be requested record by record, by the name in `include`."""
        self._lock = Lock()
        self._refused = frozenset[str]()
        self._unoffered = frozenset[str]()
        self._is_unreported = False
        # Readers that start together would each be refused: one finds it out for all of them.
        self._first_try: Lock | None = Lock() if self._paths else None

    @property
    def separate_paths(self) -> dict[str, str]:
        """Return the paths of what is requested record by record from now on, by its name."""
        return {name: self._paths[name] for name in sorted(self._unoffered)}

    def fetch(self, request: Request, send: Callable[[Request], _FetchedT]) -> _FetchedT:
        """Return the result of `send`, for the request without the includes that were refused.

        Raises:
            MissingScopeError: the key may not read the stream itself.
            KlaviyoAssetsError: as `send` says.
        """
        with self._first_try or nullcontext():
            found = self._fetch(request, send)
            self._first_try = None
        return found

    def _fetch(self, request: Request, send: Callable[[Request], _FetchedT]) -> _FetchedT:
        while True:
            sent = remove_includes(request, self._refused) if self._refused else request
            try:
                found = send(sent)
            except MissingScopeError as error:
                if not self._record_refusal(sent, error):
                    raise
            except RequestError as error:
                if not self._record_unoffered(sent, error):
                    raise
            else:
                self._warn_once()
                return found

    def _record_refusal(self, sent: Request, error: MissingScopeError) -> bool:
        """Record which includes were refused; return whether to send the request without them.

        Where Klaviyo names no scope, every include is dropped that needs another scope than the
        stream's own.
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

    def _record_unoffered(self, sent: Request, error: RequestError) -> bool:
        """Record what Klaviyo does not include; return whether to send the request without it.

        The error names the parameter, and in its text the resource. Where it names none, all are
        dropped that can be requested record by record.
        """
        detail = error.detail or ""
        is_of_include = "include" in (error.source or "") or "include" in detail
        requested = included_resources(sent)
        named = [each for each in requested if f"'{each}'" in detail] or requested
        unoffered = {each for each in named if each in self._paths}
        if error.status != BAD_REQUEST or not is_of_include or not unoffered:
            return False
        with self._lock:
            is_new = not unoffered <= self._refused
            self._refused |= unoffered
            self._unoffered |= unoffered
        if is_new:
            self._warn(
                f"{self._stream.name}: Klaviyo does not include {' and '.join(sorted(unoffered))} "
                "in this list, so they are requested record by record: a request more for each "
                "record that is read"
            )
        return True

    def _warn_once(self) -> None:
        """Warn once, after the first page without them, which columns are missing."""
        if not self._is_unreported:
            return
        with self._lock:
            refused, is_reported = self._refused - self._unoffered, not self._is_unreported
            self._is_unreported = False
        if is_reported:
            return
        scopes = sorted({SCOPE_BY_INCLUDE.get(each) or each for each in refused})
        columns = [
            each.name
            for each in self._stream.columns
            if isinstance(each.source, Included | FirstIncludedId | RelatedIds)
            and each.source.relationship in refused
        ]
        missing = f"{', '.join(columns)} may be NULL in what was read" if columns else "no column"
        self._warn(
            f"{self._stream.name}: the key lacks the scope {' and '.join(scopes)}, so "
            f"{' and '.join(sorted(refused))} is not included and {missing}; all else is read. "
            "Make a key with it, then materialize the asset once with sync_mode "
            "full_refresh_overwrite"
        )


def fetch_completed_page(
    request: Request, separate_paths: dict[str, str], *, stream: Stream, client: KlaviyoClient
) -> Response:
    """Return a page with the resources at `separate_paths`, as if they had been included.

    A request for each of its records and each path; a record that is gone by then has none.

    Raises:
        KlaviyoAssetsError: as the client says, of the page or of one of its records: to store a
            record without what belongs to it would count it as read.
    """

    def check_page(response: Response) -> Response:
        check_response_envelope(response.body, stream=stream.name, is_paged=True)
        return response

    def check_related(response: Response) -> bytes:
        check_response_envelope(response.body, stream=stream.name, is_paged=False)
        return response.body

    page = client.fetch(request, check_page, stream=stream.name)
    body = page.body
    for name, path in separate_paths.items():
        related: dict[str, bytes] = {}
        for record_id in parse_record_ids(body):
            try:
                related[record_id] = client.fetch(
                    related_request(stream, path, record_id), check_related, stream=stream.name
                )
            except NotFoundError:
                continue
        body = add_included_resources(body, related, relationship=name)
    return replace(page, body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncContext:
    """Everything a sync works with."""

    client: KlaviyoClient
    lake: Lake
    settings: Settings
    account: str
    clock: Callable[[], datetime]
    warn: Callable[[str], None]
    """Shows the operator a sentence: what was unexpected and what is done about it."""
    salt: bytes = field(default=b"", repr=False)
    """The salt of hashed columns; empty where there are none."""


ROW_CLAIMS_KEY = "protected"
HISTORY_CLAIMS_KEY = "history_protected"
"""Keys of a commit's state: the privacy claims of the table and of its history."""


PrivacyClaims = Mapping[str, str]
"""How each column is protected, in words, by its name."""


def build_privacy_claims(privacy: PrivacyRules) -> PrivacyClaims:
    """Return how the rules protect each column; a salt is named by a hash of it."""
    claims = {
        name: f"only {'|'.join(sorted(keys))}" for name, keys in privacy.allowed_json_keys.items()
    }
    salt = hmac.digest(privacy.salt, b"klaviyo_assets", "sha256").hex()[:12]
    claims |= dict.fromkeys(privacy.hashed_columns, f"hashed with {salt}")
    for name, members in privacy.json_members.items():
        parts = [f"without {each}" for each in sorted(members.excluded)]
        parts += [f"{each} hashed with {salt}" for each in sorted(members.hashed)]
        claims[name] = ", ".join([*filter(None, [claims.get(name)]), *parts])
    return claims | dict.fromkeys(privacy.excluded_columns, "excluded")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyGuard:
    """What the privacy settings change in one sync.

    `requested_fields`: the only attributes to request; empty: all. `claims` go into the state of
    each commit. `cleared_columns` are emptied in rows that are older than the settings.
    """

    privacy: PrivacyRules
    decoder: PageDecoder
    requested_fields: tuple[str, ...]
    claims: Mapping[str, PrivacyClaims] = field(default_factory=dict[str, PrivacyClaims])
    cleared_columns: frozenset[str] = frozenset()


def build_privacy_guard(
    stream: Stream, context: SyncContext, *, is_replacement: bool
) -> PrivacyGuard:
    """Return the guard of a sync; warn of stored rows that are older than a setting.

    `is_replacement`: the sync reads everything, so that older rows are dropped, or lose the columns
    that the settings hide.

    Raises:
        CorruptFileError: the table's log cannot be read.
    """
    privacy = resolve_privacy_rules(stream, context.settings, salt=context.salt)
    guard = PrivacyGuard(
        privacy=privacy,
        decoder=PageDecoder(stream, privacy=privacy),
        requested_fields=sparse_fieldset(stream, privacy.excluded_columns),
    )
    wanted = build_privacy_claims(privacy)
    if not wanted:
        return guard
    table, history = context.lake.read_table_state(stream.name), None
    # Who writes the history reports a damaged one; this sync may not write it.
    with suppress(CorruptFileError):
        history = context.lake.read_table_state(stream.name + HISTORY_SUFFIX)
    stored: Mapping[str, object] = {} if table is None else table.state
    of_rows = _select_valid_claims(wanted, stored.get(ROW_CLAIMS_KEY), table)
    of_history = _select_valid_claims(wanted, stored.get(HISTORY_CLAIMS_KEY), history)
    older = wanted.keys() - of_rows.keys()
    if older and not is_replacement:
        context.warn(
            f"{stream.name}: rows stored before the privacy settings changed still hold "
            f"{', '.join(sorted(older))} as before; materialize klaviyo/{stream.name} once with "
            "sync_mode full_refresh_overwrite"
        )
    warn_of_older_history(stream.name, wanted.keys() - of_history.keys(), context)
    warn_of_older_quarantine(stream.name, context)
    return replace(
        guard,
        claims={
            ROW_CLAIMS_KEY: wanted if is_replacement else of_rows,
            HISTORY_CLAIMS_KEY: of_history,
        },
        # Values of another type than declared are stored in `extra`.
        cleared_columns=frozenset({*older, EXTRA_FIELD} if older and is_replacement else ()),
    )


def warn_of_older_history(stream: str, columns: AbstractSet[str], context: SyncContext) -> None:
    """Warn which columns of a history are older than the settings."""
    if columns:
        history = stream + HISTORY_SUFFIX
        context.warn(
            f"{stream}: {history} holds versions from before the privacy settings "
            f"changed, with {', '.join(sorted(columns))} as before; no refresh rewrites them: run "
            f"`klaviyo-assets set-aside {history}` and delete the folder that it names"
        )


def warn_of_older_quarantine(stream: str, context: SyncContext) -> None:
    """Warn that records quarantined before the privacy settings are stored unredacted."""
    try:
        folder = context.lake.find_unredacted_quarantine(stream)
    except CorruptFileError as broken:
        context.warn(str(broken))
        return
    if folder is not None:
        context.warn(
            f"{stream}: records in quarantine were stored whole, before the privacy settings; "
            f"no sync rewrites them: `rm -r {shlex.quote(str(folder))}` ends that"
        )


def _select_valid_claims(
    claims: PrivacyClaims, stored_claims: object, table: TableState | None
) -> PrivacyClaims:
    """Return the claims that already held; all of them where there are no rows."""
    if table is None or not table.rows:
        return claims
    known = cast("Mapping[str, object]", stored_claims if isinstance(stored_claims, dict) else {})
    return {name: claim for name, claim in claims.items() if known.get(name) == claim}


def build_request_context(
    stream: Stream,
    decoder: PageDecoder,
    *,
    context: SyncContext,
    requested_fields: tuple[str, ...] | None = None,
) -> RequestContext:
    """Return what the window readers of a stream share.

    `requested_fields`: request only these attributes; None: all.
    """
    source = stream.source
    size = AdaptivePageSize(source.page_size if isinstance(source, Collection) else None)
    return RequestContext(
        stream=stream,
        base_url=context.settings.base_url,
        excluded_fields=context.settings.excluded_additional_fields,
        fetch_page=build_page_fetcher(stream, decoder, context=context, page_size=size),
        page_size=size,
        requested_fields=requested_fields,
    )


def build_page_fetcher(
    stream: Stream,
    decoder: PageDecoder,
    *,
    context: SyncContext,
    page_size: AdaptivePageSize,
) -> PageFetcher:
    """Return the function that sends a request and decodes its page.

    It also returns when Klaviyo responded. One page is decoded at a time: more threads would not be
    faster, and each takes three times its page in memory while it decodes.
    """
    client, includes, decode_lock = context.client, RefusedIncludes(stream, context.warn), Lock()

    def read(request: Request, slice_: Slice) -> tuple[DecodedPage, datetime]:
        def decode(response: Response) -> tuple[DecodedPage, datetime]:
            with decode_lock:
                page = decoder.decode(response.body, synced_at=response.responded_at, slice_=slice_)
            page_size.record_page(records=page.record_count, size=len(response.body))
            return page, response.responded_at

        def send(fitted: Request) -> tuple[DecodedPage, datetime]:
            if paths := includes.separate_paths:
                return decode(fetch_completed_page(fitted, paths, stream=stream, client=client))
            shrink = page_size.shrink_after_failure
            return client.fetch(fitted, decode, stream=stream.name, shrink=shrink)

        try:
            return includes.fetch(
                request, lambda sent: fetch_with_smaller_pages(sent, page_size, send)
            )
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
    """Return the result of `send`, with smaller pages where Klaviyo refuses the page size.

    Raises:
        PageSizeError: pages of one record are refused too.
        CursorLostError: a next link is refused after its page size was changed, or one whose page
            size may not be changed. The rest of its window is then requested from its position.
        KlaviyoAssetsError: as `send` says.
    """
    while True:
        fitted = page_size.resize(request)
        try:
            return send(fitted)
        except PageSizeError as error:
            if has_page_cursor(request) and (fitted is not request or page_size.has_fixed_links):
                raise CursorLostError(error.message, stream=error.stream) from error
            if not page_size.step_down(fitted):
                raise


def _suggest_workaround(stream: Stream, settings: Settings) -> str:
    """Return what the operator can do about repeated server errors; empty: nothing but wait.

    Some of the fields that are sent only on request make Klaviyo slow enough to fail.
    """
    extras = stream.source.additional_fields if isinstance(stream.source, Collection) else ()
    return "".join(
        f" Asking for {each.name} may be too much: KLAVIYO_DISABLE_{each.name.upper()}=true leaves "
        "it out, and the rest is read."
        for each in extras
        if each.is_optional and each.name not in settings.excluded_additional_fields
    )
