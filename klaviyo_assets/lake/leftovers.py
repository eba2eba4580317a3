"""What lies beside the rows of a lake and may name a person: for an erasure to find and remove.

What belongs here: records in quarantine, kept answers, old versions in a log, files that no version
needs. What does not: the rows themselves, and the order in which things go (`erase`).
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from zlib import decompress
from zlib import error as BrokenAnswerError  # noqa: N812 - zlib calls its exception `error`

import pyarrow.parquet as pq

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.answers import ENDING, HALF
from klaviyo_assets.lake.disk import clear_dead, reading, told
from klaviyo_assets.lake.layout import ANSWERS, QUARANTINE, SPILL, STAGING, table_folder
from klaviyo_assets.lake.log import LOG, snapshot
from klaviyo_assets.lake.quarantine import keep
from klaviyo_assets.lake.search_terms import SearchTerms
from klaviyo_assets.lake.upkeep import UNNAMED, newest_of_ours


def without_records(root: Path, terms: SearchTerms, *, say: Callable[[str, int], None]) -> None:
    """Remove records in quarantine that name one of the terms; `say` takes file and number.

    Raises:
        CorruptFileError: a file of the quarantine cannot be read.
        StorageError: the disk refused.
    """
    for path, rows in quarantined_rows(root):
        stream = path.parent.name
        stay = [row for row in rows if not is_about(row, terms)]
        if len(stay) == len(rows):
            continue
        say(f"{stream}/{path.name}", len(rows) - len(stay))
        keep(root, stream, ((str(row["reason"]), bytes(row["record"])) for row in stay))
        with told(path, stream):
            path.unlink(missing_ok=True)


def is_about(row: dict[str, Any], terms: SearchTerms) -> bool:
    """Tell whether a record in quarantine, or the reason for that, names one of the terms."""
    return terms.are_named_in(row["record"]) or terms.are_named_in(row["reason"].encode())


def quarantined_rows(root: Path) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Yield each file of the quarantine with its rows.

    Raises:
        CorruptFileError: one cannot be read.
    """
    for path in sorted((root / "lake" / QUARANTINE).glob("*/*.parquet")):
        with reading(path, path.parent.name):
            rows = pq.read_table(path).to_pylist()
        yield path, rows


def quarantined_people(root: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the id and the attributes of each record in quarantine that has an id."""
    for _, rows in quarantined_rows(root):
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


def answers_that_name(root: Path, terms: SearchTerms, *, say: Callable[[str], None]) -> None:
    """Remove kept answers that name one of the terms, or cannot be read; `say` is told of each.

    Raises:
        StorageError: the disk refused.
    """
    for path in sorted((root / "lake" / ANSWERS).glob(f"*/*{ENDING}")):
        with told(path, path.parent.name):
            head, _, packed = path.read_bytes().partition(b"\n")
            try:
                whole = head + b"\n" + decompress(packed)
            except BrokenAnswerError:
                whole = None
            if whole is None or terms.are_named_in(whole):
                say(f"{path.parent.name}/{path.name}")
                path.unlink(missing_ok=True)


def forget_versions(folder: Path, name: str) -> None:
    """Remove what a log holds of the versions before the newest: nobody may need their files.

    Statistics of files name the least and greatest id of each. The newest commit of ours stays,
    because it holds the mark: where another program came after, that one's follow it.

    Raises:
        CorruptFileError: the log cannot be read.
        StorageError: the disk refused.
    """
    found = snapshot(folder, name)
    if found is None:
        return
    with told(folder, name):
        # Covers all that goes, so that a kill leaves a whole log.
        found.table.create_checkpoint()
        first_kept = min(found.version, newest_of_ours(folder))
        for path in (folder / LOG).iterdir():
            version = path.name.split(".")[0]
            if version.isdecimal() and int(version) < first_kept:
                path.unlink(missing_ok=True)


class Unneeded:
    """Files of a lake that no version needs, and that nobody is writing."""

    def __init__(self, root: Path) -> None:
        """Look at nothing yet."""
        self.lake = root / "lake"
        self.root = root
        self.needed: dict[str, Collection[str] | None] = {}
        """By table, the files of its newest version; None where a run is writing it."""

    def is_unneeded(self, path: Path) -> bool:
        """Tell whether a file can be deleted without anybody missing it."""
        if not path.is_relative_to(self.lake):
            return False
        first, *below = path.relative_to(self.lake).parts or ("",)
        if first.startswith("_"):
            return first == SPILL or (path.suffix == HALF and bool(below))
        name = table_of_path(self.lake, path)
        is_ours = path.suffix == ".parquet" or UNNAMED.fullmatch(path.name) is not None
        if name is None or not is_ours:
            return False
        if name not in self.needed:
            self.needed[name] = self.files_needed(name)
        needed = self.needed[name]
        return needed is not None and str(path.relative_to(self.lake / name)) not in needed

    def files_needed(self, name: str) -> Collection[str] | None:
        """Return the files of a table that are no leftovers; None where a run is writing it."""
        folder = table_folder(self.root, name)
        if clear_dead(folder / STAGING):
            return None
        try:
            found = snapshot(folder, name)
        except LakeError:
            # Without its log nobody can tell what is needed.
            return None
        files = [] if found is None else [file.path for file in found.files]
        log = (path for path in (folder / LOG).glob("*") if not UNNAMED.fullmatch(path.name))
        return {*files, *(str(path.relative_to(folder)) for path in log)}


def table_of_path(lake: Path, path: Path) -> str | None:
    """Return the table whose folder a file lies in; None where it lies in none."""
    if not path.is_relative_to(lake):
        return None
    name, *below = path.relative_to(lake).parts or ("",)
    with suppress(LakeError):
        table_folder(lake.parent, name)
        return name if below else None
    return None


def delete_unneeded(root: Path, paths: Sequence[Path], *, say: Callable[[str], None]) -> None:
    """Delete those of the files that no version needs; `say` is told of each before it goes.

    Raises:
        StorageError: the disk refused.
    """
    unneeded = Unneeded(root)
    for path in paths:
        if unneeded.is_unneeded(path):
            say(str(path.relative_to(root / "lake")))
            with told(path, None):
                path.unlink(missing_ok=True)
