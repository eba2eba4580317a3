"""Caches report responses, which cost quota, and failed report requests, on disk for a day.

    _answers/<stream>/
    ├── <metric>.<first>.<last>.<messages>.answer    one per request; a later response replaces it
    ├── <metric>.failed                              its recent failed requests, and why
    ├── <metric>.lock                                held while a run requests this metric
    └── placing.lock, turn.lock                      held while a run allocates totals to days

File names contain hashes of the ids of metric and messages: ids come from outside, and a hash
cannot lead out of the folder. A file is written beside its final name, flushed to the disk, and
then renamed: a killed process loses the page it was about to store, and nothing that was stored.
"""

import json
import os
import time
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from uuid import uuid4

from klaviyo_assets.errors import StorageError
from klaviyo_assets.lake.disk import acquire_lock, create_folder, map_storage_errors
from klaviyo_assets.model.report import DateRange


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedResponse:
    """A response to one report request; without `message_ids` it is about all messages.

    `fetched_at` (UTC) is when Klaviyo computed its first page. If it is not `is_complete`, its last
    page has the link to the next one.
    """

    date_range: DateRange
    message_ids: tuple[str, ...]
    fetched_at: datetime
    is_complete: bool
    page_lengths: tuple[int, ...] = field(repr=False)
    compressed_pages: bytes = field(repr=False)

    def can_answer(self, date_range: DateRange, message_ids: Sequence[str]) -> bool:
        """Return whether it answers a request; one without message ids is about all messages."""
        is_of_all = not self.message_ids
        is_of_more = bool(message_ids) and set(message_ids) <= set(self.message_ids)
        return self.date_range == date_range and (is_of_all or is_of_more)

    def decompress_pages(self) -> list[bytes]:
        """Return the pages as Klaviyo sent them, in order."""
        plain = zlib.decompress(self.compressed_pages)
        return [
            plain[start:end] for start, end in pairwise(accumulate(self.page_lengths, initial=0))
        ]


def serialize_cached_response(response: CachedResponse, metric_id: str) -> bytes:
    """Return the content of a cache file: a JSON header line, then the compressed pages."""
    head = {
        "metric_id": metric_id,
        "days": [response.date_range.first.isoformat(), response.date_range.last.isoformat()],
        "message_ids": response.message_ids,
        "fetched_at": response.fetched_at.isoformat(),
        "is_whole": response.is_complete,
        "lengths": response.page_lengths,
    }
    return json.dumps(head).encode() + b"\n" + response.compressed_pages


def read_cached_response(path: Path, metric_id: str) -> CachedResponse | None:
    """Return the response in a file; None if it cannot be read, or is about another metric."""
    try:
        head, _, packed = path.read_bytes().partition(b"\n")
        fields = json.loads(head)
        first, last = fields["days"]
        response = CachedResponse(
            date_range=DateRange(date.fromisoformat(first), date.fromisoformat(last)),
            message_ids=tuple(fields["message_ids"]),
            fetched_at=datetime.fromisoformat(fields["fetched_at"]).astimezone(UTC),
            is_complete=fields["is_whole"],
            page_lengths=tuple(fields["lengths"]),
            compressed_pages=packed,
        )
        is_whole_file = len(zlib.decompress(packed)) == sum(response.page_lengths)
        is_sound = is_whole_file and fields["metric_id"] == metric_id
    except (OSError, ValueError, KeyError, TypeError, zlib.error):
        return None
    return response if is_sound else None


def hash_ids(*ids: str) -> str:
    """Return a hash of some ids that is safe and unique as a file name."""
    return sha256(json.dumps(ids).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFailure:
    """A report request without a usable response: when it failed (UTC), the request, and why."""

    failed_at: datetime
    request: str
    reason: str


def serialize_failures(metric_id: str, failures: Sequence[ReportFailure]) -> bytes:
    """Return the content of a metric's file of failures."""
    rows = [[each.failed_at.isoformat(), each.request, each.reason] for each in failures]
    return json.dumps({"metric_id": metric_id, "failures": rows}).encode()


def read_failures_file(path: Path) -> tuple[str, tuple[ReportFailure, ...]]:
    """Return a file's metric and failures, the oldest first; none if it cannot be read."""
    try:
        fields = json.loads(path.read_bytes())
        failures = tuple(
            ReportFailure(
                failed_at=datetime.fromisoformat(at).astimezone(UTC),
                request=request,
                reason=reason,
            )
            for at, request, reason in fields["failures"]
        )
        return str(fields["metric_id"]), failures
    except (OSError, ValueError, KeyError, TypeError):
        return "", ()


RESPONSE_LIFETIME = timedelta(days=1)
MAX_RESPONSE_CACHE_BYTES = 256 * 2**20
"""Limit of one stream's compressed responses on the disk; beyond it the oldest are removed."""

RESPONSE_LOCK_TIMEOUT_SECONDS = 9000.0
"""How long to wait for another run that requests the same: a day's requests take two hours."""

FIRST_WAIT_WARNING_SECONDS = 10.0
WAIT_WARNING_SECONDS = 30.0
LOCK_POLL_SECONDS = 0.05

RESPONSE_SUFFIX = ".answer"
FAILURES_SUFFIX = ".failed"
PART_FILE_SUFFIX = ".part"
ALL_MESSAGES = "all"
ALLOCATION_LOCK_FILE, ALLOCATION_QUEUE_FILE = "placing.lock", "turn.lock"


@dataclass(frozen=True, slots=True)
class LockWait:
    """Why a run waits for a lock, and the function that reports this now and then."""

    reason: str
    warn: Callable[[str], None]


class ReportResponseCache:
    """The cached responses of one stream in `folder`; `clock` returns the time in UTC."""

    def __init__(self, folder: Path, stream: str, *, clock: Callable[[], datetime]) -> None:
        """Do no I/O yet."""
        self.folder, self.stream, self.clock = folder, stream, clock

    @contextmanager
    def lock_metric(
        self,
        metric_id: str,
        *,
        warn: Callable[[str], None],
        timeout_seconds: float = RESPONSE_LOCK_TIMEOUT_SECONDS,
    ) -> Generator[None]:
        """Keep other runs from requesting a metric during the block; wait for one that does.

        `warn` is called now and then with the reason for the wait. A thread must not enter this
        twice.

        Raises:
            StorageError: an operation on the disk failed, or another run did not end in time.
        """
        waiting = LockWait(f"another run is asking about metric {metric_id[:80]!a}", warn)
        descriptor = self._acquire_lock(f"{hash_ids(metric_id)}.lock", waiting, timeout_seconds)
        try:
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def lock_allocation(
        self, *, warn: Callable[[str], None], timeout_seconds: float = RESPONSE_LOCK_TIMEOUT_SECONDS
    ) -> Generator[None]:
        """Keep other runs from allocating totals to days during the block; waiting runs take turns.

        Raises:
            StorageError: as `lock_metric` says.
        """
        waiting = LockWait("another run is finding out when messages were sent", warn)
        # The holder of the queue lock is next: a run that leaves the block and wants to enter it
        # again waits behind it.
        queue_descriptor = self._acquire_lock(ALLOCATION_QUEUE_FILE, waiting, timeout_seconds)
        try:
            descriptor = self._acquire_lock(ALLOCATION_LOCK_FILE, waiting, timeout_seconds)
        finally:
            os.close(queue_descriptor)
        try:
            yield
        finally:
            os.close(descriptor)

    def _acquire_lock(self, name: str, waiting: LockWait, timeout_seconds: float) -> int:
        """Return the descriptor of a locked file."""
        path = self.folder / name
        with map_storage_errors(self.folder, self.stream):
            create_folder(self.folder)
            started, next_warning = time.monotonic(), FIRST_WAIT_WARNING_SECONDS
            while (descriptor := acquire_lock(path, wait=False)) is None:
                waited = time.monotonic() - started
                if waited > timeout_seconds:
                    raise StorageError(
                        f"{waiting.reason} and has not ended in {timeout_seconds:g} s ({path}); "
                        "let it end, or end it, then run again",
                        stream=self.stream,
                    )
                if waited >= next_warning:
                    waiting.warn(
                        f"{waiting.reason}: waiting for its response, {waited:.0f} s so far"
                    )
                    # At growing intervals: a wait of two hours makes a dozen lines in the log.
                    next_warning = waited + max(waited, WAIT_WARNING_SECONDS)
                time.sleep(LOCK_POLL_SECONDS)
            return descriptor

    def recent_timeframes(self, *, max_age: timedelta) -> frozenset[DateRange]:
        """Return the time frames for which a response about all messages was stored lately.

        Responses of all metrics count, and incomplete ones too.
        """
        since = (self.clock() - max_age).timestamp()
        found: set[DateRange] = set()
        for path in self.folder.glob(f"*.{ALL_MESSAGES}{RESPONSE_SUFFIX}"):
            with suppress(FileNotFoundError, ValueError):
                _, first, last, *_ = path.name.split(".")
                if path.stat().st_mtime >= since:
                    found.add(DateRange(date.fromisoformat(first), date.fromisoformat(last)))
        return frozenset(found)

    def complete_responses(self, metric_id: str, *, fresh_since: datetime) -> list[CachedResponse]:
        """Return the complete responses of a metric computed at or after a time, the newest first.

        A file that cannot be read counts as missing.
        """
        return [each for each in self._read_responses(metric_id, fresh_since) if each.is_complete]

    def find_partial_response(
        self,
        metric_id: str,
        date_range: DateRange,
        message_ids: Sequence[str] = (),
        *,
        fresh_since: datetime,
    ) -> CachedResponse | None:
        """Return the pages of a response that a run did not read to its last page; None without."""
        request = (date_range, tuple(message_ids))
        for each in self._read_responses(metric_id, fresh_since):
            if not each.is_complete and (each.date_range, each.message_ids) == request:
                return each
        return None

    def _read_responses(self, metric_id: str, fresh_since: datetime) -> list[CachedResponse]:
        """Return all readable responses of a metric since a time, the newest first."""
        paths = self.folder.glob(f"{hash_ids(metric_id)}.*{RESPONSE_SUFFIX}")
        read = (read_cached_response(path, metric_id) for path in paths)
        fresh = [each for each in read if each is not None and each.fetched_at >= fresh_since]
        return sorted(fresh, key=lambda each: each.fetched_at, reverse=True)

    def store_response(  # noqa: PLR0913 - the parts of a request and of its response, each named
        self,
        metric_id: str,
        date_range: DateRange,
        message_ids: Sequence[str] = (),
        *,
        fetched_at: datetime,
        pages: Sequence[bytes],
        is_complete: bool = True,
    ) -> None:
        """Store a response, or its pages so far, in place of an earlier one to the same request.

        Raises:
            StorageError: an operation on the disk failed.
        """
        response = CachedResponse(
            date_range=date_range,
            message_ids=tuple(message_ids),
            fetched_at=fetched_at,
            is_complete=is_complete,
            page_lengths=tuple(len(page) for page in pages),
            compressed_pages=zlib.compress(b"".join(pages), 1),
        )
        scope = ALL_MESSAGES if not message_ids else hash_ids(*message_ids)
        name = (
            f"{hash_ids(metric_id)}.{date_range.first}.{date_range.last}.{scope}{RESPONSE_SUFFIX}"
        )
        with map_storage_errors(self.folder, self.stream):
            create_folder(self.folder)
            # The age of a file is by our own clock; `fetched_at` is by Klaviyo's.
            at = self.clock().timestamp()
            write_file_atomically(
                self.folder / name, serialize_cached_response(response, metric_id), modified_at=at
            )
            self.prune()

    def failures(self, metric_id: str) -> tuple[ReportFailure, ...]:
        """Return the stored failures of a metric, the oldest first."""
        return read_failures_file(self.folder / f"{hash_ids(metric_id)}{FAILURES_SUFFIX}")[1]

    def failed_metrics(self) -> Mapping[str, tuple[ReportFailure, ...]]:
        """Return the failures of all metrics that have any, in the order of their ids."""
        found = (read_failures_file(path) for path in self.folder.glob(f"*{FAILURES_SUFFIX}"))
        return {metric_id: failures for metric_id, failures in sorted(found) if failures}

    def store_failures(self, metric_id: str, failures: Sequence[ReportFailure]) -> None:
        """Store exactly these failures of a metric instead of earlier ones; none removes the file.

        Raises:
            StorageError: an operation on the disk failed.
        """
        path = self.folder / f"{hash_ids(metric_id)}{FAILURES_SUFFIX}"
        with map_storage_errors(self.folder, self.stream):
            if not failures:
                path.unlink(missing_ok=True)
                return
            create_folder(self.folder)
            at = self.clock().timestamp()
            write_file_atomically(path, serialize_failures(metric_id, failures), modified_at=at)

    def prune(self) -> None:
        """Remove responses that are a day old, and the oldest beyond the limit of bytes.

        A metric's failures are removed after two days without a new request: they count for one
        day.
        """
        oldest = (self.clock() - RESPONSE_LIFETIME).timestamp()
        for path in self.folder.glob(f"*{FAILURES_SUFFIX}"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest - RESPONSE_LIFETIME.total_seconds():
                    path.unlink()
        sizes: list[tuple[float, int, Path]] = []
        for path in self.folder.glob(f"*{RESPONSE_SUFFIX}"):
            with suppress(FileNotFoundError):
                found = path.stat()
                sizes.append((found.st_mtime, found.st_size, path))
        total = 0
        for modified_at, size, path in sorted(sizes, reverse=True):
            total += size
            if modified_at < oldest or total > MAX_RESPONSE_CACHE_BYTES:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(f"*{PART_FILE_SUFFIX}"):
            with suppress(FileNotFoundError):
                # A partial file that was not touched for a day belongs to a dead process.
                if path.stat().st_mtime < time.time() - RESPONSE_LIFETIME.total_seconds():
                    path.unlink()


def write_file_atomically(target: Path, content: bytes, *, modified_at: float) -> None:
    """Write a file under another name, flush it to the disk, and rename it.

    Its modification time is `modified_at`, in Unix seconds.
    """
    part_file = target.with_name(f"{uuid4().hex}{PART_FILE_SUFFIX}")
    try:
        with part_file.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.utime(part_file, (modified_at, modified_at))
        part_file.replace(target)
    except BaseException:
        part_file.unlink(missing_ok=True)
        raise
