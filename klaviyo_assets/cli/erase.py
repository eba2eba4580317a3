"""The verb `erase`: remove everything of some profiles from the disk."""

import argparse
import re
import sys
from contextlib import suppress
from pathlib import Path

from klaviyo_assets.account.connection import state_folder
from klaviyo_assets.cli.verb import Verb, open_lake, print_errors
from klaviyo_assets.decode.schema import arrow_schema
from klaviyo_assets.errors import SettingError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import build_table
from klaviyo_assets.lake.maintenance.personal_data import ProfileTable
from klaviyo_assets.lake.read.views import build_relations
from klaviyo_assets.model.privacy import profile_id_column
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import MERGE_RULES, STREAMS
from klaviyo_assets.wording import format_quantity

_STANDARD_INPUT = "-"


def _add_erase_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "ids", nargs="*", type=_parse_profile_id, metavar="PROFILE_ID",
        help="as the column id of profiles has it; - reads them from standard input",
    )  # fmt: skip
    parser.add_argument(
        "--file", metavar="PATH",
        help="a text with an id a line, so that no id stands in the list of processes; - as above",
    )  # fmt: skip


def _parse_profile_id(text: str) -> str:
    # The refusal does not quote the text: somebody may have typed an email address.
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) is None:
        raise argparse.ArgumentTypeError(
            "an id of a profile is wanted, letters and digits, as the column id of profiles has it"
        )
    return text


def _read_profile_ids(source: str) -> list[str]:
    """Return the ids of a file, or of standard input; blank lines are passed over.

    Raises:
        SettingError: the source cannot be read, or a line is no id; the text does not quote it.
    """
    try:
        text = (
            sys.stdin.read()
            if source == _STANDARD_INPUT
            else Path(source).read_text(encoding="utf-8-sig")
        )
    except (OSError, ValueError) as refused:
        reason = refused.strerror if isinstance(refused, OSError) else "it is no text in UTF-8"
        raise SettingError(f"the ids of {source} cannot be read: {reason}") from None
    ids: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if word := line.strip():
            try:
                ids.append(_parse_profile_id(word))
            except argparse.ArgumentTypeError as refused:
                raise SettingError(f"line {number} of {source}: {refused}") from None
    return ids


def _other_places(settings: Settings, lake: Lake) -> list[Path]:
    """Return the files and folders outside the lake that may hold a profile's data."""
    places = lake.exported_files()
    with suppress(SettingError):
        # Without a home folder there is no state folder either.
        places.append(state_folder(settings))
    return places


def _erase(settings: Settings, options: argparse.Namespace) -> int:
    lake = open_lake(settings)
    named = [each for each in options.ids if each != _STANDARD_INPUT]
    sources = [_STANDARD_INPUT] if _STANDARD_INPUT in options.ids else []
    sources += [options.file] if options.file else []
    ids = [*named, *(each for source in sources for each in _read_profile_ids(source))]
    if not ids:
        raise SettingError("no profile is named: give ids, --file PATH, or - for standard input")
    tables = [
        ProfileTable(table=build_table(stream, arrow_schema(stream)), id_column=column)
        for stream in STREAMS.values()
        if (column := profile_id_column(stream)) is not None
    ]
    erased = lake.erase_profiles(
        tables,
        ids,
        relations=build_relations(STREAMS, MERGE_RULES),
        other_places=_other_places(settings, lake),
    )
    print(f"{', '.join(named) if not sources else format_quantity(len({*ids}), 'profile')}:")
    print("\n".join(f"  {line}" for line in erased.describe()))
    print_errors(erased.problems)
    return 0 if erased.is_complete else 1


ERASE = Verb(
    name="erase",
    description="remove everything of some profiles from the disk, and keep a receipt",
    run=_erase,
    add_options=_add_erase_options,
)
