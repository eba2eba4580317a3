"""Erasing people: all that the lake holds of some profiles leaves the disk, and a receipt stays.

What belongs here: the order in which it goes, and the verdict. What does not: who they are
(`people_search`), rows (`removal`), files beside the tables (`leftovers`), looking through files
(`file_search`), the receipt (`erasures`) and which column names a person (`model`).

    1. nobody may be writing      rows of a run under way would come back with its next commit
    2. who they are               addresses are in the profiles' own rows, so before those go
    3. quarantine and answers
    4. rows, profiles last        one commit a table, history or not
    5. publish, vacuum at once    retired files go without a grace
    6. every file is looked at    below the data folder and in the places beside it, decoded; what
                                  no version needs goes, old versions leave the logs
    7. what went is looked at     what is left is named
    8. the receipt is finished    killed before, the next erasure goes on, whomever it is about

Readers that are in mid-scan of a retired file fail: there is no other way to be rid of it now.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from klaviyo_assets.errors import LakeConflictError, LakeError
from klaviyo_assets.lake.database import publish
from klaviyo_assets.lake.disk import clear_dead, told
from klaviyo_assets.lake.erasures import (
    Erasure,
    ErasureReceipt,
    hash_of,
    unfinished_receipts,
    unreadable_receipts,
)
from klaviyo_assets.lake.file_search import NamingFile, files_below, files_naming
from klaviyo_assets.lake.layout import DAMAGED, STAGING, history_of, table_folder
from klaviyo_assets.lake.leftovers import (
    Unneeded,
    answers_that_name,
    delete_unneeded,
    forget_versions,
    table_of_path,
    without_records,
)
from klaviyo_assets.lake.log import LOG
from klaviyo_assets.lake.open_readers import is_older_open
from klaviyo_assets.lake.people_search import ids_behind, texts_of
from klaviyo_assets.lake.relations import Relation
from klaviyo_assets.lake.removal import PeopleTable, without_rows
from klaviyo_assets.lake.search_terms import SearchTerms
from klaviyo_assets.lake.upkeep import tidied
from klaviyo_assets.wording import quantity

OUT_OF_REACH = (
    "out of reach, so look there yourself: copies, backups and snapshots of the data folder, older "
    "versions of a bucket, exports that were moved, or written by other programs or an earlier "
    "release, files that a program still has open, and Dagster's storage and logs (what is stored "
    "there by this project names no person; your own assets may)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What was erased and where that is written; None where there was nothing.

    `problems` are tables that could not be published, `remains` the places that still name the
    people or cannot be looked through, in words, `unfinished` in
    words what ends the erasures of others that were killed, and that need their ids.
    """

    erasure: Erasure
    receipt: Path | None
    problems: tuple[LakeError, ...] = ()
    remains: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    is_read: bool = False
    """A program has an older klaviyo.duckdb open."""

    @property
    def is_complete(self) -> bool:
        """Tell whether nothing is left to be done."""
        return not (self.problems or self.remains or self.unfinished)

    def told(self) -> Iterator[str]:
        """Yield what was done and what is left to do, a sentence each; no id and no address."""
        yield from self.erasure.told()
        if self.receipt is not None:
            yield f"the receipt is {self.receipt}"
            yield (
                "Klaviyo may still have them: delete them there, too, or the next sync that reads "
                "them brings them back"
            )
        if self.remains:
            yield f"they are still named, or may be, in {quantity(len(self.remains), 'place')}:"
            yield from self.remains
        else:
            yield "nothing of them is in the lake"
        yield from self.unfinished
        if self.is_read:
            yield (
                "a program has an older klaviyo.duckdb open and may still read deleted files: "
                "close it, and the system frees them"
            )
        yield OUT_OF_REACH


def erase(  # noqa: PLR0913 - what is known of the lake, each with a name
    root: Path,
    people: Sequence[PeopleTable],
    ids: Sequence[str],
    *,
    relations: Sequence[Relation],
    clock: Callable[[], datetime],
    beside: Sequence[Path] = (),
) -> Erased:
    """Remove everything of some profiles below `root`; safe to run again after a kill.

    `beside` are files and folders elsewhere that are looked through and not changed.

    Raises:
        LakeConflictError: a run is writing one of the tables; before anything was removed, or with
            the receipt unfinished.
        CorruptFileError: a file that has to be read is missing or damaged.
        StorageError: the disk refused.
    """
    places = [each for one in people for each in with_history(one)]
    names = [each.table.name for each in places]
    refuse_writers(root, names)
    killed = unfinished_receipts(root, clock=clock)
    owed = {each for one in killed for each in one.hashes}
    wanted = sorted({*ids, *ids_behind(root, places, owed - {*map(hash_of, ids)})})
    hashes = {hash_of(each) for each in wanted}
    receipt = ErasureReceipt(root, hashes, clock=clock)
    terms = SearchTerms(texts_of(root, places, wanted))
    problems = removed_at_once(root, places, wanted, terms, receipt=receipt, relations=relations)
    found = looked_through(root, beside, terms, receipt=receipt, clock=clock)
    remains = tuple(in_words(root, beside, found))
    refuse_writers(root, names)
    others = [each for each in killed if each.digest != receipt.digest]
    for each in others:
        if hashes.issuperset(each.hashes):
            each.finish(remains=remains)
    is_empty = receipt.so_far.is_empty and not remains
    return Erased(
        erasure=receipt.so_far,
        receipt=None if is_empty else receipt.finish(remains=remains),
        problems=problems,
        remains=remains,
        unfinished=tuple(unfinished_in_words(root, hashes, others, clock=clock)),
        is_read=is_older_open(root),
    )


def unfinished_in_words(
    root: Path,
    hashes: set[str],
    others: Sequence[ErasureReceipt],
    *,
    clock: Callable[[], datetime],
) -> Iterator[str]:
    """Yield what ends each erasure that was killed and that this one, of `hashes`, did not end.

    Whom it was about only its ids tell, so it stays open until they are given, or somebody who
    knows that they are lost takes its file away.
    """
    for each in others:
        if not hashes.issuperset(each.hashes):
            yield (
                f"an erasure of others that began {each.so_far.begun} was killed and is not "
                "finished: run it again with all its ids, or, where nobody has them any more, "
                f"delete {each.unfinished}: no erasure asks for them then"
            )
    for path in unreadable_receipts(root, clock=clock):
        yield (
            f"an erasure of others was killed and is not finished, and {path} cannot be read: run "
            "it again with all its ids, then delete that file"
        )


def removed_at_once(  # noqa: PLR0913 - as above
    root: Path,
    places: Sequence[PeopleTable],
    ids: Sequence[str],
    terms: SearchTerms,
    *,
    receipt: ErasureReceipt,
    relations: Sequence[Relation],
) -> tuple[LakeError, ...]:
    """Remove records, answers, rows and retired files; return what could not be published.

    Raises:
        LakeConflictError, CorruptFileError, StorageError: as for `erase`.
    """
    if not (root / "lake").is_dir():
        return ()
    names = [each.table.name for each in places]
    without_records(root, terms, say=receipt.put_aside)
    answers_that_name(root, terms, say=receipt.answer)
    for place in sorted(places, key=lambda each: each.column == "id"):
        without_rows(root, place, ids, receipt=receipt, clock=receipt.clock)
    note_leftovers(root, names, terms, receipt=receipt)
    problems = publish(root, relations)
    tidied(root, names, now=receipt.clock(), grace=timedelta(0))
    return problems


def with_history(place: PeopleTable) -> tuple[PeopleTable, PeopleTable]:
    """Return a table and its history, whether or not there is one."""
    history = PeopleTable(
        table=history_of(place.table), column=place.column, addresses=place.addresses
    )
    return history, place


def refuse_writers(root: Path, names: Collection[str]) -> None:
    """Refuse to go on while a run is writing one of the tables.

    Raises:
        LakeConflictError: one is; the text names its table.
    """
    for name in names:
        folder = table_folder(root, name)
        with told(folder, name):
            is_written = clear_dead(folder / STAGING)
        if is_written:
            raise LakeConflictError(
                "a run is writing this table and would bring the rows back; let it end, or cancel "
                "it, then erase again",
                stream=name,
            )


def looked_through(
    root: Path,
    beside: Sequence[Path],
    terms: SearchTerms,
    *,
    receipt: ErasureReceipt,
    clock: Callable[[], datetime],
) -> list[NamingFile]:
    """Look through every file, delete what nobody needs of those that name a term; return the rest.

    Raises:
        CorruptFileError: the log of a table that names one cannot be read.
        StorageError: the disk refused.
    """
    files = dict.fromkeys(path for place in (root, *beside) for path in files_below(place))
    found = list(files_naming(files, terms))
    lake = root / "lake"
    in_logs = (table_of_path(lake, one.path) for one in found if LOG in one.path.parts)
    logs = sorted({name for name in in_logs if name is not None})
    delete_unneeded(root, [one.path for one in found], say=receipt.file)
    for name in logs:
        receipt.file(f"{name}/{LOG}")
        tidied(root, [name], now=clock(), grace=timedelta(0))
        forget_versions(table_folder(root, name), name)
    again = dict.fromkeys(one.path for one in found)
    again |= dict.fromkeys(path for name in logs for path in files_below(lake / name / LOG))
    return list(files_naming(again, terms))


def note_leftovers(
    root: Path, names: Collection[str], terms: SearchTerms, *, receipt: ErasureReceipt
) -> None:
    """Note the files of the tables that name a term and are about to go, as no version needs them.

    Raises:
        StorageError: the disk refused.
    """
    unneeded = Unneeded(root)
    paths = (path for name in names for path in files_below(table_folder(root, name)))
    for one in files_naming(filter(unneeded.is_unneeded, paths), terms):
        if one.is_readable:
            receipt.file(str(one.path.relative_to(root / "lake")))


def in_words(root: Path, beside: Sequence[Path], found: Sequence[NamingFile]) -> Iterator[str]:
    """Yield where people are still named and what is to be done, a place once."""
    rows: dict[str, set[str]] = {}
    others: list[NamingFile] = []
    for one in found:
        name = table_of_path(root / "lake", one.path)
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
    yield from dict.fromkeys(place_in_words(root, beside, one) for one in others)


def place_in_words(root: Path, beside: Sequence[Path], found: NamingFile) -> str:
    """Return where somebody is still named, and what is to be done; nothing of the person."""
    path = found.path
    shown = f"a file of {path.parent} that is named for them" if found.is_named_for else str(path)
    damaged = root / "lake" / DAMAGED
    if path.is_relative_to(damaged):
        folder = damaged / path.relative_to(damaged).parts[0]
        return f"{folder}: a damaged table set aside; delete that folder"
    if not found.is_readable:
        return f"{shown}: cannot be looked through; delete it, or look there yourself"
    if any(path.is_relative_to(each) for each in beside):
        return f"{shown}: names them; delete it, or write it anew"
    return f"{shown}: names them; nothing here needs it, so delete it"
