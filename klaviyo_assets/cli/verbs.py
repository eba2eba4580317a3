"""Declares every verb of the console command: its options, its help, and what runs it."""

import click
from click.shell_completion import get_completion_class

from klaviyo_assets import __version__
from klaviyo_assets.cli.parsing import (
    FILE_TYPE,
    DayType,
    LakeRootType,
    ProfileIdType,
    Verb,
    VerbGroup,
    WordsOption,
)
from klaviyo_assets.settings import Settings

PROGRAM = "klaviyo-assets"

COMPLETION_VARIABLE = "_KLAVIYO_ASSETS_COMPLETE"
"""Set by a shell that wants to complete a line; the name is click's, made of the program's."""

START, LOOK, LAKE, REPAIR, COMMAND_ITSELF = (
    "to begin with",
    "what there is",
    "the lake",
    "when something is wrong",
    "the command itself",
)
"""The sections of the help."""

_METRICS_OPTION_HELP = "metrics, by id or name; those of the settings without it"

_CONFIRMATION_OPTIONS = (
    click.Option(["--yes"], is_flag=True, help="do not ask"),
    click.Option(["--dry-run"], is_flag=True, help="say what would be done, and do nothing"),
)

VERBS: tuple[Verb, ...] = (
    Verb(
        "init",
        section=START,
        summary="ask for the key and a few settings, test the key, and write .env",
        run="doctor:write_env_file",
        options=[click.Option(["--yes"], is_flag=True, help="do not ask before writing")],
        examples=["init"],
        kept="nothing was written",
    ),
    Verb(
        "doctor",
        section=START,
        summary="test key, account, scopes, settings, clock, disk and quotas (also: check)",
        run="doctor:doctor",
        aliases=("check",),
        examples=["doctor", "doctor --json"],
        is_report=True,
        takes_refusals=True,
    ),
    Verb(
        "sync",
        section=START,
        summary="read what is new into the lake, as the assets do, without Dagster's log",
        run="sync:sync",
        options=[
            click.Argument(["streams"], nargs=-1, metavar="[STREAM]..."),
            click.Option(
                ["--full"], is_flag=True, help="from the beginning (full_refresh_overwrite)"
            ),
        ],
        examples=["sync", "sync events profiles"],
        is_report=True,
        kept="what was committed stays; the next sync goes on from there",
    ),
    Verb(
        "streams",
        section=LOOK,
        summary="list the streams: table, grain, cursor, tier, scopes",
        run="lake_verbs:list_streams",
        examples=["streams", "streams --json"],
        is_report=True,
    ),
    Verb(
        "status",
        section=LOOK,
        summary="say how far each stream is, how its last run ended, and what is left of quotas",
        run="status:show_status",
        examples=["status", "status --json"],
        is_report=True,
    ),
    Verb(
        "metrics",
        section=LOOK,
        summary="list the metrics: id, name, integration, events, and whether reports take them",
        run="plan:list_metrics",
        examples=["metrics"],
        is_report=True,
    ),
    Verb(
        "plan",
        section=LOOK,
        summary="say what reports, members, a first sync or more streams cost, before a request",
        run="plan:plan",
        options=[
            click.Option(["--start"], type=DayType(), help="first day of reports, YYYY-MM-DD"),
            click.Option(["--end"], type=DayType(), help="last day of reports, inclusive"),
            click.Option(
                ["--members"],
                is_flag=True,
                help="what list_members and segment_members cost, list by list and segment by "
                "segment",
            ),
            WordsOption("--metrics", metavar="METRIC", help_text=_METRICS_OPTION_HELP),
            click.Option(
                ["--first-sync"], is_flag=True, help="every collection that is on, from nothing"
            ),
            WordsOption(
                "--streams",
                metavar="NAME",
                help_text="streams or groups to add, with what they need",
            ),
            WordsOption(
                "--rows",
                metavar="NAME=NUMBER",
                help_text="records of streams that are not stored yet, as far as you know",
            ),
        ],
        examples=[
            "plan --start 2026-01-01 --end 2026-03-31",
            'plan --start 2026-01-01 --end 2026-03-31 --metrics "Placed Order"',
            "plan --members",
            "plan --first-sync --rows events=2000000 profiles=90000",
            "plan --streams reviews catalogs",
        ],
        is_report=True,
    ),
    Verb(
        "revisions",
        section=LOOK,
        summary="list the API revisions that are known, and ask pip whether a newer one is out",
        run="revisions:list_revisions",
        options=[click.Option(["--offline"], is_flag=True, help="do not ask pip")],
        examples=["revisions", "revisions --offline --json"],
        is_report=True,
    ),
    Verb(
        "sql",
        section=LAKE,
        summary="run one query over klaviyo.duckdb, which it cannot change",
        run="sql:query",
        options=[
            click.Argument(["sql"], metavar="QUERY"),
            click.Option(
                ["--limit"], type=click.IntRange(1), default=200, help="rows of the table [200]"
            ),
            click.Option(["--csv", "as_csv"], is_flag=True, help="print CSV, every row"),
        ],
        examples=[
            'sql "SHOW TABLES"',
            'sql "SELECT metric_name, count(*) FROM events_detailed GROUP BY ALL" --csv',
            "sql - < query.sql",
        ],
        is_report=True,
    ),
    Verb(
        "dashboard",
        section=LAKE,
        summary="write the marketing overview from what is stored, and say where the page is",
        run="status:show_dashboard",
        options=[
            click.Option(["--open", "should_open"], is_flag=True, help="open it in the browser")
        ],
        examples=["dashboard --open", "dashboard --json"],
        is_report=True,
    ),
    Verb(
        "mcp",
        section=LAKE,
        summary="serve the lake to a language model (MCP over standard input and output)",
        run="mcp:serve",
        options=[
            click.Option(
                ["--allow-personal"], is_flag=True, help="columns with personal data can be seen"
            ),
            click.Option(
                ["--max-rows"], type=click.IntRange(1), default=1000, help="rows a query [1000]"
            ),
            click.Option(
                ["--max-seconds"],
                type=click.FloatRange(0.1),
                default=30.0,
                help="seconds a query may take [30]",
            ),
            click.Option(
                ["--max-memory"],
                type=click.IntRange(64),
                default=1000,
                help="megabytes that DuckDB may use for a query [1000]",
            ),
        ],
        examples=["mcp", "mcp --max-rows 100"],
    ),
    Verb(
        "publish",
        section=LAKE,
        summary="rebuild klaviyo.duckdb from the lake; or write views for others into a database",
        run="lake_verbs:publish",
        options=[
            click.Option(
                ["--dbt"],
                type=FILE_TYPE,
                metavar="TARGET.duckdb",
                help="write the sources of the dbt package fivetran/klaviyo into this database, "
                "the target of your dbt project, as views; run it again before each dbt build",
            ),
            click.Option(
                ["--airbyte"],
                type=FILE_TYPE,
                metavar="TARGET.duckdb",
                help="write views with the names of Airbyte's tables and columns",
            ),
            click.Option(
                ["--schema"],
                metavar="NAME",
                help="the schema of these views [klaviyo for --dbt, airbyte for --airbyte]",
            ),
            click.Option(
                ["--lake-root"],
                type=LakeRootType(),
                metavar="PATH",
                help="the data folder, or the folder lake in it, as readers have it mounted; "
                "later syncs use it too, until publish is run without it",
            ),
        ],
        examples=["publish", "publish --dbt shop.duckdb", "publish --lake-root /mnt/shop"],
        is_report=True,
        kept="klaviyo.duckdb shows the lake as before; publish again",
    ),
    Verb(
        "export",
        section=LAKE,
        summary="write the tables themselves into one DuckDB file, to hand over",
        run="lake_verbs:export",
        options=[
            click.Argument(["file"], type=FILE_TYPE, metavar="FILE.duckdb"),
            WordsOption("--tables", metavar="NAME", help_text="only these; all without it"),
            click.Option(
                ["--force"], is_flag=True, help="replace a DuckDB file that is there already"
            ),
        ],
        examples=["export shop.duckdb", "export shop.duckdb --tables events profiles"],
        is_report=True,
        kept="no file was written or replaced; the lake is as it was",
    ),
    Verb(
        "compare",
        section=LAKE,
        summary="compare the ids of each month with those in another tool's tables",
        run="lake_verbs:compare",
        options=[
            click.Argument(["other"], type=FILE_TYPE, metavar="OTHER.duckdb"),
            click.Option(
                ["--schema"],
                metavar="NAME",
                default="main",
                help="the schema of the other tool's tables [main]; OTHER may also be a folder "
                "with a Parquet file or folder for each table",
            ),
        ],
        examples=["compare airbyte.duckdb --schema klaviyo", "compare exported/ --json"],
        is_report=True,
    ),
    Verb(
        "verify",
        section=REPAIR,
        summary="read every file and view of the lake, and say what is wrong",
        run="lake_verbs:verify",
        examples=["verify"],
        is_report=True,
    ),
    Verb(
        "set-aside",
        section=REPAIR,
        summary="move a damaged table away, so that its asset starts from nothing",
        run="lake_verbs:set_aside",
        options=[click.Argument(["table"]), *_CONFIRMATION_OPTIONS],
        examples=["set-aside profiles_history"],
        is_report=True,
        kept="the table lies in the lake as before, or in lake/_damaged; verify says which",
    ),
    Verb(
        "adopt",
        section=REPAIR,
        summary="say that the lake's account and the key's are one, after asking",
        run="lake_verbs:adopt",
        options=[click.Option(["--yes"], is_flag=True, help="do not ask")],
        examples=["adopt"],
        is_report=True,
    ),
    Verb(
        "erase",
        section=REPAIR,
        summary="remove everything about some profiles from the disk, and write a receipt",
        run="lake_verbs:erase",
        options=[
            click.Argument(["ids"], nargs=-1, type=ProfileIdType(), metavar="[PROFILE_ID | -]..."),
            click.Option(
                ["--file", "source"],
                metavar="PATH",
                help="a text with an id a line, so that no id stands in the list of processes; "
                "- for standard input",
            ),
            *_CONFIRMATION_OPTIONS,
        ],
        examples=["erase 01KB5TJ8R4W8KTENDJT6KNBCPA --dry-run", "erase --file ids.txt --yes"],
        is_report=True,
        kept="a part may have been erased; run it again with the same ids, it goes on from there",
    ),
    Verb(
        "completion",
        section=COMMAND_ITSELF,
        summary="print what a shell needs to complete verbs and options",
        run="verbs:print_completion",
        options=[click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"]))],
        examples=["completion bash >> ~/.bashrc", "completion fish | source"],
    ),
)
"""All verbs but `sandbox`, in the order in which help lists them."""

# Only for its line in help: `main` runs it before anything is parsed.
_SANDBOX = click.Command("sandbox", short_help="run a Klaviyo on loopback, to try things on")


def _print_version(ctx: click.Context, _option: click.Parameter, value: bool) -> None:  # noqa: FBT001 - the signature is click's
    if value:
        print(f"{PROGRAM} {__version__}")
        ctx.exit()


_VERSION_OPTION = click.Option(
    ["--version"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="print the version",
)

COMMAND = VerbGroup(
    PROGRAM,
    [*VERBS, _SANDBOX],
    summary="Reads Klaviyo into Delta tables and DuckDB.",
    options=[_VERSION_OPTION],
)
"""The console command."""


def print_completion(_settings: Settings, *, shell: str) -> int:
    """Print the script of a shell."""
    if (completion := get_completion_class(shell)) is not None:
        print(completion(COMMAND, {}, PROGRAM, COMPLETION_VARIABLE).source())
    return 0
