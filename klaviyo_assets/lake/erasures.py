"""The receipt of an erasure: what left the disk, written down while it leaves.

What belongs here: the file `lake/_receipts/<time>-<digest>.json`. What does not: erasing (`erase`).
An id is personal as well, so the file holds its SHA-256. What is about to be removed is written
before it goes: an erasure that was killed goes on in its unfinished file when it is run again.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from klaviyo_assets.lake.answers import write_whole
from klaviyo_assets.lake.disk import make_folder, told
from klaviyo_assets.lake.layout import RECEIPTS
from klaviyo_assets.wording import quantity

UNFINISHED = ".begun"


@dataclass(slots=True, kw_only=True)
class Erasure:
    """What one erasure removed: rows and version by table, records by file of the quarantine.

    And the kept answers that went, and the files of older versions and of killed runs.
    """

    begun: str
    tables: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    quarantine: dict[str, int] = field(default_factory=dict[str, int])
    answers: list[str] = field(default_factory=list[str])
    files: list[str] = field(default_factory=list[str])

    @property
    def is_empty(self) -> bool:
        """Tell whether there was nothing to erase."""
        return not (self.tables or self.quarantine or self.answers or self.files)

    def told(self) -> Iterator[str]:
        """Yield what was removed, a line each."""
        for name, each in self.tables.items():
            yield f"{name}: {quantity(each['rows'], 'row')} removed, version {each['version']}"
        if self.quarantine:
            yield f"quarantine: {quantity(sum(self.quarantine.values()), 'record')} removed"
        if self.answers:
            yield f"kept answers: {len(self.answers):,} removed"
        if self.files:
            yield (
                f"older versions and killed runs: {quantity(len(self.files), 'file')} that named "
                "them removed"
            )


class ErasureReceipt:
    """The receipt of erasing some profiles, in the making; empty ones are never written."""

    def __init__(
        self, root: Path, hashes: Collection[str], *, clock: Callable[[], datetime]
    ) -> None:
        """Go on with the unfinished receipt of the same profiles, if there is one.

        `hashes` are those of their ids, as `hash_of` makes them.
        """
        self.folder, self.clock = root / "lake" / RECEIPTS, clock
        self.hashes = sorted(set(hashes))
        self.digest = sha256("".join(self.hashes).encode()).hexdigest()[:16]
        self.so_far = Erasure(begun=clock().isoformat())
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self.unfinished.read_bytes())
            self.so_far = Erasure(
                begun=known["begun"],
                tables=known["tables"],
                quarantine=known["quarantine"],
                answers=known["answers"],
                # Receipts of earlier releases have none.
                files=known.get("files", []),
            )

    @property
    def unfinished(self) -> Path:
        """Return the file that says how far an erasure came."""
        return self.folder / f"{self.digest}{UNFINISHED}"

    def table(self, name: str, *, rows: int, version: int) -> None:
        """Note rows that are about to leave a table with the commit of `version`."""
        self.so_far.tables[name] = {"rows": rows, "version": version}
        self.write(self.unfinished)

    def put_aside(self, file: str, records: int) -> None:
        """Note records that are about to leave a file of the quarantine."""
        self.so_far.quarantine[file] = records
        self.write(self.unfinished)

    def answer(self, file: str) -> None:
        """Note the file of a kept answer that is about to go."""
        self.so_far.answers = sorted({*self.so_far.answers, file})
        self.write(self.unfinished)

    def file(self, file: str) -> None:
        """Note a file of an older version, or of a killed run, that is about to go."""
        self.so_far.files = sorted({*self.so_far.files, file})
        self.write(self.unfinished)

    def finish(self, *, remains: Sequence[str] = ()) -> Path:
        """Write the receipt as finished now; return where it lies.

        `remains` are the places that still name the profiles.

        Raises:
            StorageError: the disk refused.
        """
        now = self.clock()
        target = self.folder / f"{now:%Y%m%dT%H%M%S}Z-{self.digest}.json"
        self.write(target, finished=now.isoformat(), remains=[*remains])
        with told(target, None):
            self.unfinished.unlink(missing_ok=True)
        return target

    def write(self, target: Path, **more: object) -> None:
        """Write what is known so far."""
        said = {
            "profile_id_sha256": self.hashes,
            "begun": self.so_far.begun,
            **more,
            "tables": self.so_far.tables,
            "quarantine": self.so_far.quarantine,
            "answers": self.so_far.answers,
            "files": self.so_far.files,
        }
        with told(target, None):
            make_folder(self.folder)
            content = json.dumps(said, indent=2).encode()
            write_whole(target, content, at=self.clock().timestamp())


def hash_of(profile_id: str) -> str:
    """Return what stands for an id in a receipt."""
    return sha256(profile_id.encode()).hexdigest()


def unreadable_receipts(root: Path, *, clock: Callable[[], datetime]) -> list[Path]:
    """Return the files of erasures that were killed which do not tell whom they are about."""
    folder = root / "lake" / RECEIPTS
    known = {each.unfinished for each in unfinished_receipts(root, clock=clock)}
    return [each for each in sorted(folder.glob(f"*{UNFINISHED}")) if each not in known]


def unfinished_receipts(root: Path, *, clock: Callable[[], datetime]) -> list[ErasureReceipt]:
    """Return the receipts of erasures that were killed; those that cannot be read are left out."""
    found: list[ErasureReceipt] = []
    for path in sorted((root / "lake" / RECEIPTS).glob(f"*{UNFINISHED}")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            hashes = json.loads(path.read_bytes())["profile_id_sha256"]
            found.append(ErasureReceipt(root, hashes, clock=clock))
    return found
