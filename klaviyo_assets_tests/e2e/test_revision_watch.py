"""`klaviyo-assets revisions`: those that are known, and what a folder of packages has newer."""

import json
from pathlib import Path
from subprocess import CompletedProcess
from zipfile import ZipFile

import pytest

from klaviyo_assets.cli.revisions import read_wheel_revision
from klaviyo_assets.settings import SUPPORTED_REVISIONS
from klaviyo_assets_tests.e2e.test_command_line import run_command

METADATA = "Metadata-Version: 2.1\nName: klaviyo-api\nVersion: 99.0.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def make_wheel(folder: Path, revision: str) -> Path:
    """Write a release 99 of the SDK that speaks a revision; return the wheel."""
    wheel = folder / "klaviyo_api-99.0.0-py3-none-any.whl"
    with ZipFile(wheel, "w") as packed:
        packed.writestr("klaviyo_api/wrapper.py", f'class K:\n    _REVISION = "{revision}"\n')
        packed.writestr("klaviyo_api-99.0.0.dist-info/METADATA", METADATA)
        packed.writestr("klaviyo_api-99.0.0.dist-info/WHEEL", WHEEL)
        packed.writestr("klaviyo_api-99.0.0.dist-info/RECORD", "")
    return wheel


def watch(packages: Path, *words: str) -> CompletedProcess[str]:
    """Run `revisions` where pip finds the packages of a folder alone."""
    return run_command("revisions", *words, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(packages))


def test_a_newer_release_is_found_by_its_content(tmp_path: Path) -> None:
    """The newest SDK is downloaded by pip, and the revision in it compared with ours."""
    make_wheel(tmp_path, "2027-04-15")
    done = watch(tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["revision"] for each in found["revisions"]] == list(SUPPORTED_REVISIONS)
    assert [each["is_used"] for each in found["revisions"]].count(True) == 1
    assert "translations" in found["revisions"][-1]["only_here"]
    assert found["newest"] == {"release": "99.0.0", "revision": "2027-04-15", "problem": None}
    assert found["is_newer"] is True


def test_without_a_release_the_known_revisions_are_listed(tmp_path: Path) -> None:
    """If pip finds no release the command says so and ends with 0."""
    done = watch(tmp_path)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert all(any(each.startswith(one) for each in lines) for one in SUPPORTED_REVISIONS)
    assert lines[-1] == (
        "Klaviyo's newest revision is not known: "
        "pip finds no release (no network, or an index without it)"
    )


@pytest.mark.parametrize("revision", SUPPORTED_REVISIONS)
def test_a_wheel_names_its_revision(tmp_path: Path, revision: str) -> None:
    """The constant in the wheel counts, and not its number; a file that is no wheel has none."""
    assert read_wheel_revision(make_wheel(tmp_path, revision)) == revision
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"no zip")
    assert read_wheel_revision(broken) is None
