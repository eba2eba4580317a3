"""Stores the lake's own id and its account's names, in `lake/_identity.json`.

An account can have several names: the id that Klaviyo gives it, and stand-ins for keys that may not
read that id. Commits carry the name of their time, so the file lists the names that mean the same
account.
"""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from uuid import uuid4

from klaviyo_assets.lake.disk import create_folder, hold_lock, map_storage_errors

IDENTITY_FILE = "_identity.json"

ACCOUNT_STAND_IN_PREFIX = "key-"
"""Prefix of the name that stands for an account whose id the key may not read."""

_LOCK_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeIdentity:
    """A lake's id, and the names of its account.

    `id` is "" where the lake has none yet. `aliases` are other names that commits may carry and
    that mean `account`. As long as the account has only one name, both `account` and `aliases` are
    empty.
    """

    id: str = ""
    account: str = ""
    aliases: frozenset[str] = frozenset()

    def current_account_name(self, account: str) -> str:
        """Return the current name of an account in this lake."""
        return self.account if account in self.aliases else account


def read_identity(root: Path) -> LakeIdentity:
    """Return the stored identity; an empty one where the file is missing or damaged.

    Raises:
        StorageError: the file may exist, and cannot be read.
    """
    note = _identity_path(root)
    with map_storage_errors(note, None):
        try:
            raw = note.read_bytes()
        except FileNotFoundError:
            return LakeIdentity()
    try:
        known = json.loads(raw)
        return LakeIdentity(
            id=str(known["id"]),
            account=str(known["account"]),
            aliases=frozenset(map(str, cast("list[object]", known["also"]))),
        )
    except (ValueError, KeyError, TypeError):
        return LakeIdentity()


def ensure_identity(root: Path) -> LakeIdentity:
    """Return the stored identity; a lake without an id gets one.

    Raises:
        StorageError: the folder cannot be written, or the file cannot be read.
    """
    known = read_identity(root)
    if known.id:
        return known
    with (
        map_storage_errors(root, None),
        hold_lock(_identity_lock_path(root), timeout_seconds=_LOCK_TIMEOUT_SECONDS),
    ):
        known = read_identity(root)
        return known if known.id else _write_identity(root, replace(known, id=uuid4().hex))


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeLocation:
    """A lake's id, and the host, device and folder where it lies."""

    id: str
    host: str
    device: int
    folder: str

    def __str__(self) -> str:
        return f"{self.id} {self.device} {self.host}:{self.folder}"

    @property
    def place(self) -> str:
        """Return host and folder, for messages."""
        return f"{self.host}:{self.folder}"

    def is_other_lake(self, previous: "LakeLocation") -> bool:
        """Return whether this is another lake than `previous`, at another place.

        A lake whose folder was moved or copied still has its id. A new id at the same place means
        that somebody deleted the files, which is no other lake either.
        """
        is_moved = (self.place, self.device) != (previous.place, previous.device)
        return self.id != previous.id and is_moved


def read_location(root: Path) -> LakeLocation:
    """Return the lake's id and where it lies; a lake without an id gets one.

    Raises:
        StorageError: the folder cannot be written, or the file cannot be read.
    """
    with map_storage_errors(root, None):
        device = root.stat().st_dev
    identity = ensure_identity(root)
    return LakeLocation(id=identity.id, host=platform.node(), device=device, folder=str(root))


def parse_location(text: str) -> LakeLocation | None:
    """Return the location that `str` was applied to; None if the text is not one."""
    name, _, rest = text.partition(" ")
    device, _, place = rest.partition(" ")
    host, colon, folder = place.partition(":")
    if not (name and colon and device.isdecimal()):
        return None
    return LakeLocation(id=name, host=host, device=int(device), folder=folder)


def record_account(root: Path, account: str, *, aliases: Iterable[str]) -> bool:
    """Store the account's current name and its aliases; return whether anything changed.

    Raises:
        StorageError: the folder cannot be written, or the file cannot be read.
    """
    create_folder(root / "lake")
    with (
        map_storage_errors(root, None),
        hold_lock(_identity_lock_path(root), timeout_seconds=_LOCK_TIMEOUT_SECONDS),
    ):
        known = read_identity(root)
        former = {known.account} if known.account else set[str]()
        names = frozenset({*known.aliases, *former, *aliases} - {account})
        if known.account == account and names == known.aliases:
            return False
        _write_identity(
            root, LakeIdentity(id=known.id or uuid4().hex, account=account, aliases=names)
        )
        return True


def _identity_path(root: Path) -> Path:
    return root / "lake" / IDENTITY_FILE


def _identity_lock_path(root: Path) -> Path:
    return root / "lake" / "_identity.lock"


def _write_identity(root: Path, identity: LakeIdentity) -> LakeIdentity:
    """Write the file; the caller holds the lock."""
    part_file = root / "lake" / "_identity.part"
    content = {"id": identity.id, "account": identity.account, "also": sorted(identity.aliases)}
    # Removed first: never write into a file that a killed run left, or through a symbolic link.
    part_file.unlink(missing_ok=True)
    with part_file.open("x", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    part_file.replace(_identity_path(root))
    return identity
