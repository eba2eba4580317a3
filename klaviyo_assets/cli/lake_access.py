"""What several verbs need of the lake and print about it."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from klaviyo_assets.errors import MissingTableError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.privacy import unprotected_column_warnings
from klaviyo_assets.model.selection import selected_streams
from klaviyo_assets.model.stream import streams_at_revision
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import STREAMS


def open_lake(settings: Settings) -> Lake:
    """Return the lake in the data folder of the settings."""
    folder = Path(settings.data_dir).absolute()
    now = partial(datetime.now, tz=UTC)
    return Lake(folder, clock=now, folder_mode=settings.folder_mode)


def open_stored_lake(settings: Settings) -> Lake:
    """Return the lake, which has at least one table.

    Raises:
        MissingTableError: there is none yet.
    """
    lake = open_lake(settings)
    refuse_empty_lake(lake, settings)
    return lake


def refuse_empty_lake(lake: Lake, settings: Settings) -> None:
    """Refuse a lake without a table.

    Raises:
        MissingTableError: there is none yet.
    """
    if not lake.has_tables():
        raise MissingTableError(
            f"no lake in {settings.data_dir} (KLAVIYO_DATA_DIR): nothing was synced into it yet"
        )


def split_names(words: Iterable[str]) -> list[str]:
    """Return the names of an option that takes several, separated by blanks or commas."""
    return [part for word in words for part in word.split(",") if part]


def privacy_warnings(settings: Settings) -> Sequence[str]:
    """Return which columns with personal data the privacy settings do not cover."""
    selected = selected_streams(settings, STREAMS)
    streams = streams_at_revision(STREAMS, settings.revision)
    return unprotected_column_warnings(settings, {name: streams[name] for name in selected})
