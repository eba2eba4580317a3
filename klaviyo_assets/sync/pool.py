"""Windows read side by side: workers that take a window, and when idle a part of another's.

What belongs here: threads, and the queue between them and the writer. What does not: who takes what
(`scheduler`), what a window is (`walk`) and what is done with a page (`pull`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from queue import SimpleQueue
from threading import Condition, Event, Thread
from types import MappingProxyType

from klaviyo_assets.errors import (
    BrokenBodyError,
    ContractError,
    KlaviyoAssetsError,
    LargeBodyError,
    PermanentError,
    PlanError,
    RevisionRetiredError,
    ServerError,
    SettingError,
)
from klaviyo_assets.model.stream import Slice
from klaviyo_assets.sync.pace import Pace, Room, Stopwatch
from klaviyo_assets.sync.scheduler import WindowScheduler
from klaviyo_assets.sync.walk import Piece, Walk

_LOOK_UP_SECONDS = 0.2
"""How often an idle worker looks up whether it should stop."""

_OF_ONE_SLICE = (
    *(SettingError, PermanentError, PlanError, ContractError),
    *(ServerError, BrokenBodyError, LargeBodyError),
)
"""What may be wrong with one slice alone; a key, a limit or a line concerns them all."""

_Item = Piece | Slice | BaseException | None
"""What workers hand over; None once the last of them has gone home."""


class Pool:
    """Reads walks with up to `workers` threads; `items` yields what they bring, as it comes.

    Half as many pages as workers wait for the writer at most, fewer where pages are large or come
    at once: memory stays flat, and what is under way when a run is killed stays little. A window is
    split for an idle worker only while `pace` says that one more hides latency.
    """

    vanished = 0
    last_round_at = None
    """There is one round."""
    unanswered: Mapping[str, int] = MappingProxyType({})
    """Windows have no parent records that could be gone, or get no answer."""

    def __init__(self, walks: Sequence[Walk], *, workers: int, pace: Pace | None = None) -> None:
        """Start the workers at once."""
        self._windows = WindowScheduler.of(walks)
        self._slices = {walk.slice.name for walk in walks}
        self._failures: dict[str, KlaviyoAssetsError] = {}
        self._at_work = workers
        self._pace = pace if pace is not None else Pace()
        self._room = Room(most=workers + max(2, workers // 2), pace=self._pace)
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._turn = Condition()
        self._stop = Event()
        self.threads = [
            Thread(target=self._work, name=f"klaviyo-{n}", daemon=True) for n in range(workers)
        ]
        for thread in self.threads:
            thread.start()

    def items(self) -> Iterator[Piece | Slice]:
        """Yield pieces, and each slice once when its last window has been read.

        A slice that cannot be read keeps none of the others.

        Raises:
            KlaviyoAssetsError: what a worker met, after everything that was read before it; what
                concerns a slice alone after the other slices were read to their end.
        """
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Piece):
                self._room.leave()
            yield item
        if self._failures:
            raise _failure_of(self._failures, self._slices)

    def close(self) -> None:
        """Tell the workers to stop after their page; does not wait for an answer under way."""
        self._stop.set()
        with self._turn:
            self._turn.notify_all()

    def _work(self) -> None:
        try:
            self._read()
        except BaseException as error:  # noqa: BLE001 - carried to the writer, which raises it
            self._queue.put(error)
            self.close()
        with self._turn:
            self._at_work -= 1
            is_last = self._at_work == 0
        if is_last:
            self._queue.put(None)

    def _read(self) -> None:
        while (walk := self._next_walk()) is not None:
            try:
                self._read_to_end(walk)
            except _OF_ONE_SLICE as error:
                if len(self._slices) == 1 or isinstance(error, RevisionRetiredError):
                    raise
                self._give_up(walk, error)
                continue
            if self._stop.is_set():
                return
            self._finish(walk)

    def _read_to_end(self, walk: Walk) -> None:
        pieces = walk.pieces()
        while self._room.enter(self._stop):
            piece = self._next_piece(pieces, Stopwatch(walk.turn))
            if piece is None:
                return
            self._queue.put(piece)
            with self._turn:
                self._windows.note(walk)
                self._turn.notify()

    def _next_piece(self, pieces: Iterator[Piece], watch: Stopwatch) -> Piece | None:
        """Return the next page of a walk, None after the last, and learn what it cost.

        The room that was taken for it is free again where none comes.
        """
        piece = None
        try:
            piece = next(pieces, None)
        finally:
            self._room.hand_over()
            if piece is None:
                self._room.leave()
        if piece is not None:
            self._pace.note(*watch.read())
            self._room.note(piece.page.batch.get_total_buffer_size())
        return piece

    def _next_walk(self) -> Walk | None:
        """Return a waiting window, else a part of one being read; None when all is read."""
        with self._turn:
            while not self._stop.is_set():
                idle = self._at_work - self._windows.reading
                walk = self._windows.next_walk(idle=idle, windows=self._pace.windows)
                if walk is not None:
                    # One page may be reason enough for several parts, and wakes one worker.
                    self._turn.notify()
                    return walk
                if self._windows.is_over:
                    self._turn.notify_all()
                    return None
                self._turn.wait(_LOOK_UP_SECONDS)
            return None

    def _give_up(self, walk: Walk, error: KlaviyoAssetsError) -> None:
        with self._turn:
            self._failures.setdefault(walk.slice.name, error)
            self._windows.give_up(walk)
            self._turn.notify_all()

    def _finish(self, walk: Walk) -> None:
        with self._turn:
            is_slice_read = self._windows.finish(walk)
            self._turn.notify_all()
        if is_slice_read:
            self._queue.put(walk.slice)


def _failure_of(
    failures: Mapping[str, KlaviyoAssetsError], slices: Collection[str]
) -> KlaviyoAssetsError:
    """Return the failure of the first slice, and say which others could not be read."""
    first, names = next(iter(failures.values())), ", ".join(map(repr, sorted(failures)))
    if len(failures) < len(slices):
        first.message = f"{first.message} All but {names} was read."
    return first
