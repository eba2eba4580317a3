"""The oracle: every request that came in, and every id that was shown.

Ids are kept as ordinals in arrays, so a million shown events cost eight megabytes. Keys are kept as
a hash only. Admin requests are not in it.
"""

import threading
from array import array
from collections import Counter
from dataclasses import dataclass, field

from klaviyo_assets.sandbox.json_types import JsonObject


@dataclass(slots=True, kw_only=True)
class JournalEntry:
    """One request; `received_at` is real time, `sandbox_time` the sandbox's, both since 1970.

    `body` is what was sent along; the JSON form leaves it out. `shown` are ordinals of the primary
    records sent intact, of collection `kind`.
    """

    number: int
    received_at: float
    sandbox_time: float
    method: str
    path: str
    query: str
    key_hash: str | None
    body: bytes = b""
    operation: str | None = None
    status: int | None = None
    body_size: int = 0
    kind: str | None = None
    shown_ordinals: "array[int]" = field(default_factory=lambda: array("q"))
    fault: str | None = None

    def as_json(self) -> JsonObject:
        """The entry without its ids, with their count."""
        return {
            "n": self.number,
            "time": self.received_at,
            "sandbox_time": self.sandbox_time,
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "key": self.key_hash,
            "operation": self.operation,
            "status": self.status,
            "bytes": self.body_size,
            "shown": len(self.shown_ordinals),
            "fault": self.fault,
        }


class RequestJournal:
    """All entries, in the order of arrival."""

    def __init__(self) -> None:
        """Begin empty."""
        self.entries: list[JournalEntry] = []
        self.number = 0
        self.lock = threading.Lock()

    def append(self, entry: JournalEntry) -> JournalEntry:
        """Number the entry and keep it; it is filled in while the request is answered."""
        with self.lock:
            self.number += 1
            entry.number = self.number
            self.entries.append(entry)
        return entry

    def clear(self) -> None:
        """Forget all entries; numbers go on."""
        with self.lock:
            self.entries = []

    def requests(self) -> list[JournalEntry]:
        """A copy of the entries so far."""
        with self.lock:
            return list(self.entries)

    def summary(self) -> JsonObject:
        """Counts per path, each by status, and the number of 429s."""
        found: dict[str, Counter[str]] = {}
        for entry in self.requests():
            found.setdefault(entry.path, Counter())[str(entry.status)] += 1
        throttled = sum(counts["429"] for counts in found.values())
        paths: JsonObject = {path: dict(counts) for path, counts in sorted(found.items())}
        return {"paths": paths, "requests": len(self.requests()), "throttled": throttled}

    def count_shown(self, path: str) -> tuple[str | None, Counter[int]]:
        """The collection and the ordinals shown intact on a path, with how often each was shown."""
        counts: Counter[int] = Counter()
        kind: str | None = None
        for entry in self.requests():
            if entry.path == path and entry.shown_ordinals:
                kind = entry.kind
                counts.update(entry.shown_ordinals)
        return kind, counts
