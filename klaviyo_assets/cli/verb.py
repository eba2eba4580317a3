"""What a verb of the console command consists of, and what several verbs need."""

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.privacy import unprotected_column_warnings
from klaviyo_assets.model.selection import selected_streams
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import STREAMS


def _add_no_options(_parser: argparse.ArgumentParser) -> None:
    """Leave the parser as it is: the verb has no options of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb: `run` gets the settings and the parsed options, and returns the exit code."""

    name: str
    description: str
    run: Callable[[Settings, argparse.Namespace], int]
    add_options: Callable[[argparse.ArgumentParser], None] = _add_no_options
    aliases: tuple[str, ...] = ()


def open_lake(settings: Settings) -> Lake:
    """Return the lake in the data folder of the settings."""
    folder = Path(settings.data_dir).absolute()
    now = partial(datetime.now, tz=UTC)
    return Lake(folder, clock=now, folder_mode=settings.folder_mode)


def split_names(words: Iterable[str]) -> list[str]:
    """Return the names of an option that takes several, separated by blanks or commas."""
    return [part for word in words for part in word.split(",") if part]


def print_errors(problems: Iterable[object]) -> None:
    """Print each problem as a line on standard error."""
    for problem in problems:
        print(problem, file=sys.stderr)


def print_privacy_warnings(settings: Settings) -> None:
    """Print which columns with personal data the privacy settings do not cover."""
    for each in unprotected_column_warnings(
        settings, {name: STREAMS[name] for name in selected_streams(settings, STREAMS)}
    ):
        print(f"warning: {each}")
