"""Resources: the client of Klaviyo and the lake, as Dagster configures them."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import dagster as dg

from klaviyo_assets.account.connection import (
    AccountConnection,
    connect_account,
    resolve_account_id,
    resolve_lake_account,
)
from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.clock import ClockSkewTracker, utc_now
from klaviyo_assets.api.request_guard import validate_api_key, validate_base_url
from klaviyo_assets.errors import SettingError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.read.views import build_relations
from klaviyo_assets.model.privacy import privacy_setting_errors, validate_salt
from klaviyo_assets.settings import (
    KEY_VARIABLE,
    SALT_VARIABLE,
    Settings,
    future_date_errors,
    read_settings,
    settings_to_environment,
)
from klaviyo_assets.streams import MERGE_RULES, STREAMS


@dataclass(frozen=True, slots=True, kw_only=True)
class KlaviyoConnection:
    """A client that is ready to talk, whose account it talks for, and how it is set.

    A context manager: at its end the sockets and the ledger's file are closed.
    """

    client: KlaviyoClient
    account: str
    settings: Settings
    account_connection: AccountConnection
    """What it takes to ask for the account again."""
    warn: Callable[[str], None]
    """Takes what the operator should know."""
    salt: bytes = field(repr=False)
    """What hashed columns are hashed with; empty where there are none."""

    def close(self) -> None:
        """Close what it holds open; more than once does no harm. Says where clocks are apart."""
        self.account_connection.close()
        if (remark := self.client.clock_skew.take_skew_warning()) is not None:
            self.warn(remark)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class KlaviyoResource(dg.ConfigurableResource[object]):
    """Klaviyo's API with one private key, which each run reads from KLAVIYO_API_KEY.

    The other settings are variables KLAVIYO_... of the code location. No field is run config: the
    launchpad would write every one into its editor, a secret as asterisks, which the run would take
    for the key; and a resource that is configured in part forgets the rest of its settings.
    """

    settings: dg.ResourceDependency[Settings]
    key_variable: dg.ResourceDependency[str] = KEY_VARIABLE  # pyright: ignore[reportAssignmentType]
    """The environment variable that holds the private key, read in the process of the run."""
    refusals: dg.ResourceDependency[Sequence[SettingError]] = ()  # pyright: ignore[reportAssignmentType]
    """Settings of the environment that cannot be used: nothing connects while there is one."""

    def validate_settings(self) -> Settings:
        """Return the settings, those that somebody wrote in Python checked like their variables.

        Raises:
            SettingError: one of them cannot be used.
        """
        if self.refusals:
            raise SettingError(" ".join(map(str, self.refusals)))
        settings, refusals = read_settings(settings_to_environment(self.settings))
        early = future_date_errors(settings, today=utc_now().date())
        for refusal in (*refusals, *early, *privacy_setting_errors(settings, STREAMS)):
            raise refusal
        return settings

    def key(self) -> str:
        """Return the private key, as the environment of this process has it now.

        Not Dagster's own EnvVar: without the variable that ends a run before any asset of it
        begins, with an error about config that names no way out.

        Raises:
            SettingError: there is none, or it has not the form of one.
        """
        name = self.key_variable
        raw = os.environ.get(name)
        if raw is None:
            raise SettingError(
                f"{name} is not set: give the process that runs Dagster the account's private key, "
                f"by `export {name}=pk_...` before it starts, or in the file .env of its folder."
            )
        return validate_api_key(raw, variable=name)

    def salt(self) -> bytes:
        """Return the secret of the hashes, as the environment of this process has it now.

        Raises:
            SettingError: there is none, or it is too short to be one.
        """
        return validate_salt(os.environ.get(SALT_VARIABLE, ""))

    def connect(
        self, *, warn: Callable[[str], None], lake: Lake | None = None
    ) -> KlaviyoConnection:
        """Return a client whose budget is the account's, shared with all processes of the user.

        It holds sockets and a file open until it is closed.

        `warn` takes what the operator should know. Sends a request only where the account has not
        been asked for today. `lake` is where its data are to go: it is made ready before that, once
        the settings are known to be good, and the account goes by the name that it has there.

        Raises:
            KlaviyoAssetsError: a setting cannot be used, or Klaviyo refuses the key; or the lake's
                folder cannot be used.
        """
        settings = self.validate_settings()
        key = self.key()
        salt = self.salt() if settings.hash_columns else b""
        validate_base_url(settings.base_url)
        if lake is not None:
            lake.ensure_writable()
        accounts, clocks = STREAMS["accounts"], ClockSkewTracker()
        with closing(
            connect_account(settings, key, accounts=accounts, clock_skew=clocks)
        ) as unknown:
            account = resolve_account_id(unknown, warn=warn)
            if lake is not None:
                account = resolve_lake_account(lake, unknown, account, streams=STREAMS, warn=warn)
        asking = connect_account(
            settings, key, accounts=accounts, account=account, clock_skew=clocks
        )
        return KlaviyoConnection(
            client=asking.client,
            account=account,
            settings=settings,
            account_connection=asking,
            warn=warn,
            salt=salt,
        )


class LakeResource(dg.ConfigurableResource[object]):
    """Where the lake and the DuckDB file lie: the setting `KLAVIYO_DATA_DIR`, and no run config."""

    settings: dg.ResourceDependency[Settings]
    refusals: dg.ResourceDependency[Sequence[SettingError]] = ()  # pyright: ignore[reportAssignmentType]
    """Settings of the environment that cannot be used: the lake may be meant to lie elsewhere."""

    def lake(self) -> Lake:
        """Return the lake; touches nothing.

        Raises:
            SettingError: a setting of the environment cannot be used.
        """
        if self.refusals:
            raise SettingError(" ".join(map(str, self.refusals)))
        folder = Path(self.settings.data_dir).absolute()
        return Lake(folder, clock=utc_now, folder_mode=self.settings.folder_mode)

    def publish(self, lake: Lake, *, warn: Callable[[str], None]) -> frozenset[str]:
        """Show the lake as it is now in `klaviyo.duckdb`.

        `warn` takes a sentence for each table that cannot be read; all others are shown. Returns
        the names of those that are not.

        Raises:
            StorageError: the folder cannot be written, or another publisher does not end.
        """
        problems = lake.publish(build_relations(STREAMS, MERGE_RULES))
        for problem in problems:
            warn(f"klaviyo.duckdb does without a table that cannot be read. {problem}")
        return frozenset(problem.stream or "" for problem in problems)
