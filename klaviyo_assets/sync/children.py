"""Reads the children of each parent record: a collection with a slice, and a path, for each parent.

Whatever goes wrong with one parent stays with that parent. One that Klaviyo no longer has counts
as a parent without children; where a request fails, the stored rows of that parent stay as they
are, and nothing of it counts as read.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from threading import Lock

from msgspec import DecodeError, ValidationError, json

from klaviyo_assets.api.request_guard import Request
from klaviyo_assets.api.requests import record_path
from klaviyo_assets.decode.decoder import DecodedPage
from klaviyo_assets.decode.schema import DELETED_AT_FIELD
from klaviyo_assets.errors import KlaviyoAssetsError, MissingTableError, NotFoundError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.write.soft_deletes import ColumnValues
from klaviyo_assets.model.stream import PARENT_ID, Children, Collection, Slice, Stream
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.context import ROW_CLAIMS_KEY, PrivacyGuard, SyncContext
from klaviyo_assets.sync.details import (
    MAX_CONSECUTIVE_FAILURES,
    PARENT_ERRORS,
    describe_detail_failure,
    refuse_too_many_failures,
)
from klaviyo_assets.sync.plan import SyncPlan, parent_column
from klaviyo_assets.sync.window_reader import PageFetcher, PageResult, PageSource, RequestContext


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

    With other privacy settings than it had, everything is read again, and stored by one commit:
    rows of before lose columns in it.
    """
    if privacy_guard.cleared_columns:
        plan.commits_by_parent = False
    claims = privacy_guard.claims.get(ROW_CLAIMS_KEY, {})
    if plan.parent_round is None or claims != plan.previous_state.get(ROW_CLAIMS_KEY, {}):
        plan.parent_round = None
        return
    all_parents, read = len(plan.progress.active_slices), len(plan.parents_read)
    context.warn(
        f"continuing a read that was interrupted: {read:,} of {all_parents:,} parents were read "
        f"since {plan.parent_round.since:%Y-%m-%d %H:%M} UTC, and are not requested again"
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
