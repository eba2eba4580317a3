"""Records that could not be stored: kept as Klaviyo sent them, with the reason."""

import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from klaviyo_assets.lake.disk import (
    create_folder,
    map_read_errors,
    map_storage_errors,
    remove_symlink,
)
from klaviyo_assets.lake.layout import quarantine_folder

ID_ONLY_RECORD = re.compile(rb'\{("id":"[A-Za-z0-9_-]{1,64}")?\}')
"""All that stays of a record of a stream that has settings of privacy."""


def write_quarantine(root: Path, stream: str, records: Iterable[tuple[str, bytes]]) -> int:
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
    with map_storage_errors(target, stream):
        create_folder(folder)
        part_file = target.with_suffix(".part")
        remove_symlink(part_file)
        pq.write_table(rows, part_file, compression="zstd")
        part_file.replace(target)
    return len(pairs)


def find_unredacted_quarantine(root: Path, stream: str) -> Path | None:
    """Return the folder with a stream's records that cannot be stored, if one of them is whole.

    None where each is an id alone, as settings of privacy leave it.

    Raises:
        CorruptFileError: a file cannot be read.
    """
    folder = quarantine_folder(root, stream)
    for path in sorted(folder.glob("*.parquet")):
        with map_read_errors(path, stream):
            records = pq.read_table(path, columns=["record"])["record"].to_pylist()
        if any(ID_ONLY_RECORD.fullmatch(each) is None for each in records if each is not None):
            return folder
    return None
