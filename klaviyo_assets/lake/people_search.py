"""Who is to be erased: the ids, and the addresses and numbers by which else they are known.

What belongs here: reading ids and addresses from every file of the people's tables, of older
versions and killed runs as well, and from the quarantine. What does not: where else they are named
(`file_search`), and removing anything.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.erasures import hash_of
from klaviyo_assets.lake.layout import table_folder
from klaviyo_assets.lake.leftovers import quarantined_people
from klaviyo_assets.lake.log import LOG, snapshot
from klaviyo_assets.lake.parquet import DataFile, columns_of
from klaviyo_assets.lake.removal import PeopleTable, might_hold

SHORTEST = 6
"""Characters of a value that is looked for in text: a shorter one would be found everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleFile:
    """A data file of a people's table; `known` is what its version says of it, None where none."""

    place: PeopleTable
    path: Path
    known: DataFile | None

    def columns(self, names: Sequence[str]) -> pa.Table | None:
        """Return some text columns; None where a file that no version needs cannot be read.

        Raises:
            CorruptFileError: a file of the newest version is missing or damaged.
        """
        schema = pa.schema([(name, pa.string()) for name in names])
        if self.known is not None:
            return columns_of(self.path, schema, self.place.table.name)
        with suppress(LakeError, pa.ArrowException):
            return columns_of(self.path, schema, self.place.table.name)
        return None


def people_files(root: Path, places: Sequence[PeopleTable]) -> Iterator[PeopleFile]:
    """Yield all data files of the tables, those of older versions and of killed runs included.

    Raises:
        CorruptFileError: a log cannot be read.
    """
    for place in places:
        folder = table_folder(root, place.table.name)
        found = snapshot(folder, place.table.name)
        current = {} if found is None else {file.path: file for file in found.files}
        paths = (path for path in folder.rglob("*.parquet") if LOG not in path.parts)
        for name in sorted({*current, *(str(path.relative_to(folder)) for path in paths)}):
            yield PeopleFile(place=place, path=folder / name, known=current.get(name))


def ids_behind(
    root: Path, places: Sequence[PeopleTable], hashes: Collection[str]
) -> frozenset[str]:
    """Return the ids whose hashes these are, as far as a row or a record in quarantine has them.

    Raises:
        CorruptFileError: a log, or a file of a newest version, cannot be read.
    """
    if not hashes:
        return frozenset()
    ids = {id_ for id_, _ in quarantined_people(root)}
    for file in people_files(root, places):
        rows = file.columns([file.place.column])
        if rows is not None:
            ids.update(cast("list[str]", pc.unique(rows[file.place.column]).to_pylist()))
    return frozenset(each for each in ids if each and hash_of(each) in hashes)


def texts_of(root: Path, places: Sequence[PeopleTable], ids: Sequence[str]) -> frozenset[str]:
    """Return the ids, and the addresses and numbers that rows and records of the people hold.

    Raises:
        CorruptFileError: a log, or a file of a newest version, cannot be read.
    """
    texts: set[str | None] = set()
    wanted = pa.array(sorted(ids), pa.string())
    for file in people_files(root, places):
        column, schema = file.place.column, file.place.table.schema
        there = [each for each in file.place.addresses if each in schema.names]
        if not there or (file.known is not None and not might_hold(file.known, column, ids)):
            continue
        rows = file.columns([column, *there])
        if rows is not None:
            theirs = rows.filter(pc.is_in(rows[column], value_set=wanted))
            for each in there:
                texts.update(cast("list[str | None]", theirs[each].to_pylist()))
    addresses = {each for place in places for each in place.addresses}
    for id_, attributes in quarantined_people(root):
        if id_ in ids:
            texts.update(str(attributes[each]) for each in addresses if attributes.get(each))
    return frozenset({*ids, *(each for each in texts if each and len(each) >= SHORTEST)})
