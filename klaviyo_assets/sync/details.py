"""One request per parent record: recipient estimates of campaigns, profile counts of lists.

What belongs here: which parents are asked again, and asking them side by side. What does not: how
the answers join their parents (`lake`).
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from threading import Event

from msgspec import json

from klaviyo_assets.api.protocol import detail_request
from klaviyo_assets.errors import NotFoundError
from klaviyo_assets.model.stream import WHOLE, Detail, Slice
from klaviyo_assets.sync.walk import Ask, Piece
from klaviyo_assets.tables.decode import Page, PageDecoder
from klaviyo_assets.tables.schema import MOMENT, PARENT_VERSION
from klaviyo_assets.tables.values import Array, moments, nulls

_WORKERS = 4
"""Enough to fill the tightest limits (1 to 10 a second) at any usual latency."""


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
    """Return the parents to ask about, those never asked first.

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
    return never + again


def _is_older(known: datetime | None, wanted: datetime | None) -> bool:
    return known is None or wanted is None or known < wanted


class FanOut:
    """Asks for each parent; an answer is a piece of one row."""

    def __init__(
        self, ask: Ask, parents: list[Parent], *, decoder: PageDecoder, asked_at: datetime
    ) -> None:
        """Hold what to ask; nothing is sent before `items` is iterated.

        `asked_at` (UTC) is when an answer that says "none" counts as read.
        """
        self._ask = ask
        self._parents = parents
        self._decoder = decoder
        self._asked_at = asked_at
        self._stop = Event()
        self.vanished = 0
        self.last_round_at: datetime | None = None

    def items(self) -> Iterator[Piece | Slice]:
        """Yield a piece a parent in the order of the parents, then the one slice.

        Raises:
            KlaviyoAssetsError: as the client says; a 404 alone stops nothing.
        """
        waiting = iter(self._parents)
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="klaviyo-detail") as threads:
            try:
                flight = [threads.submit(self._one, each) for each in islice(waiting, _WORKERS)]
                while flight:
                    piece = flight.pop(0).result()
                    flight.extend(threads.submit(self._one, each) for each in islice(waiting, 1))
                    if piece is not None:
                        yield piece
                    elif not self._stop.is_set():
                        self.vanished += 1
            finally:
                self._stop.set()
                threads.shutdown(wait=False, cancel_futures=True)
        yield WHOLE

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


def _versions(parent: Parent, rows: int) -> Array:
    return nulls(rows, MOMENT) if parent.version is None else moments(parent.version, rows)


def _piece(page: Page, parent: Parent, *, at: datetime) -> Piece:
    batch, place = page.batch, page.batch.schema.get_field_index(PARENT_VERSION)
    if place >= 0:
        versions = _versions(parent, batch.num_rows)
        batch = batch.set_column(place, PARENT_VERSION, versions)
    return Piece(slice=WHOLE, page=page, batch=batch, read=None, highest=parent.version, at=at)
