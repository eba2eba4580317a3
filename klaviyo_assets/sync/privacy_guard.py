"""Tracks for which rows the privacy settings hold: all of a table, or only those read since."""

import hmac
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from klaviyo_assets.api.requests import sparse_fieldset
from klaviyo_assets.decode.decoder import PageDecoder
from klaviyo_assets.errors import CorruptFileError
from klaviyo_assets.lake.delta.state import TableState
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import HISTORY_SUFFIX
from klaviyo_assets.model.column import EXTRA_FIELD
from klaviyo_assets.model.privacy import PrivacyRules, resolve_privacy_rules
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.sync.context import SyncContext

ROW_CLAIMS_KEY = "protected"
HISTORY_CLAIMS_KEY = "history_protected"
"""Keys of a commit's state: the privacy claims of the table and of its history."""


PrivacyClaims = Mapping[str, str]
"""How each column is protected, in words, by its name."""

_NO_CLAIMS: Mapping[str, PrivacyClaims] = {ROW_CLAIMS_KEY: {}, HISTORY_CLAIMS_KEY: {}}


def build_privacy_claims(privacy: PrivacyRules) -> PrivacyClaims:
    """Return how the rules protect each column; a salt is named by a hash of it."""
    claims = {
        name: f"only {'|'.join(sorted(keys))}" for name, keys in privacy.allowed_json_keys.items()
    }
    salt = hmac.digest(privacy.salt, b"klaviyo_assets", "sha256").hex()[:12]
    claims |= dict.fromkeys(privacy.hashed_columns, f"hashed with {salt}")
    for name, members in privacy.json_members.items():
        parts = [f"without {each}" for each in sorted(members.excluded)]
        parts += [f"{each} hashed with {salt}" for each in sorted(members.hashed)]
        claims[name] = ", ".join([*filter(None, [claims.get(name)]), *parts])
    return claims | dict.fromkeys(privacy.excluded_columns, "excluded")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyGuard:
    """What the privacy settings change in one sync.

    `requested_fields`: the only attributes to request; empty: all. `claims` go into the state of
    each commit. `cleared_columns` are emptied in rows that are older than the settings.
    """

    privacy: PrivacyRules
    decoder: PageDecoder
    requested_fields: tuple[str, ...]
    claims: Mapping[str, PrivacyClaims]
    cleared_columns: frozenset[str]


def build_privacy_guard(
    stream: Stream, context: SyncContext, *, is_replacement: bool
) -> PrivacyGuard:
    """Return the guard of a sync; warn of stored rows that are older than a setting.

    `is_replacement`: the sync reads everything, so that older rows are dropped, or lose the columns
    that the settings hide.

    Raises:
        CorruptFileError: the table's log cannot be read.
    """
    privacy = resolve_privacy_rules(stream, context.settings, salt=context.salt)
    wanted = build_privacy_claims(privacy)
    valid = _load_valid_claims(stream.name, wanted, context.lake) if wanted else _NO_CLAIMS
    older = frozenset(wanted.keys() - valid[ROW_CLAIMS_KEY].keys())
    if wanted:
        warn_of_older_rows(
            stream.name, wanted, valid, is_replacement=is_replacement, warn=context.warn
        )
        warn_of_older_quarantine(stream.name, context)
    rows = wanted if is_replacement else valid[ROW_CLAIMS_KEY]
    return PrivacyGuard(
        privacy=privacy,
        decoder=PageDecoder(stream, privacy=privacy),
        requested_fields=sparse_fieldset(stream, privacy.excluded_columns),
        claims={**valid, ROW_CLAIMS_KEY: rows} if wanted else {},
        # Values of another type than declared are stored in `extra`.
        cleared_columns=older | {EXTRA_FIELD} if older and is_replacement else frozenset(),
    )


def warn_of_older_rows(
    stream: str,
    claims: PrivacyClaims,
    valid_claims: Mapping[str, PrivacyClaims],
    *,
    is_replacement: bool,
    warn: Callable[[str], None],
) -> None:
    """Warn which columns of a table and of its history are older than the settings."""
    older = sorted(claims.keys() - valid_claims[ROW_CLAIMS_KEY].keys())
    if older and not is_replacement:
        warn(
            f"{stream}: rows stored before the privacy settings changed still hold "
            f"{', '.join(older)} as before; materialize klaviyo/{stream} once with sync_mode "
            "full_refresh_overwrite"
        )
    older = sorted(claims.keys() - valid_claims[HISTORY_CLAIMS_KEY].keys())
    if older:
        warn(
            f"{stream}: {stream + HISTORY_SUFFIX} holds versions from before the privacy settings "
            f"changed, with {', '.join(older)} as before; no refresh rewrites them: run "
            f"`klaviyo-assets set-aside {stream + HISTORY_SUFFIX}` and delete the folder that it "
            "names"
        )


def warn_of_older_quarantine(stream: str, context: SyncContext) -> None:
    """Warn that records quarantined before the privacy settings are stored unredacted."""
    try:
        folder = context.lake.find_unredacted_quarantine(stream)
    except CorruptFileError as broken:
        context.warn(str(broken))
        return
    if folder is not None:
        context.warn(
            f"{stream}: records in quarantine were put aside whole, before the privacy settings; "
            f"no sync rewrites them: `rm -r {shlex.quote(str(folder))}` ends that"
        )


def _load_valid_claims(
    stream: str, claims: PrivacyClaims, lake: Lake
) -> Mapping[str, PrivacyClaims]:
    """Return the claims that hold for all rows of the table, and for all of its history."""
    table = lake.read_table_state(stream)
    before: Mapping[str, object] = {} if table is None else table.state
    return {
        ROW_CLAIMS_KEY: _select_valid_claims(claims, before.get(ROW_CLAIMS_KEY), table),
        HISTORY_CLAIMS_KEY: _select_valid_claims(
            claims, before.get(HISTORY_CLAIMS_KEY), _read_history_state(stream, lake)
        ),
    }


def _read_history_state(stream: str, lake: Lake) -> TableState | None:
    try:
        return lake.read_table_state(stream + HISTORY_SUFFIX)
    except CorruptFileError:
        # The writer of the history reports this, and this sync may not write one.
        return None


def _select_valid_claims(
    claims: PrivacyClaims, stored_claims: object, table: TableState | None
) -> PrivacyClaims:
    """Return the claims that already held; all of them where there are no rows."""
    if table is None or not table.rows:
        return claims
    known = cast("Mapping[str, object]", stored_claims if isinstance(stored_claims, dict) else {})
    return {name: claim for name, claim in claims.items() if known.get(name) == claim}
