"""The commands and code of the pages, run as a reader would paste them, in the folder of a reader.

The folder is that of `docs/start.md` after the first sync: `data/`, and settings of its own. What
is not run stands, with its reason, in `NOT_RUN`; files of a project are run by `test_embedding.py`.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import dagster as dg
import duckdb
import pytest
import yaml

from klaviyo_assets.cli.command import main
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.contract.docs_blocks import (
    OTHER_LANGUAGES,
    DocsBlock,
    docs_blocks,
    is_run_elsewhere,
    reason_not_run,
)
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import keep_files_open
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    add_metrics,
    report_metrics,
    run_partitions,
)
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account

BLOCKS = [
    each
    for each in docs_blocks()
    if each.title is None and each.language not in OTHER_LANGUAGES and not is_run_elsewhere(each)
]

ERASED_ID = "01KB5TJ8R4W8KTENDJT6KNBCPA"


@pytest.fixture(scope="module")
def home(dagster_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Give a home with every default stream and a day of each default report."""
    with open_sandbox_account() as account:
        root = tmp_path_factory.mktemp("reader")
        home = Home(account=account, root=root, dagster_template=dagster_template)
        home.settings["KLAVIYO_STREAMS"] = "default,list_members"
        assert home.sync().success
        assert home.sync("list_members").success
        metric, day = report_metrics(home)[0], home.account.now.date() - timedelta(days=2)
        add_metrics(home, [metric])
        for report in (CAMPAIGN_REPORT, FLOW_REPORT):
            assert run_partitions(home, report, (metric, day)).run.success
        (root / "ids.txt").write_text(f"{ERASED_ID}\n")
        (root / "deploy").symlink_to(ROOT / "deploy")
        yield home


@pytest.fixture
def reader(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """Put this process where a reader is: in the folder above `data`, with key and settings."""
    monkeypatch.chdir(home.root)
    variables = home.variables | {"DAGSTER_HOME": str(home.dagster_home)}
    del variables["KLAVIYO_DATA_DIR"]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # `klaviyo-assets dashboard --open` finds a browser, and none comes up.
    monkeypatch.setattr("webbrowser.open", bool)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with keep_files_open():
        yield home


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_of_the_docs_runs(
    reader: Home, block: DocsBlock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pasted, it does not fail."""
    match block.language:
        case "python":
            exec(compile(block.text, block.place, "exec"), {"__name__": "pasted"})  # noqa: S102 - ours
        case "sql":
            query(block)
        case "yaml":
            check_run_config(reader, block)
        case _:
            for command in block.commands:
                code = run_command(command)
                assert code == 0, f"{block.place}: {command}\n{capsys.readouterr()}"


def query(block: DocsBlock) -> None:
    """Run statements where `klaviyo.duckdb` is attached and chosen, as `docs/query.md` has it."""
    with duckdb.connect() as database:
        database.execute("ATTACH 'data/klaviyo.duckdb' AS klaviyo (READ_ONLY)")
        database.execute("USE klaviyo")
        for statement in database.extract_statements(block.text):
            database.execute(statement).fetchall()


def check_run_config(home: Home, block: DocsBlock) -> None:
    """Let Dagster validate what is meant for the launchpad of the assets that it names."""
    config = yaml.safe_load(block.text)
    names = [name.removeprefix("klaviyo__") for name in config["ops"]]
    job = dg.define_asset_job("pasted", [home.asset_key(name) for name in names])
    defs = home.load_definitions()
    resolved = dg.Definitions(
        assets=defs.assets, resources=defs.resources, jobs=[job]
    ).resolve_job_def("pasted")
    dg.validate_run_config(resolved, config)


def run_command(command: str) -> int:
    """Run one command; ours in this process, because starting Python takes a second each time."""
    if reason_not_run(command) is not None:
        return 0
    if not command.startswith("klaviyo-assets "):
        done = subprocess.run(["bash", "-c", command], check=False, capture_output=True)
        return done.returncode
    with patch.dict(os.environ):
        try:
            return main([*shlex.split(command)[1:], *confirmation(command)])
        except SystemExit as ended:
            return int(ended.code or 0)


def confirmation(command: str) -> list[str]:
    """Return what stands for the yes of a person at a terminal."""
    asks = command.startswith(("klaviyo-assets erase", "klaviyo-assets set-aside"))
    return ["--yes"] if asks else []
