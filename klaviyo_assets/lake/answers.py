"""Answers to report requests that were paid for, kept for a day so that nobody pays again.

What belongs here: the folder, and the lock that keeps two runs from asking the same. What does not:
one answer and its file (`kept`), what is in it (`tables`), who may use it (`sync/reports`).

    _answers/<stream>/
    ├── <metric>.<first>.<last>.<messages>.answer    one a question; later ones replace it
    ├── <metric>.failed                              its requests of late that failed, and why
    ├── <metric>.lock                                held while somebody asks
    └── placing.lock, turn.lock                      held while somebody places totals on days

Metric and messages are told by hashes: ids come from outside, and files stay in their folder. A
file is written beside and renamed, its bytes on the disk before: a killed process loses the page it
was about to keep, and nothing that was kept.
"""

import os
import time
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from klaviyo_assets.errors import StorageError
from klaviyo_assets.lake.disk import make_folder, take_lock, told
from klaviyo_assets.lake.kept import KeptAnswer, name_of, read_answer, written
from klaviyo_assets.lake.report_failures import ReportFailure, read_failures, written_failures
from klaviyo_assets.model.report import Days

KEPT_FOR = timedelta(days=1)
MOST_BYTES = 256 * 2**20
"""Answers of one stream on the disk, compressed; beyond that the oldest go."""

PATIENCE_SECONDS = 9000.0
"""How long one waits for another run that asks the same: a day's requests take two hours."""

FIRST_SAID_SECONDS = 10.0
SAID_SECONDS = 30.0
POLL_SECONDS = 0.05

ENDING = ".answer"
FAILED = ".failed"
HALF = ".part"
ALL = "all"
PLACING, TURN = "placing.lock", "turn.lock"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Who is waited for, and who is told of it now and then."""

    about: str
    say: Callable[[str], None]


class Answers:
    """The kept answers of one stream in `folder`; `clock` gives the time in UTC."""

    def __init__(self, folder: Path, stream: str, *, clock: Callable[[], datetime]) -> None:
        """Touch nothing yet."""
        self.folder, self.stream, self.clock = folder, stream, clock

    @contextmanager
    def lock(
        self,
        metric_id: str,
        *,
        say: Callable[[str], None],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Generator[None]:
        """Keep all other runs from asking about a metric for the block; wait for those that do.

        `say` is told who is waited for, now and then. Not to be entered twice by one thread.

        Raises:
            StorageError: the disk refused, or another run did not end in time.
        """
        waiting = Waiting(f"another run is asking about metric {metric_id[:80]!a}", say)
        number = self.taken(f"{name_of(metric_id)}.lock", waiting, patience_seconds)
        try:
            yield
        finally:
            os.close(number)

    @contextmanager
    def alone(
        self, *, say: Callable[[str], None], patience_seconds: float = PATIENCE_SECONDS
    ) -> Generator[None]:
        """Keep all other runs from placing totals for the block; those that wait take turns.

        Raises:
            StorageError: as `lock` says.
        """
        waiting = Waiting("another run is finding out when messages were sent", say)
        # Who holds the turn is next: who comes out of the block, and wants in again, waits for it.
        turn = self.taken(TURN, waiting, patience_seconds)
        try:
            number = self.taken(PLACING, waiting, patience_seconds)
        finally:
            os.close(turn)
        try:
            yield
        finally:
            os.close(number)

    def taken(self, name: str, waiting: Waiting, patience_seconds: float) -> int:
        """Return a locked file's descriptor."""
        path = self.folder / name
        with told(self.folder, self.stream):
            make_folder(self.folder)
            began, say_at = time.monotonic(), FIRST_SAID_SECONDS
            while (number := take_lock(path, wait=False)) is None:
                waited = time.monotonic() - began
                if waited > patience_seconds:
                    raise StorageError(
                        f"{waiting.about} and has not ended in {patience_seconds:g} s ({path}); "
                        "let it end, or end it, then run again",
                        stream=self.stream,
                    )
                if waited >= say_at:
                    waiting.say(f"{waiting.about}: waiting for its answer, {waited:.0f} s so far")
                    # Ever more rarely: a wait of two hours is a dozen lines of a log.
                    say_at = waited + max(waited, SAID_SECONDS)
                time.sleep(POLL_SECONDS)
            return number

    def frames(self, *, within: timedelta) -> frozenset[Days]:
        """Return the time frames of which anybody kept an answer about all messages lately.

        Answers about any metric count, begun ones too.
        """
        since = (self.clock() - within).timestamp()
        found: set[Days] = set()
        for path in self.folder.glob(f"*.{ALL}{ENDING}"):
            with suppress(FileNotFoundError, ValueError):
                _, first, last, *_ = path.name.split(".")
                if path.stat().st_mtime >= since:
                    found.add(Days(date.fromisoformat(first), date.fromisoformat(last)))
        return frozenset(found)

    def kept(self, metric_id: str, *, fresh_since: datetime) -> list[KeptAnswer]:
        """Return the whole answers about a metric computed at or after a moment, the newest first.

        A file that cannot be read counts as missing.
        """
        return [each for each in self.found(metric_id, fresh_since) if each.is_whole]

    def begun(
        self,
        metric_id: str,
        days: Days,
        message_ids: Sequence[str] = (),
        *,
        fresh_since: datetime,
    ) -> KeptAnswer | None:
        """Return the pages that came of an answer whose asker ended before the last one."""
        question = (days, tuple(message_ids))
        for each in self.found(metric_id, fresh_since):
            if not each.is_whole and (each.days, each.message_ids) == question:
                return each
        return None

    def found(self, metric_id: str, fresh_since: datetime) -> list[KeptAnswer]:
        """Return all readable answers about a metric since a moment, the newest first."""
        paths = self.folder.glob(f"{name_of(metric_id)}.*{ENDING}")
        read = (read_answer(path, metric_id) for path in paths)
        fresh = [each for each in read if each is not None and each.fetched_at >= fresh_since]
        return sorted(fresh, key=lambda each: each.fetched_at, reverse=True)

    def put(  # noqa: PLR0913 - the parts of a question and of its answer, each with a name
        self,
        metric_id: str,
        days: Days,
        message_ids: Sequence[str] = (),
        *,
        fetched_at: datetime,
        pages: Sequence[bytes],
        is_whole: bool = True,
    ) -> None:
        """Keep an answer, or its pages so far, in place of an earlier one to the same question.

        Raises:
            StorageError: the disk refused.
        """
        answer = KeptAnswer(
            days=days,
            message_ids=tuple(message_ids),
            fetched_at=fetched_at,
            is_whole=is_whole,
            lengths=tuple(len(page) for page in pages),
            packed=zlib.compress(b"".join(pages), 1),
        )
        asked = ALL if not message_ids else name_of(*message_ids)
        name = f"{name_of(metric_id)}.{days.first}.{days.last}.{asked}{ENDING}"
        with told(self.folder, self.stream):
            make_folder(self.folder)
            # Its age is told by our own clock; `fetched_at` is Klaviyo's.
            at = self.clock().timestamp()
            write_whole(self.folder / name, written(answer, metric_id), at=at)
            self.prune()

    def failures(self, metric_id: str) -> tuple[ReportFailure, ...]:
        """Return the requests about a metric that are remembered as failed, the oldest first."""
        return read_failures(self.folder / f"{name_of(metric_id)}{FAILED}")[1]

    def failed_metrics(self) -> Mapping[str, tuple[ReportFailure, ...]]:
        """Return the failures of all metrics that have some, in the order of their ids."""
        found = (read_failures(path) for path in self.folder.glob(f"*{FAILED}"))
        return {metric_id: failures for metric_id, failures in sorted(found) if failures}

    def keep_failures(self, metric_id: str, failures: Sequence[ReportFailure]) -> None:
        """Remember exactly these failures of a metric; with none it is forgotten that any were.

        Raises:
            StorageError: the disk refused.
        """
        path = self.folder / f"{name_of(metric_id)}{FAILED}"
        with told(self.folder, self.stream):
            if not failures:
                path.unlink(missing_ok=True)
                return
            make_folder(self.folder)
            at = self.clock().timestamp()
            write_whole(path, written_failures(metric_id, failures), at=at)

    def prune(self) -> None:
        """Remove answers that are a day old, and the oldest beyond the limit of bytes.

        So go failures that nobody asked about for a day more: they count for one.
        """
        oldest = (self.clock() - KEPT_FOR).timestamp()
        for path in self.folder.glob(f"*{FAILED}"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest - KEPT_FOR.total_seconds():
                    path.unlink()
        sizes: list[tuple[float, int, Path]] = []
        for path in self.folder.glob(f"*{ENDING}"):
            with suppress(FileNotFoundError):
                found = path.stat()
                sizes.append((found.st_mtime, found.st_size, path))
        total = 0
        for kept_at, size, path in sorted(sizes, reverse=True):
            total += size
            if kept_at < oldest or total > MOST_BYTES:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(f"*{HALF}"):
            with suppress(FileNotFoundError):
                # A half file that nobody has touched for a day is a dead process's.
                if path.stat().st_mtime < time.time() - KEPT_FOR.total_seconds():
                    path.unlink()


def write_whole(target: Path, content: bytes, *, at: float) -> None:
    """Write a file beside and rename it, its bytes on the disk before its name.

    Its modification time is `at`, in seconds since 1970.
    """
    half = target.with_name(f"{uuid4().hex}{HALF}")
    try:
        with half.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.utime(half, (at, at))
        half.replace(target)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
