"""The verbs on stored tables: streams, publish, export, compare, verify, set-aside, adopt, erase.

None of them but adopt sends a request.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from klaviyo_assets.account.connection import adopt_lake_account, connect_account, state_folder
from klaviyo_assets.api.messages import validate_api_key
from klaviyo_assets.cli.lake_access import (
    open_lake,
    open_stored_lake,
    privacy_warnings,
    split_names,
)
from klaviyo_assets.cli.parsing import describe_bad_profile_id
from klaviyo_assets.cli.tables import ProgressPrinter, print_table
from klaviyo_assets.cli.terminal import confirm, print_errors, print_json
from klaviyo_assets.decode.schema import arrow_schema
from klaviyo_assets.errors import KlaviyoAssetsError, LakeError, SettingError, format_quantity
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import DATABASE_FILE, build_table
from klaviyo_assets.lake.maintenance.personal_data import ProfileTable
from klaviyo_assets.lake.read.export import ExportProgress, TargetView, read_own_views
from klaviyo_assets.lake.read.views import build_relations
from klaviyo_assets.model.privacy import profile_id_column
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.selection import section_group, selected_streams, shown_streams
from klaviyo_assets.model.stream import Stream, ViewSource, revision_note
from klaviyo_assets.model.view import MappedSchema, StreamComparison
from klaviyo_assets.settings import KEY_VARIABLE, Settings
from klaviyo_assets.streams import DERIVED_RELATIONS, STREAMS
from klaviyo_assets.streams.airbyte_views import AIRBYTE_TABLES
from klaviyo_assets.streams.fivetran_views import FIVETRAN_SOURCES
from klaviyo_assets.streams.other_tools import COMPARED_STREAMS


def list_streams(settings: Settings, *, as_json: bool) -> int:
    """Print every stream: table, grain, cursor, tier and scopes."""
    if as_json:
        selected = selected_streams(settings, STREAMS)
        print_json(
            [_describe_as_json(each, is_on=each.name in selected) for each in STREAMS.values()]
        )
        return 0
    for stream in STREAMS.values():
        cursor = stream.cursor.column if stream.cursor else "-"
        tier = stream.tier.name if stream.tier else "-"
        print(f"{stream.name:<20} {cursor:<14} {tier:<6} {', '.join(stream.scopes)}")
        print(f"{'':<20} {stream.description}{revision_note(stream)}")
    return 0


def _describe_as_json(stream: Stream, *, is_on: bool) -> dict[str, object]:
    return {
        "name": stream.name,
        "description": stream.description,
        "group": section_group(stream),
        "is_on": is_on,
        "key": stream.key,
        "cursor": stream.cursor.column if stream.cursor else None,
        "tier": stream.tier.name if stream.tier else None,
        "scopes": stream.scopes,
        "since": stream.since,
        "until": stream.until,
    }


def publish(  # noqa: PLR0913 - the verb's options, by name
    settings: Settings,
    *,
    lake_root: str | None,
    dbt: Path | None,
    airbyte: Path | None,
    schema: str | None,
    as_json: bool,
) -> int:
    """Rebuild klaviyo.duckdb, or write views with another tool's names into a database."""
    targets = [
        (target, mapped)
        for target, mapped in ((dbt, FIVETRAN_SOURCES), (airbyte, AIRBYTE_TABLES))
        if target is not None
    ]
    if not targets:
        if schema is not None:
            raise SettingError("--schema goes with --dbt or --airbyte")
        problems = _publish_lake(settings, lake_root=lake_root or "", is_quiet=as_json)
        if as_json:
            _print_published(settings, lake_root=lake_root, problems=problems)
        return 1 if problems else 0
    if lake_root is not None:
        raise SettingError(
            "--lake-root does not go with --dbt or --airbyte, whose views name the files by their "
            "paths on this machine"
        )
    named = [(target, replace(each, schema=schema or each.schema)) for target, each in targets]
    written = [
        (target, each, _publish_to_target(settings, target, each, is_quiet=as_json))
        for target, each in named
    ]
    if as_json:
        _print_published(settings, targets=written)
    return 0


def _publish_to_target(
    settings: Settings, target: Path, mapped: MappedSchema, *, is_quiet: bool
) -> list[TargetView]:
    """Write the views; print what the lake lacks for them and, unless quiet, their rows."""
    written = open_lake(settings).publish_to_target(
        target.absolute(),
        mapped,
        build_relations(shown_streams(settings, STREAMS), DERIVED_RELATIONS),
    )
    if not is_quiet:
        _print_target_views(target, mapped, written)
    print_errors(
        f"warning: {name} was never synced, so {mapped.schema}.{each.name} has "
        f"{'nothing of it' if each.rows else 'no rows'}"
        for each in written
        for name in each.missing
    )
    return written


def _print_target_views(target: Path, mapped: MappedSchema, written: Sequence[TargetView]) -> None:
    print(f"{target} shows the lake as it is now, by the names of {mapped.tool}:")
    print_table(
        ("view", "rows"),
        [(f"{mapped.schema}.{each.name}", f"{each.rows:,}") for each in written],
        numbers=("rows",),
    )


def _print_published(
    settings: Settings,
    *,
    lake_root: str | None = None,
    problems: Sequence[LakeError] = (),
    targets: Sequence[tuple[Path, MappedSchema, Sequence[TargetView]]] = (),
) -> None:
    """Print as JSON what was published: `database` is null where only targets were written."""
    print_json(
        {
            "database": None if targets else str(_database_file(settings)),
            "lake_root": lake_root,
            "problems": [{"table": each.stream, "text": str(each)} for each in problems],
            "targets": [
                {
                    "database": str(target.absolute()),
                    "tool": mapped.tool,
                    "schema": mapped.schema,
                    "views": [asdict(each) for each in written],
                }
                for target, mapped, written in targets
            ],
        }
    )


def _database_file(settings: Settings) -> Path:
    return Path(settings.data_dir).absolute() / DATABASE_FILE


def _publish_lake(
    settings: Settings, *, lake_root: str | None, is_quiet: bool
) -> Sequence[LakeError]:
    """Rebuild klaviyo.duckdb; print and return an error for each relation without a view.

    `lake_root` is where readers have the tables' folder: "" where this machine has it, None as
    the last `publish` said.
    """
    problems = open_lake(settings).publish(
        build_relations(shown_streams(settings, STREAMS), DERIVED_RELATIONS),
        lake_root=lake_root,
    )
    print_errors(problems)
    if is_quiet:
        return problems
    rest = ", but for what cannot be read" if problems else ""
    print(f"{settings.data_dir}/klaviyo.duckdb shows the lake as it is now{rest}")
    if lake_root:
        print(
            f"its views name the files below {lake_root}, in later syncs too, "
            "until `klaviyo-assets publish` is run without --lake-root"
        )
    return problems


def export(
    settings: Settings, *, file: Path, tables: Sequence[str], force: bool, as_json: bool
) -> int:
    """Write tables into one DuckDB file."""
    target = file.absolute()
    done = open_lake(settings).export_tables(
        target,
        build_relations(shown_streams(settings, STREAMS), DERIVED_RELATIONS),
        split_names(tables),
        overwrite=force,
        report_progress=partial(_show_export, ProgressPrinter(sys.stderr)),
    )
    size, rows = target.stat().st_size, sum(each.rows or 0 for each in done)
    if as_json:
        listed = [{"name": each.name, "rows": each.rows} for each in done]
        print_json({"file": str(target), "bytes": size, "tables": listed})
        return 0
    print(
        f"{file} holds {format_quantity(len(done), 'table')}, {rows:,} rows, "
        f"{size / 1e6:,.1f} MB, and needs no other file; "
        "DuckDB 1.4 and later open it"
    )
    return 0


def _show_export(printer: ProgressPrinter, progress: ExportProgress) -> None:
    if progress.rows is None:
        printer.show(progress.name, progress.share)
    else:
        printer.finish(f"{progress.name:<28} {progress.rows:>12,} rows")


def verify(settings: Settings, *, as_json: bool) -> int:
    """Read every file and view of the lake; errors name what is wrong."""
    if not as_json:
        for warning in privacy_warnings(settings):
            print(f"warning: {warning}")
    lake = open_stored_lake(settings)
    printer = ProgressPrinter(sys.stderr)
    try:
        lake.check_integrity(report_progress=printer.show)
    finally:
        printer.finish()
    stored = [
        stream.name for stream in STREAMS.values() if not isinstance(stream.source, ViewSource)
    ]
    states = {name: state for name in stored if (state := lake.read_table_state(name)) is not None}
    if as_json:
        tables = [
            {"name": name, "rows": state.rows, "version": state.version}
            for name, state in states.items()
        ]
        print_json({"is_sound": True, "tables": tables})
        return 0
    for name, state in states.items():
        print(f"{name:<24} {state.rows:>12,} rows, version {state.version}")
    rows = sum(state.rows for state in states.values())
    tables, stored_rows = format_quantity(len(states), "table"), format_quantity(rows, "row")
    print(f"sound: {tables}, {stored_rows}; every file was read, and every view can be queried")
    return 0


def set_aside(settings: Settings, *, table: str, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Move a table out of the lake."""
    lake = open_lake(settings)
    size = _describe_size(lake, table)
    report: dict[str, object] = {"table": table, "found": size, "moved_to": None, "problems": []}
    if dry_run and as_json:
        print_json(report)
        return 0
    if dry_run:
        print(f"{table} ({size}) would be moved to lake/_damaged in {lake}, and begin anew")
        return 0
    if not _confirm_on_terminal(f"Move {table} ({size}) away, so that it begins anew?", yes=yes):
        return _print_nothing_done(report if as_json else None)
    place = lake.set_aside_table(table)
    if not as_json:
        _print_set_aside(table, place)
    problems = _publish_lake(settings, lake_root=None, is_quiet=as_json)
    if as_json:
        texts = [str(each) for each in problems]
        print_json({**report, "moved_to": str(place), "problems": texts})
    return 1 if problems else 0


def _print_set_aside(table: str, place: Path) -> None:
    """Print where a table is now, and how it comes back."""
    print(f"{table} lies in {place} now, with all its files")
    stream = STREAMS.get(table)
    if stream is None:
        print("the next sync in an append mode begins a new history")
    elif isinstance(stream.source, ReportEndpoint):
        print("a backfill of its partitions, or the sensor klaviyo_reports_drain, fetches it again")
    else:
        print(f"materialize klaviyo/{table}: it is read from the beginning")


def _describe_size(lake: Lake, table: str) -> str:
    """Return how many rows a table has, in words; its log may be damaged."""
    try:
        state = lake.read_table_state(table)
    except LakeError:
        return "its log cannot be read"
    return format_quantity(state.rows, "row") if state is not None else "no table of ours"


def _confirm_on_terminal(question: str, *, yes: bool) -> bool:
    """Return whether to go on. Where there is no terminal nobody is asked: scripts go on."""
    is_confirmed = yes or not sys.stdin.isatty()
    return confirm(question, is_confirmed=is_confirmed, without_terminal="")


def _print_nothing_done(report: Mapping[str, object] | None) -> int:
    """Print that the user did not agree, or the report of it; return the exit code."""
    if report is not None:
        print_json(report)
    else:
        print("nothing was done")
    return 1


def adopt(settings: Settings, *, yes: bool, as_json: bool) -> int:
    """Rename the lake's account to that of the key."""
    lake, key = open_lake(settings), validate_api_key(os.environ.get(KEY_VARIABLE, ""))

    def confirm_rename(question: str) -> bool:
        return confirm(
            f"{question} Are they one account?",
            is_confirmed=yes,
            without_terminal=f"{question} Nothing was renamed",
        )

    notes: list[str] = []
    with closing(connect_account(settings, key, accounts=STREAMS["accounts"])) as connection:
        has_one_name = adopt_lake_account(
            lake,
            connection,
            streams=shown_streams(settings, STREAMS),
            confirm=confirm_rename,
            warn=notes.append if as_json else print,
        )
    if as_json:
        account = lake.stored_account()
        print_json({"account": account, "has_one_name": has_one_name, "notes": notes})
    elif not has_one_name:
        print("nothing was renamed")
    return 0 if has_one_name else 1


_STANDARD_INPUT = "-"


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
            if (refusal := describe_bad_profile_id(word)) is not None:
                raise SettingError(f"line {number} of {source}: {refusal}")
            ids.append(word)
    return ids


def _other_places(settings: Settings, lake: Lake) -> list[Path]:
    """Return the files and folders outside the lake that may hold a profile's data."""
    places = lake.exported_files()
    with suppress(SettingError):
        # Without a home folder there is no state folder either.
        places.append(state_folder(settings))
    return places


def erase(  # noqa: PLR0913 - the verb's options, by name
    settings: Settings,
    *,
    ids: Sequence[str],
    source: str | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Remove profiles from the disk. `source` is a file of ids, or `-`."""
    lake = open_lake(settings)
    named = [each for each in ids if each != _STANDARD_INPUT]
    sources = [_STANDARD_INPUT] if _STANDARD_INPUT in ids else []
    sources += [source] if source else []
    wanted = [*named, *(each for place in sources for each in _read_profile_ids(place))]
    if not wanted:
        raise SettingError("no profile is named: give ids, --file PATH, or - for standard input")
    count = len({*wanted})
    people = format_quantity(count, "profile")
    if dry_run:
        _print_rows_to_erase(_count_rows_to_erase(lake, wanted), count, as_json=as_json)
        return 0
    question = f"Remove everything about {people} from {lake}? It cannot be brought back."
    if not _confirm_on_terminal(question, yes=yes):
        report: dict[str, object] = {"profiles": count, "is_done": False, "rows": {}}
        return _print_nothing_done(report if as_json else None)
    erased = lake.erase_profiles(
        _profile_tables(),
        wanted,
        relations=build_relations(shown_streams(settings, STREAMS), DERIVED_RELATIONS),
        other_places=_other_places(settings, lake),
    )
    problems = [*map(str, erased.problems), *_publish_targets_again(settings, lake)]
    if as_json:
        report = {"profiles": count, "is_done": True, **erased.as_report(), "problems": problems}
        print_json(report)
    else:
        print(f"{', '.join(named) if not sources else people}:")
        print("\n".join(f"  {line}" for line in erased.describe()))
    print_errors(problems)
    return 0 if erased.is_complete and not problems else 1


def _publish_targets_again(settings: Settings, lake: Lake) -> Iterator[str]:
    """Write the views in users' databases anew: they name files that an erasure removed.

    Yields a sentence for each database that refused.
    """
    relations = build_relations(shown_streams(settings, STREAMS), DERIVED_RELATIONS)
    for target in lake.target_databases():
        try:
            for schema, names in read_own_views(target).items():
                for mapped in (FIVETRAN_SOURCES, AIRBYTE_TABLES):
                    if names <= {each.name for each in mapped.views}:
                        lake.publish_to_target(target, replace(mapped, schema=schema), relations)
        except KlaviyoAssetsError as refused:
            yield (
                f"{refused}. Its views name removed files until `klaviyo-assets publish` is run "
                f"again with --dbt or --airbyte {target}"
            )


def _profile_tables() -> list[ProfileTable]:
    """Return the tables with rows of profiles."""
    return [
        ProfileTable(table=build_table(stream, arrow_schema(stream)), id_column=column)
        for stream in STREAMS.values()
        if (column := profile_id_column(stream)) is not None
    ]


def _count_rows_to_erase(lake: Lake, ids: Sequence[str]) -> dict[str, int]:
    """Return the rows of each table that an erasure would remove; other files are not read."""
    listed = ", ".join(f"'{each}'" for each in dict.fromkeys(ids))
    return {
        each.table.name: len(
            lake.query_relation(each.table.name).filter(f'"{each.id_column}" IN ({listed})')
        )
        for each in _profile_tables()
        if lake.read_table_state(each.table.name) is not None
    }


def _print_rows_to_erase(rows: Mapping[str, int], profiles: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"profiles": profiles, "is_done": False, "rows": rows})
        return
    print(f"would be removed of {format_quantity(profiles, 'profile')}, and nothing was:")
    for name, count in rows.items():
        print(f"  {name:<24} {count:>12,} rows")
    print("  and what else is found of them: histories, retired files, caches, exports")


NUMBERS = ("here", "there", "only here", "only there")


def compare(settings: Settings, *, other: Path, schema: str, as_json: bool) -> int:
    """Print the comparison; return 1 where the other side has ids that the lake lacks."""
    compared = open_lake(settings).compare_with(
        other.absolute(),
        schema,
        COMPARED_STREAMS,
        build_relations(shown_streams(settings, STREAMS), DERIVED_RELATIONS),
    )
    is_complete = not any(each.total.only_there for each in compared)
    if as_json:
        streams = [asdict(each) | {"total": asdict(each.total)} for each in compared]
        print_json({"is_complete": is_complete, "streams": streams})
        return 0 if is_complete else 1
    for each in compared:
        _print_stream(each)
    named = {each.stream for each in compared}
    left_out = [each.stream for each in COMPARED_STREAMS if each.stream not in named]
    if left_out:
        print(f"not on both sides, so not compared: {', '.join(left_out)}")
    if is_complete:
        print(f"complete: every id of {other} is in the lake")
    else:
        lacking = [each.stream for each in compared if each.total.only_there]
        print(f"incomplete: the lake lacks ids of {', '.join(lacking)}")
    return 0 if is_complete else 1


def _print_stream(compared: StreamComparison) -> None:
    """Print a stream's months that differ, its sums, and what they mean."""
    total = compared.total
    different = [each for each in compared.months if each.only_here or each.only_there]
    print(f"{compared.stream} and {compared.table}: {_describe(compared)}")
    if different:
        print_table(
            ("month", *NUMBERS),
            [
                (each.month, *(f"{count:,}" for count in counts))
                for each in (*different, total)
                for counts in [(each.here, each.there, each.only_here, each.only_there)]
            ],
            numbers=NUMBERS,
        )
    if compared.examples:
        print(f"only there, for example: {', '.join(compared.examples)}")
    print()


def _describe(compared: StreamComparison) -> str:
    total = compared.total
    if not total.only_here and not total.only_there:
        return f"the same {format_quantity(total.here, 'id')} in every month"
    equal = sum(not each.only_here and not each.only_there for each in compared.months)
    months = format_quantity(len(compared.months), "month")
    return (
        f"{total.here - total.only_here:,} on both sides, {total.only_here:,} only here, "
        f"{total.only_there:,} only there; {equal} of {months} alike"
    )
