"""Run config of a stream's op: the sync mode, and a window to read again.

What belongs here: how the launchpad's words become an order. What does not: what an order means
(`sync.plan`).
"""

from datetime import UTC, datetime
from enum import Enum

import dagster as dg
from pydantic import Field

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.settings import EARLIEST
from klaviyo_assets.model.window import Window
from klaviyo_assets.sync.plan import Order, SyncMode

LATEST_YEAR = 9000
"""An offset from UTC must not push the moment past where dates end."""


class SyncModeChoice(Enum):
    """The sync modes; Dagster shows and takes the names of members, so they are the contract's."""

    incremental_deduped = SyncMode.INCREMENTAL_DEDUPED
    incremental_append = SyncMode.INCREMENTAL_APPEND
    full_refresh_overwrite = SyncMode.FULL_REFRESH_OVERWRITE
    full_refresh_append = SyncMode.FULL_REFRESH_APPEND


class SyncConfig(dg.Config):
    """All optional; the default is an incremental sync that keeps each key once."""

    sync_mode: SyncModeChoice = Field(
        default=SyncModeChoice.incremental_deduped,
        description="What is read and what is kept; the append modes keep a history besides.",
    )
    start: str | None = Field(
        default=None,
        description="Read again from here on (ISO date or datetime, UTC without an offset); "
        "the cursor stays where it is.",
    )
    end: str | None = Field(default=None, description="Read again up to here, exclusive.")

    sweep_ids: bool = Field(
        default=False,
        description="Profiles only: read which ids there still are, and mark the others as "
        "deleted; no record is read and the cursor stays.",
    )

    def order(self) -> Order:
        """Return what the sync is to do.

        Raises:
            SettingError: `start` or `end` is not an ISO date or datetime.
        """
        mode: SyncMode = self.sync_mode.value
        if self.start is None and self.end is None:
            return Order(mode=mode, sweeps_ids=self.sweep_ids)
        again = Window(_moment("start", self.start), _moment("end", self.end))
        return Order(mode=mode, again=again, sweeps_ids=self.sweep_ids)


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        value = datetime.fromisoformat(text.strip())
    except ValueError:
        raise SettingError(
            f"{name}={text!r} cannot be used: an ISO date or datetime is wanted, "
            "such as 2026-10-01 or 2026-10-01T06:00:00Z"
        ) from None
    if value.year < EARLIEST.year or value.year > LATEST_YEAR:
        raise SettingError(f"{name}={text!r} cannot be used: no event lies there")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
