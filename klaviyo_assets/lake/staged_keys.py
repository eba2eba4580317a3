"""The keys of one commit's staged rows, kept until it is known that none of them came twice.

What belongs here: whether files that were just written have to be read again. What does not: which
row of a key stays (`merge`). Read back, the keys of the seventeen days that got rows from more than
one stage were a third of the time of a commit of 130,000 events, for which readers wait.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

KEPT_BYTES = 16 * 2**20
"""Keys in memory, as much as rows may wait for a stage: half a million ids of events."""


class StagedKeys:
    """The keys that the stages of one commit brought, by partition.

    Those of one column alone: Arrow counts no others without pandas.
    """

    def __init__(self, key: Sequence[str]) -> None:
        """Know nothing yet."""
        self.column = key[0] if len(key) == 1 else None
        self.stages: Counter[str] = Counter()
        self.kept: dict[str, list[pa.Array[Any]]] = defaultdict(list)
        self.size = 0

    def note(self, partition: str, rows: pa.Table) -> None:
        """Take in the rows that one stage brings a partition, no key twice among them."""
        self.stages[partition] += 1
        if self.column is None or self.size > KEPT_BYTES:
            return
        # A copy: a page's texts lie in one block, which would stay in memory whole.
        keys = rows[self.column].combine_chunks()
        self.size += keys.nbytes
        self.kept[partition].append(keys)
        if self.size > KEPT_BYTES:
            self.kept.clear()

    def are_unique(self, partition: str) -> bool:
        """Tell whether it is known that no key of the partition came twice."""
        if self.stages[partition] <= 1:
            return True
        kept = self.kept.get(partition)
        if kept is None:
            return False
        keys = pa.chunked_array(kept)
        return pc.count_distinct(keys, mode="all").as_py() == len(keys)
