"""What lies beside the rows of a lake and may name a person: for an erasure to find and remove.

What belongs here: records in quarantine, kept answers, old versions in a log, tables set aside.
What does not: the rows themselves, and the order in which things go (`erase`).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from zlib import decompress
from zlib import error as BrokenAnswerError  # noqa: N812 - zlib calls its exception `error`

import pyarrow.parquet as pq

from klaviyo_assets.lake.answers import ENDING
from klaviyo_assets.lake.aside import DAMAGED
from klaviyo_assets.lake.disk import reading, told
from klaviyo_assets.lake.layout import ANSWERS, QUARANTINE
from klaviyo_assets.lake.log import LOG, commit_path, commits, snapshot
from klaviyo_assets.lake.quarantine import keep


def without_records(root: Path, texts: Collection[str], *, say: Callable[[str, int], None]) -> None:
    """Remove records in quarantine that hold one of the texts; `say` takes file and number.

    Raises:
        CorruptFileError: a file of the quarantine cannot be read.
        StorageError: the disk refused.
    """
    wanted = [each.encode() for each in texts]
    for path in sorted((root / "lake" / QUARANTINE).glob("*/*.parquet")):
        stream = path.parent.name
        with reading(path, stream):
            rows = pq.read_table(path).to_pylist()
        stay = [each for each in rows if not any(one in each["record"] for one in wanted)]
        if len(stay) == len(rows):
            continue
        say(f"{stream}/{path.name}", len(rows) - len(stay))
        keep(root, stream, ((each["reason"], each["record"]) for each in stay))
        with told(path, stream):
            path.unlink(missing_ok=True)


def answers_that_name(root: Path, texts: Collection[str], *, say: Callable[[str], None]) -> None:
    """Remove kept answers that hold one of the texts, or cannot be read; `say` is told of each.

    Raises:
        StorageError: the disk refused.
    """
    for path in sorted((root / "lake" / ANSWERS).glob(f"*/*{ENDING}")):
        with told(path, path.parent.name):
            head, _, packed = path.read_bytes().partition(b"\n")
            try:
                whole = head + decompress(packed)
            except BrokenAnswerError:
                whole = None
            if whole is None or any(each.encode() in whole for each in texts):
                say(f"{path.parent.name}/{path.name}")
                path.unlink(missing_ok=True)


def forget_versions(folder: Path, name: str, ids: Sequence[str]) -> None:
    """Remove the commits before the newest from a log in which one of the ids is still named.

    Statistics of files name the least and greatest id. Nobody can go back to those versions: their
    files are gone.

    Raises:
        CorruptFileError: the log cannot be read.
        StorageError: the disk refused.
    """
    found = snapshot(folder, name)
    if found is None:
        return
    with told(folder, name):
        older = [commit_path(folder, each) for each in commits(folder) if each < found.version]
        older += [path for path in checkpoints(folder) if version_of(path) <= found.version]
        if not any(each.encode() in form for path in older for form in forms(path) for each in ids):
            return
        found.table.create_checkpoint()
        for path in older:
            if version_of(path) < found.version:
                path.unlink(missing_ok=True)


def checkpoints(folder: Path) -> list[Path]:
    """Return the files of a log's checkpoints."""
    paths = (folder / LOG).glob("*.checkpoint*.parquet")
    return [path for path in paths if path.name.split(".")[0].isdecimal()]


def version_of(path: Path) -> int:
    """Return the version that a file of the log is of."""
    return int(path.name.split(".")[0])


def forms(path: Path) -> Iterator[bytes]:
    """Yield the text of a commit, or what a checkpoint says once it is decoded."""
    if path.suffix == ".json":
        yield path.read_bytes()
    else:
        yield str(pq.read_table(path).to_pylist()).encode()


def set_aside_of(root: Path, names: Collection[str]) -> tuple[Path, ...]:
    """Return the folders of damaged tables of these names, which nothing can be erased from."""
    folders = sorted((root / "lake" / DAMAGED).glob("*-*"))
    return tuple(each for each in folders if each.name.rpartition("-")[0] in names)
