"""The rules of the house that no linter knows: pins, versions, layers, clean files.

The shape of the code (sizes, names, purity) is checked in test_shape.py, imports by `make lint`.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import klaviyo_assets
from klaviyo_assets_tests.contract.checkout import (
    ROOT,
    parse_package,
    read_import_contracts,
    tracked_files,
)

# Paths of one machine, and hosts of package registries: neither may be in a file of the project.
NOT_OURS = re.compile(
    r"/(?:work|farm|root|tmp|home|Users|opt)/\w"
    r"|\b(?:pypi|pythonhosted|npmjs|debian)\.(?:org|com)"
    r"|--(?:extra-)?index-url"
)


def project() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins() -> dict[str, str]:
    """Return the releases of constraints.txt by normalized name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.split("==") for line in lines if line and not line.startswith("#")]
    return dict(pinned)


def releases() -> dict[str, str]:
    """Return the changelog's text by version, newest first; what is unreleased is left out."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    parts = re.split(r"^## \[(\d[^]]*)\] - \d{4}-\d{2}-\d{2}$", changelog, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def applies_here(requirement: Requirement, extra: str) -> bool:
    """Tell whether a requirement applies on this machine when one extra is requested."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def needs(requirement: Requirement) -> Iterator[Requirement]:
    """Yield what an installed package needs, by its own word; nothing when it is not installed."""
    try:
        stated = distribution(requirement.name).requires or []
    except PackageNotFoundError:
        return
    for line in stated:
        need = Requirement(line)
        if any(applies_here(need, extra) for extra in (requirement.extras or {""})):
            yield need


def all_needs() -> dict[str, Requirement]:
    """Return every package the project needs, by normalized name, however far down."""
    facts = project()
    lines = [*facts["build-system"]["requires"], *facts["project"]["dependencies"]]
    for extra in facts["project"]["optional-dependencies"].values():
        lines += extra
    waiting = [Requirement(line) for line in lines]
    found: dict[str, Requirement] = {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found:
            found[name] = requirement
            waiting += needs(requirement)
    return found


def test_every_dependency_is_pinned() -> None:
    """A fresh install can take no release that the tests have not seen."""
    assert sorted(all_needs().keys() - pins().keys()) == []


def test_pins_satisfy_the_stated_ranges() -> None:
    """A pin that pyproject.toml's ranges refuse would make every install fail."""
    pinned = pins()
    refused = {
        name: (str(need), pinned[name])
        for name, need in all_needs().items()
        if name in pinned and not need.specifier.contains(pinned[name], prereleases=True)
    }
    assert refused == {}


def test_what_is_installed_is_what_is_pinned() -> None:
    """The tests run with the releases that a user gets."""
    pinned = pins()
    here = {canonicalize_name(found.name): found.version for found in distributions()}
    strays = {name: here[name] for name in here.keys() & pinned if here[name] != pinned[name]}
    assert strays == {}


def test_the_versions_agree() -> None:
    """The changelog's newest release is the version that the package and its metadata carry."""
    assert next(iter(releases())) == klaviyo_assets.__version__
    facts = project()
    assert facts["project"]["dynamic"] == ["version"]
    assert facts["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "klaviyo_assets.__version__"


def test_every_release_says_what_happens_to_the_data() -> None:
    """A reader of tables finds a Data heading and the Klaviyo revision in each release."""
    for text in releases().values():
        assert "### Data" in text
        assert re.search(r"revision `\d{4}-\d{2}-\d{2}`", text)


def test_every_module_has_a_layer() -> None:
    """A new room is placed in the wall, or stands apart by name, before it lands."""
    contract = read_import_contracts()["importlinter:contract:layers"]
    placed = set(re.findall(r"\w+", contract["layers"] + contract["exhaustive_ignores"]))
    assert contract["exhaustive"] == "True"
    assert {module.room for module in parse_package()} - {""} - placed == set()


def test_dagster_finds_the_same_location_both_ways() -> None:
    """pyproject.toml hides workspace.yaml from `dagster dev` without -w, so both say the same."""
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text(encoding="utf-8"))
    location = workspace["load_from"][0]["python_module"]
    stated = project()["tool"]["dagster"]
    assert location["module_name"] == stated["module_name"]
    assert location["location_name"] == stated["code_location_name"]


@pytest.mark.parametrize("flags", [[], ["-w", "workspace.yaml"]], ids=["pyproject", "workspace"])
def test_the_code_location_loads_without_settings(flags: list[str], tmp_path: Path) -> None:
    """Dagster validates the definitions with no environment variable set."""
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", *flags],
        cwd=ROOT,
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Validation successful for code location klaviyo_assets" in output


WATCHED = """
import gc, importlib, logging, os, sys

def state():
    names = ("", "urllib3", "requests", "dagster")
    levels = {name: logging.getLogger(name).level for name in names}
    return (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count(), dict(os.environ), levels)

# What others do at their import is theirs.
for name in sys.argv[1].split(","):
    importlib.import_module(name)
import pyarrow
before, pool = state(), pyarrow.default_memory_pool().backend_name
import klaviyo_assets.definitions
assert state() == before, (before, state())
assert pyarrow.default_memory_pool().backend_name == pool
"""


def test_importing_the_code_location_changes_nothing_of_the_process() -> None:
    """Collector, environment, logger levels and Arrow's memory are as before, for other code."""
    others = "dagster,pyarrow,urllib3,deltalake"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCHED, others],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_code_location_reports_an_unknown_setting_when_it_loads() -> None:
    """Once, with the nearest known name and without the value."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import klaviyo_assets.definitions"],
        env={**os.environ, "KLAVIYO_STRAT_DATE": "2026-01-01"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.count("KLAVIYO_STRAT_DATE") == 1
    assert "did you mean KLAVIYO_START_DATE?" in done.stderr
    assert "2026-01-01" not in done.stderr


def test_no_file_names_a_machine_or_a_registry() -> None:
    """The project installs anywhere: no path of a developer's machine, no registry of its own."""
    found: list[str] = []
    for path in tracked_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if NOT_OURS.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []
