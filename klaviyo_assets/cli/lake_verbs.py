"""The verbs on stored tables: streams, publish, export, verify, set-aside, adopt, erase."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from time import monotonic
from typing import TextIO, cast

from klaviyo_assets.account.connection import adopt_lake_account, connect_account, state_folder
from klaviyo_assets.api.request_guard import validate_api_key
from klaviyo_assets.cli.verb import (
    Verb,
    open_lake,
    print_errors,
    print_privacy_warnings,
    split_names,
)
from klaviyo_assets.decode.schema import arrow_schema
from klaviyo_assets.errors import SettingError, format_quantity
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import build_table
from klaviyo_assets.lake.maintenance.personal_data import ProfileTable
from klaviyo_assets.lake.read.export import ExportProgress
from klaviyo_assets.lake.read.views import build_relations
from klaviyo_assets.model.privacy import profile_id_column
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.stream import ViewSource, revision_note
from klaviyo_assets.settings import KEY_VARIABLE, Settings
from klaviyo_assets.streams import COLLECTIONS, MERGE_RULES, STREAMS

_PROGRESS_LINE_SECONDS = 10.0
"""How often an export prints its progress where standard error is no terminal."""


def _list_streams(_settings: Settings, _options: argparse.Namespace) -> int:
    for stream in COLLECTIONS:
        cursor = stream.cursor.column if stream.cursor else "-"
        tier = stream.tier.name if stream.tier else "-"
        print(f"{stream.name:<20} {cursor:<14} {tier:<4} {', '.join(stream.scopes)}")
        print(f"{'':<20} {stream.description}{revision_note(stream)}")
    return 0


LIST_STREAMS = Verb(
    name="streams",
    description="list the streams: table, grain, cursor, tier, scopes",
    run=_list_streams,
)


def _add_publish_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lake-root", type=_parse_lake_root, metavar="PATH",
        help="the data folder, or the folder lake in it, as readers have it mounted; "
        "later syncs use it too, until publish is run without it",
    )  # fmt: skip


def _parse_lake_root(text: str) -> str:
    """Return the tables' folder as readers see it; `text` is that folder or the one above it."""
    if re.match(r"/|[A-Za-z]:[\\/]|\\\\|[a-z0-9]+://", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole path: it must begin at the root")
    place = text.replace("\\", "/").rstrip("/")
    return place if place.rpartition("/")[2] == "lake" else f"{place}/lake"


def _publish(settings: Settings, options: argparse.Namespace) -> int:
    return _publish_lake(settings, lake_root=options.lake_root or "")


def _publish_lake(settings: Settings, *, lake_root: str | None) -> int:
    """Rebuild klaviyo.duckdb; return 1 where a table cannot be read.

    `lake_root` is where readers have the tables' folder: "" where this machine has it, None as
    the last `publish` said.
    """
    problems = open_lake(settings).publish(
        build_relations(STREAMS, MERGE_RULES), lake_root=lake_root
    )
    print_errors(problems)
    rest = ", but for what cannot be read" if problems else ""
    print(f"{settings.data_dir}/klaviyo.duckdb shows the lake as it is now{rest}")
    if lake_root:
        print(
            f"its views name the files below {lake_root}, in later syncs too, "
            "until `klaviyo-assets publish` is run without --lake-root"
        )
    return 1 if problems else 0


PUBLISH = Verb(
    name="publish",
    description="rebuild klaviyo.duckdb from the lake, after it was moved or lost",
    run=_publish,
    add_options=_add_publish_options,
)


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.duckdb", help="where to write it")
    parser.add_argument(
        "--tables", nargs="+", default=(), metavar="NAME", help="only these; all without it"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a DuckDB file that is there already"
    )


def _export(settings: Settings, options: argparse.Namespace) -> int:
    target = cast("Path", options.file).absolute()
    done = open_lake(settings).export_tables(
        target,
        build_relations(STREAMS, MERGE_RULES),
        split_names(options.tables),
        overwrite=options.force,
        report_progress=_build_progress_printer(sys.stderr),
    )
    count, rows = len(done), sum(each.rows or 0 for each in done)
    print(
        f"{options.file} holds {count} {'table' if count == 1 else 'tables'}, {rows:,} rows, "
        f"{target.stat().st_size / 1e6:,.1f} MB, and needs no other file; "
        "DuckDB 1.4 and later open it"
    )
    return 0


def _build_progress_printer(out: TextIO) -> Callable[[ExportProgress], None]:
    """Return a function that prints progress: a bar on a terminal, elsewhere now and then a line.

    A table that is written gets a line in both.
    """
    is_terminal, printed_at = out.isatty(), monotonic()

    def print_progress(progress: ExportProgress) -> None:
        nonlocal printed_at
        name, clear = f"{progress.name:<28}", "\r\x1b[K" if is_terminal else ""
        if progress.rows is not None:
            print(f"{clear}{name} {progress.rows:>12,} rows", file=out, flush=True)
            printed_at = monotonic()
        elif is_terminal:
            bar = "#" * round(progress.share * 40)
            print(f"{clear}{name} [{bar:<40}] {progress.share:4.0%}", end="", file=out, flush=True)
        elif monotonic() - printed_at >= _PROGRESS_LINE_SECONDS:
            print(f"{name} {progress.share:>11.0%} so far", file=out, flush=True)
            printed_at = monotonic()

    return print_progress


EXPORT = Verb(
    name="export",
    description="write the tables themselves into one DuckDB file, to hand over",
    run=_export,
    add_options=_add_export_options,
)


def _verify(settings: Settings, _options: argparse.Namespace) -> int:
    lake = open_lake(settings)
    lake.check_integrity()
    stored = [
        stream.name for stream in STREAMS.values() if not isinstance(stream.source, ViewSource)
    ]
    states = {name: state for name in stored if (state := lake.read_table_state(name)) is not None}
    for name, state in states.items():
        print(f"{name:<24} {state.rows:>12,} rows, version {state.version}")
    if not states:
        print(f"no lake in {settings.data_dir} (KLAVIYO_DATA_DIR)")
    print_privacy_warnings(settings)
    return 0


VERIFY = Verb(
    name="verify",
    description="read every file and view, and say what is wrong (once called check)",
    run=_verify,
    aliases=("check",),
)


def _add_set_aside_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", help="its name, as verify says it")


def _set_aside(settings: Settings, options: argparse.Namespace) -> int:
    place = open_lake(settings).set_aside_table(options.table)
    print(f"{options.table} lies in {place} now, with all its files")
    stream = STREAMS.get(options.table)
    if stream is None:
        print("the next sync in an append mode begins a new history")
    elif isinstance(stream.source, ReportEndpoint):
        print("a backfill of its partitions, or the sensor klaviyo_reports_drain, fetches it again")
    else:
        print(f"materialize klaviyo/{options.table}: it is read from the beginning")
    return _publish_lake(settings, lake_root=None)


SET_ASIDE = Verb(
    name="set-aside",
    description="move a damaged table away, so that its asset starts from nothing",
    run=_set_aside,
    add_options=_add_set_aside_options,
)


def _add_adopt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _adopt(settings: Settings, options: argparse.Namespace) -> int:
    lake, key = open_lake(settings), validate_api_key(os.environ.get(KEY_VARIABLE, ""))

    def confirm(question: str) -> bool:
        if options.yes:
            return True
        if not sys.stdin.isatty():
            raise SettingError(f"{question} Nothing was renamed: give --yes if they are")
        return input(f"{question} Are they one account? [y/N] ").strip().lower() in {"y", "yes"}

    with closing(connect_account(settings, key, accounts=STREAMS["accounts"])) as connection:
        is_renamed = adopt_lake_account(
            lake, connection, streams=STREAMS, confirm=confirm, warn=print
        )
    if not is_renamed:
        print("nothing was renamed")
    return 0 if is_renamed else 1


ADOPT = Verb(
    name="adopt",
    description="say that the lake's account and the key's are one, after asking",
    run=_adopt,
    add_options=_add_adopt_options,
)


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
    description="remove everything about some profiles from the disk, and write a receipt",
    run=_erase,
    add_options=_add_erase_options,
)
