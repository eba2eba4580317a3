"""Whose data this is: the account behind a key, asked for at most once a day.

Whose lake it is, where a key may not know its account: a stand-in is taken over for good.

A key without `accounts:read` leaves its hash as the account's name. The same key proves that it is
the one; another key proves it by the ids of what is stored: Klaviyo gives each to one account.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from platformdirs import user_state_path

from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.clock import ClockSkewTracker
from klaviyo_assets.api.messages import Response
from klaviyo_assets.api.rate_limiter import RateLimiter, hash_api_key
from klaviyo_assets.api.request_guard import validate_base_url
from klaviyo_assets.api.requests import first_page_request
from klaviyo_assets.api.response_errors import json_member
from klaviyo_assets.decode.jsonapi import repair_json, strip_bom
from klaviyo_assets.errors import (
    BrokenBodyError,
    MissingScopeError,
    RefusedStreamError,
    SettingError,
    WrongAccountError,
)
from klaviyo_assets.lake.identity import ACCOUNT_STAND_IN_PREFIX
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.stream import WHOLE_COLLECTION, Collection, Stream
from klaviyo_assets.model.window import Window
from klaviyo_assets.settings import Settings


@dataclass(frozen=True, slots=True)
class AccountInfo:
    """What an account says: its id, its IANA zone (None: unsaid), and when it said so, UTC."""

    id: str
    timezone: str | None
    responded_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountConnection:
    """What it takes to ask: the stream of accounts, who talks, and who remembers."""

    accounts: Stream
    client: KlaviyoClient
    rate_limiter: RateLimiter
    base_url: str
    key_name: str
    """The name the key goes by in the ledger; never the key."""

    def close(self) -> None:
        """Close the connections to the server and the ledger's file."""
        self.client.close()
        self.rate_limiter.close()


def connect_account(
    settings: Settings,
    key: str,
    *,
    accounts: Stream,
    account: str | None = None,
    clock_skew: ClockSkewTracker | None = None,
) -> AccountConnection:
    """Return a connection with its own client and rate limiter; it holds sockets and a file open.

    The rate limit is shared by all keys of `account`; None: the account is not known yet, and the
    key has a rate limit of its own. `clock_skew`: the run's, where a run has several clients.
    """
    base_url = validate_base_url(settings.base_url)
    # A sandbox may know the same key as Klaviyo, and another account by it.
    name = hash_api_key(f"{base_url} {key}")
    rate_limiter = open_rate_limiter(settings, account or provisional_account_id(name))
    client = KlaviyoClient(
        base_url=base_url,
        api_key=key,
        revision=settings.revision,
        rate_limiter=rate_limiter,
        max_body_mib=settings.max_body_mib,
        clock_skew=clock_skew,
    )
    return AccountConnection(
        accounts=accounts,
        client=client,
        rate_limiter=rate_limiter,
        base_url=base_url,
        key_name=name,
    )


def resolve_account_id(connection: AccountConnection, *, warn: Callable[[str], None]) -> str:
    """Return the account's id; without the scope `accounts:read` a name made of the key's hash.

    Raises:
        KlaviyoAssetsError: Klaviyo refuses the key for another reason, or cannot be reached.
    """
    known = connection.rate_limiter.account_facts(connection.key_name)
    if known is not None:
        return known.account_id
    try:
        account = fetch_account(connection)
    except MissingScopeError:
        warn(
            "the key lacks accounts:read: its hash stands for the account; another key of the "
            "account is recognized by the ids of what is stored, or by `klaviyo-assets adopt`"
        )
        return provisional_account_id(connection.key_name)
    return account.id


def provisional_account_id(key_name: str) -> str:
    """Return the account's name where only the key is known."""
    return f"{ACCOUNT_STAND_IN_PREFIX}{key_name[:16]}"


def fetch_account(connection: AccountConnection) -> AccountInfo:
    """Ask for the account, whatever is known of it, and remember the answer for a day.

    Raises:
        KlaviyoAssetsError: Klaviyo refuses the key, or cannot be reached; MissingScopeError where
            the key lacks `accounts:read`.
    """
    request = first_page_request(
        connection.accounts, WHOLE_COLLECTION, Window(), base_url=connection.base_url
    )
    found = connection.client.fetch(request, _parse_account, stream=connection.accounts.name)
    connection.rate_limiter.store_account_facts(
        connection.key_name, account_id=found.id, timezone=found.timezone
    )
    return found


def _parse_account(response: Response) -> AccountInfo:
    """Read the id, and leniently what is beside it: no odd attribute may stop every stream."""
    try:
        text, _ = repair_json(strip_bom(response.body, "accounts"))
        document: object = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    first = json_member(document, "data")
    if isinstance(first, list):
        first = next(iter(cast("list[object]", first)), None)
    account = json_member(first, "id")
    if not isinstance(account, str) or not account:
        raise BrokenBodyError("the answer to GET /api/accounts names no account")
    zone = json_member(json_member(first, "attributes"), "timezone")
    return AccountInfo(
        account, zone if isinstance(zone, str) and zone else None, response.responded_at
    )


def open_rate_limiter(settings: Settings, account: str) -> RateLimiter:
    """Return the budgets of an account as the settings share them out."""
    return RateLimiter(
        state_folder(settings),
        account,
        share=settings.rate_limit_share,
        scale=settings.rate_limit_scale,
        daily_reserve=settings.report_reserve,
    )


def state_folder(settings: Settings) -> Path:
    """Return the folder of budgets and account facts; the user's own without a setting.

    Raises:
        SettingError: there is no setting, and this user has no home.
    """
    if settings.state_dir:
        return Path(settings.state_dir)
    try:
        return user_state_path("klaviyo_assets")
    except RuntimeError:
        raise SettingError(
            "KLAVIYO_STATE_DIR is not set, and this user has no home folder to keep the rate "
            "budget in (HOME is not set either): set KLAVIYO_STATE_DIR to a folder that may be "
            "written and outlives the process"
        ) from None


_PROOF_STREAMS = (
    "metrics",
    "lists",
    "segments",
    "flows",
    "campaigns",
    "email_templates",
    "profiles",
    "events",
)
"""Streams whose ids prove an account, the smallest and steadiest tables first."""


def resolve_lake_account(
    lake: Lake,
    connection: AccountConnection,
    account: str,
    *,
    streams: Mapping[str, Stream],
    warn: Callable[[str], None],
) -> str:
    """Return the name that the key's account goes by in the lake, a stand-in taken over if proven.

    `account` is what the key is known by, `streams` are all there are by name. Sends requests only
    where names differ and one of them is a stand-in; without a proof `account` is returned, and the
    lake refuses it.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    stored = lake.stored_accounts()
    name = lake.ensure_identity().current_account_name(account)
    if stored <= {name} or len(stored) > 1:
        return name
    (former,) = stored
    own = lake.ensure_identity().current_account_name(provisional_account_id(connection.key_name))
    if not (is_provisional_account(former) or is_provisional_account(name)):
        return name
    if former != own and not has_matching_ids(lake, connection, streams):
        return name
    return merge_account_names(lake, former, account, warn=warn)


def adopt_lake_account(
    lake: Lake,
    connection: AccountConnection,
    *,
    streams: Mapping[str, Stream],
    confirm: Callable[[str], bool],
    warn: Callable[[str], None],
) -> bool:
    """Let the lake's account go by the name of the key's; tell whether it does now.

    `confirm` is asked where nothing proves that the two are one.

    Raises:
        WrongAccountError: the lake holds another account's data, or that of several.
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    account = resolve_lake_account(
        lake, connection, resolve_account_id(connection, warn=warn), streams=streams, warn=warn
    )
    stored = lake.stored_accounts()
    if len(stored) > 1:
        raise WrongAccountError(
            f"{lake} holds tables of several accounts: {', '.join(sorted(stored))}"
        )
    if stored <= {account}:
        warn(f"the account goes by {account} in {lake}: there is nothing to rename")
        return True
    (former,) = stored
    if not (is_provisional_account(former) or is_provisional_account(account)):
        lake.refuse_other_account(account)
    if not confirm(
        f"{lake} holds account {former}, and the key belongs to account {account}. The ids of "
        "what is stored do not prove that they are one; if they are two, the next sync mixes them."
    ):
        return False
    merge_account_names(lake, former, account, warn=warn)
    return True


def merge_account_names(
    lake: Lake, former: str, account: str, *, warn: Callable[[str], None]
) -> str:
    """Note that two names are one account; return the one that stays: an id before a stand-in."""
    stays, goes = (former, account) if is_provisional_account(account) else (account, former)
    if lake.record_account(stays, aliases=(goes,)):
        warn(f"{lake}: {goes} and {stays} are one account, which goes by {stays} from now on")
    return stays


def is_provisional_account(account: str) -> bool:
    """Tell whether a name stands for an account whose id was not known."""
    return account.startswith(ACCOUNT_STAND_IN_PREFIX)


def has_matching_ids(
    lake: Lake, connection: AccountConnection, streams: Mapping[str, Stream]
) -> bool:
    """Tell whether what Klaviyo shows to the key is what the lake holds: most ids of a first page.

    Streams that are empty, or that the key may not read, prove nothing.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    for stream in _stored_streams(lake, streams):
        slices = cast("Collection", stream.source).slices
        request = first_page_request(stream, slices[0], Window(), base_url=connection.base_url)
        try:
            shown = connection.client.fetch(request, _parse_ids, stream=stream.name)
        except RefusedStreamError:
            continue
        if shown:
            stored = set(
                cast("list[str]", lake.read_columns(stream.name, ["id"])["id"].to_pylist())
            )
            return len(shown & stored) * 2 > len(shown)
    return False


def _stored_streams(lake: Lake, streams: Mapping[str, Stream]) -> Iterator[Stream]:
    """Yield the streams that are stored and have rows."""
    for name in _PROOF_STREAMS:
        state = lake.read_table_state(name)
        if state is not None and state.rows:
            yield streams[name]


def _parse_ids(response: Response) -> set[str]:
    try:
        records = json_member(json.loads(response.body), "data")
    except (ValueError, RecursionError):
        return set()
    listed = cast("list[object]", records) if isinstance(records, list) else []
    return {found for each in listed if isinstance(found := json_member(each, "id"), str)}
