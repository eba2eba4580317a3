"""The verb of a command line: click's classes, with our form of help and options of several words.

Nothing here or in `verbs.py` imports the lake, DuckDB or Dagster, so that help and completion come
at once: a verb names the function that runs it, and `command.py` imports that when it runs.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from textwrap import wrap

import click

from klaviyo_assets.settings import environment_variables

HELP_COLUMNS = 100
"""The widest that help gets, in characters."""

NOTHING_CHANGED = "nothing was changed"
"""What a verb that only reads says after Ctrl-C."""


class UsageFormatter(click.HelpFormatter):
    """Writes help with lower-case headings, as the other sentences of the command begin."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the line of usage."""
        super().write_usage(prog, args, prefix or "usage: ")

    def write_heading(self, heading: str) -> None:
        """Write a heading."""
        super().write_heading(heading[:1].lower() + heading[1:])


class VerbContext(click.Context):
    """The context of one command line, whose help has our form."""

    formatter_class = UsageFormatter


class WordsOption(click.Option):
    """An option that takes every word up to the next option: `--tables lists metrics`."""

    def __init__(self, name: str, *, metavar: str, help_text: str) -> None:
        super().__init__([name], multiple=True, metavar=f"{metavar}...", help=help_text)


class Verb(click.Command):
    """One verb. `run` is `module:function` in this room; it gets the settings and the options.

    `kept` says after Ctrl-C what became of the work; `examples` are command lines without the
    program's name. A verb that reports has `--json`; one that takes refusals runs with a bad
    setting too.
    """

    context_class = VerbContext

    def __init__(  # noqa: PLR0913 - a declaration, all by name
        self,
        name: str,
        *,
        section: str,
        summary: str,
        run: str,
        options: Sequence[click.Parameter] = (),
        examples: Sequence[str] = (),
        aliases: Sequence[str] = (),
        is_report: bool = False,
        takes_refusals: bool = False,
        kept: str = NOTHING_CHANGED,
    ) -> None:
        json_option = [_build_json_option()] if is_report else []
        super().__init__(
            name,
            params=[*options, *json_option, _build_data_dir_option()],
            help=summary,
            short_help=summary,
        )
        self.section, self.summary, self.run, self.kept = section, summary, run, kept
        self.takes_refusals = takes_refusals
        self.examples, self.aliases = tuple(examples), tuple(aliases)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words after the verb."""
        names = {
            name for each in self.params if isinstance(each, WordsOption) for name in each.opts
        }
        return super().parse_args(ctx, list(repeat_option_names(args, names)))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        if self.examples:
            program = ctx.command_path.partition(" ")[0]
            with formatter.section("examples"):
                formatter.write("".join(f"  {program} {each}\n" for each in self.examples))

    def invoke(self, ctx: click.Context) -> int:
        """Run the verb by the function that the context holds; return the exit code."""
        run_verb: RunVerb = ctx.obj
        return run_verb(self, ctx.params)


RunVerb = Callable[[Verb, Mapping[str, object]], int]
"""Runs a verb with its options; returns the exit code."""


def repeat_option_names(words: Sequence[str], names: set[str]) -> Iterator[str]:
    """Yield the words, with an option's name before each of the words that it takes.

    click takes a fixed number of words for an option: `--tables a b` becomes `--tables a
    --tables b`.
    """
    current, is_taken = None, True
    for word in words:
        if word.startswith("-") and word != "-":
            if current is not None and not is_taken:
                yield current
            current, is_taken = (word, False) if word in names else (None, True)
            if current is None:
                yield word
        elif current is not None:
            yield from (current, word)
            is_taken = True
        else:
            yield word
    if current is not None and not is_taken:
        yield current


class VerbGroup(click.Group):
    """The console command: its verbs by section, with the settings at the end of its help."""

    context_class = VerbContext

    def __init__(
        self,
        name: str,
        verbs: Sequence[Verb | click.Command],
        *,
        summary: str,
        options: Sequence[click.Option],
    ) -> None:
        super().__init__(
            name,
            params=[_build_data_dir_option(), *options],
            help=summary,
            subcommand_metavar="VERB ...",
            context_settings={
                "max_content_width": HELP_COLUMNS,
                "help_option_names": ["-h", "--help"],
            },
        )
        for verb in verbs:
            self.add_command(verb)
        self.by_alias = {
            alias: verb for verb in verbs if isinstance(verb, Verb) for alias in verb.aliases
        }

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the verb of a name or an alias."""
        return super().get_command(ctx, cmd_name) or self.by_alias.get(cmd_name)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - the signature is click's
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the verbs, a section at a time."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            section = command.section if isinstance(command, Verb) else "to try things on"
            sections.setdefault(section, []).append(
                (name, command.get_short_help_str(HELP_COLUMNS))
            )
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and the settings."""
        examples = [
            f"  {ctx.command_path} {each.examples[0]}\n"
            for each in self.commands.values()
            if isinstance(each, Verb) and each.examples
        ]
        with formatter.section("examples"):
            formatter.write("".join(examples))
        formatter.write(f"\n{_settings_help()}\n")


def _settings_help() -> str:
    """Return the settings as the end of `--help`."""
    lines = ["settings, which are environment variables or lines of ./.env (default in brackets):"]
    for each in environment_variables():
        lines.append(f"  {each.name}" + (f" [{each.default}]" if each.default else ""))
        text = f"{each.description} (allowed: {each.allowed})"
        lines += wrap(text, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _build_json_option() -> click.Option:
    return click.Option(["--json", "as_json"], is_flag=True, help="print JSON instead of text")


def _build_data_dir_option() -> click.Option:
    """Return the option that goes before KLAVIYO_DATA_DIR, after a verb or before it."""
    return click.Option(
        ["--data-dir"],
        metavar="PATH",
        expose_value=False,
        callback=_store_data_dir,
        help="the data folder, instead of KLAVIYO_DATA_DIR",
    )


DATA_DIR_KEY = "klaviyo_assets.data_dir"
"""Where the context of a command line has the option `--data-dir`."""


def _store_data_dir(ctx: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[DATA_DIR_KEY] = value


class DayType(click.ParamType[date]):
    """A date as YYYY-MM-DD."""

    name = "date"

    def convert(
        self, value: str | date, param: click.Parameter | None, ctx: click.Context | None
    ) -> date:
        """Return the date of a text."""
        if isinstance(value, date):
            return value
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no date as YYYY-MM-DD", param, ctx)


class LakeRootType(click.ParamType[str]):
    """The tables' folder as readers see it; the text is that folder or the one above it."""

    name = "path"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the folder of the tables, with slashes."""
        if re.match(r"/|[A-Za-z]:[\\/]|\\\\|[a-z0-9]+://", value) is None:
            self.fail(f"{value!r} is no whole path: it must begin at the root", param, ctx)
        place = value.replace("\\", "/").rstrip("/")
        return place if place.rpartition("/")[2] == "lake" else f"{place}/lake"


class ProfileIdType(click.ParamType[str]):
    """The id of a profile, or `-` for standard input."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the id; the refusal does not quote it: it may be somebody's email address."""
        if (refusal := describe_bad_profile_id(value)) is not None:
            self.fail(refusal, param, ctx)
        return value


def describe_bad_profile_id(text: str) -> str | None:
    """Return why a text is no profile's id, without quoting it; None where it is one."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) is not None:
        return None
    return "an id of a profile is wanted, letters and digits, as the column id of profiles has it"


FILE_TYPE = click.Path(path_type=Path)
"""A path; whether it can be used is said by what uses it."""
