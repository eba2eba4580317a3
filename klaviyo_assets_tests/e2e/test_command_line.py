"""The console command as a program: help, completion, `.env`, pipes, Ctrl-C."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from klaviyo_assets import __version__
from klaviyo_assets.cli.terminal import GRACE_SECONDS
from klaviyo_assets.cli.verbs import VERBS
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.processes import cpu_seconds
from klaviyo_assets_tests.e2e.test_cli import verb

COMMAND = (sys.executable, "-m", "klaviyo_assets")

NOTHING = (sys.executable, "-c", "pass")

PYTHON_STARTS_OF_HELP = 12
"""Measured: 6. In seconds it would be a promise about the machine."""

UNINTERRUPTIBLE = """
import hashlib, sys
from klaviyo_assets.cli.terminal import call_before_forced_end, end_soon_after_interrupt
with end_soon_after_interrupt("the rest is kept"), call_before_forced_end(lambda: print("told")):
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
"""


def run_command(
    *words: str, folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the console command in a process of its own, with no setting but those given."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("KLAVIYO_")}
    return subprocess.run(
        [*COMMAND, *words],
        cwd=folder,
        env={**plain, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        check=False,
        text=True,
    )


def test_help_comes_at_once() -> None:
    """Help imports nothing of Dagster, Arrow or DuckDB, and takes less CPU than 12 bare Pythons."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], "plan", "--help"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in imported
    assert imported.isdisjoint({"dagster", "duckdb", "numpy", "pandas", "pyarrow", "deltalake"})
    # The least of three: on a busy machine the same work takes more CPU.
    of_help = min(cpu_seconds_of(*COMMAND, "plan", "--help") for _ in range(3))
    assert of_help < PYTHON_STARTS_OF_HELP * min(cpu_seconds_of(*NOTHING) for _ in range(3))


def cpu_seconds_of(*command: str) -> float:
    """Return the CPU time of a command that succeeds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_ordered_and_has_examples(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Verbs stand in sections; each verb's own help shows how it is called."""
    assert verb(home, "--help") == 0
    output = capsys.readouterr().out
    assert output.index("what there is:") < output.index("the lake:") < output.index("erase")
    for each in VERBS:
        assert verb(home, each.name or "", "--help") == 0
        assert f"klaviyo-assets {each.examples[0]}" in capsys.readouterr().out


def test_the_page_of_the_command_line_has_every_verb() -> None:
    """docs/cli.md has a row for each verb, and for no other."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+)`", page, re.MULTILINE) == [
        *(each.name for each in VERBS),
        "sandbox",
    ]


def test_the_version_is_printed(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the program and its version, and nothing else."""
    assert verb(home, "--version") == 0
    assert capsys.readouterr().out == f"klaviyo-assets {__version__}\n"


def test_a_shell_completes_verbs() -> None:
    """The script that `completion` prints calls the program, which returns the verbs."""
    script = run_command("completion", "bash").stdout
    assert "_KLAVIYO_ASSETS_COMPLETE=bash_complete" in script
    answer = run_command(
        _KLAVIYO_ASSETS_COMPLETE="bash_complete", COMP_WORDS="klaviyo-assets se", COMP_CWORD="1"
    )
    assert answer.stdout.split() == ["plain,set-aside"]


def test_settings_come_from_the_env_file(tmp_path: Path) -> None:
    """`.env` in the working folder goes before the environment, `--data-dir` before both."""
    (tmp_path / ".env").write_text("KLAVIYO_DATA_DIR=from_the_file\nKLAVIYO_LOOKBACK_DAYS=x\n")
    refused = run_command("status", folder=tmp_path, KLAVIYO_LOOKBACK_DAYS="3")
    assert refused.returncode == 2
    assert "KLAVIYO_LOOKBACK_DAYS='x' cannot be used" in refused.stderr
    (tmp_path / ".env").write_text("KLAVIYO_DATA_DIR=from_the_file\n")
    found = run_command("verify", folder=tmp_path, KLAVIYO_DATA_DIR="elsewhere")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == (
        "no lake in from_the_file (KLAVIYO_DATA_DIR): nothing was synced into it yet\n"
    )
    for words in (("--data-dir", "mine", "verify"), ("verify", "--data-dir", "mine")):
        assert "no lake in mine (" in run_command(*words, folder=tmp_path).stderr


def test_a_reader_that_has_seen_enough_is_no_failure() -> None:
    """A pipe closed by its reader ends the command with 0 and without output on stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "streams"], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_streams_report_as_json(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """`streams --json` has every stream, and whether it is on."""
    assert verb(home, "streams", "--json") == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed["events"]["scopes"] == ["events:read"]
    assert (listed["events"]["is_on"], listed["reviews"]["is_on"]) == (True, False)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_ends_what_cannot_be_interrupted() -> None:
    """Ctrl-C ends a call that Python cannot interrupt within 2 s, with 130 and a last line.

    Dagster hears of it first, so that no run stays in progress.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-c", UNINTERRUPTIBLE],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    # Only in the call does it use so much; before it, Python would end it by itself.
    begun = cpu_seconds(process.pid)
    while cpu_seconds(process.pid) < begun + 0.2:
        sleep(0.05)
    process.send_signal(signal.SIGINT)
    sent = monotonic()
    told, output = process.communicate(timeout=300)
    # The call itself would take most of an hour; the rest is for a busy machine.
    assert monotonic() - sent < GRACE_SECONDS + 30
    assert process.returncode == 130
    assert told == "told\n"
    assert output.splitlines() == ["the rest is kept", "stopped by Ctrl-C"]
