"""Erasing people: all that the lake holds of some profiles leaves the disk, and a receipt stays.

What belongs here: the order in which it goes. What does not: rows (`removal`), files beside the
tables (`leftovers`), the receipt (`erasures`) and which column names a person (`model`).

    1. nobody may be writing      rows of a run under way would come back with its next commit
    2. quarantine and answers     told by what the profiles' own rows say, so before those go
    3. rows, profiles last        one commit a table, history or not
    4. publish, vacuum at once    retired files go without a grace, old versions from the log
    5. the receipt is finished    killed before, the same command goes on

Readers that are in mid-scan of a retired file fail: there is no other way to be rid of it now.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.errors import LakeConflictError, LakeError
from klaviyo_assets.lake.database import publish
from klaviyo_assets.lake.disk import clear_dead, told
from klaviyo_assets.lake.erasures import Erasure, ErasureReceipt
from klaviyo_assets.lake.layout import STAGING, history_of, table_folder
from klaviyo_assets.lake.leftovers import (
    answers_that_name,
    forget_versions,
    set_aside_of,
    without_records,
)
from klaviyo_assets.lake.log import snapshot
from klaviyo_assets.lake.parquet import columns_of
from klaviyo_assets.lake.relations import Relation
from klaviyo_assets.lake.removal import PeopleTable, might_hold, without_rows
from klaviyo_assets.lake.upkeep import tidied

ADDRESSES = ("email", "phone_number")
"""Columns whose values tell a person's records where the id cannot be read."""

SHORTEST = 6
"""Characters of a value that is looked for in text: a shorter one would be found everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What was erased and where that is written; None where there was nothing.

    `problems` are tables that could not be published, `aside` the folders of damaged tables, which
    may hold the same people.
    """

    erasure: Erasure
    receipt: Path | None
    problems: tuple[LakeError, ...] = ()
    aside: tuple[Path, ...] = ()

    def told(self) -> Iterator[str]:
        """Yield what was done and what is left to do, a sentence each; no id."""
        yield from self.erasure.told()
        if self.receipt is None:
            yield "nothing of them is in the lake"
        else:
            yield f"the receipt is {self.receipt}"
            yield (
                "Klaviyo may still have them: delete them there, too, or the next sync that reads "
                "them brings them back"
            )
        for folder in self.aside:
            yield f"{folder} is a damaged table set aside, and may hold them: delete that folder"


def erase(
    root: Path,
    people: Sequence[PeopleTable],
    ids: Sequence[str],
    *,
    relations: Sequence[Relation],
    clock: Callable[[], datetime],
) -> Erased:
    """Remove everything of some profiles below `root`; safe to run again after a kill.

    Raises:
        LakeConflictError: a run is writing one of the tables; before anything was removed, or with
            the receipt unfinished.
        CorruptFileError: a file that has to be read is missing or damaged.
        StorageError: the disk refused.
    """
    places = [each for one in people for each in with_history(one)]
    names = [each.table.name for each in places]
    refuse_writers(root, names)
    receipt = ErasureReceipt(root, ids, clock=clock)
    aside = set_aside_of(root, names)
    texts = {*ids, *addresses(root, places, ids)}
    without_records(root, texts, say=receipt.put_aside)
    answers_that_name(root, texts, say=receipt.answer)
    for place in sorted(places, key=lambda each: each.column == "id"):
        without_rows(root, place, ids, receipt=receipt, clock=clock)
    if receipt.so_far.is_empty:
        return Erased(erasure=receipt.so_far, receipt=None, aside=aside)
    problems = publish(root, relations)
    tidied(root, names, now=clock(), grace=timedelta(0))
    for name in names:
        forget_versions(table_folder(root, name), name, ids)
    refuse_writers(root, names)
    return Erased(erasure=receipt.so_far, receipt=receipt.finish(), problems=problems, aside=aside)


def with_history(place: PeopleTable) -> tuple[PeopleTable, PeopleTable]:
    """Return a table and its history, whether or not there is one."""
    return PeopleTable(table=history_of(place.table), column=place.column), place


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


def addresses(root: Path, places: Sequence[PeopleTable], ids: Sequence[str]) -> Iterator[str]:
    """Yield e-mail addresses and phone numbers that the profiles' own rows hold."""
    for place in places:
        folder, name = table_folder(root, place.table.name), place.table.name
        found = snapshot(folder, name) if place.column == "id" else None
        if found is None:
            continue
        wanted = [each for each in ADDRESSES if each in found.schema.names]
        schema = pa.schema([(each, pa.string()) for each in (place.column, *wanted)])
        for file in found.files:
            if might_hold(file, place.column, ids):
                rows = columns_of(folder / file.path, schema, name)
                theirs = rows.filter(pc.is_in(rows[place.column], value_set=pa.array(ids)))
                for column in wanted:
                    values = cast("list[str | None]", theirs[column].to_pylist())
                    yield from (each for each in values if each and len(each) >= SHORTEST)
