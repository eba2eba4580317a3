"""Whose data this is: the account behind a key, asked for at most once a day.

What belongs here: asking, remembering, and what stands in where the key may not know. What does
not: the file it is remembered in (`api.ledger`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from platformdirs import user_state_path

from klaviyo_assets.api.client import Answer, Client
from klaviyo_assets.api.ledger import Ledger
from klaviyo_assets.api.protocol import first_request
from klaviyo_assets.errors import BrokenBodyError, MissingScopeError, SettingError
from klaviyo_assets.model.settings import Settings
from klaviyo_assets.model.stream import WHOLE, Stream
from klaviyo_assets.model.window import Window
from klaviyo_assets.tables.body import mended, opened


class _Attributes(msgspec.Struct, frozen=True):
    timezone: str | None = None


class _Account(msgspec.Struct):
    id: str
    attributes: _Attributes | None = None


class _Answer(msgspec.Struct):
    data: list[_Account]


@dataclass(frozen=True, slots=True)
class Present:
    """What an account says now: its id, its IANA zone, and Klaviyo's clock, UTC (None: unsaid)."""

    id: str
    timezone: str | None
    server_time: datetime | None


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


def account_behind(asking: Asking, *, say: Callable[[str], None]) -> str:
    """Return the account's id; without the scope `accounts:read` a name made of the key's hash.

    Raises:
        KlaviyoAssetsError: Klaviyo refuses the key, or cannot be reached.
    """
    known = asking.ledger.account_facts(asking.key_name)
    if known is not None:
        return known.account_id
    try:
        account = ask_account(asking)
    except MissingScopeError:
        say(
            "the key lacks accounts:read: its hash stands for the account, so another key of the "
            "same account will be taken for another account"
        )
        return stand_in(asking.key_name)
    return account.id


def stand_in(key_name: str) -> str:
    """Return the account's name where only the key is known."""
    return f"key-{key_name[:16]}"


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
    try:
        text, _ = mended(opened(answer.body, "accounts"))
        account = msgspec.json.decode(text, type=_Answer).data[0]
    except (msgspec.DecodeError, IndexError):
        raise BrokenBodyError("the answer to GET /api/accounts names no account") from None
    attributes = account.attributes or _Attributes()
    return Present(account.id, attributes.timezone or None, answer.server_time)


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
