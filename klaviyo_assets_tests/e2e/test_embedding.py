"""The projects of docs/embed.md: written to a folder, loaded in a process, and run there."""

import os
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import dagster as dg
import duckdb
import yaml

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.contract.docs_blocks import docs_blocks
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.forkserver import FORKSERVER

PAGE = ROOT / "docs" / "embed.md"


def write_project(folder: Path, home: Home) -> None:
    """Write the page's files; their settings say where the sandbox is, as no user has to."""
    state = folder / "state"
    more = f'base_url="{home.account.url}", state_dir="{state}", rate_limit_scale=1e6, '
    for block in docs_blocks():
        if block.page == PAGE and block.title is not None:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(re.sub(r"Settings\((?=\s|d)", f"Settings({more}", block.text))


def run_project(folder: Path, module: str, keys: list[str], environment: Mapping[str, str]) -> None:
    """Be Dagster's process: load the module and materialize assets; exit with 0 if green."""
    os.chdir(folder)
    os.environ.update(environment)
    sys.path.insert(0, str(folder))
    defs: dg.Definitions = import_module(module).defs
    job = defs.get_repository_def().get_job("__ASSET_JOB")
    chosen = job.get_subset(asset_selection={dg.AssetKey(each.split("/")) for each in keys})
    with open_instance(Path(environment["DAGSTER_HOME"])) as instance:
        done = chosen.execute_in_process(instance=instance, raise_on_error=False)
        if "orders_per_day" in keys:
            (made,) = done.asset_materializations_for_node("orders_per_day")
            Path("seen.txt").write_text(str(made.metadata["events"].value))
    sys.exit(0 if done.success else 1)


def start(folder: Path, module: str, keys: list[str], home: Home, key: str) -> int | None:
    """Run a module of the project in a process of its own; return its exit code."""
    environment = {key: home.account.key, "DAGSTER_HOME": str(home.dagster_home)}
    process = FORKSERVER.Process(target=run_project, args=(folder, module, keys, environment))
    process.start()
    process.join()
    return process.exitcode


def test_an_asset_of_a_users_project_takes_a_stream(home: Home, tmp_path: Path) -> None:
    """The merged definitions load; the user's asset gets the rows that the stream has stored."""
    project = tmp_path / "project"
    write_project(project, home)
    keys = ["klaviyo/events", "orders_per_day"]
    assert start(project, "my_project.definitions", keys, home, "KLAVIYO_API_KEY") == 0
    assert int((project / "seen.txt").read_text()) == len(home.account.true_ids("events"))
    keys = ["marketing/klaviyo/metrics"]
    assert start(project, "my_project.prefixed", keys, home, "KLAVIYO_API_KEY") == 0


def test_two_accounts_share_an_instance(open_home: StartHome, tmp_path: Path) -> None:
    """Each has its code location, key and lake; the page's query finds the profiles of both."""
    project = tmp_path / "project"
    counts: dict[str, int] = {}
    for shop, profiles in (("north", 60), ("south", 70)):
        home = open_home(profiles=profiles, seed=profiles)
        write_project(project, home)
        key = f"{shop.upper()}_KLAVIYO_KEY"
        module = f"my_project.shop_{shop}"
        assert start(project, module, [f"{shop}/klaviyo/profiles"], home, key) == 0
        counts[shop] = len(home.account.true_ids("profiles"))
    workspace = yaml.safe_load((project / "workspace.yaml").read_text())
    modules = [each["python_module"] for each in workspace["load_from"]]
    assert modules == ["my_project.shop_north", "my_project.shop_south"]
    (sql,) = [each.text for each in docs_blocks() if each.page == PAGE and each.language == "sql"]
    with duckdb.connect() as database:
        found = database.execute(sql.replace("lakes/", f"{project}/lakes/")).fetchall()
    assert dict(found) == counts
