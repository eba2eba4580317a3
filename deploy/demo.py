"""The demo: a sandbox Klaviyo, every asset through Dagster, what was stored, a query, the UI.

Run by `make demo`, which prepares the environment and an empty `./demo/`; nothing outside that
folder is touched, so that a later account of your own starts clean.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import duckdb

from klaviyo_assets.streams import COLLECTIONS, REPORTS

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
DATABASE = DEMO / "data" / "klaviyo.duckdb"
KEY = "pk_demo_0123456789abcdef0123456789abcdef"
ZONE = "Europe/Copenhagen"
SCALE = "50"
"""The sandbox's rate limits times this, and ours: a demo need not wait for real minutes."""

QUERY = """
SELECT metric_name AS metric,
       count(*) AS events,
       count(DISTINCT profile_id) AS people,
       round(sum(TRY_CAST(event_properties ->> '$."$value"' AS DOUBLE)), 2) AS value,
       max(datetime)::DATE AS latest
FROM klaviyo.events_detailed
WHERE datetime < now()
GROUP BY ALL
ORDER BY events DESC
LIMIT 8"""

_OURS = re.compile(r" - (INFO|WARNING|ERROR) - .*?[0-9a-f-]{36} - (?:klaviyo__\w+ - )?(.*)")


def main() -> int:
    """Run the demo; return 0 if every asset was stored."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ui", default="1", help="0: end after the sample query")
    options.add_argument("--port", default="3000", help="where the UI listens")
    wanted = options.parse_args()
    # A shell that starts this in the background has SIGINT ignored; SIGTERM is what others send.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    DEMO.mkdir(exist_ok=True)
    with sandbox() as url:
        environment = settings(url)
        print(f"\nA sandbox Klaviyo listens on {url}\n")
        collections = ",".join(f"klaviyo/{stream.name}" for stream in COLLECTIONS)
        for title in ("First sync: every collection", "Second sync: only what is new"):
            materialize(title, environment, "--select", collections)
        reports = ",".join(f"klaviyo/{stream.name}" for stream in REPORTS)
        for partition in partitions():
            title = f"Reports, partition {partition}"
            materialize(title, environment, "--select", reports, "--partition", partition)
        show_tables()
        show_query()
        if wanted.ui != "0":
            show_ui(environment, wanted.port)
    return 0


@contextmanager
def sandbox() -> Generator[str]:
    """Run the sandbox in a process of its own; yields its URL, ends it by its own pid."""
    command = [sys.executable, "-m", "klaviyo_assets", "sandbox", "--port", "0", "--size", "demo"]
    command += ["--key", KEY, "--rate-limit-scale", SCALE, "--timezone", ZONE]
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
        "KLAVIYO_DATA_DIR": str(DEMO / "data"),
        "KLAVIYO_STATE_DIR": str(DEMO / "state"),
        "KLAVIYO_RATE_LIMIT_SCALE": SCALE,
        "PYTHONUNBUFFERED": "1",
        # Dagster says of some of its own features that they are in beta.
        "PYTHONWARNINGS": "ignore",
    }


def partitions() -> list[str]:
    """Return the last two days with campaigns, of the revenue metric, as Dagster names them."""
    with duckdb.connect(str(DATABASE), read_only=True) as database:
        found = database.execute(
            "SELECT DISTINCT (c.send_time AT TIME ZONE a.timezone)::DATE AS day, m.id "
            "FROM klaviyo.campaigns AS c, klaviyo.accounts AS a, "
            "(SELECT min(id) AS id FROM klaviyo.metrics WHERE name = 'Placed Order') AS m "
            "WHERE day < (now() AT TIME ZONE a.timezone)::DATE ORDER BY day DESC LIMIT 2"
        ).fetchall()
    return [f"{day}|{metric}" for day, metric in reversed(found)]


def materialize(title: str, environment: dict[str, str], *selection: str) -> None:
    """Materialize assets with Dagster's own command; print our lines as they come."""
    print(f"== {title}: dagster asset materialize", flush=True)
    command = [sys.executable, "-m", "dagster", "asset", "materialize", *selection]
    command += ["-m", "klaviyo_assets.definitions"]
    began, lines = monotonic(), list[str]()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    for line in process.stdout or ():
        lines.append(line)
        if found := _OURS.search(line):
            print(f"   {monotonic() - began:5.1f} s  {found.group(2).strip()}", flush=True)
    if process.wait() != 0:
        raise SystemExit("".join(lines[-60:]) + "\nThe demo failed; see above.")
    print(f"   done in {monotonic() - began:.1f} s\n", flush=True)


def show_tables() -> None:
    """Print what was stored: relation, rows, columns."""
    with duckdb.connect(str(DATABASE), read_only=True) as database:
        names = database.execute(
            "SELECT table_name, count(*) FROM information_schema.columns "
            "WHERE table_schema = 'main' GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        print(f"== Stored in {DATABASE.relative_to(ROOT)}")
        print(f"   {'relation':<34}{'rows':>10}{'columns':>10}")
        for name, columns in names:
            ((rows,),) = database.execute(f'SELECT count(*) FROM "{name}"').fetchall()
            print(f"   klaviyo.{name:<26}{rows:>10,}{columns:>10}")


def show_query() -> None:
    """Print the sample query and its result."""
    print(f"\n== A query\n{QUERY}\n", flush=True)
    with duckdb.connect(str(DATABASE), read_only=True) as database:
        print(database.sql(QUERY))


def show_ui(environment: dict[str, str], port: str) -> None:
    """Keep the Dagster UI and daemon up until Ctrl-C."""
    print(f"\nThe Dagster UI comes up on http://127.0.0.1:{port}; Ctrl-C ends it.", flush=True)
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml"]
    command += ["-h", "127.0.0.1", "-p", port]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait(timeout=30)


if __name__ == "__main__":
    sys.exit(main())
