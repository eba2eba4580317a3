"""The receipt of an erasure: what left the disk, written down while it leaves."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from klaviyo_assets.lake.disk import create_folder, map_storage_errors
from klaviyo_assets.lake.layout import ERASURE_RECEIPTS_FOLDER
from klaviyo_assets.lake.response_cache import write_file_atomically
from klaviyo_assets.wording import format_quantity

UNFINISHED_SUFFIX = ".begun"


@dataclass(slots=True, kw_only=True)
class ErasedItems:
    """What one erasure removed: rows and version by table, records by file of the quarantine.

    And the kept answers that went, and the files of older versions and of killed runs.
    """

    started_at: str
    tables: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    quarantine: dict[str, int] = field(default_factory=dict[str, int])
    responses: list[str] = field(default_factory=list[str])
    files: list[str] = field(default_factory=list[str])

    @property
    def is_empty(self) -> bool:
        """Tell whether there was nothing to erase."""
        return not (self.tables or self.quarantine or self.responses or self.files)

    def describe(self) -> Iterator[str]:
        """Yield what was removed, a line each."""
        for name, each in self.tables.items():
            yield (
                f"{name}: {format_quantity(each['rows'], 'row')} removed, version {each['version']}"
            )
        if self.quarantine:
            yield f"quarantine: {format_quantity(sum(self.quarantine.values()), 'record')} removed"
        if self.responses:
            yield f"kept answers: {len(self.responses):,} removed"
        if self.files:
            yield (
                f"older versions and killed runs: {format_quantity(len(self.files), 'file')} that "
                "named "
                "them removed"
            )


class ErasureReceipt:
    """The receipt of erasing some profiles, in the making; empty ones are never written."""

    def __init__(
        self, root: Path, hashes: Collection[str], *, clock: Callable[[], datetime]
    ) -> None:
        """Go on with the unfinished receipt of the same profiles, if there is one.

        `hashes` are those of their ids, as `hash_profile_id` makes them.
        """
        self.folder, self.clock = root / "lake" / ERASURE_RECEIPTS_FOLDER, clock
        self.hashes = sorted(set(hashes))
        self.digest = sha256("".join(self.hashes).encode()).hexdigest()[:16]
        self.erased = ErasedItems(started_at=clock().isoformat())
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self.unfinished_path.read_bytes())
            self.erased = ErasedItems(
                started_at=known["begun"],
                tables=known["tables"],
                quarantine=known["quarantine"],
                responses=known["answers"],
                # Receipts of earlier releases have none.
                files=known.get("files", []),
            )

    @property
    def unfinished_path(self) -> Path:
        """Return the file that says how far an erasure came."""
        return self.folder / f"{self.digest}{UNFINISHED_SUFFIX}"

    def record_rows(self, name: str, *, rows: int, version: int) -> None:
        """Note rows that are about to leave a table with the commit of `version`."""
        self.erased.tables[name] = {"rows": rows, "version": version}
        self.write(self.unfinished_path)

    def record_quarantined(self, file: str, records: int) -> None:
        """Note records that are about to leave a file of the quarantine."""
        self.erased.quarantine[file] = records
        self.write(self.unfinished_path)

    def record_response(self, file: str) -> None:
        """Note the file of a kept answer that is about to go."""
        self.erased.responses = sorted({*self.erased.responses, file})
        self.write(self.unfinished_path)

    def record_file(self, file: str) -> None:
        """Note a file of an older version, or of a killed run, that is about to go."""
        self.erased.files = sorted({*self.erased.files, file})
        self.write(self.unfinished_path)

    def finish(self, *, remains: Sequence[str] = ()) -> Path:
        """Write the receipt as finished now; return where it lies.

        `remains` are the places that still name the profiles.

        Raises:
            StorageError: the disk refused.
        """
        now = self.clock()
        target = self.folder / f"{now:%Y%m%dT%H%M%S}Z-{self.digest}.json"
        self.write(target, finished=now.isoformat(), remains=[*remains])
        with map_storage_errors(target, None):
            self.unfinished_path.unlink(missing_ok=True)
        return target

    def write(self, target: Path, **more: object) -> None:
        """Write what is known so far."""
        content_fields = {
            "profile_id_sha256": self.hashes,
            "begun": self.erased.started_at,
            **more,
            "tables": self.erased.tables,
            "quarantine": self.erased.quarantine,
            "answers": self.erased.responses,
            "files": self.erased.files,
        }
        with map_storage_errors(target, None):
            create_folder(self.folder)
            content = json.dumps(content_fields, indent=2).encode()
            write_file_atomically(target, content, modified_at=self.clock().timestamp())


def hash_profile_id(profile_id: str) -> str:
    """Return what stands for an id in a receipt."""
    return sha256(profile_id.encode()).hexdigest()


def unreadable_receipts(root: Path, *, clock: Callable[[], datetime]) -> list[Path]:
    """Return the files of erasures that were killed which do not tell whom they are about."""
    folder = root / "lake" / ERASURE_RECEIPTS_FOLDER
    known = {each.unfinished_path for each in read_unfinished_receipts(root, clock=clock)}
    return [each for each in sorted(folder.glob(f"*{UNFINISHED_SUFFIX}")) if each not in known]


def read_unfinished_receipts(root: Path, *, clock: Callable[[], datetime]) -> list[ErasureReceipt]:
    """Return the receipts of erasures that were killed; those that cannot be read are left out."""
    found: list[ErasureReceipt] = []
    for path in sorted((root / "lake" / ERASURE_RECEIPTS_FOLDER).glob(f"*{UNFINISHED_SUFFIX}")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            hashes = json.loads(path.read_bytes())["profile_id_sha256"]
            found.append(ErasureReceipt(root, hashes, clock=clock))
    return found
