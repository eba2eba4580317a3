"""Windows of time, half open, and what has been read so far.

What belongs here: the arithmetic of intervals. What does not: asking for them (`api/protocol.py`)
and reading them (`sync.py`).
"""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Window:
    """`[start, end)` in UTC; None leaves that side open.

                 start                     end
     ──────────────┼────────────────────────┼──────▶ UTC
     asked for ────[════════════════════════)──────▶
    """

    start: datetime | None = None
    end: datetime | None = None
