"""Where the lake and the state may lie: what works there is proven, what does not is refused."""

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from klaviyo_assets.cli.command import main
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.processes import SyncTask, build_sync_task, run_task
from klaviyo_assets_tests.e2e.run_log import RunResult, read_run
from klaviyo_assets_tests.forkserver import FORKSERVER

NOBODY = 61_234
"""A user that no machine knows by name, as OpenShift runs containers."""

ODD_NAMES = [
    "a b",
    "50%",
    "#1;&|=:,",
    "[x]*{y}",
    'double "quotes"',
    "single 'quotes'",
    "Ætna 日本",
    "-dash",
    "$HOME",
    "year=2026",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_folder_of_an_odd_name_works(home: Home, name: str) -> None:
    """Both engines find what was written, after a second commit too."""
    home.other_data_dir = home.root / name / "data"
    for config in (None, {"sync_mode": "full_refresh_append"}):
        run = home.sync("lists", "metrics", "events", config=config)
        assert run.success, run.failures
    assert home.sync("events_detailed").success
    assert set(home.lake_ids("lists")) == set(home.ids("lists")) == home.account.true_ids("lists")
    assert set(home.lake_ids("events")) == set(home.ids("events_detailed"))


BAD_FOLDERS = [
    "s3://bucket/lake",
    "gs://bucket/lake",
    "file:///mnt/lake",
    "memory://lake",
    "s3:/bucket/lake",
    "~/lake",
    "my%20lake",
    "what?",
    "C:\\lake",
    "two\nlines",
]


@pytest.mark.parametrize("stream", ["lists", "events_detailed"])
@pytest.mark.parametrize("value", BAD_FOLDERS)
def test_a_folder_that_cannot_work_is_refused_before_anything_is_made(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str, value: str
) -> None:
    """Named with its value and what is allowed; no folder, no request, the default untouched."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    home.settings["KLAVIYO_DATA_DIR"] = value
    run = home.sync(stream)
    assert f"KLAVIYO_DATA_DIR={value!r} cannot be used" in run.failures[stream]
    assert sorted(tmp_path.iterdir()) == before
    assert home.account.request_counts().total() == 0


def test_a_relative_folder_lies_where_the_process_was_started(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole path counts: below a folder named `my%20project` nothing would be found again."""
    project = home.root / "my%20project"
    project.mkdir()
    monkeypatch.chdir(project)
    home.settings["KLAVIYO_DATA_DIR"] = "data"
    run = home.sync("lists")
    assert "my%20project/data" in run.failures["lists"]
    assert "KLAVIYO_DATA_DIR" in run.failures["lists"]
    for name, value in home.variables.items():
        monkeypatch.setenv(name, value)
    assert main(["publish"]) == 2
    assert "my%20project/data" in capsys.readouterr().err
    assert list(project.iterdir()) == []
    assert home.account.request_counts().total() == 0


@pytest.fixture
def open_folder() -> Generator[Path]:
    """Give a folder that belongs to nobody by name, whom pytest's own folders keep out."""
    folder = Path(tempfile.mkdtemp(prefix="klaviyo-assets-"))
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that nobody knows")
@pytest.mark.parametrize("is_set", [False, True], ids=["unset", "set"])
def test_without_a_home_the_state_folder_is_to_be_set(
    home: Home, open_folder: Path, *, is_set: bool
) -> None:
    """No HOME and a user without a name: the variable is named; with it, all works."""
    shutil.move(home.root, open_folder / "home")
    home.root = open_folder / "home"
    if not is_set:
        home.settings["KLAVIYO_STATE_DIR"] = ""
    for path in [home.root, *home.root.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    process = FORKSERVER.Process(target=as_nobody, args=(build_sync_task(home, "lists"),))
    process.start()
    process.join(300)
    run = last_run(home)
    assert run.success is is_set, run.failures
    if not is_set:
        assert "KLAVIYO_STATE_DIR is not set" in run.failures["lists"]
        assert "HOME" in run.failures["lists"]
        assert "defect" not in run.failures["lists"]
        assert home.account.request_counts().total() == 0


def as_nobody(orders: SyncTask) -> None:
    """Be a process of a user without a name and without a home."""
    # Python finds its codecs in its own folder, which this user may not be able to read.
    "loaded".encode("idna")
    os.environ.pop("HOME", None)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    os.chdir("/")
    run_task(orders)


def last_run(home: Home) -> RunResult:
    """Return the newest run of a home."""
    with open_instance(home.dagster_home) as instance:
        (run,) = instance.get_runs(limit=1)
        return read_run(instance, run.run_id, success=run.is_success)
