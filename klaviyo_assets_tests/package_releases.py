"""Packages in other releases than ours, for tests that run users' tools in processes of their own.

They are installed from PyPI once, into a folder of this environment that goes when it goes. Where
PyPI cannot be reached, the tests that need them are skipped.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

RELEASES_FOLDER = Path(sys.prefix) / "package-releases"


def install_package(requirement: str) -> Path:
    """Return the folder of a package without its dependencies, which is installed where missing.

    It is renamed into place, so that several workers can do this at once. Skips the test where the
    package cannot be had.
    """
    target = RELEASES_FOLDER / requirement
    if target.exists():
        return target
    RELEASES_FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=RELEASES_FOLDER) as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "1"]
        command += ["--only-binary", ":all:", "--target", f"{folder}/made", requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode != 0:
            pytest.skip(f"{requirement} cannot be had: {done.stderr.strip()[-200:]}")
        try:
            Path(folder, "made").rename(target)
        except OSError:
            # Another worker was first.
            assert target.exists()
    return target
