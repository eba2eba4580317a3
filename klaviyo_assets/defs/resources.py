"""Resources: the client of Klaviyo and the lake, as Dagster configures them.

What belongs here: fields for the launchpad, and the plain objects they become. What does not: what
those objects do (`api`, `lake`).
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from platformdirs import user_state_path
from pydantic import Field

from klaviyo_assets.api.client import Client
from klaviyo_assets.api.ledger import Ledger
from klaviyo_assets.api.protocol import checked_base_url, checked_key
from klaviyo_assets.errors import SettingError
from klaviyo_assets.lake import Lake, relation_of
from klaviyo_assets.model.settings import Settings, read_settings
from klaviyo_assets.streams import STREAMS


def utc_now() -> datetime:
    """Return the time of this machine, UTC."""
    return datetime.now(tz=UTC)


class KlaviyoResource(dg.ConfigurableResource[Client]):
    """Klaviyo's API with one key; each field is the setting `KLAVIYO_<FIELD>`."""

    api_key: str = Field(description="Private key, pk_...; give it as an EnvVar.", repr=False)
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
    state_dir: str = Field(default="", description="Budget and account facts; empty: the user's.")
    rate_limit_share: float = Field(default=0.9, description="Our part of each steady limit.")
    rate_limit_scale: float = Field(default=1.0, description="Multiplies every published limit.")
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
            "rate_limit_share": str(self.rate_limit_share),
            "rate_limit_scale": str(self.rate_limit_scale),
        }
        settings, refusals = read_settings(
            {f"KLAVIYO_{name.upper()}": value for name, value in fields.items()}
        )
        if refusals:
            raise refusals[0]
        return settings
