"""One user's installation: a lake, a state folder, a DAGSTER_HOME and an account's key."""

import atexit
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any
from unittest.mock import patch

import dagster as dg
import duckdb
from deltalake import DeltaTable

from klaviyo_assets.api import client as http_client
from klaviyo_assets.definitions import build_defs
from klaviyo_assets.settings import read_settings
from klaviyo_assets.streams import DEFAULT_COLLECTIONS, DERIVED_RELATIONS
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.materialize import materialize
from klaviyo_assets_tests.e2e.run_log import RunResult, read_run
from klaviyo_assets_tests.e2e.sandbox_account import SandboxAccount

AssetKeyRename = Callable[[dg.AssetKey], dg.AssetKey]

UNLIMITED_RATES = {"KLAVIYO_RATE_LIMIT_SCALE": "1000000"}

QUERY_LOCK = Lock()


@cache
def start_duckdb(process: int) -> duckdb.DuckDBPyConnection:  # noqa: ARG001 - a fork needs its own
    """Return a DuckDB of this process, in UTC: starting one takes as long as ten queries."""
    # Left in the cache at exit, the connection would be reported as a leak.
    atexit.register(start_duckdb.cache_clear)
    started = duckdb.connect(config={"enable_external_file_cache": False})
    started.execute("SET GLOBAL TimeZone = 'UTC'")
    return started


AUTOMATION_ON = {"KLAVIYO_AUTOMATION": "recommended"}
"""As the README has it. No daemon runs here, so nothing starts; events warn of nothing."""


def asset_key(stream: str) -> dg.AssetKey:
    """Return the asset key of a stream, as the contract has it."""
    return dg.AssetKey(["klaviyo", stream])


def environment_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings by the names of their variables."""
    return {f"KLAVIYO_{name.upper()}": value for name, value in settings.items()}


def rename_asset_keys(defs: dg.Definitions, rename: AssetKeyRename) -> dg.Definitions:
    """Return a code location whose assets and checks have other keys; the rest is as it was."""
    assets = [each for each in defs.assets or () if isinstance(each, dg.AssetsDefinition)]
    keys = {key: rename(key) for asset in assets for key in asset.keys}
    return dg.Definitions(
        assets=[asset.with_attributes(asset_key_replacements=keys) for asset in assets],
        asset_checks=[
            check.with_attributes(asset_key_replacements=keys) for check in defs.asset_checks or ()
        ],
        jobs=defs.jobs,
        schedules=defs.schedules,
        sensors=defs.sensors,
        resources=defs.resources,
        executor=defs.executor,
    )


@dataclass(slots=True, kw_only=True)
class Home:
    """Folders and variables.

    `dagster_template` is a migrated DAGSTER_HOME that a fresh one is copied from.

    `rename` gives the assets of its code location other keys, as Dagster lets users do.
    """

    account: SandboxAccount
    root: Path
    dagster_template: Path
    settings: dict[str, str] = field(default_factory=dict[str, str])
    dagster_home_count: int = 0
    has_key: bool = True
    other_data_dir: Path | None = None
    rename: AssetKeyRename | None = None
    clock: Callable[[], datetime] | None = None
    """What this machine's clock is beside Klaviyo's; None: they agree."""
    loaded_definitions: dict[str, dg.Definitions] = field(default_factory=dict[str, dg.Definitions])

    def __post_init__(self) -> None:
        """Make a first DAGSTER_HOME."""
        self.reset_dagster_home()

    @property
    def data_dir(self) -> Path:
        """Return the data folder."""
        return self.other_data_dir or self.root / "data"

    @property
    def dagster_home(self) -> Path:
        """Return the DAGSTER_HOME of now."""
        return self.root / f"dagster-{self.dagster_home_count}"

    def reset_dagster_home(self) -> None:
        """Take a fresh DAGSTER_HOME; the lake stays."""
        self.dagster_home_count += 1
        shutil.copytree(self.dagster_template, self.dagster_home)

    @property
    def variables(self) -> dict[str, str]:
        """Return the environment of a run, the key's variable included."""
        return {
            "KLAVIYO_API_KEY": self.account.key,
            "KLAVIYO_BASE_URL": self.account.url,
            "KLAVIYO_DATA_DIR": str(self.data_dir),
            "KLAVIYO_STATE_DIR": str(self.root / "state"),
            **UNLIMITED_RATES,
            **AUTOMATION_ON,
            **self.settings,
        }

    def load_definitions(self, **more: str) -> dg.Definitions:
        """Return what Dagster would load with the home's settings; `more` are further ones.

        It is loaded once for the same settings, as by a process that lives on.
        """
        variables = self.variables | environment_variables(more)
        known = repr(sorted(variables.items()))
        if known not in self.loaded_definitions:
            defs = build_defs(*read_settings(variables))
            self.loaded_definitions[known] = (
                rename_asset_keys(defs, self.rename) if self.rename else defs
            )
        return self.loaded_definitions[known]

    def asset_key(self, stream: str) -> dg.AssetKey:
        """Return the asset key of a stream in this home's code location."""
        return self.rename(asset_key(stream)) if self.rename else asset_key(stream)

    def sync(
        self, *streams: str, config: Mapping[str, object] | None = None, **more: str
    ) -> RunResult:
        """Materialize streams, all collections where none is named; `config` is for each op.

        `more` are settings for this run alone: `event_metric_ids="..."`.
        """
        names = streams or tuple(stream.name for stream in DEFAULT_COLLECTIONS)
        defs = self.load_definitions(**more)

        def execute(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
            return materialize(
                defs,
                [*map(self.asset_key, names)],
                instance=instance,
                run_config={"ops": {f"klaviyo__{each}": {"config": dict(config)} for each in names}}
                if config
                else None,
            )

        return self.execute(execute, **more)

    def run_schedule(self, name: str, at: datetime, **more: str) -> RunResult:
        """Run the job of a schedule as its tick at `at` orders it."""
        defs = self.load_definitions(**more)

        def execute(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
            # Definitions ask the instance that is open for their state: one must be.
            schedule = defs.resolve_schedule_def(name)
            # Left open, the context keeps an instance of its own, and makes it Dagster's current
            # one whenever it happens to be collected.
            with dg.build_schedule_context(
                instance=instance, scheduled_execution_time=at, repository_def=None
            ) as context:
                (request,) = list(schedule.evaluate_tick(context).run_requests or ())
            return defs.resolve_job_def(schedule.job_name).execute_in_process(
                run_config=dict(request.run_config), instance=instance, raise_on_error=False
            )

        return self.execute(execute, **more)

    def execute(
        self, execute: Callable[[dg.DagsterInstance], dg.ExecuteInProcessResult], **more: str
    ) -> RunResult:
        """Execute in this home's DAGSTER_HOME with its key, and read the log."""
        key = (self.variables | environment_variables(more))["KLAVIYO_API_KEY"]
        environment = {"KLAVIYO_API_KEY": key} if self.has_key else {}
        # Dagster's own, where a resource is nested in another.
        ignored = "InitResourceContext.dagster_run is deprecated"
        with (
            warnings.catch_warnings(),
            patch.dict(os.environ, environment),
            patch.object(http_client, "utc_now", self.clock or (lambda: self.account.now)),
            open_instance(self.dagster_home) as instance,
        ):
            warnings.filterwarnings("ignore", message=ignored)
            done = execute(instance)
            return read_run(instance, done.run_id, success=done.success)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query over `klaviyo.duckdb`, attached read-only; times are UTC."""
        path = str(self.data_dir / "klaviyo.duckdb").replace("'", "''")
        with QUERY_LOCK, start_duckdb(os.getpid()).cursor() as database:
            database.execute(f"ATTACH '{path}' AS klaviyo (READ_ONLY)")
            try:
                database.execute("USE klaviyo")
                return database.execute(sql).fetchall()
            finally:
                database.execute("USE memory")
                database.execute("DETACH klaviyo")

    def ids(self, relation: str) -> list[str]:
        """Return the ids of a relation, as often as they are there."""
        return [each for (each,) in self.query(f'SELECT id FROM klaviyo."{relation}"')]

    def live_ids(self, relation: str) -> list[str]:
        """Return the ids of a relation without a mark of deletion, as often as they are there."""
        found = self.query(f'SELECT id FROM klaviyo."{relation}" WHERE deleted_at IS NULL')
        return [each for (each,) in found]

    def deletion_times(self, relation: str) -> dict[str, datetime]:
        """Return the ids of a relation that are marked as deleted, each with since when."""
        marked = f'SELECT id, deleted_at FROM klaviyo."{relation}" WHERE deleted_at IS NOT NULL'
        return dict(self.query(marked))

    def lake_ids(self, table: str) -> list[str | None]:
        """Return the ids of a table's newest commit, as any engine that speaks Delta reads them."""
        stored = DeltaTable(str(self.data_dir / "lake" / table)).to_pyarrow_table(columns=["id"])
        return stored["id"].to_pylist()

    def data_files(self) -> dict[str, tuple[int, int]]:
        """Return every file below the data folder with its size and time of change.

        Not how runs ended, which each of them writes.
        """
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in self.data_dir.rglob("*")
            if path.is_file() and path.name != "_health.json"
        }

    def row_count(self, relation: str) -> int:
        """Return the number of rows of a relation."""
        return int(self.query(f'SELECT count(*) FROM klaviyo."{relation}"')[0][0])

    def relation_names(self) -> set[str]:
        """Return the names of all relations of streams and histories; merges are no stream's."""
        found = self.query("SELECT table_name FROM information_schema.tables")
        return {name for (name,) in found} - {each.name for each in DERIVED_RELATIONS}

    def observe_cursor(self, stream: str, cursor: datetime | str) -> None:
        """Put a mark into asset metadata by hand, as somebody's script might."""
        text = cursor if isinstance(cursor, str) else cursor.isoformat()
        with open_instance(self.dagster_home) as instance:
            instance.report_runless_asset_event(
                dg.AssetObservation(asset_key(stream), metadata={"klaviyo/cursor": text})
            )

    def wipe_asset(self, stream: str) -> None:
        """Wipe an asset, as the UI's button does."""
        with open_instance(self.dagster_home) as instance:
            instance.wipe_assets([asset_key(stream)])


def create_dagster_home(folder: Path, template: Path) -> Path:
    """Make a DAGSTER_HOME with its databases, once, because that takes most of a second."""
    shutil.copy(template, folder / "dagster.yaml")
    with open_instance(folder) as instance:
        assert instance.get_runs(limit=1) == []
    return folder
