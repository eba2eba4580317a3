"""Erases profiles: removes all that the lake holds of them from the disk, and writes a receipt.

    1. refuse active writers      a running sync would bring rows back with its next commit
    2. find what names them       addresses are in the profiles' own rows, which go later
    3. quarantine, cached responses
    4. rows, profiles last        one commit per table, histories included
    5. publish, vacuum            retired files are removed without a grace
    6. search every file          in the data folder and the other places, decoded; files that no
                                  version needs are deleted, old versions leave the logs
    7. search the matches again   what still matches is reported
    8. finish the receipt         after a kill, the next erasure continues it, whomever it is about

A query that is in the middle of a retired file fails: its file cannot be removed otherwise.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

import msgspec

from klaviyo_assets.errors import LakeConflictError, LakeError, format_quantity
from klaviyo_assets.lake.delta.log import DELTA_LOG_FOLDER
from klaviyo_assets.lake.disk import create_folder, map_storage_errors, remove_dead_staging
from klaviyo_assets.lake.layout import (
    ERASURE_RECEIPTS_FOLDER,
    SET_ASIDE_FOLDER,
    STAGING_FOLDER,
    build_history_table,
    table_folder,
)
from klaviyo_assets.lake.maintenance.file_search import (
    MatchingFile,
    SearchTerms,
    find_matching_files,
    list_files,
)
from klaviyo_assets.lake.maintenance.personal_data import (
    ProfileTable,
    UnneededFiles,
    collect_search_texts,
    delete_unneeded_files,
    find_ids_by_hash,
    hash_profile_id,
    remove_matching_responses,
    remove_old_versions,
    remove_profile_rows,
    remove_quarantined_records,
    table_name_of_path,
)
from klaviyo_assets.lake.maintenance.vacuum import vacuum_tables
from klaviyo_assets.lake.read.database import has_readers_of_replaced, publish_database
from klaviyo_assets.lake.read.views import Relation
from klaviyo_assets.lake.response_cache import write_file_atomically
from klaviyo_assets.seams import reach_crash_point

UNFINISHED_SUFFIX = ".begun"


class ErasedItems(
    msgspec.Struct, kw_only=True, rename={"started_at": "begun", "responses": "answers"}
):
    """What one erasure removed: rows and version by table, quarantined records by file.

    `responses` are files of cached responses, `files` those of older versions and of killed runs.
    """

    started_at: str
    tables: dict[str, dict[str, int]] = {}
    quarantine: dict[str, int] = {}
    responses: list[str] = []
    files: list[str] = []

    @property
    def is_empty(self) -> bool:
        """Return whether there was nothing to erase."""
        return not (self.tables or self.quarantine or self.responses or self.files)

    def describe(self) -> Iterator[str]:
        """Yield what was removed, one line each."""
        for name, each in self.tables.items():
            yield (
                f"{name}: {format_quantity(each['rows'], 'row')} removed, version {each['version']}"
            )
        if self.quarantine:
            yield f"quarantine: {format_quantity(sum(self.quarantine.values()), 'record')} removed"
        if self.responses:
            yield f"cached responses: {len(self.responses):,} removed"
        if self.files:
            yield (
                f"older versions and killed runs: {format_quantity(len(self.files), 'file')} that "
                "named them removed"
            )


class ErasureReceipt:
    """The receipt of one erasure, written while it runs; an empty one is never written."""

    def __init__(
        self, root: Path, hashes: Collection[str], *, clock: Callable[[], datetime]
    ) -> None:
        """Continue the unfinished receipt of the same profiles, if there is one.

        `hashes` are those of their ids, as `hash_profile_id` makes them.
        """
        self.folder, self.clock = root / "lake" / ERASURE_RECEIPTS_FOLDER, clock
        self.hashes = sorted(set(hashes))
        self.digest = sha256("".join(self.hashes).encode()).hexdigest()[:16]
        self.erased = ErasedItems(started_at=clock().isoformat())
        with suppress(OSError, ValueError):
            raw = self.unfinished_path.read_bytes()
            self.erased = msgspec.json.decode(raw, type=ErasedItems)

    @property
    def unfinished_path(self) -> Path:
        """Return the file that records how far the erasure has come."""
        return self.folder / f"{self.digest}{UNFINISHED_SUFFIX}"

    def record_rows(self, name: str, rows: int, version: int) -> None:
        """Record rows that the commit of `version` is about to remove from a table."""
        self.erased.tables[name] = {"rows": rows, "version": version}
        self.write(self.unfinished_path)

    def record_quarantined(self, file: str, records: int) -> None:
        """Record how many records are about to be removed from a file in quarantine."""
        self.erased.quarantine[file] = records
        self.write(self.unfinished_path)

    def record_response(self, file: str) -> None:
        """Record the file of a cached response that is about to be removed."""
        self.erased.responses = sorted({*self.erased.responses, file})
        self.write(self.unfinished_path)

    def record_file(self, file: str) -> None:
        """Record a file of an older version, or of a killed run, that is about to be removed."""
        self.erased.files = sorted({*self.erased.files, file})
        self.write(self.unfinished_path)

    def finish(self, *, remains: Sequence[str] = ()) -> Path:
        """Write the receipt as finished now; return its path.

        `remains` are the places that still name the profiles.

        Raises:
            StorageError: an operation on the disk failed.
        """
        reach_crash_point("before finishing a receipt")
        now = self.clock()
        target = self.folder / f"{now:%Y%m%dT%H%M%S}Z-{self.digest}.json"
        self.write(target, finished=now.isoformat(), remains=[*remains])
        with map_storage_errors(target, None):
            self.unfinished_path.unlink(missing_ok=True)
        return target

    def write(self, target: Path, **more: object) -> None:
        """Write what is recorded so far."""
        erased = msgspec.to_builtins(self.erased)
        content_fields = {"profile_id_sha256": self.hashes, **more, **erased}
        with map_storage_errors(target, None):
            create_folder(self.folder)
            content = json.dumps(content_fields, indent=2).encode()
            write_file_atomically(target, content, modified_at=self.clock().timestamp())


def unreadable_receipts(root: Path, *, clock: Callable[[], datetime]) -> list[Path]:
    """Return the files of killed erasures from which the hashes of the profiles cannot be read."""
    folder = root / "lake" / ERASURE_RECEIPTS_FOLDER
    known = {each.unfinished_path for each in read_unfinished_receipts(root, clock=clock)}
    return [each for each in sorted(folder.glob(f"*{UNFINISHED_SUFFIX}")) if each not in known]


def read_unfinished_receipts(root: Path, *, clock: Callable[[], datetime]) -> list[ErasureReceipt]:
    """Return the receipts of killed erasures; unreadable ones are left out."""
    found: list[ErasureReceipt] = []
    for path in sorted((root / "lake" / ERASURE_RECEIPTS_FOLDER).glob(f"*{UNFINISHED_SUFFIX}")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            hashes = json.loads(path.read_bytes())["profile_id_sha256"]
            found.append(ErasureReceipt(root, hashes, clock=clock))
    return found


OUT_OF_REACH_NOTICE = (
    "out of reach, so look there yourself: copies, backups and snapshots of the data folder, older "
    "versions of a bucket, exports that were moved, or written by other programs or an earlier "
    "release, files that a program still has open, and Dagster's storage and logs (what is stored "
    "there by this project names no person; your own assets may)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureResult:
    """What was erased, and the path of the receipt; None where there was nothing to erase.

    `problems` are errors of tables that could not be published. `remaining_places` describes the
    places that still name the profiles or cannot be searched. `unfinished` says how to end the
    killed erasures of other profiles, which need those profiles' ids.
    """

    erased: ErasedItems
    receipt: Path | None
    problems: tuple[LakeError, ...] = ()
    remaining_places: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    has_open_readers: bool = False
    """A program has an older klaviyo.duckdb open."""

    @property
    def is_complete(self) -> bool:
        """Return whether nothing is left to do."""
        return not (self.problems or self.remaining_places or self.unfinished)

    def describe(self) -> Iterator[str]:
        """Yield what was done and what is left to do, a sentence each, without ids or addresses."""
        yield from self.erased.describe()
        if self.receipt is not None:
            yield f"the receipt is {self.receipt}"
            yield (
                "Klaviyo may still have them: delete them there, too, or the next sync that reads "
                "them brings them back"
            )
        if self.remaining_places:
            yield (
                "they are still named, or may be, in "
                f"{format_quantity(len(self.remaining_places), 'place')}:"
            )
            yield from self.remaining_places
        else:
            yield "nothing of them is in the lake"
        yield from self.unfinished
        if self.has_open_readers:
            yield (
                "a program has an older klaviyo.duckdb open and may still read deleted files: "
                "close it, and the system frees them"
            )
        yield OUT_OF_REACH_NOTICE

    def as_report(self) -> dict[str, object]:
        """Return the same for programs, as values of JSON, without ids or addresses."""
        return {
            "is_complete": self.is_complete,
            "rows": {name: each["rows"] for name, each in self.erased.tables.items()},
            "quarantined_records": sum(self.erased.quarantine.values()),
            "cached_responses": len(self.erased.responses),
            "older_files": len(self.erased.files),
            "receipt": str(self.receipt) if self.receipt is not None else None,
            "remaining_places": self.remaining_places,
            "unfinished": self.unfinished,
            "has_open_readers": self.has_open_readers,
            "problems": [str(each) for each in self.problems],
            "out_of_reach": OUT_OF_REACH_NOTICE,
        }


def erase_profiles(  # noqa: PLR0913 - what is known of the lake, each with a name
    root: Path,
    profile_tables: Sequence[ProfileTable],
    ids: Sequence[str],
    *,
    relations: Sequence[Relation],
    clock: Callable[[], datetime],
    other_places: Sequence[Path] = (),
) -> ErasureResult:
    """Remove all data of some profiles below `root`; safe to repeat after a kill.

    `other_places` are files and folders elsewhere that are searched, not changed.

    Raises:
        LakeConflictError: a run is writing one of the tables. Either nothing was removed yet, or
            the receipt is unfinished.
        CorruptFileError: a file that has to be read is missing or damaged.
        StorageError: an operation on the disk failed.
    """
    tables_with_history = [each for one in profile_tables for each in with_history_table(one)]
    names = [each.table.name for each in tables_with_history]
    refuse_active_writers(root, names)
    unfinished = read_unfinished_receipts(root, clock=clock)
    unfinished_hashes = {each for one in unfinished for each in one.hashes}
    other_hashes = unfinished_hashes - {*map(hash_profile_id, ids)}
    all_ids = sorted({*ids, *find_ids_by_hash(root, tables_with_history, other_hashes)})
    hashes = {hash_profile_id(each) for each in all_ids}
    receipt = ErasureReceipt(root, hashes, clock=clock)
    terms = SearchTerms(collect_search_texts(root, tables_with_history, all_ids))
    problems = remove_stored_data(
        root, tables_with_history, all_ids, terms, receipt=receipt, relations=relations
    )
    found = remove_unneeded_files(root, other_places, terms, receipt=receipt, clock=clock)
    remains = tuple(describe_remaining_places(root, other_places, found))
    refuse_active_writers(root, names)
    others = [each for each in unfinished if each.digest != receipt.digest]
    for each in others:
        if hashes.issuperset(each.hashes):
            each.finish(remains=remains)
    is_empty = receipt.erased.is_empty and not remains
    return ErasureResult(
        erased=receipt.erased,
        receipt=None if is_empty else receipt.finish(remains=remains),
        problems=problems,
        remaining_places=remains,
        unfinished=tuple(unfinished_in_words(root, hashes, others, clock=clock)),
        has_open_readers=has_readers_of_replaced(root),
    )


def unfinished_in_words(
    root: Path,
    hashes: set[str],
    others: Sequence[ErasureReceipt],
    *,
    clock: Callable[[], datetime],
) -> Iterator[str]:
    """Yield how to end each killed erasure that this one, of `hashes`, did not end.

    Only the ids tell whom it was about. So it stays open until they are given, or until somebody
    who knows that they are lost deletes its file.
    """
    for each in others:
        if not hashes.issuperset(each.hashes):
            yield (
                f"an erasure of others that began {each.erased.started_at} was killed and is not "
                "finished: run it again with all its ids, or, where nobody has them any more, "
                f"delete {each.unfinished_path}: no erasure asks for them then"
            )
    for path in unreadable_receipts(root, clock=clock):
        yield (
            f"an erasure of others was killed and is not finished, and {path} cannot be read: run "
            "it again with all its ids, then delete that file"
        )


def remove_stored_data(  # noqa: PLR0913 - as above
    root: Path,
    profile_tables: Sequence[ProfileTable],
    ids: Sequence[str],
    terms: SearchTerms,
    *,
    receipt: ErasureReceipt,
    relations: Sequence[Relation],
) -> tuple[LakeError, ...]:
    """Remove records, responses, rows and retired files; return what could not be published.

    Raises:
        LakeConflictError, CorruptFileError, StorageError: as for `erase_profiles`.
    """
    if not (root / "lake").is_dir():
        return ()
    names = [each.table.name for each in profile_tables]
    remove_quarantined_records(root, terms, on_removal=receipt.record_quarantined)
    remove_matching_responses(root, terms, on_removal=receipt.record_response)
    for profile_table in sorted(profile_tables, key=lambda each: each.id_column == "id"):
        record_rows = partial(receipt.record_rows, profile_table.table.name)
        remove_profile_rows(root, profile_table, ids, on_removal=record_rows, clock=receipt.clock)
    record_leftovers(root, names, terms, receipt=receipt)
    problems = publish_database(root, relations)
    vacuum_tables(root, names, now=receipt.clock(), grace=timedelta(0))
    return problems


def with_history_table(profile_table: ProfileTable) -> tuple[ProfileTable, ProfileTable]:
    """Return a table and its history, whether or not the history exists."""
    return replace(profile_table, table=build_history_table(profile_table.table)), profile_table


def refuse_active_writers(root: Path, names: Collection[str]) -> None:
    """Raise an error while a run is writing one of the tables.

    Raises:
        LakeConflictError: a run is writing a table, which the message names.
    """
    for name in names:
        folder = table_folder(root, name)
        with map_storage_errors(folder, name):
            is_written = remove_dead_staging(folder / STAGING_FOLDER)
        if is_written:
            raise LakeConflictError(
                "a run is writing this table and would bring the rows back; let it end, or cancel "
                "it, then erase again",
                stream=name,
            )


def remove_unneeded_files(
    root: Path,
    other_places: Sequence[Path],
    terms: SearchTerms,
    *,
    receipt: ErasureReceipt,
    clock: Callable[[], datetime],
) -> list[MatchingFile]:
    """Search every file, delete matching files that nobody needs, and return the other matches.

    Raises:
        CorruptFileError: the log of a table with a matching file cannot be read.
        StorageError: an operation on the disk failed.
    """
    files = dict.fromkeys(path for place in (root, *other_places) for path in list_files(place))
    found = list(find_matching_files(files, terms))
    lake = root / "lake"
    in_logs = (
        table_name_of_path(lake, one.path) for one in found if DELTA_LOG_FOLDER in one.path.parts
    )
    logs = sorted({name for name in in_logs if name is not None})
    delete_unneeded_files(root, [one.path for one in found], on_removal=receipt.record_file)
    for name in logs:
        receipt.record_file(f"{name}/{DELTA_LOG_FOLDER}")
        vacuum_tables(root, [name], now=clock(), grace=timedelta(0))
        remove_old_versions(table_folder(root, name), name)
    to_recheck = dict.fromkeys(one.path for one in found)
    to_recheck |= dict.fromkeys(
        path for name in logs for path in list_files(lake / name / DELTA_LOG_FOLDER)
    )
    return list(find_matching_files(to_recheck, terms))


def record_leftovers(
    root: Path, names: Collection[str], terms: SearchTerms, *, receipt: ErasureReceipt
) -> None:
    """Record the tables' files that name a term and are about to go because no version needs them.

    Raises:
        StorageError: an operation on the disk failed.
    """
    unneeded = UnneededFiles(root)
    paths = (path for name in names for path in list_files(table_folder(root, name)))
    for one in find_matching_files(filter(unneeded.is_unneeded, paths), terms):
        if one.is_readable:
            receipt.record_file(str(one.path.relative_to(root / "lake")))


def describe_remaining_places(
    root: Path, other_places: Sequence[Path], found: Sequence[MatchingFile]
) -> Iterator[str]:
    """Yield where the profiles are still named and what to do about it, each place once."""
    rows: dict[str, set[str]] = {}
    others: list[MatchingFile] = []
    for one in found:
        name = table_name_of_path(root / "lake", one.path)
        if name is not None and one.columns:
            rows.setdefault(name, set()).update(one.columns)
        else:
            others.append(one)
    for name, columns in rows.items():
        yield (
            f"{name}: rows about others name them in {', '.join(sorted(columns))}; change those at "
            "Klaviyo and read them again, or leave the column out (KLAVIYO_EXCLUDE_COLUMNS) and "
            "materialize with sync_mode full_refresh_overwrite"
        )
    yield from dict.fromkeys(describe_remaining_place(root, other_places, one) for one in others)


def describe_remaining_place(root: Path, other_places: Sequence[Path], found: MatchingFile) -> str:
    """Return where a profile is still named, and what to do about it, without personal data."""
    path = found.path
    shown = (
        f"a file of {path.parent} that is named for them" if found.has_matching_name else str(path)
    )
    damaged = root / "lake" / SET_ASIDE_FOLDER
    if path.is_relative_to(damaged):
        folder = damaged / path.relative_to(damaged).parts[0]
        return f"{folder}: a damaged table set aside; delete that folder"
    if not found.is_readable:
        return f"{shown}: cannot be looked through; delete it, or look there yourself"
    if any(path.is_relative_to(each) for each in other_places):
        return f"{shown}: names them; delete it, or write it again"
    return f"{shown}: names them; nothing here needs it, so delete it"
