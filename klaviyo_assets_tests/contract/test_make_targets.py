"""What a fresh clone offers before any of our code runs: the make verbs and Dagster's instance."""

import re
import shutil
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from unittest.mock import patch

import dagster as dg
import pytest

from klaviyo_assets_tests.contract.checkout import ROOT

VERBS = ("install", "demo", "test", "check", "dev", "lint", "bench", "docs", "clean")


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
    """Python 3.10 is refused with the needed version and how to set another."""
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
    message = done.stderr.splitlines()[0]
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in message
    assert "Python 3.10.9" in message
    assert "make PYTHON=" in message
    assert not (tmp_path / ".venv").exists()


def test_the_instance_runs_four_at_once_and_notices_the_dead(tmp_path: Path) -> None:
    """`make dev` runs with a bound on runs, no pool that a killed run could hold, and a monitor."""
    shutil.copy(ROOT / "deploy" / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.default_pool_limit is None
        assert concurrency.run_queue_config
        assert concurrency.run_queue_config.max_concurrent_runs == 4
        limits = concurrency.run_queue_config.tag_concurrency_limits
        assert {"key": "klaviyo/report", "limit": 3} in limits
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] > 0
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled


def test_the_demo_installs_nothing_that_only_tests_need() -> None:
    """`make demo` and `make dev` need the product alone; `make test` brings pytest with it."""
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    prerequisites = dict(re.findall(r"^(\w+): (.*?) *##", rules, flags=re.MULTILINE))
    assert prerequisites["demo"] == prerequisites["dev"] == "install"
    assert prerequisites["install"] == "$(VENV)/.installed"
    assert "$(VENV)/.installed-test" in prerequisites["test"].split()
    (product,) = re.findall(
        r"^\$\(VENV\)/\.installed: \$\(REQ.*?\n\n", rules, re.MULTILINE | re.DOTALL
    )
    assert "[test]" not in product


def test_the_demo_leads_to_an_account_whose_reports_are_of_the_revenue_metric() -> None:
    """It names `init` next, which proposes `auto`: with no setting all metrics are fetched."""
    demo = (ROOT / "deploy" / "demo.py").read_text(encoding="utf-8")
    (following,) = re.findall(r'^NEXT = f"""(.*?)^ *README', demo, re.MULTILINE | re.DOTALL)
    assert "klaviyo-assets init && make dev" in following


def test_the_demo_gives_up_only_when_nothing_happens() -> None:
    """A machine that needs ten minutes for what takes one elsewhere is no failure."""
    spec = spec_from_file_location("demo", ROOT / "deploy" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    demo = module_from_spec(spec)
    spec.loader.exec_module(demo)
    clock = iter(range(0, 10_000, 200))
    told = iter([0, 1, 2, 3, 4, 5])
    with patch.object(demo, "time") as time:
        time.monotonic = lambda: next(clock)
        looks = sum(1 for _ in demo.waiting(lambda: next(told, 5)))
    assert looks > 5
