"""The files that GitHub and pre-commit read: they call what exists, and cover what we promise."""

import re
import subprocess
import sys
import tomllib
from typing import Any

import yaml

from klaviyo_assets_tests.contract.checkout import ROOT


def load(name: str) -> Any:  # noqa: ANN401 - a YAML document
    """Return a YAML file of the checkout."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_ci_covers_every_python_that_we_promise() -> None:
    """Each job runs on the oldest supported Python up to 3.14, and on none twice."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = int(project["requires-python"].removeprefix(">=3."))
    wanted = [f"3.{minor}" for minor in range(oldest, 15)]
    for job in load(".github/workflows/ci.yml")["jobs"].values():
        assert job["strategy"]["matrix"]["python"] == wanted


def test_ci_calls_the_commands_of_a_developer() -> None:
    """CI does nothing that a developer cannot do with the same command."""
    jobs = load(".github/workflows/ci.yml")["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert commands == ["make check", ".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_hooks_run_what_the_environment_pins() -> None:
    """Hooks are local: no release of ruff beside the one of constraints.txt."""
    [repo] = load(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    hooks = {hook["id"]: hook["entry"] for hook in repo["hooks"]}
    assert all(entry.startswith(".venv/bin/") for entry in hooks.values())
    assert "ruff format" in hooks["ruff-format"]
    assert "ruff check" in hooks["ruff-check"]


def test_the_bug_form_asks_for_what_our_verbs_print() -> None:
    """Each command of the form is a verb of the console, with options that it has."""
    form = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8")
    commands = re.findall(r"Output of: klaviyo-assets (\w[\w-]*)([^\"]*)", form)
    assert {verb for verb, _ in commands} >= {"status", "verify", "plan"}
    for verb, rest in commands:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "klaviyo_assets", verb, "--help"],
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert set(re.findall(r"--[\w-]+", rest)) <= set(re.findall(r"--[\w-]+", done.stdout))


def test_the_bug_form_is_one_that_github_takes() -> None:
    """Name, description and body are there, and each field has an id of its own and a label."""
    form = load(".github/ISSUE_TEMPLATE/bug.yml")
    assert {"name", "description", "body"} <= form.keys()
    fields = [each for each in form["body"] if each["type"] != "markdown"]
    assert len({each["id"] for each in fields}) == len(fields)
    assert all(each["attributes"]["label"] for each in fields)
