"""First syncs that many tests begin with: made once, and copied for each equal account after that.

The sandbox makes an account of its configuration alone, so equal ones leave equal files. Half of
what a test of one small report costs is the sync before it.
"""

import os
import shutil
from pathlib import Path

from klaviyo_assets_tests.e2e.home import Home

SEEDS: dict[tuple[Path, str, str], Path] = {}
"""Where the copies lie, by all that tells one first sync from another."""


def sync_or_copy(home: Home, *streams: str, story: str = "") -> None:
    """Sync streams in a home in which nothing has happened; copy what an equal one left, if any.

    The account must be as its configuration has it; where tests change it first, `story` names what
    all of them do alike. The home moves to a folder where it is found
    by absolute path as before, because that is how views name their files; the journal is emptied.
    """
    settings = sorted(home.settings.items())
    equal = repr((home.account.sandbox.service.config, home.account.now, settings, streams, story))
    known = (home.dagster_template, home.root.name, equal)
    place = SEEDS.get(known, home.dagster_template.parent / f"seed-{len(SEEDS)}")
    # The emptied folder stays: the next home of the test is named by how many there are.
    shutil.rmtree(home.dagster_home)
    home.root = place / "home"
    if known in SEEDS:
        shutil.rmtree(home.root)
        shutil.copytree(place / "seed", home.root, copy_function=copy_or_link)
    else:
        shutil.copytree(home.dagster_template, home.dagster_home)
        run = home.sync(*streams)
        assert run.success, run.failures
        shutil.copytree(home.root, place / "seed", copy_function=copy_or_link)
        SEEDS[known] = place
    home.account.clear_journal()


def copy_or_link(source: str, target: str) -> None:
    """Copy a file; link the published database, which is replaced and never written to.

    It is known as the published one by its inode: another would be rebuilt by the next run.
    """
    if source.endswith("klaviyo.duckdb"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)
