"""`klaviyo-assets doctor`: what stands in the way, before anything is synced."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from klaviyo_assets.cli.command import main
from klaviyo_assets.sandbox.account.config import PrivateApiKey
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account

SCOPES = frozenset(scope for stream in STREAMS.values() for scope in stream.scopes)
LACKED = frozenset({"flows:read", "reviews:read"})
WHOLE_KEY, POOR_KEY = "pk_whole0123456789", "pk_poor01234567890"


@pytest.fixture(scope="module")
def home(dagster_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Give a home without a lake, and an account with a key of all scopes and a poorer one."""
    keys = (
        PrivateApiKey(value=WHOLE_KEY, scopes=SCOPES),
        PrivateApiKey(value=POOR_KEY, scopes=SCOPES - LACKED),
    )
    with open_sandbox_account(keys=keys) as account:
        root = tmp_path_factory.mktemp("examined")
        yield Home(account=account, root=root, dagster_template=dagster_template)


def examine(home: Home, *words: str, **more: str) -> int:
    """Run `doctor` with the home's settings and its key; return the exit code."""
    with patch.dict(os.environ, {**home.variables, **more}):
        os.environ["DAGSTER_HOME"] = str(home.dagster_home)
        return main([*(words or ("doctor",))])


def read_findings(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """Return the state and the text of each subject."""
    found = json.loads(capsys.readouterr().out)["findings"]
    return {each["subject"]: (each["state"], each["text"]) for each in found}


def test_a_sound_installation_has_nothing_in_its_way(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """One request for the account, and one of a single record for each scope; nothing is made."""
    home.account.clear_journal()
    assert examine(home, "doctor", "--json") == 0
    found = read_findings(capsys)
    (account,) = home.account.true_ids("accounts")
    assert found["key"] == ("ok", "accepted")
    assert found["account"] == ("ok", f"{account}, America/New_York")
    scopes = {name for name in found if name.startswith("scope ")}
    assert {found[name] for name in scopes if found[name][0] == "ok"} == {("ok", "yes")}
    assert {name for name in scopes if found[name][0] != "ok"} <= {"scope coupon-codes:read"}
    assert found["clock"][0] in {"ok", "warning"}
    assert "requests left today" in found["quota flow_series_reports"][1]
    queries = [each.query for each in home.account.sandbox.journal.requests()]
    assert len(queries) <= len(scopes) + 1
    assert not any("include" in each or "additional" in each for each in queries)
    assert all("size%5D=1" in each for each in queries if "size" in each)
    assert not home.data_dir.exists()


def test_a_missing_scope_is_told_with_what_it_costs(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing scope of the default set is a warning; of a stream asked for by name, wrong."""
    assert examine(home, "check", "--json", KLAVIYO_API_KEY=POOR_KEY) == 0
    found = read_findings(capsys)
    loss = "no; skipped without it: flow_series_reports, flows"
    assert found["scope flows:read"] == ("warning", loss)
    assert found["scope reviews:read"] == ("note", "no; no stream needs it now")
    assert "wrong" not in {state for state, _ in found.values()}
    named = {"KLAVIYO_API_KEY": POOR_KEY, "KLAVIYO_STREAMS": "default,flows"}
    assert examine(home, "check", "--json", **named) == 1
    found = read_findings(capsys)
    assert {name for name, (state, _) in found.items() if state == "wrong"} == {"scope flows:read"}
    nothing = {"KLAVIYO_API_KEY": POOR_KEY, "KLAVIYO_STREAMS": "flows"}
    assert examine(home, "check", "--json", **nothing) == 1
    assert "may read none of the streams" in read_findings(capsys)["scopes"][1]


def test_the_table_is_for_people_and_never_shows_the_key(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """`doctor` prints a line a subject and a verdict; a pipe gets no colors and whole lines."""
    assert examine(home, "doctor", KLAVIYO_API_KEY=POOR_KEY) == 0
    output = capsys.readouterr().out
    assert "scope flows:read" in output
    assert output.splitlines()[-1].startswith("nothing stands in the way of a sync; ")
    assert "\x1b" not in output
    assert "poor0123" not in output


@pytest.mark.parametrize(
    ("code", "changes", "message"),
    [
        (2, {"KLAVIYO_API_KEY": ""}, "KLAVIYO_API_KEY is empty"),
        (2, {"KLAVIYO_API_KEY": "PubKey"}, "holds the public key"),
        (2, {"KLAVIYO_TIMEZONE": "Europe/Copenhagen"}, "the account's zone is America/New_York"),
        (2, {"KLAVIYO_LOOKBACK_DAYS": "some"}, "KLAVIYO_LOOKBACK_DAYS='some' cannot be used"),
        (1, {"KLAVIYO_API_KEY": "pk_nobody0123456"}, "does not know this key"),
        (1, {"KLAVIYO_BASE_URL": "http://127.0.0.1:9"}, "127.0.0.1"),
    ],
)
def test_what_stands_in_the_way_has_its_code(
    home: Home,
    capsys: pytest.CaptureFixture[str],
    code: int,
    changes: dict[str, str],
    message: str,
) -> None:
    """A bad setting ends with 2, a refusal by Klaviyo or no response with 1; a line says which."""
    assert examine(home, "doctor", **changes) == code
    output = capsys.readouterr()
    assert message in output.out
    assert (message in output.err) == (code == 2)
    assert "Traceback" not in output.err
