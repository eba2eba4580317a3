"""Stores records that no table can hold: their bytes as Klaviyo sent them, and the reason."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from klaviyo_assets.crash_points import reach_crash_point
from klaviyo_assets.lake.disk import (
    create_folder,
    map_read_errors,
    map_storage_errors,
    remove_symlink,
)
from klaviyo_assets.lake.layout import QUARANTINE_FOLDER, quarantine_folder

ID_ONLY_RECORD = re.compile(rb'\{("id":"[A-Za-z0-9_-]{1,64}")?\}')
"""What is stored of a record of a stream with privacy settings: its id, or nothing."""


def write_quarantine(root: Path, stream: str, records: Iterable[tuple[str, bytes]]) -> int:
    """Write (reason, bytes) pairs to one Parquet file; return their number.

    The file is named by a hash of its content, so the same records written twice are one file.

    Raises:
        StorageError: an operation on the disk failed.
    """
    pairs = list(records)
    if not pairs:
        return 0
    reach_crash_point("before writing the quarantine")
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
    """Return the quarantine folder of a stream if a record there holds more than an id.

    None if every record is only an id, as privacy settings leave it.

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


def read_quarantined_rows(root: Path) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Yield each file in quarantine with its rows.

    Raises:
        CorruptFileError: one cannot be read.
    """
    for path in sorted((root / "lake" / QUARANTINE_FOLDER).glob("*/*.parquet")):
        with map_read_errors(path, path.parent.name):
            rows = pq.read_table(path).to_pylist()
        yield path, rows


def read_quarantined_profiles(root: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the id and the attributes of each record in quarantine that has an id."""
    for _, rows in read_quarantined_rows(root):
        for row in rows:
            with suppress(ValueError, RecursionError):
                record = cast("object", json.loads(row["record"]))
                if isinstance(record, dict):
                    members = cast("dict[str, object]", record)
                    id_, attributes = members.get("id"), members.get("attributes")
                    if isinstance(id_, str) and isinstance(attributes, dict):
                        yield id_, cast("dict[str, object]", attributes)
                    elif isinstance(id_, str):
                        yield id_, {}
