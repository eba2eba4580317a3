"""The console command `klaviyo-assets`, also `python -m klaviyo_assets`."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from textwrap import wrap
from time import monotonic
from typing import TextIO, cast

from klaviyo_assets.account.connection import (
    adopt_lake_account,
    connect_account,
    open_rate_limiter,
    state_folder,
)
from klaviyo_assets.account.metrics import (
    describe_missing_revenue,
    find_metric_setting_problems,
    read_metrics,
    resolve_metric_words,
    select_metric_ids,
)
from klaviyo_assets.api.request_guard import validate_api_key
from klaviyo_assets.decode.schema import arrow_schema
from klaviyo_assets.errors import KlaviyoAssetsError, SettingError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import build_table
from klaviyo_assets.lake.maintenance.personal_data import ProfileTable
from klaviyo_assets.lake.read.export import ExportProgress
from klaviyo_assets.lake.read.views import build_relations
from klaviyo_assets.model.automation import default_automations, unmet_guarantees
from klaviyo_assets.model.privacy import (
    privacy_setting_errors,
    profile_id_column,
    unprotected_column_warnings,
)
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.stream import Join
from klaviyo_assets.redaction import KeyRedactingStream, redact_error_chain
from klaviyo_assets.reports.backfill_plan import (
    PlanContext,
    build_calendar_offline,
    format_alternative,
    format_failed_metrics,
    format_plan,
    format_report_status,
    no_complete_day_error,
    plan_backfill,
    plannable_days,
)
from klaviyo_assets.reports.failed_requests import read_failed_metrics
from klaviyo_assets.sandbox.__main__ import run_sandbox as sandbox
from klaviyo_assets.settings import (
    KEY_VARIABLE,
    Settings,
    environment_variables,
    future_date_errors,
    read_settings,
    unknown_variables,
)
from klaviyo_assets.streams import COLLECTIONS, MERGE_RULES, REPORTS, STREAMS
from klaviyo_assets.wording import format_quantity

_PROGRESS_LINE_SECONDS = 10.0
"""How often a long verb says how far it is, where nobody watches a bar."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["sandbox"]:
        # The sandbox knows nothing of the product, so it reads its own options.
        return sandbox(words[1:])
    with (
        redirect_stdout(cast("TextIO", KeyRedactingStream(sys.stdout))),
        redirect_stderr(cast("TextIO", KeyRedactingStream(sys.stderr))),
    ):
        try:
            return _run_verb(words)
        except Exception as error:
            redact_error_chain(error)
            raise


def _run_verb(arguments: Sequence[str]) -> int:
    settings, refused = read_settings(os.environ)
    options = _build_parser().parse_args(arguments)
    verb: Callable[[Settings, argparse.Namespace], int] = options.verb
    for warning in unknown_variables(os.environ):
        print(f"warning: {warning}", file=sys.stderr)
    early = future_date_errors(settings, today=datetime.now(tz=UTC).date())
    refusals = [*refused, *early, *privacy_setting_errors(settings, STREAMS)]
    if refusals:
        print("\n".join(str(each) for each in refusals), file=sys.stderr)
        return 2
    try:
        return verb(settings, options)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    except KlaviyoAssetsError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped by Ctrl-C", file=sys.stderr)
        return 130


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="klaviyo-assets",
        description="Klaviyo, brought home.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="verb")
    for name, verb, about in (
        ("streams", _list_streams, "list the streams: table, grain, cursor, tier, scopes"),
        ("publish", _publish, "write klaviyo.duckdb anew from the lake, after a move or a loss"),
        ("export", _export, "write the tables themselves into one DuckDB file, to hand over"),
        ("verify", _verify, "read every file and view, and say what is wrong (once called check)"),
        ("set-aside", _set_aside, "put a damaged table away, so that its asset begins it anew"),
        ("adopt", _adopt, "say that the lake's account and the key's are one, after asking"),
        ("erase", _erase, "remove everything of some profiles from the disk, and keep a receipt"),
        ("plan", _plan, "say what fetching reports will cost, before anything is spent"),
        ("status", _show_status, "say how far each stream is, and what is left of the quotas"),
    ):
        aliases = ["check"] if verb is _verify else []
        added = verbs.add_parser(name, help=about, description=about, aliases=aliases)
        added.set_defaults(verb=verb)
        if verb is _plan:
            _add_plan_options(added)
        if verb is _publish:
            added.add_argument(
                "--lake-root", type=_parse_lake_root, metavar="PATH",
                help="the data folder, or the folder lake in it, as readers have it mounted; "
                "later syncs go on with it, until publish is run without it",
            )  # fmt: skip
        if verb is _export:
            _add_export_options(added)
        if verb is _set_aside:
            added.add_argument("table", help="its name, as verify says it")
        if verb is _adopt:
            added.add_argument("--yes", action="store_true", help="do not ask")
        if verb is _erase:
            _add_erase_options(added)
    verbs.add_parser("sandbox", help="run a Klaviyo on loopback, to try things on")
    return parser


def _settings_help() -> str:
    """Return the settings as the end of `--help`."""
    lines = ["settings, which are environment variables (default in brackets):"]
    for each in environment_variables():
        lines.append(f"  {each.name}" + (f" [{each.default}]" if each.default else ""))
        text = f"{each.description} (allowed: {each.allowed})"
        lines += wrap(text, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _add_plan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--start", type=_parse_day, required=True, help="first day, YYYY-MM-DD")
    parser.add_argument("--end", type=_parse_day, required=True, help="last day, inclusive")
    parser.add_argument(
        "--metrics", nargs="+", metavar="ID", help="metric ids; those of the settings without it"
    )


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.duckdb", help="where to write it")
    parser.add_argument(
        "--tables", nargs="+", default=(), metavar="NAME", help="only these; all without it"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a DuckDB file that is there already"
    )


def _add_erase_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "ids", nargs="*", type=_parse_profile_id, metavar="PROFILE_ID",
        help="as the column id of profiles has it; - reads them from standard input",
    )  # fmt: skip
    parser.add_argument(
        "--file", metavar="PATH",
        help="a text with an id a line, so that no id stands in the list of processes; - as above",
    )  # fmt: skip


def _parse_day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date as YYYY-MM-DD") from None


def _list_streams(_settings: Settings, _options: argparse.Namespace) -> int:
    for stream in COLLECTIONS:
        cursor = stream.cursor.column if stream.cursor else "-"
        tier = stream.tier.name if stream.tier else "-"
        print(f"{stream.name:<20} {cursor:<14} {tier:<4} {', '.join(stream.scopes)}")
        print(f"{'':<20} {stream.description}")
    return 0


def _open_lake(settings: Settings) -> Lake:
    folder = Path(settings.data_dir).absolute()
    now = partial(datetime.now, tz=UTC)
    return Lake(folder, clock=now, folder_mode=settings.folder_mode)


def _publish(settings: Settings, options: argparse.Namespace) -> int:
    # `set-aside` publishes as well, and leaves where readers have the lake as it was.
    lake_root = cast("str", options.lake_root or "") if "lake_root" in options else None
    problems = _open_lake(settings).publish(
        build_relations(STREAMS, MERGE_RULES), lake_root=lake_root
    )
    for problem in problems:
        print(problem, file=sys.stderr)
    rest = ", but for what cannot be read" if problems else ""
    print(f"{settings.data_dir}/klaviyo.duckdb shows the lake as it is now{rest}")
    if lake_root:
        print(
            f"its views name the files below {lake_root}, in later syncs too, "
            "until `klaviyo-assets publish` is run without --lake-root"
        )
    return 1 if problems else 0


def _parse_lake_root(text: str) -> str:
    """Return the folder of the tables as readers have it; what is mounted is that or its parent."""
    if re.match(r"/|[A-Za-z]:[\\/]|\\\\|[a-z0-9]+://", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole path: it must begin at the root")
    place = text.replace("\\", "/").rstrip("/")
    return place if place.rpartition("/")[2] == "lake" else f"{place}/lake"


def _verify(settings: Settings, _options: argparse.Namespace) -> int:
    lake = _open_lake(settings)
    lake.check_integrity()
    stored = [stream.name for stream in STREAMS.values() if not isinstance(stream.source, Join)]
    states = {name: state for name in stored if (state := lake.read_table_state(name)) is not None}
    for name, state in states.items():
        print(f"{name:<24} {state.rows:>12,} rows, version {state.version}")
    if not states:
        print(f"no lake in {settings.data_dir} (KLAVIYO_DATA_DIR)")
    _print_uncovered_places(settings)
    return 0


def _export(settings: Settings, options: argparse.Namespace) -> int:
    target = cast("Path", options.file).absolute()
    done = _open_lake(settings).export_tables(
        target,
        build_relations(STREAMS, MERGE_RULES),
        [part for word in options.tables for part in word.split(",") if part],
        overwrite=options.force,
        report_progress=_progress_printer(sys.stderr),
    )
    count, rows = len(done), sum(each.rows or 0 for each in done)
    print(
        f"{options.file} holds {count} {'table' if count == 1 else 'tables'}, {rows:,} rows, "
        f"{target.stat().st_size / 1e6:,.1f} MB, and needs no other file; "
        "DuckDB 1.4 and later open it"
    )
    return 0


def _progress_printer(out: TextIO) -> Callable[[ExportProgress], None]:
    """Return what tells how far an export is: by a bar on a terminal, elsewhere by lines."""
    is_terminal, said_at = out.isatty(), monotonic()

    def say(at: ExportProgress) -> None:
        nonlocal said_at
        start = "\r\x1b[K" if is_terminal else ""
        if at.rows is not None:
            print(f"{start}{at.name:<28} {at.rows:>12,} rows", file=out, flush=True)
            said_at = monotonic()
        elif is_terminal:
            bar = "#" * round(at.share * 40)
            print(f"{start}{at.name:<28} [{bar:<40}] {at.share:4.0%}", end="", file=out, flush=True)
        elif monotonic() - said_at >= _PROGRESS_LINE_SECONDS:
            print(f"{at.name:<28} {at.share:>11.0%} so far", file=out, flush=True)
            said_at = monotonic()

    return say


def _set_aside(settings: Settings, options: argparse.Namespace) -> int:
    place = _open_lake(settings).set_aside_table(options.table)
    print(f"{options.table} lies in {place} now, with all its files")
    stream = STREAMS.get(options.table)
    if stream is None:
        print("the next sync in an append mode begins a new history")
    elif isinstance(stream.source, ReportEndpoint):
        print("a backfill of its partitions, or the sensor klaviyo_reports_drain, fetches it anew")
    else:
        print(f"materialize klaviyo/{options.table}: it is read from the beginning")
    return _publish(settings, options)


def _adopt(settings: Settings, options: argparse.Namespace) -> int:
    lake, key = _open_lake(settings), validate_api_key(os.environ.get(KEY_VARIABLE, ""))

    def confirm(question: str) -> bool:
        if options.yes:
            return True
        if not sys.stdin.isatty():
            raise SettingError(f"{question} Nothing was renamed: give --yes if they are")
        return input(f"{question} Are they one account? [y/N] ").strip().lower() in {"y", "yes"}

    with closing(connect_account(settings, key, accounts=STREAMS["accounts"])) as asking:
        done = adopt_lake_account(lake, asking, streams=STREAMS, confirm=confirm, warn=print)
    if not done:
        print("nothing was renamed")
    return 0 if done else 1


def _parse_profile_id(text: str) -> str:
    # Not quoted in the refusal: an address that was given instead is a person's.
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) is None:
        raise argparse.ArgumentTypeError(
            "an id of a profile is wanted, letters and digits, as the column id of profiles has it"
        )
    return text


def _read_profile_ids(source: str) -> list[str]:
    """Return the ids of a file, or of standard input; blank lines are passed over.

    Raises:
        SettingError: it cannot be read, or a line is no id; the line is not quoted.
    """
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig")
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


def _erase(settings: Settings, options: argparse.Namespace) -> int:
    lake, named = _open_lake(settings), [each for each in options.ids if each != "-"]
    sources = ["-"] if "-" in options.ids else []
    sources += [options.file] if options.file else []
    ids = [*named, *(each for source in sources for each in _read_profile_ids(source))]
    if not ids:
        raise SettingError("no profile is named: give ids, --file PATH, or - for standard input")
    people = [
        ProfileTable(table=build_table(stream, arrow_schema(stream)), id_column=column)
        for stream in STREAMS.values()
        if (column := profile_id_column(stream)) is not None
    ]
    beside = lake.exported_files()
    with suppress(SettingError):
        # Without a home folder there is no state either.
        beside.append(state_folder(settings))
    relations = build_relations(STREAMS, MERGE_RULES)
    erased = lake.erase_profiles(people, ids, relations=relations, other_places=beside)
    print(f"{', '.join(named) if not sources else format_quantity(len({*ids}), 'profile')}:")
    print("\n".join(f"  {line}" for line in erased.describe()))
    for problem in erased.problems:
        print(problem, file=sys.stderr)
    return 0 if erased.is_complete else 1


@contextmanager
def _open_plan_context(settings: Settings) -> Generator[PlanContext]:
    lake = _open_lake(settings)
    with closing(open_rate_limiter(settings, lake.stored_account() or "")) as ledger:
        yield PlanContext(
            lake=lake, rate_limiter=ledger, settings=settings, now=datetime.now(tz=UTC)
        )


def _plan(settings: Settings, options: argparse.Namespace) -> int:
    with _open_plan_context(settings) as at:
        return _print_plan(settings, options, at)


def _print_plan(settings: Settings, options: argparse.Namespace, plan_context: PlanContext) -> int:
    first = settings.first_report_day
    if options.end < max(options.start, first):
        raise no_complete_day_error(
            options.start, options.end, first_day=first, zone="the account's time zone"
        )
    named = [part for word in options.metrics or () for part in word.split(",") if part]
    stored, mapped = read_metrics(plan_context.lake), plan_context.mapped_metric
    metrics = named or select_metric_ids(settings, stored, mapped=mapped)
    if not metrics and not stored:
        raise SettingError(
            "no metric is known: materialize klaviyo/metrics first, or name some with --metrics"
        )
    if not metrics:
        raise SettingError(describe_missing_revenue(stored))
    calendar = build_calendar_offline(settings, plan_context.lake, plan_context.now)
    days = plannable_days(options.start, options.end, calendar)
    _print_metric_problems(plan_context)
    for stream in REPORTS:
        if isinstance(stream.source, ReportEndpoint):
            print(
                "\n".join(
                    format_plan(
                        plan_backfill(stream, stream.source, metrics, days, context=plan_context)
                    )
                )
            )
            for name, others in resolve_metric_words(stored, mapped).items():
                print(
                    format_alternative(
                        name,
                        plan_backfill(stream, stream.source, others, days, context=plan_context),
                    )
                )
    return 0


def _print_metric_problems(plan_context: PlanContext) -> None:
    """Print what is wrong with the setting that names the metrics of reports."""
    proven = {
        cell.metric_id
        for stream in REPORTS
        for cell in plan_context.lake.read_partition_states(stream.name)
    }
    stored = read_metrics(plan_context.lake)
    for problem in find_metric_setting_problems(
        plan_context.settings, stored, mapped=plan_context.mapped_metric, proven_ids=proven
    ):
        print(f"warning: {problem}")


def _print_uncovered_places(settings: Settings) -> None:
    """Print which personal values the settings of privacy do not reach."""
    for each in unprotected_column_warnings(settings, STREAMS):
        print(f"warning: {each}")


def _show_status(settings: Settings, _options: argparse.Namespace) -> int:
    _print_uncovered_places(settings)
    with _open_plan_context(settings) as at:
        return _print_status(at)


def _print_status(plan_context: PlanContext) -> int:
    for stream in STREAMS.values():
        state = (
            None
            if isinstance(stream.source, Join)
            else plan_context.lake.read_table_state(stream.name)
        )
        if state is None:
            if failed := read_failed_metrics(plan_context.lake, stream.name):
                print(
                    "\n".join([f"{stream.name:<24} never stored", *format_failed_metrics(failed)])
                )
            continue
        mark = state.state.get("cursor") if stream.cursor is not None else None
        upto = f", complete up to {mark}" if mark is not None else ""
        print(f"{stream.name:<24} {state.rows:>12,} rows{upto}")
        if isinstance(stream.source, ReportEndpoint):
            print("\n".join(format_report_status(stream, context=plan_context)))
    _print_metric_problems(plan_context)
    _print_promises(plan_context.settings)
    return 0


def _print_promises(settings: Settings) -> None:
    """Print which promises nothing keeps, as their schedules and sensors are off."""
    on, whence = default_automations(settings), f"KLAVIYO_AUTOMATION={settings.automation or 'off'}"
    if "DAGSTER_HOME" in os.environ:
        # Late: Dagster takes two seconds to load, and no other verb needs it.
        from klaviyo_assets.defs.automation import find_switched_on  # noqa: PLC0415

        try:
            on, whence = tuple(find_switched_on(settings)), "the switches in DAGSTER_HOME"
        except SettingError as error:
            whence += f"; {error}"
    else:
        whence += "; without DAGSTER_HOME the switches of the UI are not known"
    off = unmet_guarantees(settings, on)
    print(f"automation: {'off is what follows' if off else 'everything is on'} ({whence})")
    for promise in off:
        print(f"  off: {promise.subject} ({', '.join(promise.automations)})")
    if off:
        print("  KLAVIYO_AUTOMATION=recommended starts all of it; each has its switch in the UI")


if __name__ == "__main__":
    sys.exit(main())
