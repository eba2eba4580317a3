"""The console command and Dagster's own, as a shell calls them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from klaviyo_assets.cli.command import main
from klaviyo_assets.settings import environment_variables
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home

VERBS = (
    "adopt",
    "check",
    "completion",
    "doctor",
    "erase",
    "export",
    "plan",
    "publish",
    "sandbox",
    "set-aside",
    "status",
    "streams",
    "verify",
)


def verb(home: Home, *words: str, **more: str) -> int:
    """Run one verb with the home's settings and no key; return the exit code."""
    variables = {**home.variables, **more}
    del variables["KLAVIYO_API_KEY"]
    with patch.dict(os.environ, variables):
        try:
            return main(words)
        except SystemExit as ended:
            # argparse ends the process by itself, for help and for bad options.
            return int(ended.code or 0)


def shell(
    home: Home, *command: str, has_dagster_home: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a module of Python's as a shell does, in the checkout, with the home's settings."""
    environment = {**os.environ, **home.variables}
    environment.pop("DAGSTER_HOME", None)
    if has_dagster_home:
        environment["DAGSTER_HOME"] = str(home.dagster_home)
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
        text=True,
    )


def test_help_lists_every_setting(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Bare `--help` names each environment variable with what it means."""
    assert verb(home, "--help") == 0
    output = " ".join(capsys.readouterr().out.split())
    for each in environment_variables():
        assert each.name in output
        assert " ".join(each.description.split()) in output


def test_a_verb_tells_of_an_unknown_setting(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """A verb warns of an unknown setting on stderr: the nearest known name, without the value."""
    assert verb(home, "streams", KLAVIYO_STRAT_DATE="2026-01-01") == 0
    output = capsys.readouterr()
    assert "events" in output.out
    assert output.err.startswith("warning: KLAVIYO_STRAT_DATE is set")
    assert "did you mean KLAVIYO_START_DATE?" in output.err
    assert "2026-01-01" not in output.err


@pytest.mark.parametrize("word", VERBS)
def test_every_verb_explains_itself(
    home: Home, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    """`--help` after a verb ends with 0 and a description; bare `--help` lists the verb."""
    assert verb(home, word, "--help") == 0
    assert f"klaviyo-assets {word}" in capsys.readouterr().out
    assert verb(home, "--help") == 0
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [(), ("fetch",), ("verify", "--fast"), ("sandbox", "--size", "x")]
)
def test_a_bad_option_ends_with_two(
    home: Home, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """An unknown verb or option ends with 2 and says how it is used."""
    assert verb(home, *words) == 2
    assert "usage: klaviyo-assets" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["check", "verify", "publish", "status", "streams"])
def test_a_bad_setting_ends_with_two(
    home: Home, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    """A setting that cannot be used ends every verb with 2, its name and what is allowed."""
    assert verb(home, word, KLAVIYO_LOOKBACK_DAYS="some") == 2
    output = capsys.readouterr().err
    assert "KLAVIYO_LOOKBACK_DAYS='some' cannot be used. Allowed: a whole number of days" in output


def test_streams_lists_every_stream(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """`streams` names each stream, its cursor and its scopes, without any lake or key."""
    assert verb(home, "streams") == 0
    listed = capsys.readouterr().out
    for stream in ("accounts", "events_detailed", "global_exclusions", "lists_detailed"):
        assert f"\n{stream} " in f"\n{listed}"
    assert "events:read" in listed


def test_verify_tells_a_sound_lake_from_a_damaged_one(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """`verify` ends with 0 and the row counts for a sound lake, with 1 after a flipped byte."""
    home.sync("profiles")
    capsys.readouterr()
    assert verb(home, "verify") == 0
    output = capsys.readouterr()
    assert "90 rows, version" in output.out
    assert "sound: 1 table, 90 rows" in output.out
    assert output.err == ""
    assert verb(home, "verify", "--json") == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert (table["name"], table["rows"]) == ("profiles", 90)
    (stored,) = (home.data_dir / "lake" / "profiles").glob("*.parquet")
    content = bytearray(stored.read_bytes())
    content[len(content) // 3] ^= 0xFF
    stored.write_bytes(content)
    assert verb(home, "verify") == 1
    assert stored.name in capsys.readouterr().err


def test_publish_brings_a_lost_database_back(home: Home) -> None:
    """After klaviyo.duckdb was deleted, `publish` or the next sync shows everything again."""
    home.sync("lists", "profiles")
    whole = {stream: sorted(home.ids(stream)) for stream in ("lists", "profiles")}
    (home.data_dir / "klaviyo.duckdb").unlink()
    assert verb(home, "publish") == 0
    assert {stream: sorted(home.ids(stream)) for stream in whole} == whole
    (home.data_dir / "klaviyo.duckdb").unlink()
    home.sync("lists")
    assert {stream: sorted(home.ids(stream)) for stream in whole} == whole


def test_publish_follows_a_moved_data_folder(home: Home) -> None:
    """A data folder that was moved is shown from its new place after `publish`."""
    home.sync("lists", "campaigns", "campaigns_detailed")
    whole = {each: sorted(home.ids(each)) for each in ("lists", "campaigns_detailed")}
    moved = home.root / "elsewhere" / "data"
    moved.parent.mkdir()
    home.data_dir.rename(moved)
    home.other_data_dir = moved
    assert verb(home, "publish") == 0
    assert {stream: sorted(home.ids(stream)) for stream in whole} == whole
    run = home.sync("lists", "campaigns")
    assert run.success
    assert run.warnings == ""
    assert sorted(home.ids("campaigns")) == sorted(home.account.true_ids("campaigns"))


@pytest.mark.parametrize("suffix", ["", "/", "/lake"])
def test_publish_writes_views_for_another_mount(
    home: Home, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    """`--lake-root` takes the data folder or the lake's, and a later sync goes on with it."""
    home.sync("lists")
    there = home.root / "there"
    assert verb(home, "publish", "--lake-root", f"{there}{suffix}") == 0
    assert f"files below {there}/lake, in later syncs too" in capsys.readouterr().out
    home.sync("segments")
    assert verb(home, "verify") == 0
    here = home.data_dir
    home.data_dir.rename(there)
    home.other_data_dir = there
    assert sorted(home.ids("lists")) == sorted(home.account.true_ids("lists"))
    assert sorted(home.ids("segments")) == sorted(home.account.true_ids("segments"))
    there.rename(here)
    home.other_data_dir = None
    assert verb(home, "publish") == 0
    assert sorted(home.ids("segments")) == sorted(home.account.true_ids("segments"))
    assert verb(home, "publish", "--lake-root", "there/lake") == 2
    assert "it must begin at the root" in capsys.readouterr().err


def test_publish_shows_what_can_be_read_and_ends_with_one(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table with a damaged log is named, left out, and the exit code says so."""
    home.sync("lists", "segments")
    (commit,) = (home.data_dir / "lake" / "lists" / "_delta_log").glob("*.json")
    commit.write_text("{\n".join(commit.read_text().splitlines()))
    assert verb(home, "publish") == 1
    assert "lists" in capsys.readouterr().err
    assert home.relation_names() == {"segments"}


def test_the_module_and_its_exit_code_reach_the_shell(home: Home) -> None:
    """`python -m klaviyo_assets` is the command: its code and its words come out of the process."""
    home.settings["KLAVIYO_START_DATE"] = "soon"
    done = shell(home, "klaviyo_assets", "verify")
    assert done.returncode == 2
    assert "KLAVIYO_START_DATE='soon' cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_dagsters_own_command_materializes(home: Home) -> None:
    """`dagster asset materialize -m klaviyo_assets.definitions` brings streams and ends with 0.

    Without a DAGSTER_HOME there is no Dagster history: then the lake's cursors make the run
    incremental. Its last words are Dagster's: no library has anything to say when the process ends.
    """
    home.sync("events")
    home.account.clear_journal()
    done = shell(
        home, "dagster", "asset", "materialize", "--select", "klaviyo/events,klaviyo/lists",
        "-m", "klaviyo_assets.definitions", has_dagster_home=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(home.ids("lists")) == sorted(home.account.true_ids("lists"))
    assert "continuing from the lake's" in done.stderr
    assert home.account.shown_record_counts("/api/events").total() < 50
    assert "RUN_SUCCESS" in done.stderr.splitlines()[-1]
    assert home.account.key not in done.stdout + done.stderr


def test_a_log_of_a_whole_run_never_holds_the_key(home: Home, tmp_path: Path) -> None:
    """Neither Dagster's databases nor the lake, the database or the state folder hold the key."""
    home.sync()
    assert tmp_path in home.root.parents
    key = home.account.key.encode()
    for path in home.root.rglob("*"):
        if path.is_file():
            assert key not in path.read_bytes(), path
            assert key[:12] not in path.read_bytes(), path
