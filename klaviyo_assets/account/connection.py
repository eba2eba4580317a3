"""Finds the account of a key, the name under which the lake holds its data, and the key's scopes.

The account is requested at most once a day. A key without the scope `accounts:read` cannot read it:
then a provisional id made of the key's hash stands in for the account's id. A lake with a
provisional id is taken over, for good, by the same key, or by another one that reads the ids which
the lake holds: Klaviyo gives each id to one account only.

Klaviyo tells which scopes a key has only by refusing a request.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import cast

from platformdirs import user_state_path

from klaviyo_assets.api.client import ClientStatsCollector, KlaviyoClient
from klaviyo_assets.api.messages import Request, Response, json_member, validate_base_url
from klaviyo_assets.api.rate_limiter import AccountFacts, RateLimiter, hash_api_key
from klaviyo_assets.api.requests import first_page_request, set_page_size
from klaviyo_assets.api.retry import RetryPolicy
from klaviyo_assets.decode.jsonapi import repair_json, strip_bom
from klaviyo_assets.errors import (
    BadKeyError,
    BrokenBodyError,
    KlaviyoAssetsError,
    MissingScopeError,
    RefusedStreamError,
    SettingError,
    WrongAccountError,
)
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import ACCOUNT_STAND_IN_PREFIX
from klaviyo_assets.model.stream import WHOLE_COLLECTION, Collection, Stream
from klaviyo_assets.model.window import Window
from klaviyo_assets.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountConnection:
    """What requests with one key need: the client, the rate limiter, and the stream of accounts."""

    accounts: Stream
    client: KlaviyoClient
    rate_limiter: RateLimiter
    key_name: str
    """The key's hash, under which the rate limiter stores its account; never the key."""

    def share_rate_limit(self, account: str) -> None:
        """Share the rate limit of `account` with its other keys from now on; reset the counts."""
        self.rate_limiter.account = account
        self.client.stats_collector = ClientStatsCollector()

    def close(self) -> None:
        """Close the connections to the server and the rate limiter's file."""
        self.client.close()
        self.rate_limiter.close()


def connect_account(settings: Settings, key: str, *, accounts: Stream) -> AccountConnection:
    """Return a connection whose account is not known yet; it holds sockets and a file open.

    Until `share_rate_limit` is called, the key has a rate limit of its own.
    """
    base_url = validate_base_url(settings.base_url)
    # A sandbox may accept the same key as Klaviyo, for another account.
    name = hash_api_key(f"{base_url} {key}")
    rate_limiter = open_rate_limiter(settings, provisional_account_id(name))
    client = KlaviyoClient(
        base_url=base_url,
        api_key=key,
        revision=settings.revision,
        rate_limiter=rate_limiter,
        max_body_mib=settings.max_body_mib,
    )
    return AccountConnection(
        accounts=accounts, client=client, rate_limiter=rate_limiter, key_name=name
    )


def resolve_account_id(connection: AccountConnection, *, warn: Callable[[str], None]) -> str:
    """Return the account's id; without the scope `accounts:read` a provisional one.

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
    return account.account_id


def provisional_account_id(key_name: str) -> str:
    """Return the id that stands in for an account of which only the key is known."""
    return f"{ACCOUNT_STAND_IN_PREFIX}{key_name[:16]}"


def fetch_account(connection: AccountConnection) -> AccountFacts:
    """Fetch the account, and store it for a day.

    Raises:
        KlaviyoAssetsError: Klaviyo refuses the key, or cannot be reached; MissingScopeError where
            the key lacks `accounts:read`.
    """
    request = first_page_request(connection.accounts, WHOLE_COLLECTION, Window())
    found = connection.client.fetch(request, _parse_account, stream=connection.accounts.name)
    connection.rate_limiter.store_account_facts(
        connection.key_name, account_id=found.account_id, timezone=found.timezone
    )
    return found


def _parse_account(response: Response) -> AccountFacts:
    """Return the account; attributes of the wrong type are ignored, so that no stream stops."""
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
        raise BrokenBodyError("the response to GET /api/accounts names no account")
    zone = json_member(json_member(first, "attributes"), "timezone")
    return AccountFacts(
        account, zone if isinstance(zone, str) and zone else None, response.responded_at
    )


def open_rate_limiter(settings: Settings, account: str) -> RateLimiter:
    """Return the rate limiter of an account, as the settings have it."""
    return RateLimiter(
        state_folder(settings),
        account,
        share=settings.rate_limit_share,
        scale=settings.rate_limit_scale,
        daily_reserve=settings.report_reserve,
    )


def state_folder(settings: Settings) -> Path:
    """Return the folder of the rate limiter's file; the user's state folder without a setting.

    Raises:
        SettingError: there is no setting, and this user has no home folder.
    """
    if settings.state_dir:
        return Path(settings.state_dir)
    try:
        return user_state_path("klaviyo_assets")
    except RuntimeError:
        raise SettingError(
            "KLAVIYO_STATE_DIR is not set, and this user has no home folder for the rate limit "
            "store (HOME is not set either): set KLAVIYO_STATE_DIR to a folder that may be written "
            "and outlives the process"
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
"""Streams whose ids prove an account; the smallest tables that change least come first."""


def resolve_lake_account(
    lake: Lake,
    connection: AccountConnection,
    account: str,
    *,
    streams: Mapping[str, Stream],
    warn: Callable[[str], None],
) -> str:
    """Return the name of the key's account in the lake; take over a provisional one if proven.

    `account`: the id of the key's account; `streams`: all streams by name. It sends requests only
    where the names differ and one is provisional. Without proof it returns `account`, which the
    lake then refuses.

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
    """Rename the lake's account to that of the key; return whether the names agree now.

    Where nothing proves that both are one account, `confirm` decides, given a question.

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
    """Record that two names are one account; return the one that stays: an id, not a stand-in."""
    name, alias = (former, account) if is_provisional_account(account) else (account, former)
    if lake.record_account(name, aliases=(alias,)):
        warn(f"{lake}: {alias} and {name} are one account, which goes by {name} from now on")
    return name


def is_provisional_account(account: str) -> bool:
    """Return whether a name stands in for an account whose id was not known."""
    return account.startswith(ACCOUNT_STAND_IN_PREFIX)


def has_matching_ids(
    lake: Lake, connection: AccountConnection, streams: Mapping[str, Stream]
) -> bool:
    """Return whether the lake holds most ids of the first page that Klaviyo shows to the key.

    Streams that are empty, or that the key may not read, prove nothing; the next one is tried.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    for stream in _stored_streams(lake, streams):
        slices = cast("Collection", stream.source).slices
        request = first_page_request(stream, slices[0], Window())
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
    """Yield the streams that have stored rows."""
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


MAX_PROBES_AT_ONCE = 8
"""Each is of another bucket, so that none waits for another's rate limit."""

PROBE_RETRY_POLICY = RetryPolicy(max_tries=2, max_unsent_tries=2, max_rate_limit_wait_seconds=30)
"""Somebody waits for the answer, so one more try is enough."""


class ScopeState(Enum):
    """What a probe found out about a scope."""

    GRANTED = "yes"
    MISSING = "no"
    NOT_IN_PLAN = "not in the plan"
    """Klaviyo refuses the data itself, whatever the key's scopes."""
    UNKNOWN = "not known"
    """No answer came, or no request depends on this scope alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeProbe:
    """A scope, the stream that was requested, and the result; `detail`: why it is not known."""

    scope: str
    stream: str
    state: ScopeState
    detail: str = ""


def probe_scopes(client: KlaviyoClient, streams: Mapping[str, Stream]) -> list[ScopeProbe]:
    """Return what the key may read, a scope each, by a request of one record for each.

    `streams`: those that the revision offers, by name.

    Raises:
        BadKeyError: Klaviyo refuses the key.
    """
    scopes = sorted({scope for stream in streams.values() for scope in stream.scopes})
    with ThreadPoolExecutor(MAX_PROBES_AT_ONCE) as pool:
        return list(pool.map(partial(_probe_scope, client, tuple(streams.values())), scopes))


def _probe_scope(client: KlaviyoClient, streams: Iterable[Stream], scope: str) -> ScopeProbe:
    probed = find_probe_stream(streams, scope)
    if probed is None:
        return ScopeProbe(
            scope=scope,
            stream="",
            state=ScopeState.UNKNOWN,
            detail="no request of its own shows it",
        )
    state, detail = ScopeState.GRANTED, ""
    try:
        client.fetch(
            build_probe_request(probed),
            _discard_response,
            stream=probed.name,
            retry_policy=PROBE_RETRY_POLICY,
        )
    except BadKeyError:
        raise
    except MissingScopeError as refused:
        # A stream of two scopes may lack the other one.
        is_this = not refused.scopes or scope in refused.scopes
        state = ScopeState.MISSING if is_this else ScopeState.UNKNOWN
    except RefusedStreamError as refused:
        state, detail = ScopeState.NOT_IN_PLAN, refused.detail or ""
    except KlaviyoAssetsError as failure:
        state, detail = ScopeState.UNKNOWN, str(failure)
    return ScopeProbe(scope=scope, stream=probed.name, state=state, detail=detail)


def find_probe_stream(streams: Iterable[Stream], scope: str) -> Stream | None:
    """Return the collection that needs a scope and the fewest others; None without one."""
    found = [
        each for each in streams if scope in each.scopes and isinstance(each.source, Collection)
    ]
    return min(found, key=lambda each: len(each.scopes), default=None)


def build_probe_request(stream: Stream) -> Request:
    """Return the cheapest request for a collection: one record, and nothing beside it.

    Raises:
        TypeError: the stream is no collection.
    """
    source = stream.source
    if not isinstance(source, Collection):
        raise TypeError(f"{stream.name} is not read page by page")
    plain = replace(stream, source=replace(source, include=(), additional_fields=()))
    return set_page_size(first_page_request(plain, source.slices[0], Window()), 1)


def _discard_response(_response: Response) -> None:
    """Take a response that only had to come."""
