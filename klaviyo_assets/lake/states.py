"""What a table's newest commit of ours says of it, as others see it.

What belongs here: the value and where it comes from. What does not: what the state means (`sync`,
and `facts` for reports).
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from klaviyo_assets.errors import CorruptFileError, LakeError, WrongAccountError
from klaviyo_assets.lake.identity import STAND_IN, lake_identity
from klaviyo_assets.lake.layout import table_folder
from klaviyo_assets.lake.log import Mark, Snapshot, newest_mark, newest_version


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """A table as it is now. `state` is what the sync said in the newest commit of ours."""

    version: int
    account: str
    lake_version: int
    rows: int
    state: dict[str, object]


def table_state(found: Snapshot | None) -> TableState | None:
    """Return the state of a table; None where it was never read, or another engine emptied it."""
    if found is None or found.mark is None or found.is_emptied:
        return None
    return TableState(
        version=found.version,
        account=found.mark.account,
        lake_version=found.mark.lake_version,
        rows=found.rows,
        state=found.mark.state,
    )


def stored_account(root: Path, *, tables: Iterable[str]) -> str | None:
    """Return whose data the tables hold; None where there is none that can be read."""
    return next(iter(stored_accounts(root, tables=tables)), None)


def stored_accounts(root: Path, *, tables: Iterable[str]) -> Iterator[str]:
    """Yield whose data each table holds that can be read, by the name of now.

    Raises:
        StorageError: the note of the account's names is there and cannot be read.
    """
    identity = lake_identity(root)
    for name in tables:
        with suppress(LakeError):
            mark = _newest_mark(root, name)
            if mark is not None:
                yield identity.name_of(mark.account)


def refuse_foreign(root: Path, account: str, *, tables: Iterable[str]) -> None:
    """Refuse to bring a second account among the tables; reads one commit of each.

    A table that cannot be read is passed over: its own sync says so, and stops no other.

    Raises:
        WrongAccountError: a table holds another account's data.
        LakeVersionError: a later version of this project wrote a table.
        StorageError: the note of the account's names is there and cannot be read.
    """
    identity = lake_identity(root)
    for name in tables:
        try:
            mark = _newest_mark(root, name)
        except CorruptFileError:
            continue
        if mark is None:
            continue
        stored = identity.name_of(mark.account)
        if stored != identity.name_of(account):
            raise WrongAccountError(
                f"{root} holds account {stored} and the key belongs to account {account}. "
                f"Give each account its own KLAVIYO_DATA_DIR; nothing was written{_hint(stored)}",
            )


def _newest_mark(root: Path, name: str) -> Mark | None:
    folder = table_folder(root, name)
    newest = newest_version(folder)
    return None if newest is None else newest_mark(folder, newest, name)


def _hint(stored: str) -> str:
    """Return the way out where the lake may be the key's own after all."""
    if not stored.startswith(STAND_IN):
        return ""
    return (
        f". {stored} stands for the account of an earlier key that lacked accounts:read, and the "
        "two could not be compared: if they are one account, run `klaviyo-assets adopt`"
    )
