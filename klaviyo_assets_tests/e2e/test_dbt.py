"""docs/dbt.md and docs/migrate.md as a user follows them, and the dbt package, if it is at hand.

The package fivetran/klaviyo is not on PyPI, and nothing of it is in this project. To run it:

    DBT_PACKAGES_DIR    the folder dbt_packages that `dbt deps` leaves: klaviyo, fivetran_utils, ...
    PATH                has `dbt`, with dbt-duckdb
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.e2e.test_cli import verb

PAGE = (ROOT / "docs" / "dbt.md").read_text(encoding="utf-8")
PACKAGES = os.environ.get("DBT_PACKAGES_DIR", "")
DBT = shutil.which("dbt")


@pytest.fixture(scope="module")
def home(dagster_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Give a home with what the package reads, synced once."""
    with open_sandbox_account(events=2000, profiles=120, days=8) as account:
        root = tmp_path_factory.mktemp("dbt")
        home = Home(account=account, root=root, dagster_template=dagster_template)
        streams = ("events", "metrics", "profiles", "campaigns", "flows")
        assert home.sync(*streams).success
        yield home


def command_lines(page: str) -> list[str]:
    """Return the lines of the page's shell blocks that run our command."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).splitlines()
    return [line for line in lines if line.startswith("klaviyo-assets ")]


def page_block(file: str) -> str:
    """Return the block that the page gives for a file."""
    found = re.search(
        rf"`{re.escape(file)}`:\n\n```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL
    )
    assert found is not None, file
    return found[1]


def test_the_commands_of_the_page_work(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command of docs/dbt.md ends well, and campaigns and flows have people in the views."""
    monkeypatch.chdir(tmp_path)
    lines = [line for line in command_lines(PAGE) if line != "klaviyo-assets sync"]
    assert lines
    for line in dict.fromkeys(lines):
        assert verb(home, *shlex.split(line)[1:]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert f"klaviyo.event {home.row_count('events'):>9,}" in output.out
    with duckdb.connect("shop.duckdb", read_only=True) as opened:
        people = opened.execute(
            "SELECT count(DISTINCT e.person_id) FILTER (c.id IS NOT NULL), "
            "count(DISTINCT e.person_id) FILTER (f.id IS NOT NULL), "
            "count(*) FILTER (e.campaign_id IS NOT NULL AND c.id IS NULL) "
            "FROM klaviyo.event AS e LEFT JOIN klaviyo.campaign AS c ON c.id = e.campaign_id "
            "LEFT JOIN klaviyo.flow AS f ON f.id = e.flow_id"
        ).fetchall()
    assert people[0][0] > 10
    assert people[0][1] > 10
    assert people[0][2] == 0


def test_the_commands_of_the_page_on_moving_work(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command of docs/migrate.md ends well, beside a database and files with our own rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported").mkdir()
    assert verb(home, "publish", "--airbyte", "other.duckdb", "--schema", "raw") == 0
    with duckdb.connect("other.duckdb") as opened:
        opened.execute("COPY (SELECT id, datetime FROM raw.events) TO 'exported/events.parquet'")
    capsys.readouterr()
    lines = command_lines((ROOT / "docs" / "migrate.md").read_text(encoding="utf-8"))
    assert len(lines) == 3
    for line in lines:
        assert verb(home, *shlex.split(line)[1:]) == 0
    output = capsys.readouterr().out
    assert f"events and raw.events: the same {home.row_count('events'):,} ids" in output
    assert f"events and main.events: the same {home.row_count('events'):,} ids" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dbt", "klaviyo.duckdb"), "give the file another name"),
        (("--schema", "mine"), "--schema goes with --dbt"),
        (("--dbt", "x.duckdb", "--lake-root", "/mnt/x"), "--lake-root does not go with --dbt"),
    ],
)
def test_options_that_make_no_sense_end_with_two(
    home: Home, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    """The message says what to do, and no file is written."""
    assert verb(home, "publish", *words) == 2
    assert message in capsys.readouterr().err
    assert not Path(words[1]).exists()


def run_dbt(folder: Path, *words: str) -> str:
    """Run dbt in a project's folder; return what it prints. It must end well."""
    assert DBT is not None
    done = subprocess.run(
        [DBT, "--no-use-colors", *words, "--profiles-dir", str(folder)],
        cwd=folder,
        env={**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.skipif(DBT is None, reason="dbt is not installed: pip install dbt-duckdb")
@pytest.mark.skipif(
    not PACKAGES, reason="DBT_PACKAGES_DIR names no copy of the package fivetran/klaviyo"
)
def test_the_package_runs_without_a_variable(home: Home, tmp_path: Path) -> None:
    """All models and tests pass, twice; campaigns and flows have people, conversions a touch."""
    (tmp_path / "dbt_packages").symlink_to(PACKAGES)
    for file in ("dbt_project.yml", "profiles.yml"):
        (tmp_path / file).write_text(page_block(file), encoding="utf-8")
    for _ in range(2):
        assert verb(home, "publish", "--dbt", str(tmp_path / "shop.duckdb")) == 0
        assert "PASS=28 WARN=0 ERROR=0 SKIP=0" in run_dbt(tmp_path, "build")
    with duckdb.connect(tmp_path / "shop.duckdb", read_only=True) as opened:
        opened.execute("USE main_klaviyo")
        counts = opened.execute(
            "SELECT (SELECT count(*) FROM klaviyo__events), "
            "(SELECT sum(total_count_unique_people) FROM klaviyo__campaigns), "
            "(SELECT sum(total_count_unique_people) FROM klaviyo__flows), "
            "(SELECT sum(count_received_email) FROM klaviyo__campaigns), "
            "(SELECT count(*) FROM klaviyo__events WHERE event_attribution IS NOT NULL "
            "AND coalesce(last_touch_campaign_id, last_touch_flow_id) IS NULL)"
        ).fetchall()[0]
    assert counts[0] == home.row_count("events")
    assert all(count > 10 for count in counts[1:4])
    assert counts[4] == 0
