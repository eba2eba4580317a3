"""The demo: a sandbox Klaviyo, the jobs that a user would run, what was stored, a query, the UI.

Run by `make demo`, which prepares the environment and an empty `./demo/`; nothing outside that
folder is touched, so that a later account of your own starts clean.

Dagster runs as `make dev` runs it: web server, daemon and code server. The demo presses the UI's
buttons (the same GraphQL mutations), and what it prints is read from Dagster's event log.
"""

import argparse
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb

from klaviyo_assets.errors import format_quantity, format_seconds
from klaviyo_assets.model.report import DateRange, ReportEndpoint
from klaviyo_assets.model.selection import ALL_GROUP
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.streams import DEFAULT_REPORTS, DEFAULT_STREAMS, REPORTS, STREAMS

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
DATABASE = DEMO / "data" / "klaviyo.duckdb"
PAGE = DEMO / "data" / "marketing_overview.html"
LOG = DEMO / "dagster.log"
KEY = "pk_demo_0123456789abcdef0123456789abcdef"
SCALE = "50"
"""The sandbox's rate limits times this, and ours: a demo need not wait for real minutes."""

NAME_WIDTH = max(map(len, STREAMS))
"""How wide the column of names is."""

QUARTER = 90
"""Days of the default reports that are fetched."""

FEW_DAYS, FEW_MONTHS = 14, 2
"""How much is fetched of the others: Dagster takes longer to record partitions than we to store
them."""

PATIENCE_SECONDS = 300
"""How long nothing new may happen before the demo gives up: a slow machine is no failure."""

QUERY = """\
.venv/bin/python - <<'END'
import duckdb

database = duckdb.connect("demo/data/klaviyo.duckdb", read_only=True)
print(database.sql(\"""
    SELECT metric_name AS metric, metric_integration_name AS integration, metric_id AS id,
           count(*) AS events, count(DISTINCT profile_id) AS people,
           round(sum(TRY_CAST(event_properties ->> '$."$value"' AS DOUBLE)), 2) AS value
    FROM events_detailed
    WHERE datetime < now()
    GROUP BY ALL
    ORDER BY events DESC
    LIMIT 8
\"""))
END"""

NEXT = f"""\
== What next
   Data      {DATABASE.relative_to(ROOT)}, for DuckDB 1.4 and later: one relation a stream
   Files     demo/data/lake, a Delta table a stream
   Pictures  {PAGE.relative_to(ROOT)}, for any browser; docs/dashboards.md
   Again     make demo begins anew; make clean removes ./demo
   Yours     make a private key with read scopes in Klaviyo, then
             .venv/bin/klaviyo-assets init && make dev
   README.md goes on from here."""


def main() -> int:
    """Run the demo; return 0 if every run ended well and every check is green."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ui", default="1", help="0: end after the sample query")
    options.add_argument("--port", default="3000", help="where the UI listens")
    wanted = options.parse_args()
    # A shell that starts this in the background has SIGINT ignored; SIGTERM is what others send.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if wanted.ui != "0":
        refuse_taken_port(int(wanted.port))
    DEMO.mkdir(exist_ok=True)
    with sandbox() as url:
        print(f"A sandbox Klaviyo, an online shop in Copenhagen, listens on {url}")
        environment = settings(url)
        with dagster(environment, str(free_port())) as door, dg.DagsterInstance.get() as instance:
            story(door, instance)
        show_tables()
        show_query()
        print(f"\n{NEXT}", flush=True)
        if wanted.ui != "0":
            show_ui(environment | {"KLAVIYO_AUTOMATION": "recommended"}, wanted.port)
    return 0


def story(door: "Door", instance: dg.DagsterInstance) -> None:
    """Run what a user would run, one after the other; print what happens."""
    checks = Counter[str]()
    with told(
        "klaviyo_first_sync: every stream from the beginning; what comes twice is stored once"
    ):
        checks += follow(instance, door.launch_job("klaviyo_first_sync"))
    metric = door.first_metric()
    # The daemon looks for backfills twice a minute: meanwhile the hourly job runs.
    backfill = door.launch_backfill(newest_partitions(metric))
    with told("klaviyo_collections: what is new since then, as every hour"):
        checks += follow(instance, door.launch_job("klaviyo_collections"), DEFAULT_STREAMS)
    with told(
        f"A backfill of all {len(REPORTS)} reports: {metric_name(metric)}, {QUARTER} days of two, "
        f"{FEW_DAYS} days or {FEW_MONTHS} months of the others"
    ):
        checks += follow_backfill(instance, backfill)
    overview = door.launch_job("klaviyo_marketing_overview")
    with told("klaviyo_checks: keys, NULLs, and every event that Klaviyo counts"):
        checks += follow(instance, door.launch_job("klaviyo_checks"))
    with told("klaviyo_marketing_overview: pictures for people who know no SQL"):
        follow(instance, overview)
    if checks.total() != checks["green"]:
        raise SystemExit("The demo failed: a check is not green; see above.")
    print(f"\n== All {format_quantity(checks.total(), 'result')} of checks are green\n")


def newest_partitions(metric: str) -> dict[str, tuple[str, str]]:
    """Return the first and the last partition to fetch by report: the newest that are over."""
    with duckdb.connect(str(DATABASE), read_only=True) as database:
        ((zone,),) = database.sql("SELECT timezone FROM accounts").fetchall()
    yesterday = datetime.now(tz=ZoneInfo(zone)).date() - timedelta(days=1)
    return {each.name: partition_range(each, metric, yesterday) for each in REPORTS}


def partition_range(stream: Stream, metric: str, yesterday: date) -> tuple[str, str]:
    """Return the first and the last partition to fetch of a report."""
    report = stream.source
    assert isinstance(report, ReportEndpoint)  # noqa: S101 - REPORTS has no other
    days = QUARTER if stream in DEFAULT_REPORTS else FEW_DAYS
    # One month more holds as many whole ones, whatever the day of the month.
    reach = days if report.period == "day" else 31 * (FEW_MONTHS + 1)
    first = yesterday - timedelta(days=reach - 1)
    over = report.partition_days(DateRange(first, yesterday))
    over = over[-FEW_MONTHS:] if report.period == "month" else over
    suffix = f"|{metric}" if report.has_metric else ""
    return f"{over[0]}{suffix}", f"{over[-1]}{suffix}"


def metric_name(metric: str) -> str:
    """Return the name of a metric."""
    with duckdb.connect(str(DATABASE), read_only=True) as database:
        ((name,),) = database.execute("SELECT name FROM metrics WHERE id = ?", [metric]).fetchall()
    return str(name)


@contextmanager
def told(title: str) -> Generator[None]:
    """Print a title, and how long it took."""
    print(f"\n== {title}", flush=True)
    began = time.monotonic()
    yield
    print(f"   done in {format_seconds(time.monotonic() - began)}", flush=True)


@contextmanager
def sandbox() -> Generator[str]:
    """Run the sandbox in a process of its own; yields its URL, ends it by its own pid."""
    command = [sys.executable, "-m", "klaviyo_assets", "sandbox", "--port", "0", "--size", "demo"]
    command += ["--key", KEY, "--rate-limit-scale", SCALE, "--timezone", "Europe/Copenhagen"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        if found is None:
            raise SystemExit(f"the sandbox did not start: {line!r}")
        yield found.group()
    finally:
        process.terminate()
        process.wait(timeout=10)


def settings(url: str) -> dict[str, str]:
    """Return the environment of the demo: this process's, with an account of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KLAVIYO_")}
    return kept | {
        "KLAVIYO_API_KEY": KEY,
        "KLAVIYO_BASE_URL": url,
        "KLAVIYO_STREAMS": ALL_GROUP,
        "KLAVIYO_CONVERSION_METRIC_IDS": "auto",
        # No schedule may come between what the demo shows, so the hourly job looks for late events.
        "KLAVIYO_LOOKBACK_DAYS": "1",
        "KLAVIYO_DATA_DIR": str(DEMO / "data"),
        "KLAVIYO_STATE_DIR": str(DEMO / "state"),
        "KLAVIYO_RATE_LIMIT_SCALE": SCALE,
    }


# Dagster, as the UI talks to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Dagster's web server: what the UI's buttons send."""

    url: str
    location: Mapping[str, str] = field(default_factory=dict[str, str])

    def ask(self, query: str, **variables: object) -> Any:  # noqa: ANN401 - JSON of any shape
        """Send a query, or press a button; return the one field of its answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url, body, headers)  # noqa: S310 - loopback
        # A busy machine may take minutes to load the code anew for a launch.
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as reply:  # noqa: S310
            answer = json.load(reply)
        if "errors" in answer:
            raise SystemExit(f"Dagster refuses: {answer['errors']}")
        (found,) = answer["data"].values()
        return found

    def launch_job(self, name: str) -> str:
        """Launch a job; return the id of its run."""
        launched = self.ask(
            "mutation($to: ExecutionParams!) { launchRun(executionParams: $to) { __typename"
            " ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
            to={"selector": {**self.location, "jobName": name}, "runConfigData": {}},
        )
        if launched["__typename"] != "LaunchRunSuccess":
            raise SystemExit(f"{name} cannot be launched: {launched}")
        return launched["run"]["runId"]

    def launch_backfill(self, partitions: Mapping[str, tuple[str, str]]) -> str:
        """Launch one backfill of reports, each from a partition to another; return its id."""
        assets = [
            {
                "assetKey": {"path": ["klaviyo", name]},
                "partitions": {"ranges": [{"start": first, "end": last}]},
            }
            for name, (first, last) in partitions.items()
        ]
        launched = self.ask(
            "mutation($to: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $to) {"
            " __typename ... on LaunchBackfillSuccess { backfillId }"
            " ... on PythonError { message } } }",
            to={"partitionsByAssets": assets},
        )
        if launched["__typename"] != "LaunchBackfillSuccess":
            raise SystemExit(f"the backfill cannot be launched: {launched}")
        return launched["backfillId"]

    def first_metric(self) -> str:
        """Return the conversion metric of the reports: the setting names one."""
        found = self.ask(
            "query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {"
            " partitionKeysByDimension { name partitionKeys } } } }",
            key={"path": ["klaviyo", DEFAULT_REPORTS[0].name]},
        )
        keys = {each["name"]: each["partitionKeys"] for each in found["partitionKeysByDimension"]}
        return keys["metric"][0]


@contextmanager
def dagster(environment: Mapping[str, str], port: str) -> Generator[Door]:
    """Run what `make dev` runs on a port; yields its door, and ends it by its own pid."""
    print("Dagster starts: web server, daemon, code ", end="", flush=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml"]
    command += ["-h", "127.0.0.1", "-p", port, "--log-level", "warning"]
    with LOG.open("a") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        door = opened(f"http://127.0.0.1:{port}/graphql", process)
        print(f" ready after {format_seconds(time.monotonic() - began)}")
        yield door
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()


def opened(url: str, process: subprocess.Popen[bytes]) -> Door:
    """Wait until Dagster has loaded the code; return its door."""
    door = Door(url=url)
    for _ in waiting(lambda: 0):
        print(".", end="", flush=True)
        if process.poll() is not None:
            raise SystemExit(f"Dagster did not start; see {LOG.relative_to(ROOT)}")
        try:
            found = door.ask(
                "{ repositoriesOrError { ... on RepositoryConnection"
                " { nodes { name location { name } } } } }"
            )
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            continue
        for node in found.get("nodes", ()):
            names = {"repositoryLocationName": node["location"]["name"]}
            return Door(url=url, location=names | {"repositoryName": node["name"]})
    raise SystemExit(f"Dagster has not loaded the code; see {LOG.relative_to(ROOT)}")


def waiting(progress: Callable[[], int]) -> Generator[None]:
    """Yield once a second, until `progress` has stood still for too long."""
    known, deadline = progress(), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(1)
        if known != (known := progress()):
            deadline = time.monotonic() + PATIENCE_SECONDS


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


def refuse_taken_port(port: int) -> None:
    """Refuse a port that another program listens on, before anything is done."""
    with socket.socket() as tried:
        if tried.connect_ex(("127.0.0.1", port)) == 0:
            raise SystemExit(
                f"Another program listens on port {port}: make demo PORT=3001, or make demo UI=0"
            )


# What Dagster's event log tells


class Teller:
    """Prints a run as its event log grows, of which `seen` entries are told.

    `checks` counts the results of checks by colour.
    """

    def __init__(
        self, instance: dg.DagsterInstance, run_id: str, shown: Collection[str] = STREAMS
    ) -> None:
        """Print nothing yet. Streams that are not to be shown get one line for all of them."""
        self.checks = Counter[str]()
        self._shown = shown
        self._rest: list[Mapping[str, dg.MetadataValue[Any]]] = []
        self._instance = instance
        self._run_id = run_id
        self._cursor: str | None = None
        self.seen = 0
        self._began = time.monotonic()
        self._rows: dict[str, list[Mapping[str, dg.MetadataValue[Any]]]] = {}

    def tell(self) -> bool:
        """Print what is new; return whether the run has ended."""
        run = self._instance.get_run_by_id(self._run_id)
        # A first sync has thousands of entries, and is looked at once a second.
        new = self._instance.get_records_for_run(self._run_id, self._cursor)
        for record in new.records:
            self._tell(record.event_log_entry)
        self._cursor = new.cursor
        self.seen += len(new.records)
        if run is not None and run.is_failure_or_canceled:
            raise SystemExit(f"The demo failed: run {self._run_id} of {run.job_name} did.")
        has_ended = run is not None and run.is_success
        if has_ended and self._rest:
            self._print(line_of_others(self._rest))
        return has_ended

    def _tell(self, entry: dg.EventLogEntry) -> None:
        event = entry.dagster_event
        if event is None:
            if int(entry.level) >= logging.WARNING:
                self._print(entry.user_message)
        elif event.is_step_materialization:
            found = event.step_materialization_data.materialization
            self._rows.setdefault(found.asset_key.path[-1], []).append(found.metadata)
        elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            self._check(event.asset_check_evaluation_data)
        elif event.is_step_success and event.step_key:
            self._finish(event.step_key.removeprefix("klaviyo__"))
        elif event.is_failure:
            self._print(event.message or "")

    def _finish(self, name: str) -> None:
        """Print what became of a stream, or keep it for the line of the others."""
        found = self._rows.pop(name, [])
        if name == PAGE.stem:
            self._print(f"open {PAGE.relative_to(ROOT)} in a browser")
        elif name not in self._shown:
            self._rest += found
        elif found:
            self._print(line_of(name, found))

    def _check(self, found: dg.AssetCheckEvaluation) -> None:
        self.checks["green" if found.passed else "other"] += 1
        if not found.passed or found.check_name == "complete":
            self._print(f"{found.asset_key.path[-1]} {found.check_name}: {found.description}")

    def _print(self, text: str) -> None:
        print(f"   {format_seconds(time.monotonic() - self._began):>9}  {text}", flush=True)


def add_up(found: Sequence[Mapping[str, dg.MetadataValue[Any]]], label: str) -> int:
    """Return the sum of one number of several materializations."""
    return sum(int(each[label].value) for each in found if label in each)


def line_of_others(found: Sequence[Mapping[str, dg.MetadataValue[Any]]]) -> str:
    """Return what became of the streams that are not shown one by one."""
    streams = format_quantity(len(found), "other stream")
    requests = format_quantity(add_up(found, "klaviyo/requests"), "request")
    return f"{streams:<{NAME_WIDTH}} {requests}"


def line_of(name: str, found: Sequence[Mapping[str, dg.MetadataValue[Any]]]) -> str:
    """Return what became of a stream in one run: what was read, and what is there now."""

    def number(label: str) -> int:
        return add_up(found, label)

    if len(found) > 1:
        rows = format_quantity(number("dagster/partition_row_count"), "row")
        report = STREAMS[name].source
        period = report.period if isinstance(report, ReportEndpoint) else "day"
        return f"{name:<{NAME_WIDTH}} {format_quantity(len(found), period)}, {rows}"
    read, twice = number("klaviyo/records_read"), ""
    if (repeats := read - number("klaviyo/rows_written")) > 0:
        twice = f" ({repeats:,} came twice)"
    in_table = f"{format_quantity(number('dagster/row_count'), 'row')} in the table"
    told_of = [f"{format_quantity(read, 'record')} read{twice}", in_table]
    if requests := number("klaviyo/requests"):
        told_of.append(format_quantity(requests, "request"))
    return f"{name:<{NAME_WIDTH}} {', '.join(told_of if requests else told_of[1:])}"


def follow(
    instance: dg.DagsterInstance, run_id: str, shown: Collection[str] = STREAMS
) -> Counter[str]:
    """Print a run until it ends well; return the results of its checks."""
    teller = Teller(instance, run_id, shown)
    for _ in waiting(lambda: teller.seen):
        if teller.tell():
            return teller.checks
    raise SystemExit(
        f"The demo failed: run {run_id} did nothing for {format_seconds(PATIENCE_SECONDS)}."
    )


def follow_backfill(instance: dg.DagsterInstance, backfill_id: str) -> Counter[str]:
    """Print the runs of a backfill until it ends well; return the results of their checks."""
    tellers: dict[str, Teller] = {}
    of_it = dg.RunsFilter(tags={"dagster/backfill": backfill_id})
    for _ in waiting(lambda: sum(each.seen for each in tellers.values())):
        for run in instance.get_runs(of_it):
            tellers.setdefault(run.run_id, Teller(instance, run.run_id)).tell()
        backfill = instance.get_backfill(backfill_id)
        status = backfill.status.value if backfill is not None else ""
        if status == "COMPLETED_SUCCESS":
            return sum((each.checks for each in tellers.values()), Counter[str]())
        if status in {"COMPLETED_FAILED", "FAILED", "CANCELED"}:
            break
    raise SystemExit(f"The demo failed: backfill {backfill_id} did not end well.")


# What is there in the end


def show_tables() -> None:
    """Print what was stored: relation, rows, columns."""
    with duckdb.connect(str(DATABASE), read_only=True) as database:
        names = database.execute(
            "SELECT table_name, count(*) FROM information_schema.columns GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        print(f"== Stored in {DATABASE.relative_to(ROOT)}")
        print(f"   {'relation':<{NAME_WIDTH}}{'rows':>10}{'columns':>10}")
        for name, columns in names:
            ((rows,),) = database.execute(f'SELECT count(*) FROM "{name}"').fetchall()
            print(f"   {name:<{NAME_WIDTH}}{rows:>10,}{columns:>10}")


def show_query() -> None:
    """Print the sample query as it can be pasted into a shell, and its result."""
    print(f"\n== A query: paste it into a shell in this folder\n\n{QUERY}\n", flush=True)
    subprocess.run(["/bin/sh", "-c", QUERY], cwd=ROOT, check=True)


def show_ui(environment: Mapping[str, str], port: str) -> None:
    """Keep the Dagster UI and daemon up until Ctrl-C."""
    print()
    with dagster(environment, port):
        print(f"The UI is on http://127.0.0.1:{port}, schedules and sensors on; Ctrl-C ends it.")
        print(f"What Dagster says goes into {LOG.relative_to(ROOT)}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
