"""Dagster resources: the connection to Klaviyo, and the lake."""

import os
from collections.abc import Callable, Sequence
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
from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.api.request_guard import validate_api_key, validate_base_url
from klaviyo_assets.errors import SettingError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.read.views import build_relations
from klaviyo_assets.model.privacy import privacy_setting_errors, validate_salt
from klaviyo_assets.model.selection import selection_errors, shown_streams
from klaviyo_assets.settings import (
    KEY_VARIABLE,
    SALT_VARIABLE,
    Settings,
    future_date_errors,
    read_settings,
    settings_to_environment,
)
from klaviyo_assets.streams import DERIVED_RELATIONS, STREAMS


@dataclass(frozen=True, slots=True, kw_only=True)
class KlaviyoConnection:
    """A client that can send requests, its account and its settings.

    It is a context manager that closes the sockets and the rate limiter's file at its end.
    """

    client: KlaviyoClient
    account: str
    settings: Settings
    account_connection: AccountConnection
    """Asks Klaviyo about the account, and holds the rate limiter that stores the answers."""
    warn: Callable[[str], None]
    """Takes a warning for the operator."""
    salt: bytes = field(repr=False)
    """The salt of hashed columns; empty if no column is hashed."""

    def close(self) -> None:
        """Close sockets and files, and warn if this machine's clock is wrong. May be repeated."""
        self.account_connection.close()
        if (warning := self.client.clock_skew.take_skew_warning()) is not None:
            self.warn(warning)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class KlaviyoResource(dg.ConfigurableResource[object]):
    """Klaviyo's API with one private key, which each run reads from KLAVIYO_API_KEY.

    The other settings are environment variables KLAVIYO_... of the code location. No field is run
    config, for two reasons. The launchpad would write every field into its editor, a secret as
    asterisks, and the run would use the asterisks as the key. And a resource that is configured in
    part loses its other settings.
    """

    settings: dg.ResourceDependency[Settings]
    key_variable: dg.ResourceDependency[str] = KEY_VARIABLE  # pyright: ignore[reportAssignmentType]
    """The environment variable with the private key, read in the run's own process."""
    refusals: dg.ResourceDependency[Sequence[SettingError]] = ()  # pyright: ignore[reportAssignmentType]
    """What is wrong with the environment's settings. While there is anything, nothing connects."""

    def validate_settings(self) -> Settings:
        """Return the settings after checking them as if they were environment variables.

        Settings written in Python have not been checked before.

        Raises:
            SettingError: a setting cannot be used.
        """
        if self.refusals:
            raise SettingError(" ".join(map(str, self.refusals)))
        settings, refusals = read_settings(settings_to_environment(self.settings))
        future_dates = future_date_errors(settings, today=utc_now().date())
        of_streams = (
            *selection_errors(settings, STREAMS),
            *privacy_setting_errors(settings, shown_streams(settings, STREAMS)),
        )
        for refusal in (*refusals, *future_dates, *of_streams):
            raise refusal
        return settings

    def key(self) -> str:
        """Return the private key in the environment of this process.

        Dagster's own EnvVar is not used: if the variable is missing, it ends a run before any asset
        starts, with an error about config that does not say what to do.

        Raises:
            SettingError: there is no key, or it does not look like one.
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
        """Return the salt of hashed columns in the environment of this process.

        Raises:
            SettingError: there is no salt, or it is too short.
        """
        return validate_salt(os.environ.get(SALT_VARIABLE, ""))

    def connect(
        self, *, warn: Callable[[str], None], lake: Lake | None = None
    ) -> KlaviyoConnection:
        """Return a connection that shares the account's rate limit with all processes of the user.

        It holds sockets and a file open until it is closed. A request is sent only if the account
        was not requested today. `warn` takes warnings for the operator.

        `lake` is the lake that will be written. Once the settings are known to be good, and before
        any request, its folder is prepared. The account then has the id that the lake knows it by.

        Raises:
            KlaviyoAssetsError: a setting cannot be used, Klaviyo refuses the key, or the lake's
                folder cannot be used.
        """
        settings = self.validate_settings()
        key = self.key()
        salt = self.salt() if settings.hash_columns else b""
        validate_base_url(settings.base_url)
        if lake is not None:
            lake.ensure_writable()
        connection = connect_account(settings, key, accounts=STREAMS["accounts"])
        try:
            account = resolve_account_id(connection, warn=warn)
            if lake is not None:
                streams = shown_streams(settings, STREAMS)
                account = resolve_lake_account(
                    lake, connection, account, streams=streams, warn=warn
                )
        except BaseException:
            connection.close()
            raise
        connection.share_rate_limit(account)
        return KlaviyoConnection(
            client=connection.client,
            account=account,
            settings=settings,
            account_connection=connection,
            warn=warn,
            salt=salt,
        )


class LakeResource(dg.ConfigurableResource[object]):
    """The lake and the DuckDB file in the folder KLAVIYO_DATA_DIR. No field is run config."""

    settings: dg.ResourceDependency[Settings]
    refusals: dg.ResourceDependency[Sequence[SettingError]] = ()  # pyright: ignore[reportAssignmentType]
    """What is wrong with the environment's settings. While there is anything, there is no lake:
    it may be meant to lie elsewhere."""

    def lake(self) -> Lake:
        """Return the lake, without touching the disk.

        Raises:
            SettingError: a setting of the environment cannot be used.
        """
        if self.refusals:
            raise SettingError(" ".join(map(str, self.refusals)))
        folder = Path(self.settings.data_dir).absolute()
        return Lake(folder, clock=utc_now, folder_mode=self.settings.folder_mode)

    def publish(self, lake: Lake, *, warn: Callable[[str], None]) -> frozenset[str]:
        """Rebuild `klaviyo.duckdb` from the lake; return the tables that cannot be read.

        All other tables are published. `warn` takes a sentence for each unreadable one.

        Raises:
            StorageError: the folder cannot be written, or another process publishes too long.
        """
        streams = shown_streams(self.settings, STREAMS)
        problems = lake.publish(build_relations(streams, DERIVED_RELATIONS))
        for problem in problems:
            warn(f"klaviyo.duckdb does without a table that cannot be read. {problem}")
        return frozenset(problem.stream or "" for problem in problems)
