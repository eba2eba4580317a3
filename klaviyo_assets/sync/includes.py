"""Fetches pages without the included resources that are refused; reads them otherwise, if it can.

A key without their scope leaves their columns NULL. Where Klaviyo does not offer an include, which
no published fact settles for all of them, the resources are requested record by record, and put
into the page where the include would have had them.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from threading import Lock
from typing import TypeVar

from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.request_guard import Request, Response
from klaviyo_assets.api.requests import included_resources, related_request, remove_includes
from klaviyo_assets.decode.included import add_included_resources, parse_record_ids
from klaviyo_assets.decode.jsonapi import check_response_envelope
from klaviyo_assets.errors import MissingScopeError, NotFoundError, RequestError
from klaviyo_assets.model.column import FirstIncludedId, Included, RelatedIds
from klaviyo_assets.model.stream import SCOPE_BY_INCLUDE, Collection, Stream

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
