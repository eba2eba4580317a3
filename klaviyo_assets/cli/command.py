"""The console command `klaviyo-assets`: `.env`, settings, exit codes and redaction.

click parses, because Dagster brings it along: no package more. What it lacks is in `parsing.py`:
options of several words, aliases, and sections of verbs.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TextIO, cast

import click
from click.exceptions import Exit, NoArgsIsHelpError
from click.shell_completion import shell_complete

from klaviyo_assets.cli.parsing import DATA_DIR_KEY, Verb
from klaviyo_assets.cli.terminal import (
    INTERRUPTED_EXIT_CODE,
    describe_interrupt,
    end_soon_after_interrupt,
    print_errors,
)
from klaviyo_assets.cli.verbs import COMMAND, COMPLETION_VARIABLE, PROGRAM
from klaviyo_assets.errors import (
    KeyRedactingStream,
    KlaviyoAssetsError,
    SettingError,
    redact_error_chain,
)
from klaviyo_assets.model.privacy import privacy_setting_errors
from klaviyo_assets.model.selection import selection_errors
from klaviyo_assets.model.stream import streams_at_revision
from klaviyo_assets.settings import (
    Settings,
    future_date_errors,
    read_settings,
    unknown_variables,
)
from klaviyo_assets.streams import STREAMS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code. A bad option ends the process with 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["sandbox"]:
        # The sandbox knows nothing of the product, so it reads its own options, and prints its key.
        return cast("int", import_module("klaviyo_assets.sandbox.__main__").run_sandbox(words[1:]))
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        return shell_complete(COMMAND, {}, PROGRAM, COMPLETION_VARIABLE, instruction)
    read_env_file(Path.cwd() / ".env")
    with (
        redirect_stdout(cast("TextIO", KeyRedactingStream(sys.stdout))),
        redirect_stderr(cast("TextIO", KeyRedactingStream(sys.stderr))),
    ):
        try:
            code = _parse_and_run(words)
            sys.stdout.flush()
        except BrokenPipeError:
            _discard_output()
            return 0
        except Exception as error:
            redact_error_chain(error)
            raise
    return code


def _discard_output() -> None:
    """Let go of standard output: whoever read it, such as `head`, has seen enough.

    What is still in its buffer would otherwise fail once more when Python ends.
    """
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.__stdout__.fileno() if sys.__stdout__ is not None else 1)
        os.close(nowhere)


def read_env_file(path: Path) -> None:
    """Set the variables of a `.env` file, before those of the environment, as Dagster does.

    A blank DAGSTER_HOME is unset, as Dagster has it: it is no folder whose history could be read.
    """
    if path.is_file():
        values = import_module("dotenv").dotenv_values(path)
        os.environ.update({name: text for name, text in values.items() if text is not None})
    if not os.environ.get("DAGSTER_HOME", "").strip():
        os.environ.pop("DAGSTER_HOME", None)


def _parse_and_run(words: Sequence[str]) -> int:
    # Before anything is parsed: from here on no message quotes the key.
    read_settings(os.environ)
    try:
        with COMMAND.make_context(PROGRAM, list(words), obj=run_verb) as context:
            return COMMAND.invoke(context)
    except Exit as asked_for_help:
        return asked_for_help.exit_code
    except click.UsageError as refused:
        print_errors([format_usage_error(refused)])
        sys.exit(2)
    except KeyboardInterrupt:
        print_errors([describe_interrupt("nothing was begun")])
        return INTERRUPTED_EXIT_CODE


def format_usage_error(refused: click.UsageError) -> str:
    """Return the usage of what was called, and what is wrong with the call."""
    if isinstance(refused, NoArgsIsHelpError):
        return refused.format_message()
    if refused.ctx is None:
        return f"{PROGRAM}: error: {refused.format_message()}"
    path = refused.ctx.command_path
    return f"{refused.ctx.get_usage()}\n{path}: error: {refused.format_message()}"


def run_verb(verb: Verb, options: Mapping[str, object]) -> int:
    """Run a verb with its parsed options; return the exit code."""
    settings, refusals = _read_all_settings(click.get_current_context().meta.get(DATA_DIR_KEY))
    if verb.takes_refusals:
        options = {**options, "refusals": refusals}
    else:
        print_errors(f"warning: {warning}" for warning in unknown_variables(os.environ))
        print_errors(refusals)
        if refusals:
            return 2
    try:
        with end_soon_after_interrupt(verb.kept):
            module, _, name = verb.run.partition(":")
            run = getattr(import_module(f"klaviyo_assets.cli.{module}"), name)
            return cast("int", run(settings, **options))
    except SettingError as error:
        print_errors([error])
        return 2
    except KlaviyoAssetsError as error:
        print_errors([error])
        return 1
    except KeyboardInterrupt:
        print_errors([describe_interrupt(verb.kept)])
        return INTERRUPTED_EXIT_CODE


def _read_all_settings(data_dir: str | None) -> tuple[Settings, list[SettingError]]:
    """Return the settings, and what is wrong with them; `data_dir` is the option's value."""
    if data_dir is not None:
        os.environ["KLAVIYO_DATA_DIR"] = data_dir
    settings, refused = read_settings(os.environ)
    return settings, [
        *refused,
        *future_date_errors(settings, today=datetime.now(tz=UTC).date()),
        *selection_errors(settings, STREAMS),
        *privacy_setting_errors(settings, streams_at_revision(STREAMS, settings.revision)),
    ]
