"""Finds and removes what the lake holds of profiles: rows, quarantine, cached responses."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from zlib import decompress
from zlib import error as BrokenAnswerError  # noqa: N812 - zlib calls its exception `error`

import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.errors import LakeConflictError, LakeError
from klaviyo_assets.lake.delta.log import (
    DELTA_LOG_FOLDER,
    TableChange,
    TableSnapshot,
    create_checkpoint,
    read_snapshot,
)
from klaviyo_assets.lake.disk import map_storage_errors, remove_dead_staging
from klaviyo_assets.lake.layout import (
    RESPONSE_CACHE_FOLDER,
    SPILL_FOLDER,
    STAGING_FOLDER,
    LakeTable,
    table_folder,
)
from klaviyo_assets.lake.maintenance.file_search import SearchTerms
from klaviyo_assets.lake.maintenance.vacuum import UNNAMED_LOG_FILE, find_newest_own_version
from klaviyo_assets.lake.parquet import (
    DataFile,
    read_columns,
    read_quarantined_profiles,
    read_quarantined_rows,
    write_quarantine,
)
from klaviyo_assets.lake.response_cache import PART_FILE_SUFFIX, RESPONSE_SUFFIX
from klaviyo_assets.lake.write.merge import MergeFile
from klaviyo_assets.lake.write.table_writer import TableWriter
from klaviyo_assets.seams import reach_crash_point

MAX_REMOVAL_ATTEMPTS = 5
"""How often the removal from a table is tried, because another run may commit first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileTable:
    """A table with rows about profiles, and the name of the column with the profile's id.

    `address_columns` identify a person's records where the id cannot be read. They are the columns
    by which Klaviyo tells profiles apart, so no two profiles share a value. The number with which
    somebody consented to WhatsApp is not one of them: a household can share it.
    """

    table: LakeTable
    id_column: str
    address_columns: tuple[str, ...] = ("email", "phone_number")


def remove_profile_rows(
    root: Path,
    profile_table: ProfileTable,
    ids: Sequence[str],
    *,
    on_removal: Callable[[int, int], None],
    clock: Callable[[], datetime],
) -> None:
    """Commit a table without the rows of some profiles, on top of its newest version.

    Before each attempt, `on_removal` is called with the number of rows and the commit's version.

    Raises:
        LakeConflictError: other writers committed first at every attempt.
        CorruptFileError, StorageError: as for `erase_profiles`.
    """
    name = profile_table.table.name
    folder = table_folder(root, name)
    for tries_left in reversed(range(MAX_REMOVAL_ATTEMPTS)):
        start = read_snapshot(folder, name)
        masks = (
            {}
            if start is None
            else mask_rows_of_others(folder, name, start, profile_table.id_column, ids)
        )
        if start is None or not masks:
            return
        rows = sum(mask.false_count for mask in masks.values())
        on_removal(rows, start.version + 1)
        try:
            commit_without_rows(folder, profile_table.table, start, masks, clock=clock)
        except LakeConflictError:
            if not tries_left:
                raise
        else:
            return


def mask_rows_of_others(
    folder: Path, name: str, start: TableSnapshot, column: str, ids: Sequence[str]
) -> dict[str, pa.BooleanArray]:
    """Return, for each file with rows of the profiles, a mask of the rows of others."""
    schema = pa.schema([(column, pa.string())])
    masks: dict[str, pa.BooleanArray] = {}
    for file in start.files:
        if not can_contain_ids(file, column, ids):
            continue
        values = read_columns(folder / file.path, schema, name)[column].combine_chunks()
        is_removed = cast("Any", pc.is_in(values, value_set=pa.array(ids)))
        if is_removed.true_count:
            masks[file.path] = pc.invert(is_removed)
    return masks


def can_contain_ids(file: DataFile, column: str, ids: Sequence[str]) -> bool:
    """Return whether a file can contain one of the ids, by its statistics."""
    if column not in file.min_values or column not in file.max_values:
        return True
    return any(file.min_values[column] <= each <= file.max_values[column] for each in ids)


def commit_without_rows(
    folder: Path,
    table: LakeTable,
    start: TableSnapshot,
    masks: Mapping[str, pa.BooleanArray],
    *,
    clock: Callable[[], datetime],
) -> None:
    """Rewrite the files that lose rows, and commit them with the table's current state.

    Raises:
        LakeError: another program wrote the table.
        LakeConflictError: another writer committed since `start`.
    """
    if start.commit_state is None:
        raise LakeError("another program wrote this table; erase the rows there", stream=table.name)
    # With the stored columns: an erasure must not add the columns of a later release.
    as_stored = dataclasses.replace(table, schema=start.schema)
    with closing(
        TableWriter(as_stored, folder, start, account=start.commit_state.account, clock=clock)
    ) as writer:
        partitions: dict[str, list[MergeFile]] = defaultdict(list)
        for file in start.files:
            if file.path in masks:
                part = MergeFile(file, folder, is_staged=False, remaining_mask=masks[file.path])
                partitions[file.partition].append(part)
        with map_storage_errors(folder, table.name):
            changes = [writer.rewriter.rewrite_files(parts, 0) for parts in partitions.values()]
        change = TableChange(
            added=[file for one in changes for file in one.added],
            removed=[file for one in changes for file in one.removed],
            changed_at=clock(),
        )
        writer.write_change(change, start.commit_state.state, 0)


def remove_quarantined_records(
    root: Path, terms: SearchTerms, *, on_removal: Callable[[str, int], None]
) -> None:
    """Remove records in quarantine that match a term; `on_removal` takes the file and their number.

    Raises:
        CorruptFileError: a file of the quarantine cannot be read.
        StorageError: an operation on the disk failed.
    """
    for path, rows in read_quarantined_rows(root):
        stream = path.parent.name
        remaining = [row for row in rows if not is_record_about(row, terms)]
        if len(remaining) == len(rows):
            continue
        on_removal(f"{stream}/{path.name}", len(rows) - len(remaining))
        write_quarantine(
            root, stream, ((str(row["reason"]), bytes(row["record"])) for row in remaining)
        )
        with map_storage_errors(path, stream):
            path.unlink(missing_ok=True)


def is_record_about(row: dict[str, Any], terms: SearchTerms) -> bool:
    """Return whether a record in quarantine, or its reason, matches one of the terms."""
    return terms.is_any_in_text(row["record"]) or terms.is_any_in_text(row["reason"].encode())


def remove_matching_responses(
    root: Path, terms: SearchTerms, *, on_removal: Callable[[str], None]
) -> None:
    """Remove cached responses that match one of the terms, or that cannot be read.

    `on_removal` is called with each file before it is removed.

    Raises:
        StorageError: an operation on the disk failed.
    """
    for path in sorted((root / "lake" / RESPONSE_CACHE_FOLDER).glob(f"*/*{RESPONSE_SUFFIX}")):
        with map_storage_errors(path, path.parent.name):
            head, _, packed = path.read_bytes().partition(b"\n")
            try:
                whole = head + b"\n" + decompress(packed)
            except BrokenAnswerError:
                whole = None
            if whole is None or terms.is_any_in_text(whole):
                on_removal(f"{path.parent.name}/{path.name}")
                path.unlink(missing_ok=True)


def remove_old_versions(folder: Path, name: str) -> None:
    """Remove the versions before the newest from a log, whoever may need their files.

    The statistics in them contain the smallest and largest id of each file. Our newest commit
    stays, because it holds the table's state: another program's commits may follow it.

    Raises:
        CorruptFileError: the log cannot be read.
        StorageError: an operation on the disk failed.
    """
    found = read_snapshot(folder, name)
    if found is None:
        return
    reach_crash_point("before removing old versions")
    with map_storage_errors(folder, name):
        # The checkpoint covers all that is removed, so that a kill leaves a complete log.
        create_checkpoint(folder, len(found.files))
        first_remaining = min(found.version, find_newest_own_version(folder))
        for path in (folder / DELTA_LOG_FOLDER).iterdir():
            version = path.name.split(".")[0]
            if version.isdecimal() and int(version) < first_remaining:
                path.unlink(missing_ok=True)


class UnneededFiles:
    """The files of a lake that no version needs and that no run is writing."""

    def __init__(self, root: Path) -> None:
        """Do no I/O yet."""
        self.lake = root / "lake"
        self.root = root
        self.needed_by_table: dict[str, Collection[str] | None] = {}
        """By table, the files of its newest version; None where a run is writing it."""

    def is_unneeded(self, path: Path) -> bool:
        """Return whether nobody would miss a file."""
        if not path.is_relative_to(self.lake):
            return False
        first, *below = path.relative_to(self.lake).parts or ("",)
        if first.startswith("_"):
            return first == SPILL_FOLDER or (path.suffix == PART_FILE_SUFFIX and bool(below))
        name = table_name_of_path(self.lake, path)
        is_ours = path.suffix == ".parquet" or UNNAMED_LOG_FILE.fullmatch(path.name) is not None
        if name is None or not is_ours:
            return False
        if name not in self.needed_by_table:
            self.needed_by_table[name] = self.list_needed_files(name)
        needed = self.needed_by_table[name]
        return needed is not None and str(path.relative_to(self.lake / name)) not in needed

    def list_needed_files(self, name: str) -> Collection[str] | None:
        """Return the files that a table needs; None while a run is writing it."""
        folder = table_folder(self.root, name)
        if remove_dead_staging(folder / STAGING_FOLDER):
            return None
        try:
            found = read_snapshot(folder, name)
        except LakeError:
            # Without its log, nobody knows what is needed.
            return None
        files = [] if found is None else [file.path for file in found.files]
        log = (
            path
            for path in (folder / DELTA_LOG_FOLDER).glob("*")
            if not UNNAMED_LOG_FILE.fullmatch(path.name)
        )
        return {*files, *(str(path.relative_to(folder)) for path in log)}


def table_name_of_path(lake: Path, path: Path) -> str | None:
    """Return the table in whose folder a file is; None where it is in no table's folder."""
    if not path.is_relative_to(lake):
        return None
    name, *below = path.relative_to(lake).parts or ("",)
    with suppress(LakeError):
        table_folder(lake.parent, name)
        return name if below else None
    return None


def delete_unneeded_files(
    root: Path, paths: Sequence[Path], *, on_removal: Callable[[str], None]
) -> None:
    """Delete the given files that no version needs.

    `on_removal` is called with each file before it is deleted.

    Raises:
        StorageError: an operation on the disk failed.
    """
    unneeded = UnneededFiles(root)
    for path in paths:
        if unneeded.is_unneeded(path):
            on_removal(str(path.relative_to(root / "lake")))
            with map_storage_errors(path, None):
                path.unlink(missing_ok=True)


MIN_TERM_LENGTH = 6
"""Minimum length of a value that is searched in text: a shorter one would match everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFile:
    """A data file of a table with profiles; `data_file` is its entry in the newest version."""

    profile_table: ProfileTable
    path: Path
    data_file: DataFile | None

    def read_text_columns(self, names: Sequence[str]) -> pa.Table | None:
        """Return some text columns; None if a file that no version needs cannot be read.

        Raises:
            CorruptFileError: a file of the newest version is missing or damaged.
        """
        schema = pa.schema([(name, pa.string()) for name in names])
        if self.data_file is not None:
            return read_columns(self.path, schema, self.profile_table.table.name)
        with suppress(LakeError, pa.ArrowException):
            return read_columns(self.path, schema, self.profile_table.table.name)
        return None


def list_profile_files(root: Path, profile_tables: Sequence[ProfileTable]) -> Iterator[ProfileFile]:
    """Yield all data files of the tables, also those of older versions and of killed runs.

    Raises:
        CorruptFileError: a log cannot be read.
    """
    for place in profile_tables:
        folder = table_folder(root, place.table.name)
        found = read_snapshot(folder, place.table.name)
        current = {} if found is None else {file.path: file for file in found.files}
        paths = (path for path in folder.rglob("*.parquet") if DELTA_LOG_FOLDER not in path.parts)
        for name in sorted({*current, *(str(path.relative_to(folder)) for path in paths)}):
            yield ProfileFile(profile_table=place, path=folder / name, data_file=current.get(name))


def hash_profile_id(profile_id: str) -> str:
    """Return the hash by which a receipt names a profile."""
    return sha256(profile_id.encode()).hexdigest()


def find_ids_by_hash(
    root: Path, profile_tables: Sequence[ProfileTable], hashes: Collection[str]
) -> frozenset[str]:
    """Return the ids with these hashes, as far as rows and records in quarantine have them.

    Raises:
        CorruptFileError: a log, or a file of a newest version, cannot be read.
    """
    if not hashes:
        return frozenset()
    ids = {id_ for id_, _ in read_quarantined_profiles(root)}
    for file in list_profile_files(root, profile_tables):
        rows = file.read_text_columns([file.profile_table.id_column])
        if rows is not None:
            ids.update(cast("list[str]", pc.unique(rows[file.profile_table.id_column]).to_pylist()))
    return frozenset(each for each in ids if each and hash_profile_id(each) in hashes)


def collect_search_texts(
    root: Path, profile_tables: Sequence[ProfileTable], ids: Sequence[str]
) -> frozenset[str]:
    """Return the ids, and the addresses and numbers in these profiles' rows and records.

    Raises:
        CorruptFileError: a log, or a file of a newest version, cannot be read.
    """
    texts: set[str | None] = set()
    wanted = pa.array(sorted(ids), pa.string())
    for file in list_profile_files(root, profile_tables):
        column, schema = file.profile_table.id_column, file.profile_table.table.schema
        columns = [each for each in file.profile_table.address_columns if each in schema.names]
        if not columns or (
            file.data_file is not None and not can_contain_ids(file.data_file, column, ids)
        ):
            continue
        rows = file.read_text_columns([column, *columns])
        if rows is not None:
            matching_rows = rows.filter(pc.is_in(rows[column], value_set=wanted))
            for each in columns:
                texts.update(cast("list[str | None]", matching_rows[each].to_pylist()))
    addresses = {each for place in profile_tables for each in place.address_columns}
    for id_, attributes in read_quarantined_profiles(root):
        if id_ in ids:
            texts.update(str(attributes[each]) for each in addresses if attributes.get(each))
    return frozenset({*ids, *(each for each in texts if each and len(each) >= MIN_TERM_LENGTH)})
