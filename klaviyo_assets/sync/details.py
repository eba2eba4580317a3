"""Fetches details with one request per parent record: recipient estimates, profile counts."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice, zip_longest
from threading import Event

import pyarrow as pa
from msgspec import json

from klaviyo_assets.api.requests import detail_request
from klaviyo_assets.arrow_buffers import (
    TIMESTAMP_UTC,
    ArrowArray,
    build_null_array,
    build_timestamp_array,
)
from klaviyo_assets.decode.decoder import DecodedPage, PageDecoder
from klaviyo_assets.decode.schema import PARENT_VERSION_FIELD
from klaviyo_assets.errors import (
    BrokenBodyError,
    ContractError,
    KlaviyoAssetsError,
    LargeBodyError,
    NotFoundError,
    PermanentError,
    RequestError,
    ServerError,
)
from klaviyo_assets.model.stream import WHOLE_COLLECTION, Detail, Slice
from klaviyo_assets.sync.window_reader import PageResult, RequestContext

_WORKER_COUNT = 4
"""Enough to fill the tightest limits (1 to 10 a second) at any usual latency."""

_PARENT_ERRORS = (
    *(RequestError, NotFoundError, ContractError),
    *(ServerError, BrokenBodyError, LargeBodyError),
)
"""Errors that can concern one parent alone. A key, a limit or the network concerns them all."""

MAX_CONSECUTIVE_FAILURES = 10
"""Failed parents in a row after which the endpoint is taken to be broken."""

MAX_UNANSWERED_SHARE, MAX_UNANSWERED_COUNT = 0.01, 100
"""A sync fails at its end if its failed parents exceed both this share and this number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRecord:
    """The id of a parent record, and the version whose change makes it due again."""

    id: str
    version: datetime | None


def parents_to_fetch(
    parents: Mapping[str, datetime | None],
    stored: Mapping[str, datetime | None],
    *,
    reread_since: datetime | None,
) -> list[ParentRecord]:
    """Return the parents to request, alternating between new ones and those stored before.

    Some new parents may fail on every sync: in a row they would look like a broken endpoint.

    Args:
        parents: the version of each parent by id; None where each sync requests every parent.
        stored: by id, the version at the last fetch, or the fetch time where there is no version.
        reread_since: when an interrupted sync of all parents began: what it fetched is not
            requested again. None: every parent without a version is.
    """
    new = [ParentRecord(id=each, version=parents[each]) for each in parents if each not in stored]
    outdated = [
        ParentRecord(id=each, version=version)
        for each, version in parents.items()
        if each in stored
        and _is_outdated(stored[each], version if version is not None else reread_since)
    ]
    alternating = chain.from_iterable(zip_longest(new, outdated))
    return [each for each in alternating if each is not None]


def _is_outdated(stored_version: datetime | None, current_version: datetime | None) -> bool:
    return stored_version is None or current_version is None or stored_version < current_version


class FanOut:
    """Requests each parent; each response is a page of one row."""

    def __init__(  # noqa: PLR0913 - settings, all by name
        self,
        context: RequestContext,
        parents: list[ParentRecord],
        *,
        decoder: PageDecoder,
        requested_at: datetime,
        has_stored_rows: bool = False,
        stored: "Callable[[Collection[str]], pa.RecordBatch | None] | None" = None,
    ) -> None:
        """Send nothing yet: requests start when `results` is iterated.

        `requested_at` (UTC) is the fetch time of rows for parents that Klaviyo has no value of.
        `has_stored_rows`: earlier syncs have fetched parents, so a refusal concerns one parent and
        not the endpoint. `stored` returns the stored rows of some ids, which a replacement keeps if
        their parents fail; None: the stored rows stay anyway.
        """
        self._context = context
        self._has_stored_rows = has_stored_rows
        self._parents = parents
        self._decoder = decoder
        self._requested_at = requested_at
        self._stored = stored
        self._failed_ids: list[str] = []
        self._stop = Event()
        self.missing_parents = 0
        self.last_pass_at: datetime | None = None
        self.unanswered_parents: Counter[str] = Counter()
        """The number of failed parents by reason; later syncs request them again."""
        self._consecutive_failures = 0

    def results(self) -> Iterator[PageResult | Slice]:
        """Yield a page for each parent in order, then the one slice.

        A parent that fails does not stop the others.

        Raises:
            KlaviyoAssetsError: as the client says; also the error of a parent, if too many fail in
                a row, or too many of all at the end.
        """
        waiting, last_at = iter(self._parents), self._requested_at
        with ThreadPoolExecutor(_WORKER_COUNT, thread_name_prefix="klaviyo-detail") as threads:
            try:
                in_flight = [
                    (each, threads.submit(self._fetch_parent, each))
                    for each in islice(waiting, _WORKER_COUNT)
                ]
                while in_flight:
                    result = self._collect_result(*in_flight.pop(0))
                    in_flight.extend(
                        (each, threads.submit(self._fetch_parent, each))
                        for each in islice(waiting, 1)
                    )
                    if result is not None:
                        last_at = result.responded_at
                        yield result
            finally:
                self._stop.set()
                threads.shutdown(wait=False, cancel_futures=True)
        self._refuse_too_many_failures()
        yield from self._rows_that_stay(last_at)
        yield WHOLE_COLLECTION

    def _rows_that_stay(self, at: datetime) -> Iterator[PageResult]:
        """Yield the stored rows of failed parents, which a replacement would drop otherwise.

        A failed request does not make the old row wrong; later syncs request the parent again.
        """
        if self._stored is None or not self._failed_ids:
            return
        rows = self._stored(self._failed_ids)
        if rows is not None:
            page = _page_of(rows)
            yield PageResult(
                slice=WHOLE_COLLECTION,
                page=page,
                batch=rows,
                completed_window=None,
                max_cursor=None,
                responded_at=at,
            )

    def _collect_result(
        self, parent: ParentRecord, future: "Future[PageResult | None]"
    ) -> PageResult | None:
        """Return the page of a parent; None where Klaviyo has it no more, or the request failed."""
        try:
            result = future.result()
        except _PARENT_ERRORS as error:
            self.unanswered_parents[describe_detail_failure(error)] += 1
            self._failed_ids.append(parent.id)
            self._consecutive_failures += 1
            is_of_parent = self._has_stored_rows and isinstance(error, RequestError)
            if self._consecutive_failures >= (
                MAX_UNANSWERED_COUNT if is_of_parent else MAX_CONSECUTIVE_FAILURES
            ):
                raise
            return None
        self._consecutive_failures = 0
        if result is None and not self._stop.is_set():
            self.missing_parents += 1
        return result

    def _refuse_too_many_failures(self) -> None:
        failed, requested = self.unanswered_parents.total(), len(self._parents)
        if failed <= max(MAX_UNANSWERED_COUNT, requested * MAX_UNANSWERED_SHARE):
            return
        reasons = "; ".join(sorted(self.unanswered_parents))
        raise ContractError(
            f"Klaviyo gave no response for {failed} of {requested} records, more than "
            f"{MAX_UNANSWERED_COUNT} and more than 1 % ({reasons}); the others are stored, and a "
            "later run requests these again",
            stream=self._context.stream.name,
        )

    def close(self) -> None:
        """Stop before the next request."""
        self._stop.set()

    def _fetch_parent(self, parent: ParentRecord) -> PageResult | None:
        if self._stop.is_set():
            return None
        stream, source = self._context.stream, self._context.stream.source
        if not isinstance(source, Detail):
            raise TypeError(f"{stream.name} has no parent records to ask about")
        request = detail_request(
            stream,
            parent.id,
            base_url=self._context.base_url,
            excluded_fields=self._context.excluded_fields,
        )
        try:
            page, at = self._context.fetch_page(request, WHOLE_COLLECTION)
        except NotFoundError:
            if not source.is_null_when_missing:
                return None
            nothing = json.encode({"data": {"id": parent.id, "attributes": {}}})
            at = self._requested_at
            page = self._decoder.decode(nothing, synced_at=at)
        return _build_result(page, parent, responded_at=at)


def describe_detail_failure(error: KlaviyoAssetsError) -> str:
    """Return in a few words why a request failed, without data of the record."""
    match error:
        case PermanentError(status=int(status)):
            return ": ".join(filter(None, (f"status {status}", error.code)))
        case ServerError():
            return "the server could not respond"
        case _:
            return "the response cannot be read"


def _page_of(rows: pa.RecordBatch) -> DecodedPage:
    """Return stored rows as a page with no records read."""
    return DecodedPage(
        batch=rows,
        next_link=None,
        record_count=0,
        lowest_cursor=None,
        highest_cursor=None,
        is_ascending=True,
        quarantined=(),
        notices=(),
        is_fast=True,
    )


def _build_version_column(parent: ParentRecord, row_count: int) -> ArrowArray:
    return (
        build_null_array(row_count, TIMESTAMP_UTC)
        if parent.version is None
        else build_timestamp_array(parent.version, row_count)
    )


def _build_result(page: DecodedPage, parent: ParentRecord, *, responded_at: datetime) -> PageResult:
    batch, place = page.batch, page.batch.schema.get_field_index(PARENT_VERSION_FIELD)
    if place >= 0:
        versions = _build_version_column(parent, batch.num_rows)
        batch = batch.set_column(place, PARENT_VERSION_FIELD, versions)
    return PageResult(
        slice=WHOLE_COLLECTION,
        page=page,
        batch=batch,
        completed_window=None,
        max_cursor=parent.version,
        responded_at=responded_at,
    )
