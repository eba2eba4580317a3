"""Peak memory of a first sync of events, by their number: it must not grow with them.

`python -m klaviyo_assets_tests.e2e.memory` is the long form: 200,000 and 1,000,000 events by
Dagster's own command, within a tenth of each other. The test suite has the short form.
"""

import argparse
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home, create_dagster_home
from klaviyo_assets_tests.e2e.processes import (
    SyncTask,
    build_sync_task,
    run_task,
    start_dagster_command,
)
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.forkserver import FORKSERVER

ACCOUNT_DAYS = 365


def measure_forked_peak(home: Home) -> int:
    """Return the peak memory in bytes of a first sync of events in a forked process."""
    ours, theirs = FORKSERVER.Pipe()
    process = FORKSERVER.Process(
        target=run_and_report_peak, args=(build_sync_task(home, "events"), theirs)
    )
    process.start()
    theirs.close()
    code, peak = ours.recv()
    process.join()
    assert code == 0
    return peak


def run_and_report_peak(task: SyncTask, report: Connection) -> None:
    """Carry out the orders, then send the exit code and the peak of this process in bytes."""
    code = run_task(task)
    report.send((code, getrusage(RUSAGE_SELF).ru_maxrss * 1024))


def measure_command_peak(home: Home) -> int:
    """Return the peak memory in bytes of a first sync of events by Dagster's own command."""
    child = start_dagster_command(home, "asset", "materialize", "--select", "klaviyo/events")
    _, status, usage = os.wait4(child.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return usage.ru_maxrss * 1024


def main() -> int:
    """Print the peak for each number of events; exit code 1 if it grows by more than allowed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, nargs="+", default=[200_000, 1_000_000])
    options.add_argument("--growth", type=float, default=0.10, help="allowed part")
    wanted = options.parse_args()
    peaks: list[int] = []
    for events in wanted.events:
        with (
            TemporaryDirectory() as folder,
            open_sandbox_account(events=events, days=ACCOUNT_DAYS) as account,
        ):
            dagster_template = Path(folder, "blank")
            dagster_template.mkdir()
            create_dagster_home(dagster_template, ROOT / "deploy" / "dagster.yaml")
            home = Home(
                account=account, root=Path(folder, "home"), dagster_template=dagster_template
            )
            peaks.append(measure_command_peak(home))
            stored = home.row_count("events")
        sys.stdout.write(f"{stored:>10,} events: {peaks[-1] / 2**20:>6.0f} MiB at the peak\n")
    growth = max(peaks) / peaks[0] - 1
    sys.stdout.write(f"growth: {growth:.1%}, allowed {wanted.growth:.0%}\n")
    return int(growth > wanted.growth)


if __name__ == "__main__":
    sys.exit(main())
