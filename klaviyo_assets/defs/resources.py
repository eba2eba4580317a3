"""Resources: the client of Klaviyo and the lake, as Dagster configures them.

What belongs here: fields for the launchpad, and the plain objects they become. What does not: what
those objects do (`api`, `lake`).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from pydantic import Field

from klaviyo_assets.api.client import Client
from klaviyo_assets.api.gate import KEY_VARIABLE, checked_base_url, checked_key
from klaviyo_assets.api.ledger import key_hash
from klaviyo_assets.errors import SettingError
from klaviyo_assets.lake import Lake, relations_of
from klaviyo_assets.model.privacy import SALT_VARIABLE, checked_salt, privacy_refusals
from klaviyo_assets.model.settings import Settings, read_settings
from klaviyo_assets.streams import MERGES, STREAMS
from klaviyo_assets.sync.account import Asking, account_behind, ledger_of, stand_in


def utc_now() -> datetime:
    """Return the time of this machine, UTC."""
    return datetime.now(tz=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A client that is ready to talk, whose account it talks for, and how it is set."""

    client: Client
    account: str
    settings: Settings
    asking: Asking
    """What it takes to ask for the account again."""
    salt: bytes = field(repr=False)
    """What hashed columns are hashed with; empty where there are none."""


class KlaviyoResource(dg.ConfigurableResource[object]):
    """Klaviyo's API with one key; each field is the setting `KLAVIYO_<FIELD>`."""

    api_key: str = Field(
        default="",
        description="Private key as an EnvVar (the UI shows text); empty: the variable below.",
        repr=False,
        json_schema_extra={"dagster__is_secret": True},
    )
    api_key_variable: str = Field(
        default=KEY_VARIABLE, description="The environment variable that holds the private key."
    )
    base_url: str = "https://a.klaviyo.com"
    revision: str = "2026-07-15"
    start_date: str = Field(default="", description="YYYY-MM-DD, inclusive; empty: everything.")
    lookback_days: int = Field(default=0, description="Days of events read again on every sync.")
    event_metric_ids: list[str] = Field(
        default_factory=list, description="Restrict events to these metrics; empty: all."
    )
    disable_predictive_analytics: bool = Field(
        default=False, description="Leave predictive_analytics out: five times the rate limit."
    )
    exclude_columns: list[str] = Field(
        default_factory=list, description="stream.column, or *.column: left NULL, never stored."
    )
    hash_columns: list[str] = Field(
        default_factory=list, description="stream.column: stored as HMAC-SHA-256 with hash_salt."
    )
    hash_salt: str = Field(
        default="",
        description="Secret of the hashes as an EnvVar; empty: KLAVIYO_HASH_SALT.",
        repr=False,
    )
    json_keys: list[str] = Field(
        default_factory=list, description="stream.column:key|key: all that is kept of that JSON."
    )
    state_dir: str = Field(default="", description="Budget and account facts; empty: the user's.")
    rate_limit_share: float = Field(default=0.9, description="Our part of each steady limit.")
    rate_limit_scale: float = Field(default=1.0, description="Multiplies every published limit.")
    timezone: str = Field(default="UTC", description="The account's zone, for days of reports.")
    report_start_date: str = Field(
        default="", description="First day of reports; empty: start_date, else 2025-01-01."
    )
    report_lookback_days: int = Field(
        default=30, description="Days that report numbers go on moving, and are fetched again."
    )
    report_reserve: int = Field(
        default=0, description="Report requests a day that are left to the account's other users."
    )
    conversion_metric_ids: list[str] = Field(
        default_factory=list, description="Metrics of the reports; empty: all; or auto."
    )
    refusals: list[str] = Field(
        default_factory=list, description="Settings of the environment that cannot be used."
    )

    def settings(self) -> Settings:
        """Return the checked settings.

        Raises:
            SettingError: a field, or a variable of the environment, cannot be used.
        """
        if self.refusals:
            raise SettingError(" ".join(self.refusals))
        fields = {
            "base_url": self.base_url,
            "revision": self.revision,
            "start_date": self.start_date,
            "lookback_days": str(self.lookback_days),
            "event_metric_ids": ",".join(self.event_metric_ids),
            "disable_predictive_analytics": str(self.disable_predictive_analytics),
            "exclude_columns": ",".join(self.exclude_columns),
            "hash_columns": ",".join(self.hash_columns),
            "json_keys": ",".join(self.json_keys),
            "state_dir": self.state_dir,
            "rate_limit_share": str(self.rate_limit_share),
            "rate_limit_scale": str(self.rate_limit_scale),
            "timezone": self.timezone,
            "report_start_date": self.report_start_date,
            "report_lookback_days": str(self.report_lookback_days),
            "report_reserve": str(self.report_reserve),
            "conversion_metric_ids": ",".join(self.conversion_metric_ids),
        }
        settings, refusals = read_settings(
            {f"KLAVIYO_{name.upper()}": value for name, value in fields.items()}
        )
        for refusal in (*refusals, *privacy_refusals(settings, STREAMS)):
            raise refusal
        return settings

    def key(self) -> str:
        """Return the private key, as the environment of this process has it now.

        Not Dagster's own EnvVar: without the variable that ends a run before any asset of it
        begins, with an error about config that names no way out.

        Raises:
            SettingError: there is none, or it has not the form of one.
        """
        name = self.api_key_variable
        raw = self.api_key or os.environ.get(name)
        if raw is None:
            raise SettingError(
                f"{name} is not set: give the process that runs Dagster the account's private key, "
                f"by `export {name}=pk_...` before it starts, or in the file .env of its folder."
            )
        return checked_key(raw, variable=name)

    def salt(self) -> bytes:
        """Return the secret of the hashes, as the environment of this process has it now.

        Raises:
            SettingError: there is none, or it is too short to be one.
        """
        return checked_salt(self.hash_salt or os.environ.get(SALT_VARIABLE, ""))

    def connect(
        self, *, say: Callable[[str], None], ready: Callable[[], None] = lambda: None
    ) -> Connection:
        """Return a client whose budget is the account's, shared with all processes of the user.

        `say` takes what the operator should know. Sends a request only where the account has not
        been asked for today; `ready` is called before it, once the settings are known to be good.

        Raises:
            KlaviyoAssetsError: a setting cannot be used, or Klaviyo refuses the key; or of `ready`.
        """
        settings = self.settings()
        key, base_url = self.key(), checked_base_url(settings.base_url)
        salt = self.salt() if settings.hash_columns else b""
        ready()
        # A sandbox may know the same key as Klaviyo, and another account by it.
        name = key_hash(f"{base_url} {key}")

        def asking_for(account: str) -> Asking:
            ledger = ledger_of(settings, account)
            client = Client(base_url=base_url, key=key, revision=settings.revision, ledger=ledger)
            return Asking(
                accounts=STREAMS["accounts"],
                client=client,
                ledger=ledger,
                base_url=base_url,
                key_name=name,
            )

        asking = asking_for(stand_in(name))
        account = account_behind(asking, say=say)
        if account != stand_in(name):
            asking = asking_for(account)
        return Connection(
            client=asking.client, account=account, settings=settings, asking=asking, salt=salt
        )


class LakeResource(dg.ConfigurableResource[object]):
    """Where the lake and the DuckDB file lie: the setting `KLAVIYO_DATA_DIR`."""

    data_dir: str = "./data"

    def lake(self) -> Lake:
        """Return the lake; touches nothing."""
        return Lake(Path(self.data_dir).absolute(), clock=utc_now)

    def publish(self, lake: Lake, *, say: Callable[[str], None]) -> frozenset[str]:
        """Show the lake as it is now in `klaviyo.duckdb`.

        `say` takes a sentence for each table that cannot be read; all others are shown. Returns
        the names of those that are not.

        Raises:
            StorageError: the folder cannot be written, or another publisher does not end.
        """
        problems = lake.publish(relations_of(STREAMS, MERGES))
        for problem in problems:
            say(f"klaviyo.duckdb does without a table that cannot be read. {problem}")
        return frozenset(problem.stream or "" for problem in problems)
