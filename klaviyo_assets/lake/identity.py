"""Which lake this is, and the names that its account goes by: `lake/_identity.json`."""

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
"""How the name begins that stands for an account whose id the key may not know."""

_LOCK_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeIdentity:
    """A lake's own name, and what else its account is called.

    `id` is "" where the lake has none yet. `aliases` are names that commits may carry and that mean
    `account`; both are empty as long as the account has one name.
    """

    id: str = ""
    account: str = ""
    aliases: frozenset[str] = frozenset()

    def current_account_name(self, account: str) -> str:
        """Return the name that an account goes by in this lake."""
        return self.account if account in self.aliases else account


def read_identity(root: Path) -> LakeIdentity:
    """Return what the lake's note says; nothing where there is none, or one that is damaged.

    Raises:
        StorageError: there may be one, and the disk refused to give it.
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
    """Return what the lake's note says; a lake without a name of its own gets one.

    Raises:
        StorageError: the folder cannot be written, or the note not read.
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
    """Which lake it is, and where: on which host, in which folder, on which device."""

    id: str
    host: str
    device: int
    folder: str

    def __str__(self) -> str:
        return f"{self.id} {self.device} {self.host}:{self.folder}"

    @property
    def place(self) -> str:
        """Return where it lies, for people."""
        return f"{self.host}:{self.folder}"

    def is_other_lake(self, previous: "LakeLocation") -> bool:
        """Tell whether this is another lake than the one before, at another place.

        One whose folder was moved or copied brought its id along. A new one where the old one lay
        is what somebody leaves who deletes the files.
        """
        is_moved = (self.place, self.device) != (previous.place, previous.device)
        return self.id != previous.id and is_moved


def read_location(root: Path) -> LakeLocation:
    """Return which lake this is and where; a lake without a name of its own gets one.

    Raises:
        StorageError: the folder cannot be written, or the note not read.
    """
    with map_storage_errors(root, None):
        device = root.stat().st_dev
    identity = ensure_identity(root)
    return LakeLocation(id=identity.id, host=platform.node(), device=device, folder=str(root))


def parse_location(text: str) -> LakeLocation | None:
    """Return what `str` made of whereabouts; None of another text."""
    name, _, rest = text.partition(" ")
    device, _, place = rest.partition(" ")
    host, colon, folder = place.partition(":")
    if not (name and colon and device.isdecimal()):
        return None
    return LakeLocation(id=name, host=host, device=int(device), folder=folder)


def record_account(root: Path, account: str, *, aliases: Iterable[str]) -> bool:
    """Note that the account goes by `account`, and that the other names mean it; tell if it's news.

    Raises:
        StorageError: the folder cannot be written, or the note not read.
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
    """Write the note; the lock is held."""
    part_file = root / "lake" / "_identity.part"
    content = {"id": identity.id, "account": identity.account, "also": sorted(identity.aliases)}
    # Made anew: what a killed run left there, or somebody's link, is not written through.
    part_file.unlink(missing_ok=True)
    with part_file.open("x", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    part_file.replace(_identity_path(root))
    return identity
