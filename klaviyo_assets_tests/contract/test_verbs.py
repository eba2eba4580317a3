"""What a fresh clone offers before any of our code runs: the make verbs and Dagster's instance."""

import shutil
import subprocess
from pathlib import Path

import dagster as dg
import pytest

from klaviyo_assets_tests.contract.checkout import ROOT

VERBS = ("install", "demo", "test", "dev", "lint", "bench", "clean")


@pytest.mark.parametrize("verb", VERBS)
def test_make_knows_the_verb_and_explains_it(verb: str) -> None:
    """Every verb of the README is a target of make, and a line of `make help`."""
    planned = subprocess.run(
        ["make", "--dry-run", verb], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert planned.returncode == 0, planned.stderr
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, check=True, text=True)
    assert [line for line in listed.stdout.splitlines() if line.startswith(f"{verb} ")]


def test_an_old_python_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Python 3.10 gets told what is needed and how to name another, and nothing is installed."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.9 || exit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "--silent", "install", "PYTHON=./old-python"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
    )
    said = done.stderr.splitlines()[0]
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in said
    assert "Python 3.10.9" in said
    assert "make PYTHON=" in said
    assert not (tmp_path / ".venv").exists()


def test_the_instance_takes_turns_and_frees_what_the_dead_held(tmp_path: Path) -> None:
    """`make dev` runs with one step per pool, one run per account, and slots freed after a kill."""
    shutil.copy(ROOT / "deploy" / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.default_pool_limit == 1
        assert concurrency.run_queue_config
        limits = concurrency.run_queue_config.tag_concurrency_limits or []
        assert [(limit["key"], limit["limit"]) for limit in limits] == [("klaviyo/account", 1)]
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] > 0
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
