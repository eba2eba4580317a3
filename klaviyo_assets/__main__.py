"""The console command `klaviyo-assets`, also `python -m klaviyo_assets`.

What belongs here: verbs and exit codes: 0 success, 1 a failed sync or check, 2 a bad setting or
option. What does not: what the verbs do.
"""

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

from klaviyo_assets.api.gate import checked_key
from klaviyo_assets.errors import KlaviyoAssetsError, SettingError
from klaviyo_assets.lake import (
    Exported,
    Lake,
    PeopleTable,
    erase,
    export,
    half_written,
    note_export,
    noted_exports,
    refuse_target,
    relations_of,
    relations_to_export,
    set_aside,
    table_of,
)
from klaviyo_assets.model.privacy import privacy_refusals, profile_id_of, uncovered_places
from klaviyo_assets.model.promises import on_by_setting, promises_not_kept
from klaviyo_assets.model.report import Report
from klaviyo_assets.model.stream import Join
from klaviyo_assets.redaction import RedactedOutput, redact_causes
from klaviyo_assets.sandbox.__main__ import main as sandbox
from klaviyo_assets.settings import (
    KEY_VARIABLE,
    Settings,
    future_refusals,
    read_settings,
    unknown_variables,
    variables,
)
from klaviyo_assets.streams import COLLECTIONS, MERGES, REPORTS, STREAMS
from klaviyo_assets.sync.account import asking_with, ledger_of, state_folder
from klaviyo_assets.sync.adoption import adopt
from klaviyo_assets.sync.reports.failing import failed_metrics
from klaviyo_assets.sync.reports.metrics import (
    metric_choices,
    no_revenue,
    setting_problems,
    stored_metrics,
    wanted_metrics,
)
from klaviyo_assets.sync.reports.outlook import (
    Desktop,
    calendar_without_asking,
    days_to_plan,
    failed_lines,
    no_day,
    outlook_of,
    standing,
    told,
    told_beside,
)
from klaviyo_assets.tables.schema import arrow_schema
from klaviyo_assets.wording import quantity

_LINE_SECONDS = 10.0
"""How often a long verb says how far it is, where nobody watches a bar."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["sandbox"]:
        # The sandbox knows nothing of the product, so it reads its own options.
        return sandbox(words[1:])
    with (
        redirect_stdout(cast("TextIO", RedactedOutput(sys.stdout))),
        redirect_stderr(cast("TextIO", RedactedOutput(sys.stderr))),
    ):
        try:
            return _run(words)
        except Exception as error:
            redact_causes(error)
            raise


def _run(words: Sequence[str]) -> int:
    settings, refused = read_settings(os.environ)
    options = _parser().parse_args(words)
    verb: Callable[[Settings, argparse.Namespace], int] = options.verb
    for warning in unknown_variables(os.environ):
        print(f"warning: {warning}", file=sys.stderr)
    early = future_refusals(settings, today=datetime.now(tz=UTC).date())
    refusals = [*refused, *early, *privacy_refusals(settings, STREAMS)]
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="klaviyo-assets",
        description="Klaviyo, brought home.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="verb")
    for name, verb, about in (
        ("streams", _streams, "list the streams: table, grain, cursor, tier, scopes"),
        ("publish", _publish, "write klaviyo.duckdb anew from the lake, after a move or a loss"),
        ("export", _export, "write the tables themselves into one DuckDB file, to hand over"),
        ("verify", _verify, "read every file and view, and say what is wrong (once called check)"),
        ("set-aside", _set_aside, "put a damaged table away, so that its asset begins it anew"),
        ("adopt", _adopt, "say that the lake's account and the key's are one, after asking"),
        ("erase", _erase, "remove everything of some profiles from the disk, and keep a receipt"),
        ("plan", _plan, "say what fetching reports will cost, before anything is spent"),
        ("status", _status, "say how far each stream is, and what is left of the quotas"),
    ):
        aliases = ["check"] if verb is _verify else []
        added = verbs.add_parser(name, help=about, description=about, aliases=aliases)
        added.set_defaults(verb=verb)
        if verb is _plan:
            _add_plan_options(added)
        if verb is _publish:
            added.add_argument(
                "--lake-root", type=_mounted_lake, metavar="PATH",
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
    for each in variables():
        lines.append(f"  {each.name}" + (f" [{each.default}]" if each.default else ""))
        text = f"{each.about} (allowed: {each.allowed})"
        lines += wrap(text, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _add_plan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--start", type=_day, required=True, help="first day, YYYY-MM-DD")
    parser.add_argument("--end", type=_day, required=True, help="last day, inclusive")
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
        "ids", nargs="*", type=_profile_id, metavar="PROFILE_ID",
        help="as the column id of profiles has it; - reads them from standard input",
    )  # fmt: skip
    parser.add_argument(
        "--file", metavar="PATH",
        help="a text with an id a line, so that no id stands in the list of processes; - as above",
    )  # fmt: skip


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date as YYYY-MM-DD") from None


def _streams(_settings: Settings, _options: argparse.Namespace) -> int:
    for stream in COLLECTIONS:
        cursor = stream.cursor.column if stream.cursor else "-"
        tier = stream.tier.name if stream.tier else "-"
        print(f"{stream.name:<20} {cursor:<14} {tier:<4} {', '.join(stream.scopes)}")
        print(f"{'':<20} {stream.about}")
    return 0


def _lake(settings: Settings) -> Lake:
    folder = Path(settings.data_dir).absolute()
    now = partial(datetime.now, tz=UTC)
    return Lake(folder, clock=now, folder_mode=settings.folder_mode)


def _publish(settings: Settings, options: argparse.Namespace) -> int:
    # `set-aside` publishes as well, and leaves where readers have the lake as it was.
    lake_root = cast("str", options.lake_root or "") if "lake_root" in options else None
    problems = _lake(settings).publish(relations_of(STREAMS, MERGES), lake_root=lake_root)
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


def _mounted_lake(text: str) -> str:
    """Return the folder of the tables as readers have it; what is mounted is that or its parent."""
    if re.match(r"/|[A-Za-z]:[\\/]|\\\\|[a-z0-9]+://", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole path: it must begin at the root")
    place = text.replace("\\", "/").rstrip("/")
    return place if place.rpartition("/")[2] == "lake" else f"{place}/lake"


def _verify(settings: Settings, _options: argparse.Namespace) -> int:
    lake = _lake(settings)
    lake.check()
    stored = [stream.name for stream in STREAMS.values() if not isinstance(stream.source, Join)]
    states = {name: state for name in stored if (state := lake.state(name)) is not None}
    for name, state in states.items():
        print(f"{name:<24} {state.rows:>12,} rows, version {state.version}")
    if not states:
        print(f"no lake in {settings.data_dir} (KLAVIYO_DATA_DIR)")
    _print_uncovered(settings)
    return 0


def _export(settings: Settings, options: argparse.Namespace) -> int:
    root, target = _lake(settings).root, cast("Path", options.file).absolute()
    names = [part for word in options.tables for part in word.split(",") if part]
    refuse_target(root, target, overwrite=options.force)
    tables = relations_to_export(root, relations_of(STREAMS, MERGES), names)
    note_export(root, target, at=datetime.now(tz=UTC))
    done = export(target, tables, say=_progress(sys.stderr))
    count, rows = len(done), sum(each.rows or 0 for each in done)
    print(
        f"{options.file} holds {count} {'table' if count == 1 else 'tables'}, {rows:,} rows, "
        f"{target.stat().st_size / 1e6:,.1f} MB, and needs no other file; "
        "DuckDB 1.4 and later open it"
    )
    return 0


def _progress(out: TextIO) -> Callable[[Exported], None]:
    """Return what tells how far an export is: by a bar on a terminal, elsewhere by lines."""
    is_terminal, said_at = out.isatty(), monotonic()

    def say(at: Exported) -> None:
        nonlocal said_at
        start = "\r\x1b[K" if is_terminal else ""
        if at.rows is not None:
            print(f"{start}{at.name:<28} {at.rows:>12,} rows", file=out, flush=True)
            said_at = monotonic()
        elif is_terminal:
            bar = "#" * round(at.share * 40)
            print(f"{start}{at.name:<28} [{bar:<40}] {at.share:4.0%}", end="", file=out, flush=True)
        elif monotonic() - said_at >= _LINE_SECONDS:
            print(f"{at.name:<28} {at.share:>11.0%} so far", file=out, flush=True)
            said_at = monotonic()

    return say


def _set_aside(settings: Settings, options: argparse.Namespace) -> int:
    lake = _lake(settings)
    place = set_aside(lake.root, options.table, now=lake.clock())
    print(f"{options.table} lies in {place} now, with all its files")
    stream = STREAMS.get(options.table)
    if stream is None:
        print("the next sync in an append mode begins a new history")
    elif isinstance(stream.source, Report):
        print("a backfill of its partitions, or the sensor klaviyo_reports_drain, fetches it anew")
    else:
        print(f"materialize klaviyo/{options.table}: it is read from the beginning")
    return _publish(settings, options)


def _adopt(settings: Settings, options: argparse.Namespace) -> int:
    lake, key = _lake(settings), checked_key(os.environ.get(KEY_VARIABLE, ""))

    def confirm(question: str) -> bool:
        if options.yes:
            return True
        if not sys.stdin.isatty():
            raise SettingError(f"{question} Nothing was renamed: give --yes if they are")
        return input(f"{question} Are they one account? [y/N] ").strip().lower() in {"y", "yes"}

    with closing(asking_with(settings, key, accounts=STREAMS["accounts"])) as asking:
        done = adopt(lake, asking, streams=STREAMS, confirm=confirm, say=print)
    if not done:
        print("nothing was renamed")
    return 0 if done else 1


def _profile_id(text: str) -> str:
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
                ids.append(_profile_id(word))
            except argparse.ArgumentTypeError as refused:
                raise SettingError(f"line {number} of {source}: {refused}") from None
    return ids


def _erase(settings: Settings, options: argparse.Namespace) -> int:
    lake, named = _lake(settings), [each for each in options.ids if each != "-"]
    sources = ["-"] if "-" in options.ids else []
    sources += [options.file] if options.file else []
    ids = [*named, *(each for source in sources for each in _read_profile_ids(source))]
    if not ids:
        raise SettingError("no profile is named: give ids, --file PATH, or - for standard input")
    people = [
        PeopleTable(table=table_of(stream, arrow_schema(stream)), column=column)
        for stream in STREAMS.values()
        if (column := profile_id_of(stream)) is not None
    ]
    exports = noted_exports(lake.root)
    beside = [*exports, *map(half_written, exports)]
    with suppress(SettingError):
        # Without a home folder there is no state either.
        beside.append(state_folder(settings))
    relations = relations_of(STREAMS, MERGES)
    erased = erase(lake.root, people, ids, relations=relations, clock=lake.clock, beside=beside)
    print(f"{', '.join(named) if not sources else quantity(len({*ids}), 'profile')}:")
    print("\n".join(f"  {line}" for line in erased.told()))
    for problem in erased.problems:
        print(problem, file=sys.stderr)
    return 0 if erased.is_complete else 1


@contextmanager
def _desktop(settings: Settings) -> Generator[Desktop]:
    lake = _lake(settings)
    with closing(ledger_of(settings, lake.account() or "")) as ledger:
        yield Desktop(lake=lake, ledger=ledger, settings=settings, now=datetime.now(tz=UTC))


def _plan(settings: Settings, options: argparse.Namespace) -> int:
    with _desktop(settings) as at:
        return _print_plan(settings, options, at)


def _print_plan(settings: Settings, options: argparse.Namespace, at: Desktop) -> int:
    first = settings.first_report_day
    if options.end < max(options.start, first):
        raise no_day(options.start, options.end, first=first, zone="the account's time zone")
    named = [part for word in options.metrics or () for part in word.split(",") if part]
    stored, mapped = stored_metrics(at.lake), at.mapped_metric
    metrics = named or wanted_metrics(settings, stored, mapped=mapped)
    if not metrics and not stored:
        raise SettingError(
            "no metric is known: materialize klaviyo/metrics first, or name some with --metrics"
        )
    if not metrics:
        raise SettingError(no_revenue(stored))
    calendar = calendar_without_asking(settings, at.lake, at.now)
    days = days_to_plan(options.start, options.end, calendar)
    _print_metric_problems(at)
    for stream in REPORTS:
        if isinstance(stream.source, Report):
            print("\n".join(told(outlook_of(stream, stream.source, metrics, days, at=at))))
            for name, others in metric_choices(stored, mapped).items():
                print(told_beside(name, outlook_of(stream, stream.source, others, days, at=at)))
    return 0


def _print_metric_problems(at: Desktop) -> None:
    """Print what is wrong with the setting that names the metrics of reports."""
    proven = {cell.metric_id for stream in REPORTS for cell in at.lake.cell_facts(stream.name)}
    stored = stored_metrics(at.lake)
    for problem in setting_problems(at.settings, stored, mapped=at.mapped_metric, proven=proven):
        print(f"warning: {problem}")


def _print_uncovered(settings: Settings) -> None:
    """Print which personal values the settings of privacy do not reach."""
    for each in uncovered_places(settings, STREAMS):
        print(f"warning: {each}")


def _status(settings: Settings, _options: argparse.Namespace) -> int:
    _print_uncovered(settings)
    with _desktop(settings) as at:
        return _print_status(at)


def _print_status(at: Desktop) -> int:
    for stream in STREAMS.values():
        state = None if isinstance(stream.source, Join) else at.lake.state(stream.name)
        if state is None:
            if failed := failed_metrics(at.lake, stream.name):
                print("\n".join([f"{stream.name:<24} never stored", *failed_lines(failed)]))
            continue
        mark = state.state.get("cursor") if stream.cursor is not None else None
        upto = f", complete up to {mark}" if mark is not None else ""
        print(f"{stream.name:<24} {state.rows:>12,} rows{upto}")
        if isinstance(stream.source, Report):
            print("\n".join(standing(stream, at=at)))
    _print_metric_problems(at)
    _print_promises(at.settings)
    return 0


def _print_promises(settings: Settings) -> None:
    """Print which promises nothing keeps, as their schedules and sensors are off."""
    on, whence = on_by_setting(settings), f"KLAVIYO_AUTOMATION={settings.automation or 'off'}"
    if "DAGSTER_HOME" in os.environ:
        # Late: Dagster takes two seconds to load, and no other verb needs it.
        from klaviyo_assets.defs.switches import switched_on  # noqa: PLC0415

        try:
            on, whence = tuple(switched_on(settings)), "the switches in DAGSTER_HOME"
        except SettingError as error:
            whence += f"; {error}"
    else:
        whence += "; without DAGSTER_HOME the switches of the UI are not known"
    off = promises_not_kept(settings, on)
    print(f"automation: {'off is what follows' if off else 'everything is on'} ({whence})")
    for promise in off:
        print(f"  off: {promise.about} ({', '.join(promise.kept_by)})")
    if off:
        print("  KLAVIYO_AUTOMATION=recommended starts all of it; each has its switch in the UI")


if __name__ == "__main__":
    sys.exit(main())
