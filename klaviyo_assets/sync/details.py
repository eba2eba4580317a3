"""Reads streams parent by parent: a detail of each parent record, or the children of each.

Details (recipient estimates, profile counts) cost one request for each parent. Children are a
collection with a slice, and a path, for each parent. Whatever goes wrong with one parent stays with
that parent. One that Klaviyo no longer has counts as a parent without children; where a request
fails, the stored rows of that parent stay as they are, and nothing of it counts as read.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import chain, islice, zip_longest
from threading import Event, Lock
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import DecodeError, ValidationError, json

from klaviyo_assets.api.messages import Request
from klaviyo_assets.api.requests import detail_request, record_path
from klaviyo_assets.arrow_buffers import (
    TIMESTAMP_UTC,
    build_null_array,
    build_timestamp_array,
    to_python_values,
)
from klaviyo_assets.decode.decoder import DecodedPage, PageDecoder
from klaviyo_assets.decode.schema import (
    DELETED_AT_FIELD,
    PARENT_VERSION_FIELD,
    SYNCED_AT_FIELD,
    arrow_schema,
)
from klaviyo_assets.errors import (
    BrokenBodyError,
    ContractError,
    CorruptFileError,
    KlaviyoAssetsError,
    LargeBodyError,
    MissingTableError,
    NotFoundError,
    PermanentError,
    RequestError,
    ServerError,
)
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable, build_table
from klaviyo_assets.lake.write.soft_deletes import ColumnValues
from klaviyo_assets.model.stream import (
    PARENT_ID,
    WHOLE_COLLECTION,
    Children,
    Collection,
    Detail,
    Slice,
    Stream,
)
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.context import ROW_CLAIMS_KEY, PrivacyGuard, SyncContext
from klaviyo_assets.sync.plan import PARENTS_READ_KEY, SyncPlan, parent_column
from klaviyo_assets.sync.window_reader import PageFetcher, PageResult, PageSource, RequestContext

ParentVersions = Mapping[str, datetime | None]
"""Parent records by id, each with the version whose change makes it due again; None: unknown."""

_WORKER_COUNT = 4
"""Enough to fill the tightest limits (1 to 10 a second) at any usual latency."""

PARENT_ERRORS = (
    *(RequestError, NotFoundError, ContractError),
    *(ServerError, BrokenBodyError, LargeBodyError),
)
"""Errors that can concern one parent alone. A key, a limit or the network concerns them all."""

MAX_CONSECUTIVE_FAILURES = 10
"""Failed parents in a row after which the endpoint is taken to be broken."""

MAX_UNANSWERED_SHARE, MAX_UNANSWERED_COUNT = 0.01, 100
"""A sync fails at its end if its failed parents exceed both this share and this number."""


def start_fan_out(
    context: RequestContext, plan: SyncPlan, privacy_guard: PrivacyGuard, *, lake: Lake
) -> "FanOut":
    """Return the source of pages of a detail stream; requests start when it is iterated.

    Raises:
        MissingTableError: the parent stream was never read.
    """
    stream, source = context.stream, cast("Detail", context.stream.source)
    table = build_table(stream, arrow_schema(stream))
    read_stored = partial(read_stored_rows, table, lake=lake, hidden=privacy_guard.cleared_columns)
    stored = _read_stored_versions(stream, source, lake) if not plan.is_replacement else {}
    parents, read_before = _read_parent_versions(source, lake), frozenset[str]()
    if plan.parents_read:
        # What cannot be read any more is requested again.
        with suppress(CorruptFileError):
            rows = read_stored(parents.keys() & plan.parents_read.keys())
            if rows is not None:
                read_before = frozenset(cast("list[str]", rows["id"].to_pylist()))
    due = {each: parents[each] for each in parents if each not in read_before}
    fan_out = FanOut(
        context=context,
        parents=parents_to_fetch(due, stored, reread_since=plan.reread_since),
        decoder=privacy_guard.decoder,
        requested_at=plan.started_at,
        has_stored_rows=bool(stored),
        read_stored=read_stored if plan.is_replacement else None,
    )
    fan_out.committed_slices = read_before
    return fan_out


def parents_to_fetch(
    parents: ParentVersions, stored: ParentVersions, *, reread_since: datetime | None
) -> dict[str, datetime | None]:
    """Return the parents to request, alternating between new ones and those stored before.

    Some new parents may fail on every sync: in a row they would look like a broken endpoint.

    Args:
        parents: the version of each parent by id; None where each sync requests every parent.
        stored: by id, the version at the last fetch, or the fetch time where there is no version.
        reread_since: when an interrupted sync of all parents began: what it fetched is not
            requested again. None: every parent without a version is.
    """
    new = [each for each in parents if each not in stored]
    outdated = [
        each
        for each, version in parents.items()
        if each in stored
        and _is_outdated(stored[each], version if version is not None else reread_since)
    ]
    alternating = chain.from_iterable(zip_longest(new, outdated))
    return {each: parents[each] for each in alternating if each is not None}


def _is_outdated(stored_version: datetime | None, current_version: datetime | None) -> bool:
    return stored_version is None or current_version is None or stored_version < current_version


@dataclass(kw_only=True, eq=False)
class FanOut(PageSource):
    """Requests each parent; each response is a page of one row.

    Requests start when `results` is iterated.
    """

    context: RequestContext
    parents: ParentVersions
    decoder: PageDecoder
    requested_at: datetime
    """The fetch time (UTC) of rows for parents that Klaviyo has no value of."""
    has_stored_rows: bool
    """Whether earlier syncs have fetched parents: then a refusal concerns one parent."""
    read_stored: Callable[[Iterable[str]], pa.RecordBatch | None] | None
    """Returns the stored rows of some ids; None where stored rows stay in the table anyway."""
    _failed_ids: list[str] = field(default_factory=list[str])
    _consecutive_failures: int = 0
    _stop: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        """Start to count."""
        self.unanswered_parents = self._unanswered = Counter[str]()

    def results(self) -> Iterator[PageResult | Slice]:
        """Yield a page for each parent in order, then the one slice.

        In a replacement each parent is a slice too, so that it can be committed before the end. A
        parent that fails does not stop the others.

        Raises:
            KlaviyoAssetsError: as the client says; also the error of a parent, if too many fail in
                a row, or too many of all at the end.
        """
        waiting, last_at = iter(self.parents.items()), self.requested_at
        # Not as a context, which ends only with its threads: a request in flight may wait for the
        # rate limit, and the client is cancelled only after this has ended.
        threads = ThreadPoolExecutor(_WORKER_COUNT, thread_name_prefix="klaviyo-detail")

        def submit(count: int) -> Iterator[tuple[str, "Future[PageResult | None]"]]:
            for parent_id, version in islice(waiting, count):
                yield parent_id, threads.submit(self._fetch_parent, parent_id, version)

        try:
            in_flight = list(submit(_WORKER_COUNT))
            while in_flight:
                parent_id, future = in_flight.pop(0)
                result = self._collect_result(parent_id, future)
                in_flight.extend(submit(1))
                if result is None:
                    continue
                last_at = result.responded_at
                yield result
                if self.read_stored is not None and not result.page.quarantined:
                    yield Slice(name=parent_id, filter="")
        finally:
            self._stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
        refuse_too_many_failures(self.context.stream, self._unanswered, requested=len(self.parents))
        yield from self._rows_that_stay(last_at)
        yield WHOLE_COLLECTION

    def _rows_that_stay(self, at: datetime) -> Iterator[PageResult]:
        """Yield the stored rows that the last commit of a replacement would drop otherwise.

        Those of its earlier commits, and those of failed parents: a failed request does not make
        the old row wrong, and later syncs request the parent again.

        Raises:
            CorruptFileError: what earlier commits hold cannot be read.
        """
        ids = {*self._failed_ids, *self.committed_slices}
        if self.read_stored is None or not ids:
            return
        try:
            rows = self.read_stored(ids)
        except CorruptFileError:
            # A replacement repairs a damaged table, so the rows of failed parents may go.
            if self.committed_slices:
                raise
            return
        if rows is not None:
            yield PageResult(
                slice=WHOLE_COLLECTION, page=page_of_stored_rows(rows), batch=rows, responded_at=at
            )

    def _collect_result(
        self, parent_id: str, future: "Future[PageResult | None]"
    ) -> PageResult | None:
        """Return the page of a parent; None where Klaviyo has it no more, or the request failed."""
        try:
            result = future.result()
        except PARENT_ERRORS as error:
            self._unanswered[describe_detail_failure(error)] += 1
            self._failed_ids.append(parent_id)
            self._consecutive_failures += 1
            is_of_parent = self.has_stored_rows and isinstance(error, RequestError)
            if self._consecutive_failures >= (
                MAX_UNANSWERED_COUNT if is_of_parent else MAX_CONSECUTIVE_FAILURES
            ):
                raise
            return None
        self._consecutive_failures = 0
        if result is None and not self._stop.is_set():
            self.missing_parents += 1
        return result

    def close(self) -> None:
        """Stop before the next request."""
        self._stop.set()

    def _fetch_parent(self, parent_id: str, version: datetime | None) -> PageResult | None:
        if self._stop.is_set():
            return None
        stream = self.context.stream
        request = detail_request(
            stream,
            parent_id,
            excluded_fields=self.context.excluded_fields,
        )
        try:
            page, at = self.context.fetch_page(request, WHOLE_COLLECTION)
        except NotFoundError:
            if not cast("Detail", stream.source).is_null_when_missing:
                return None
            nothing = json.encode({"data": {"id": parent_id, "attributes": {}}})
            at = self.requested_at
            page = self.decoder.decode(nothing, synced_at=at)
        return PageResult(
            slice=WHOLE_COLLECTION,
            page=page,
            batch=_set_parent_version(page.batch, version),
            max_cursor=version,
            responded_at=at,
        )


def refuse_too_many_failures(
    stream: Stream, unanswered: Mapping[str, int], *, requested: int
) -> None:
    """Refuse a sync in which too many parents gave no response, at its end.

    Raises:
        ContractError: they exceed both the share and the number that are allowed.
    """
    failed = sum(unanswered.values())
    if failed <= max(MAX_UNANSWERED_COUNT, requested * MAX_UNANSWERED_SHARE):
        return
    raise ContractError(
        f"Klaviyo gave no response for {failed} of {requested} records, more than "
        f"{MAX_UNANSWERED_COUNT} and more than 1 % ({'; '.join(sorted(unanswered))}); the others "
        "are stored, and a later run requests these again",
        stream=stream.name,
    )


def describe_detail_failure(error: KlaviyoAssetsError) -> str:
    """Return in a few words why a request failed, without data of the record."""
    match error:
        case PermanentError(status=int(status)):
            return ": ".join(filter(None, (f"status {status}", error.code)))
        case ServerError():
            return "the server could not respond"
        case _:
            return "the response cannot be read"


def page_of_stored_rows(rows: pa.RecordBatch) -> DecodedPage:
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


def _set_parent_version(rows: pa.RecordBatch, version: datetime | None) -> pa.RecordBatch:
    place = rows.schema.get_field_index(PARENT_VERSION_FIELD)
    if place < 0:
        return rows
    column = (
        build_null_array(rows.num_rows, TIMESTAMP_UTC)
        if version is None
        else build_timestamp_array(version, rows.num_rows)
    )
    return rows.set_column(place, PARENT_VERSION_FIELD, column)


def _read_parent_versions(source: Detail, lake: Lake) -> ParentVersions:
    """Return the parents that are not deleted, each with its version where it has one."""
    if lake.read_table_state(source.parent) is None:
        raise MissingTableError(
            f"the table {source.parent} was never read; materialize klaviyo/{source.parent} first"
        )
    version = source.version_column
    rows = lake.read_columns(
        source.parent, ["id", DELETED_AT_FIELD, *([] if version is None else [version])]
    )
    rows = rows.filter(pc.is_null(rows[DELETED_AT_FIELD]))
    ids = cast("list[str]", rows["id"].to_pylist())
    if version is None:
        return dict.fromkeys(ids)
    return dict(zip(ids, to_python_values(rows[version]), strict=True))


def _read_stored_versions(stream: Stream, source: Detail, lake: Lake) -> dict[str, datetime | None]:
    if lake.read_table_state(stream.name) is None:
        return {}
    column = SYNCED_AT_FIELD if source.version_column is None else PARENT_VERSION_FIELD
    rows = lake.read_columns(stream.name, ["id", column])
    ids = cast("list[str]", rows["id"].to_pylist())
    return dict(zip(ids, to_python_values(rows[column]), strict=True))


def read_stored_rows(
    table: LakeTable,
    ids: Iterable[str],
    *,
    lake: Lake,
    hidden: frozenset[str],
) -> pa.RecordBatch | None:
    """Return the stored rows of some ids, NULL in the columns that a privacy setting hides.

    None where there are none.

    Raises:
        CorruptFileError: the table is damaged.
    """
    stored = lake.read_columns(table.name, table.schema.names)
    rows = stored.filter(pc.is_in(stored["id"], value_set=pa.array(sorted(ids), pa.string())))
    if not rows.num_rows:
        return None
    columns: list[Any] = [
        build_null_array(rows.num_rows, kind)
        if name in hidden
        else rows[name].cast(kind).combine_chunks()
        for name, kind in zip(table.schema.names, table.schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def expand_children(
    stream: Stream, lake: Lake, settings: Settings
) -> tuple[Stream, ColumnValues | None]:
    """Return a stream of children as a collection with a slice for each parent in the lake.

    The second value has the parents that a setting names, with the column of their ids; None: all
    are read. A stream of another kind is returned as it is.

    Raises:
        MissingTableError: the parents were never read.
    """
    source, chosen = stream.source, None
    if not isinstance(source, Children):
        return stream, None
    parent_ids, column = read_parent_ids(source, lake), parent_column(stream)
    if source.has_parent_filter and settings.members_of and column is not None:
        chosen = ColumnValues(column, frozenset(settings.members_of))
        parent_ids = [each for each in parent_ids if each in chosen.values]
    collection = Collection(
        path=source.path,
        page_size=source.page_size,
        slices=tuple(_slice_of_parent(source, each) for each in parent_ids),
        additional_fields=source.additional_fields,
        fields=source.fields,
    )
    return replace(stream, source=collection), chosen


def _slice_of_parent(source: Children, parent_id: str) -> Slice:
    return Slice(
        name=parent_id,
        filter="",
        path=record_path(source.path, parent_id),
        values={PARENT_ID.name: parent_id},
    )


def read_parent_ids(source: Children, lake: Lake) -> list[str]:
    """Return the ids of the stored parents that exist and may have children, ascending.

    Raises:
        MissingTableError: the parents were never read.
    """
    if lake.read_table_state(source.parent) is None:
        raise MissingTableError(
            f"the table {source.parent} was never read; materialize klaviyo/{source.parent} first"
        )
    condition = source.parent_condition
    columns = ["id", DELETED_AT_FIELD, *([] if condition is None else [condition[0]])]
    rows = lake.read_columns(source.parent, columns).to_pylist()
    return sorted(
        str(row["id"])
        for row in rows
        if row[DELETED_AT_FIELD] is None
        and (condition is None or _meets_condition(row[condition[0]], *condition[1:]))
    )


def _meets_condition(text: object, member: str, beginning: str) -> bool:
    """Return whether a member of a JSON text begins so; True where it cannot be read."""
    try:
        found = json.decode(str(text), type=dict[str, object])
    except (DecodeError, ValidationError):
        return True
    value = found.get(member)
    return not isinstance(value, str) or value.startswith(beginning)


def settle_parent_round(plan: SyncPlan, privacy_guard: PrivacyGuard, context: SyncContext) -> None:
    """Decide whether an unfinished read of all parents is continued; say so.

    A replacement continues it, an increment hands it on to the next replacement. With other privacy
    settings than it had, neither does: everything is read again, and stored by one commit, in which
    rows of before lose columns.
    """
    if privacy_guard.cleared_columns:
        plan.commits_by_parent = False
    claims = privacy_guard.claims.get(ROW_CLAIMS_KEY, {})
    if plan.parent_round is None or claims != plan.previous_state.get(ROW_CLAIMS_KEY, {}):
        plan.parent_round = None
        return
    if not plan.is_replacement:
        plan.handed_on = {PARENTS_READ_KEY: plan.parent_round.to_json()}
        plan.parent_round = None
        return
    read = f"{len(plan.parents_read):,}"
    of_all = "" if plan.is_fan_out else f" of {len(plan.progress.active_slices):,}"
    context.warn(
        f"continuing a read that was interrupted: {read}{of_all} parents were read since "
        f"{plan.parent_round.since:%Y-%m-%d %H:%M} UTC, and are not requested again"
    )


class ChildrenFetcher:
    """Fetches pages of children; an error that concerns one parent ends that parent only."""

    def __init__(
        self,
        fetch_page: PageFetcher,
        *,
        decode_empty: Callable[[Slice], DecodedPage],
        now: datetime,
    ) -> None:
        """Wrap `fetch_page`.

        `decode_empty` returns a page without records. `now` (UTC) is the fetch time of pages that
        no request brought.
        """
        self._fetch_page = fetch_page
        self._decode_empty = decode_empty
        self._now = now
        self._lock = Lock()
        self._consecutive_failures = 0
        self.missing_parents = 0
        self.unanswered_parents = Counter[str]()
        self.failed_slices: set[str] = set()

    def fetch(self, request: Request, slice_: Slice) -> tuple[DecodedPage, datetime]:
        """Return a page; an empty one for a parent that is gone or gives no response.

        Raises:
            KlaviyoAssetsError: as the client says; the error of a parent, if many fail in a row.
        """
        try:
            found = self._fetch_page(request, slice_)
        except NotFoundError:
            with self._lock:
                self.missing_parents += 1
            return self._decode_empty(slice_), self._now
        except PARENT_ERRORS as error:
            self._count_failure(error, slice_)
            return self._decode_empty(slice_), self._now
        with self._lock:
            self._consecutive_failures = 0
        return found

    def _count_failure(self, error: KlaviyoAssetsError, slice_: Slice) -> None:
        with self._lock:
            self.failed_slices.add(slice_.name)
            self.unanswered_parents[describe_detail_failure(error)] += 1
            self._consecutive_failures += 1
            if self._consecutive_failures >= MAX_CONSECUTIVE_FAILURES:
                raise error


class ChildrenReader(PageSource):
    """The pages of all parents, from the readers of their slices."""

    def __init__(self, pool: PageSource, fetcher: ChildrenFetcher, stream: Stream) -> None:
        self._pool = pool
        self._fetcher = fetcher
        self._stream = stream
        self.unanswered_parents = fetcher.unanswered_parents
        self.failed_slices = fetcher.failed_slices

    def results(self) -> Iterator[PageResult | Slice]:
        """Yield the pages, and each slice after its last page.

        Raises:
            KlaviyoAssetsError: as the readers say; too many parents gave no response.
        """
        parents = 0
        for result in self._pool.results():
            parents += isinstance(result, Slice)
            self.missing_parents = self._fetcher.missing_parents
            if isinstance(result, PageResult) and result.slice.name in self.failed_slices:
                yield replace(result, completed_window=None, max_cursor=None)
            else:
                yield result
        refuse_too_many_failures(self._stream, self.unanswered_parents, requested=parents)

    def close(self) -> None:
        """Stop reading."""
        self._pool.close()


def start_children_readers(
    context: RequestContext,
    privacy_guard: PrivacyGuard,
    start_readers: Callable[[RequestContext], PageSource],
    *,
    plan: SyncPlan,
) -> ChildrenReader:
    """Start a reader for each parent, by `start_readers`, and return them."""
    fetcher = ChildrenFetcher(
        context.fetch_page,
        decode_empty=lambda slice_: privacy_guard.decoder.decode(
            b'{"data":[]}', synced_at=plan.started_at, slice_=slice_
        ),
        now=plan.started_at,
    )
    readers = start_readers(replace(context, fetch_page=fetcher.fetch))
    return ChildrenReader(readers, fetcher, context.stream)
