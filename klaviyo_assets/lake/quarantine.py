"""Records that could not be stored: kept as Klaviyo sent them, with the reason.

What belongs here: writing them down, and telling whole ones. What does not: judging them (`tables`)
and counting them (`sync`). A file is named by its content: the same records read again after a
crash overwrite themselves.
"""

import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from klaviyo_assets.lake.disk import make_folder, reading, told, without_link
from klaviyo_assets.lake.layout import quarantine_folder

ID_ALONE = re.compile(rb'\{("id":"[A-Za-z0-9_-]{1,64}")?\}')
"""All that stays of a record of a stream that has settings of privacy."""


def keep(root: Path, stream: str, records: Iterable[tuple[str, bytes]]) -> int:
    """Write (reason, bytes) pairs to one Parquet file; return how many there were.

    Raises:
        StorageError: the disk refused.
    """
    pairs = list(records)
    if not pairs:
        return 0
    digest = sha256()
    for reason, record in pairs:
        digest.update(b"%d %d " % (len(reason), len(record)) + reason.encode() + record)
    rows = pa.table(
        {
            "reason": pa.array([reason for reason, _ in pairs], pa.string()),
            "record": pa.array([record for _, record in pairs], pa.binary()),
        }
    )
    folder = quarantine_folder(root, stream)
    target = folder / f"{digest.hexdigest()}.parquet"
    with told(target, stream):
        make_folder(folder)
        half = target.with_suffix(".part")
        without_link(half)
        pq.write_table(rows, half, compression="zstd")
        half.replace(target)
    return len(pairs)


def older_quarantine(root: Path, stream: str) -> Path | None:
    """Return the folder with a stream's records that cannot be stored, if one of them is whole.

    None where each is an id alone, as settings of privacy leave it.

    Raises:
        CorruptFileError: a file cannot be read.
    """
    folder = quarantine_folder(root, stream)
    for path in sorted(folder.glob("*.parquet")):
        with reading(path, stream):
            records = pq.read_table(path, columns=["record"])["record"].to_pylist()
        if any(ID_ALONE.fullmatch(each) is None for each in records if each is not None):
            return folder
    return None
