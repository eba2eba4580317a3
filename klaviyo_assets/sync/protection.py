"""What the settings of privacy hold true for: all rows of a table, or only those read since.

What belongs here: the claims that a commit carries, and the sentence for rows that are older than a
setting. What does not: the settings (`model/privacy`) and what becomes of values (`tables/screen`).
"""

import hmac
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from klaviyo_assets.api.sparse import sparse_fields
from klaviyo_assets.errors import CorruptFileError
from klaviyo_assets.lake import HISTORY, Lake, TableState, older_quarantine
from klaviyo_assets.model.column import EXTRA
from klaviyo_assets.model.privacy import Privacy, privacy_of
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.sync.desk import Desk
from klaviyo_assets.tables.decode import PageDecoder

ROWS = "protected"
VERSIONS = "history_protected"
"""The keys of a commit's state that hold the claims for the table and for its history."""


Claims = Mapping[str, str]
"""What became of each column, in words, by its name."""

_NOTHING: Mapping[str, Claims] = {ROWS: {}, VERSIONS: {}}


def claims_of(privacy: Privacy) -> Claims:
    """Return in words what becomes of each column; hashes name their salt by a hash of it."""
    claims = {name: f"only {'|'.join(sorted(keys))}" for name, keys in privacy.json_keys.items()}
    salt = hmac.digest(privacy.salt, b"klaviyo_assets", "sha256").hex()[:12]
    claims |= dict.fromkeys(privacy.hashed, f"hashed with {salt}")
    for name, members in privacy.members.items():
        parts = [f"without {each}" for each in sorted(members.excluded)]
        parts += [f"{each} hashed with {salt}" for each in sorted(members.hashed)]
        claims[name] = ", ".join([*filter(None, [claims.get(name)]), *parts])
    return claims | dict.fromkeys(privacy.excluded, "excluded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What the settings of privacy make of one sync.

    `fields` are the only attributes to ask for, empty for all; `claims` go into the state of each
    commit; `hidden` are the columns that rows from before the settings may not keep.
    """

    privacy: Privacy
    decoder: PageDecoder
    fields: tuple[str, ...]
    claims: Mapping[str, Claims]
    hidden: frozenset[str]


def guard_of(stream: Stream, desk: Desk, *, replaces: bool) -> Guard:
    """Return the guard of a sync; warn of stored rows that are older than a setting.

    `replaces` tells that the sync reads everything: then older rows leave, or lose what is hidden.

    Raises:
        CorruptFileError: the table's log cannot be read.
    """
    privacy = privacy_of(stream, desk.settings, salt=desk.salt)
    wanted = claims_of(privacy)
    held = _held(stream.name, wanted, desk.lake) if wanted else _NOTHING
    older = frozenset(wanted.keys() - held[ROWS].keys())
    if wanted:
        warn(stream.name, wanted, held, replaces=replaces, say=desk.say)
        warn_of_quarantine(stream.name, desk)
    rows = wanted if replaces else held[ROWS]
    return Guard(
        privacy=privacy,
        decoder=PageDecoder(stream, privacy=privacy),
        fields=sparse_fields(stream, privacy.excluded),
        claims={**held, ROWS: rows} if wanted else {},
        # A value of another type than declared lies in `extra`.
        hidden=older | {EXTRA} if older and replaces else frozenset(),
    )


def warn(
    stream: str,
    wanted: Claims,
    held: Mapping[str, Claims],
    *,
    replaces: bool,
    say: Callable[[str], None],
) -> None:
    """Say which columns of a table and of its history are older than the settings."""
    older = sorted(wanted.keys() - held[ROWS].keys())
    if older and not replaces:
        say(
            f"{stream}: rows stored before the settings of privacy changed still hold "
            f"{', '.join(older)} as before; materialize klaviyo/{stream} once with sync_mode "
            "full_refresh_overwrite"
        )
    older = sorted(wanted.keys() - held[VERSIONS].keys())
    if older:
        say(
            f"{stream}: {stream + HISTORY} holds versions from before the settings of privacy "
            f"changed, with {', '.join(older)} as before; no refresh rewrites them: run "
            f"`klaviyo-assets set-aside {stream + HISTORY}` and delete the folder that it names"
        )


def warn_of_quarantine(stream: str, desk: Desk) -> None:
    """Say that records which were put aside before the settings of privacy are there whole."""
    try:
        folder = older_quarantine(desk.lake.root, stream)
    except CorruptFileError as broken:
        desk.say(str(broken))
        return
    if folder is not None:
        desk.say(
            f"{stream}: records in quarantine were put aside whole, before the settings of "
            f"privacy; no sync rewrites them: `rm -r {shlex.quote(str(folder))}` ends that"
        )


def _held(stream: str, wanted: Claims, lake: Lake) -> Mapping[str, Claims]:
    """Return what of the claims holds for all rows that are there, and for all versions."""
    table = lake.state(stream)
    before: Mapping[str, object] = {} if table is None else table.state
    return {
        ROWS: _still(wanted, before.get(ROWS), table),
        VERSIONS: _still(wanted, before.get(VERSIONS), _history(stream, lake)),
    }


def _history(stream: str, lake: Lake) -> TableState | None:
    try:
        return lake.state(stream + HISTORY)
    except CorruptFileError:
        # Its own writer says so, and this sync may be none.
        return None


def _still(wanted: Claims, said: object, table: TableState | None) -> Claims:
    """Return the claims that held before as well; all of them where there are no rows."""
    if table is None or not table.rows:
        return wanted
    known = cast("Mapping[str, object]", said if isinstance(said, dict) else {})
    return {name: claim for name, claim in wanted.items() if known.get(name) == claim}
