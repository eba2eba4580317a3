"""One kept answer and its file: a line of JSON that says what was asked, and the compressed pages.

What belongs here: the value, and its form on the disk. What does not: where files lie and how long
(`answers`).
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path

from klaviyo_assets.model.report import Days


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """An answer to one question; `message_ids` is empty where it was about all messages.

    `fetched_at` (UTC) is when Klaviyo computed its first page. Of one that is not `is_whole` the
    last page says where the next one is.
    """

    days: Days
    message_ids: tuple[str, ...]
    fetched_at: datetime
    is_whole: bool
    lengths: tuple[int, ...] = field(repr=False)
    packed: bytes = field(repr=False)

    def serves(self, days: Days, message_ids: Sequence[str]) -> bool:
        """Tell whether it answers a question, which is about all messages where it names none."""
        is_of_all = not self.message_ids
        is_of_more = bool(message_ids) and set(message_ids) <= set(self.message_ids)
        return self.days == days and (is_of_all or is_of_more)

    def pages(self) -> list[bytes]:
        """Return the pages as they came, in order."""
        plain = zlib.decompress(self.packed)
        return [plain[start:end] for start, end in pairwise(accumulate(self.lengths, initial=0))]


def written(answer: KeptAnswer, metric_id: str) -> bytes:
    """Return what a file holds of an answer about a metric."""
    head = {
        "metric_id": metric_id,
        "days": [answer.days.first.isoformat(), answer.days.last.isoformat()],
        "message_ids": answer.message_ids,
        "fetched_at": answer.fetched_at.isoformat(),
        "is_whole": answer.is_whole,
        "lengths": answer.lengths,
    }
    return json.dumps(head).encode() + b"\n" + answer.packed


def read_answer(path: Path, metric_id: str) -> KeptAnswer | None:
    """Return what a file holds; None where it cannot be read, or is about another metric."""
    try:
        head, _, packed = path.read_bytes().partition(b"\n")
        said = json.loads(head)
        first, last = said["days"]
        answer = KeptAnswer(
            days=Days(date.fromisoformat(first), date.fromisoformat(last)),
            message_ids=tuple(said["message_ids"]),
            fetched_at=datetime.fromisoformat(said["fetched_at"]).astimezone(UTC),
            is_whole=said["is_whole"],
            lengths=tuple(said["lengths"]),
            packed=packed,
        )
        is_whole_file = len(zlib.decompress(packed)) == sum(answer.lengths)
        is_sound = is_whole_file and said["metric_id"] == metric_id
    except (OSError, ValueError, KeyError, TypeError, zlib.error):
        return None
    return answer if is_sound else None


def name_of(*ids: str) -> str:
    """Return a name for some ids that is safe in a folder, and nobody else's."""
    return sha256(json.dumps(ids).encode()).hexdigest()[:32]
