"""Failed requests for reports, remembered by metric: a small file each, beside the answers.

What belongs here: the value, and its form on the disk. What does not: where the files lie
(`answers`), how many failures are too many (`sync/reports`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFailure:
    """A request for a report that brought nothing usable: when (UTC), what was asked, and why."""

    at: datetime
    question: str
    reason: str


def written_failures(metric_id: str, failures: Sequence[ReportFailure]) -> bytes:
    """Return what a file holds of a metric's failures."""
    rows = [[each.at.isoformat(), each.question, each.reason] for each in failures]
    return json.dumps({"metric_id": metric_id, "failures": rows}).encode()


def read_failures(path: Path) -> tuple[str, tuple[ReportFailure, ...]]:
    """Return a file's metric and failures, the oldest first; nothing where it cannot be read."""
    try:
        said = json.loads(path.read_bytes())
        failures = tuple(
            ReportFailure(
                at=datetime.fromisoformat(at).astimezone(UTC), question=question, reason=reason
            )
            for at, question, reason in said["failures"]
        )
        return str(said["metric_id"]), failures
    except (OSError, ValueError, KeyError, TypeError):
        return "", ()
