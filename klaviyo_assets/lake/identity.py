"""Which lake this is, and the names that its account goes by: `lake/_identity.json`.

What belongs here: the note, which travels with the lake when its folder is moved or copied. What
does not: proving that two names are one account (`sync.adoption`), and refusing a foreign one
(`states`). Each commit says whose data it is, by the account's id, or by a stand-in made of the
key's hash where the key may not know the id. When the id is learnt, the note says so: no commit is
written for it, which would make runs under way lose their race.
"""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from uuid import uuid4

from klaviyo_assets.lake.disk import exclusive, make_folder, told

IDENTITY = "_identity.json"

STAND_IN = "key-"
"""How the name begins that stands for an account whose id the key may not know."""

_LOCK_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A lake's own name, and what else its account is called.

    `id` is "" where the lake has none yet. `also` are names that commits may carry and that mean
    `account`; both are empty as long as the account has one name.
    """

    id: str = ""
    account: str = ""
    also: frozenset[str] = frozenset()

    def name_of(self, account: str) -> str:
        """Return the name that an account goes by in this lake."""
        return self.account if account in self.also else account


def lake_identity(root: Path) -> Identity:
    """Return what the lake's note says; nothing where there is none, or one that is damaged.

    Raises:
        StorageError: there may be one, and the disk refused to give it.
    """
    note = _note(root)
    with told(note, None):
        try:
            raw = note.read_bytes()
        except FileNotFoundError:
            return Identity()
    try:
        known = json.loads(raw)
        return Identity(
            id=str(known["id"]),
            account=str(known["account"]),
            also=frozenset(map(str, cast("list[object]", known["also"]))),
        )
    except (ValueError, KeyError, TypeError):
        return Identity()


def named_identity(root: Path) -> Identity:
    """Return what the lake's note says; a lake without a name of its own gets one.

    Raises:
        StorageError: the folder cannot be written, or the note not read.
    """
    known = lake_identity(root)
    if known.id:
        return known
    with told(root, None), exclusive(_lock(root), seconds=_LOCK_SECONDS):
        known = lake_identity(root)
        return known if known.id else _write(root, replace(known, id=uuid4().hex))


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
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

    def is_other(self, before: "Whereabouts") -> bool:
        """Tell whether this is another lake than the one before, at another place.

        One whose folder was moved or copied brought its id along. A new one where the old one lay
        is what somebody leaves who deletes the files.
        """
        is_moved = (self.place, self.device) != (before.place, before.device)
        return self.id != before.id and is_moved


def whereabouts_of(root: Path) -> Whereabouts:
    """Return which lake this is and where; a lake without a name of its own gets one.

    Raises:
        StorageError: the folder cannot be written, or the note not read.
    """
    with told(root, None):
        device = root.stat().st_dev
    identity = named_identity(root)
    return Whereabouts(id=identity.id, host=platform.node(), device=device, folder=str(root))


def read_whereabouts(text: str) -> Whereabouts | None:
    """Return what `str` made of whereabouts; None of another text."""
    name, _, rest = text.partition(" ")
    device, _, place = rest.partition(" ")
    host, colon, folder = place.partition(":")
    if not (name and colon and device.isdecimal()):
        return None
    return Whereabouts(id=name, host=host, device=int(device), folder=folder)


def call_account(root: Path, account: str, *, also: Iterable[str]) -> bool:
    """Note that the account goes by `account`, and that the other names mean it; tell if it's news.

    Raises:
        StorageError: the folder cannot be written, or the note not read.
    """
    make_folder(root / "lake")
    with told(root, None), exclusive(_lock(root), seconds=_LOCK_SECONDS):
        known = lake_identity(root)
        former = {known.account} if known.account else set[str]()
        names = frozenset({*known.also, *former, *also} - {account})
        if known.account == account and names == known.also:
            return False
        _write(root, Identity(id=known.id or uuid4().hex, account=account, also=names))
        return True


def _note(root: Path) -> Path:
    return root / "lake" / IDENTITY


def _lock(root: Path) -> Path:
    return root / "lake" / "_identity.lock"


def _write(root: Path, identity: Identity) -> Identity:
    """Write the note; the lock is held."""
    half = root / "lake" / "_identity.part"
    told_of = {"id": identity.id, "account": identity.account, "also": sorted(identity.also)}
    # Made anew: what a killed run left there, or somebody's link, is not written through.
    half.unlink(missing_ok=True)
    with half.open("x", encoding="utf-8") as file:
        json.dump(told_of, file)
        file.flush()
        os.fsync(file.fileno())
    half.replace(_note(root))
    return identity
