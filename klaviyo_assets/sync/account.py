"""Whose data this is: the account behind a key, asked for at most once a day.

What belongs here: asking, remembering, and what stands in where the key may not know. What does
not: the file it is remembered in (`api.ledger`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from platformdirs import user_state_path

from klaviyo_assets.api.client import Answer, Client
from klaviyo_assets.api.clock import Clocks
from klaviyo_assets.api.gate import checked_base_url
from klaviyo_assets.api.ledger import Ledger, key_hash
from klaviyo_assets.api.protocol import first_request
from klaviyo_assets.api.refusals import member
from klaviyo_assets.errors import BrokenBodyError, MissingScopeError, SettingError
from klaviyo_assets.lake import STAND_IN
from klaviyo_assets.model.stream import WHOLE, Stream
from klaviyo_assets.model.window import Window
from klaviyo_assets.settings import Settings
from klaviyo_assets.tables.body import mended, opened


@dataclass(frozen=True, slots=True)
class Present:
    """What an account says: its id, its IANA zone (None: unsaid), and when it said so, UTC."""

    id: str
    timezone: str | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What it takes to ask: the stream of accounts, who talks, and who remembers."""

    accounts: Stream
    client: Client
    ledger: Ledger
    base_url: str
    key_name: str
    """The name the key goes by in the ledger; never the key."""

    def close(self) -> None:
        """Close the connections to the server and the ledger's file."""
        self.client.close()
        self.ledger.close()


def asking_with(
    settings: Settings,
    key: str,
    *,
    accounts: Stream,
    account: str | None = None,
    clocks: Clocks | None = None,
) -> Asking:
    """Return what asks with a key; its budgets are `account`'s, or the key's own until it is known.

    `clocks` are those of the run, where it asks in more than one way. It holds sockets and a file
    open until it is closed.
    """
    base_url = checked_base_url(settings.base_url)
    # A sandbox may know the same key as Klaviyo, and another account by it.
    name = key_hash(f"{base_url} {key}")
    ledger = ledger_of(settings, account or stand_in(name))
    client = Client(
        base_url=base_url,
        key=key,
        revision=settings.revision,
        ledger=ledger,
        max_body_mib=settings.max_body_mib,
        clocks=clocks,
    )
    return Asking(accounts=accounts, client=client, ledger=ledger, base_url=base_url, key_name=name)


def account_behind(asking: Asking, *, say: Callable[[str], None]) -> str:
    """Return the account's id; without the scope `accounts:read` a name made of the key's hash.

    Raises:
        KlaviyoAssetsError: Klaviyo refuses the key for another reason, or cannot be reached.
    """
    known = asking.ledger.account_facts(asking.key_name)
    if known is not None:
        return known.account_id
    try:
        account = ask_account(asking)
    except MissingScopeError:
        say(
            "the key lacks accounts:read: its hash stands for the account; another key of the "
            "account is recognized by the ids of what is stored, or by `klaviyo-assets adopt`"
        )
        return stand_in(asking.key_name)
    return account.id


def stand_in(key_name: str) -> str:
    """Return the account's name where only the key is known."""
    return f"{STAND_IN}{key_name[:16]}"


def ask_account(asking: Asking) -> Present:
    """Ask for the account, whatever is known of it, and remember the answer for a day.

    Raises:
        KlaviyoAssetsError: Klaviyo refuses the key, or cannot be reached; MissingScopeError where
            the key lacks `accounts:read`.
    """
    request = first_request(asking.accounts, WHOLE, Window(), base_url=asking.base_url)
    found = asking.client.read(request, _present, stream=asking.accounts.name)
    asking.ledger.remember_account(asking.key_name, account_id=found.id, timezone=found.timezone)
    return found


def _present(answer: Answer) -> Present:
    """Read the id, and leniently what is beside it: no odd attribute may stop every stream."""
    try:
        text, _ = mended(opened(answer.body, "accounts"))
        document: object = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    first = member(document, "data")
    if isinstance(first, list):
        first = next(iter(cast("list[object]", first)), None)
    account = member(first, "id")
    if not isinstance(account, str) or not account:
        raise BrokenBodyError("the answer to GET /api/accounts names no account")
    zone = member(member(first, "attributes"), "timezone")
    return Present(account, zone if isinstance(zone, str) and zone else None, answer.at)


def ledger_of(settings: Settings, account: str) -> Ledger:
    """Return the budgets of an account as the settings share them out."""
    return Ledger(
        state_folder(settings),
        account,
        share=settings.rate_limit_share,
        scale=settings.rate_limit_scale,
        reserve=settings.report_reserve,
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
