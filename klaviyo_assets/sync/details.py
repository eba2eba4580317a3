"""One request per parent record: recipient estimates of campaigns, profile counts of lists.

What belongs here: which parents are asked again, and asking them side by side. What does not: how
the answers join their parents (`lake`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice, zip_longest
from threading import Event

import pyarrow as pa
from msgspec import json

from klaviyo_assets.api.protocol import detail_request
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
from klaviyo_assets.model.stream import WHOLE, Detail, Slice
from klaviyo_assets.sync.walk import Ask, Piece
from klaviyo_assets.tables.decode import Page, PageDecoder
from klaviyo_assets.tables.schema import MOMENT, PARENT_VERSION
from klaviyo_assets.tables.values import Array, moments, nulls

_WORKERS = 4
"""Enough to fill the tightest limits (1 to 10 a second) at any usual latency."""

_OF_ONE_PARENT = (
    *(RequestError, NotFoundError, ContractError),
    *(ServerError, BrokenBodyError, LargeBodyError),
)
"""What may be wrong with one parent alone; a key, a limit or a line concerns them all."""

MOST_IN_A_ROW = 10
"""Parents without an answer in a row before it is the endpoint that is taken to be broken."""

UNANSWERED_SHARE, UNANSWERED_COUNT = 0.01, 100
"""Share and number of parents without an answer that, both exceeded, fail a sync at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A parent record: its id, and the value whose change makes it worth asking again."""

    id: str
    version: datetime | None


def worth_asking(
    parents: Mapping[str, datetime | None],
    stored: Mapping[str, datetime | None],
    *,
    since: datetime | None,
) -> list[Parent]:
    """Return the parents to ask about, those never answered and the others in turn.

    Some of those never answered may fail for good: in a row they would look like a broken endpoint.

    Args:
        parents: id to version, None where every parent is asked on every sync.
        stored: id to the version at the last answer, or to when it was read where there is none.
        since: when a sync that asks everything began and was cut short; what was read since is
            not asked again. None: everything is.
    """
    never = [Parent(id=each, version=parents[each]) for each in parents if each not in stored]
    again = [
        Parent(id=each, version=version)
        for each, version in parents.items()
        if each in stored and _is_older(stored[each], version if version is not None else since)
    ]
    in_turn = chain.from_iterable(zip_longest(never, again))
    return [each for each in in_turn if each is not None]


def _is_older(known: datetime | None, wanted: datetime | None) -> bool:
    return known is None or wanted is None or known < wanted


class FanOut:
    """Asks for each parent; an answer is a piece of one row."""

    def __init__(  # noqa: PLR0913 - how to ask, all by name
        self,
        ask: Ask,
        parents: list[Parent],
        *,
        decoder: PageDecoder,
        asked_at: datetime,
        has_answered: bool = False,
        stored: "Callable[[Collection[str]], pa.RecordBatch | None] | None" = None,
    ) -> None:
        """Hold what to ask; nothing is sent before `items` is iterated.

        `asked_at` (UTC) is when an answer that says "none" counts as read. `has_answered`: Klaviyo
        has answered about a parent before, so that a refusal is the matter of that parent.
        `stored` gives the rows of parents, by their ids, that a replacement keeps where no answer
        comes; None where the stored rows stay anyway.
        """
        self._ask = ask
        self._has_answered = has_answered
        self._parents = parents
        self._decoder = decoder
        self._asked_at = asked_at
        self._stored = stored
        self._without_answer: list[str] = []
        self._stop = Event()
        self.vanished = 0
        self.last_round_at: datetime | None = None
        self.unanswered: Counter[str] = Counter()
        """Parents that Klaviyo gave no answer about, by the reason: later syncs ask again."""
        self._in_a_row = 0

    def items(self) -> Iterator[Piece | Slice]:
        """Yield a piece a parent in the order of the parents, then the one slice.

        A parent that Klaviyo gives no answer about costs itself alone.

        Raises:
            KlaviyoAssetsError: as the client says; or what was the matter with a parent, where it
                is the matter with many in a row, or with many of all at the end.
        """
        waiting, last_at = iter(self._parents), self._asked_at
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="klaviyo-detail") as threads:
            try:
                flight = [
                    (each, threads.submit(self._one, each)) for each in islice(waiting, _WORKERS)
                ]
                while flight:
                    piece = self._answer(*flight.pop(0))
                    flight.extend(
                        (each, threads.submit(self._one, each)) for each in islice(waiting, 1)
                    )
                    if piece is not None:
                        last_at = piece.at
                        yield piece
            finally:
                self._stop.set()
                threads.shutdown(wait=False, cancel_futures=True)
        self._refuse_too_many()
        yield from self._rows_that_stay(last_at)
        yield WHOLE

    def _rows_that_stay(self, at: datetime) -> Iterator[Piece]:
        """Yield the stored rows of parents without an answer, as they are, where they would leave.

        What Klaviyo could not tell of now is no less true than before; later syncs ask again.
        """
        if self._stored is None or not self._without_answer:
            return
        rows = self._stored(self._without_answer)
        if rows is not None:
            page = _page_of(rows)
            yield Piece(slice=WHOLE, page=page, batch=rows, read=None, highest=None, at=at)

    def _answer(self, parent: Parent, asked: "Future[Piece | None]") -> Piece | None:
        """Return what came of a parent; None where it is gone, or where no answer came."""
        try:
            piece = asked.result()
        except _OF_ONE_PARENT as error:
            self.unanswered[reason_of(error)] += 1
            self._without_answer.append(parent.id)
            self._in_a_row += 1
            is_of_parent = self._has_answered and isinstance(error, RequestError)
            if self._in_a_row >= (UNANSWERED_COUNT if is_of_parent else MOST_IN_A_ROW):
                raise
            return None
        self._in_a_row = 0
        if piece is None and not self._stop.is_set():
            self.vanished += 1
        return piece

    def _refuse_too_many(self) -> None:
        failed, asked = self.unanswered.total(), len(self._parents)
        if failed <= max(UNANSWERED_COUNT, asked * UNANSWERED_SHARE):
            return
        reasons = "; ".join(sorted(self.unanswered))
        raise ContractError(
            f"Klaviyo gave no answer about {failed} of {asked} records, more than "
            f"{UNANSWERED_COUNT} and more than 1 % ({reasons}); the others are stored, and a later "
            "run asks about these again",
            stream=self._ask.stream.name,
        )

    def close(self) -> None:
        """Stop before the next request."""
        self._stop.set()

    def _one(self, parent: Parent) -> Piece | None:
        if self._stop.is_set():
            return None
        stream, source = self._ask.stream, self._ask.stream.source
        if not isinstance(source, Detail):
            raise TypeError(f"{stream.name} has no parent records to ask about")
        request = detail_request(
            stream, parent.id, base_url=self._ask.base_url, without=self._ask.left_out
        )
        try:
            page, at = self._ask.read(request, WHOLE)
        except NotFoundError:
            if not source.missing_is_null:
                return None
            nothing = json.encode({"data": {"id": parent.id, "attributes": {}}})
            at = self._asked_at
            page = self._decoder.decode(nothing, synced_at=at)
        return _piece(page, parent, at=at)


def reason_of(error: KlaviyoAssetsError) -> str:
    """Return in a few words why no answer came, without anything of the one record."""
    match error:
        case PermanentError(status=int(status)):
            return ": ".join(filter(None, (f"status {status}", error.code)))
        case ServerError():
            return "the server could not answer"
        case _:
            return "the answer cannot be read"


def _page_of(rows: pa.RecordBatch) -> Page:
    """Return stored rows as a page of which nothing came."""
    return Page(
        batch=rows,
        next_link=None,
        records=0,
        lowest=None,
        highest=None,
        is_ascending=True,
        quarantined=(),
        notices=(),
        is_fast=True,
    )


def _versions(parent: Parent, rows: int) -> Array:
    return nulls(rows, MOMENT) if parent.version is None else moments(parent.version, rows)


def _piece(page: Page, parent: Parent, *, at: datetime) -> Piece:
    batch, place = page.batch, page.batch.schema.get_field_index(PARENT_VERSION)
    if place >= 0:
        versions = _versions(parent, batch.num_rows)
        batch = batch.set_column(place, PARENT_VERSION, versions)
    return Piece(slice=WHOLE, page=page, batch=batch, read=None, highest=parent.version, at=at)
