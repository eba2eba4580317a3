"""The console command `klaviyo-assets`: settings, parser, exit codes and redaction.

argparse, and not click, which Dagster brings along: `--metrics A B` and `--tables a b` take any
number of words, `check` is an alias of `verify`, and the texts of usage and errors are promised.
click has none of the three, and costs more lines than it saves.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from textwrap import wrap
from typing import TextIO, cast

from klaviyo_assets.cli.lake_verbs import (
    ADOPT,
    ERASE,
    EXPORT,
    LIST_STREAMS,
    PUBLISH,
    SET_ASIDE,
    VERIFY,
)
from klaviyo_assets.cli.report_verbs import PLAN, SHOW_STATUS
from klaviyo_assets.cli.verb import Verb, print_errors
from klaviyo_assets.errors import KlaviyoAssetsError, SettingError
from klaviyo_assets.model.privacy import privacy_setting_errors
from klaviyo_assets.model.selection import selection_errors
from klaviyo_assets.redaction import KeyRedactingStream, redact_error_chain
from klaviyo_assets.sandbox.__main__ import run_sandbox
from klaviyo_assets.settings import (
    environment_variables,
    future_date_errors,
    read_settings,
    unknown_variables,
)
from klaviyo_assets.streams import STREAMS

VERBS = (LIST_STREAMS, PUBLISH, EXPORT, VERIFY, SET_ASIDE, ADOPT, ERASE, PLAN, SHOW_STATUS)
"""All verbs but `sandbox`, in the order in which `--help` lists them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["sandbox"]:
        # The sandbox knows nothing of the product, so it reads its own options.
        return run_sandbox(words[1:])
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
    verb: Verb = options.verb
    print_errors(f"warning: {warning}" for warning in unknown_variables(os.environ))
    future_dates = future_date_errors(settings, today=datetime.now(tz=UTC).date())
    refusals = [
        *refused,
        *future_dates,
        *selection_errors(settings, STREAMS),
        *privacy_setting_errors(settings, STREAMS),
    ]
    if refusals:
        print_errors(refusals)
        return 2
    try:
        return verb.run(settings, options)
    except SettingError as error:
        print_errors([error])
        return 2
    except KlaviyoAssetsError as error:
        print_errors([error])
        return 1
    except KeyboardInterrupt:
        print_errors(["\nstopped by Ctrl-C"])
        return 130


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="klaviyo-assets",
        description="Reads Klaviyo into Delta tables and DuckDB.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(required=True, metavar="verb")
    for verb in VERBS:
        subparser = subparsers.add_parser(
            verb.name, help=verb.description, description=verb.description, aliases=verb.aliases
        )
        subparser.set_defaults(verb=verb)
        verb.add_options(subparser)
    # Only for its line in `--help`: `main` runs it before anything is parsed.
    subparsers.add_parser("sandbox", help="run a Klaviyo on loopback, to try things on")
    return parser


def _settings_help() -> str:
    """Return the settings as the end of `--help`."""
    lines = ["settings, which are environment variables (default in brackets):"]
    for each in environment_variables():
        lines.append(f"  {each.name}" + (f" [{each.default}]" if each.default else ""))
        text = f"{each.description} (allowed: {each.allowed})"
        lines += wrap(text, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
