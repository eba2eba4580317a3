"""F82 and F83: personal data that a setting or an erasure would pass over."""

import hmac
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from klaviyo_assets.streams import DEFAULT_COLLECTIONS
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.processes import fork_erasure, fork_sync
from klaviyo_assets_tests.e2e.test_cli import verb
from klaviyo_assets_tests.e2e.test_erasure import place_of, somebody
from klaviyo_assets_tests.e2e.value_search import find_values

APPEND = {"sync_mode": "full_refresh_append"}
SALT = "correct horse battery staple"

PATTERNS = {
    "KLAVIYO_HASH_COLUMNS": "*.email,*.phone_number",
    "KLAVIYO_EXCLUDE_COLUMNS": "*.extra,*.properties,segments.definition",
    "KLAVIYO_JSON_KEYS": "events.event_properties:$value",
}
"""Two patterns, and settings for what people write themselves."""

PERSONAL = tuple(
    stream.name
    for stream in DEFAULT_COLLECTIONS
    if stream.name in {"campaigns", "campaign_messages", "events", "segments"}
    or any(each.name.endswith(("email", "phone_number")) for each in stream.columns)
)
"""Streams that have such values, in a column or where people write."""


@pytest.fixture(name="salted")
def salt_of_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the salt, as an operator's environment has it."""
    monkeypatch.setenv("KLAVIYO_HASH_SALT", SALT)


def identifying_values(home: Home) -> set[str]:
    """Return the numbers and addresses of everybody, and the account's own sender."""
    people = home.account.attributes("profile").values()
    numbers = {each["phone_number"] for each in people} | {each["email"] for each in people}
    return {each for each in numbers if each} | {"shop@example.com"}


@pytest.mark.usefixtures("salted")
def test_f82_a_pattern_covers_every_place_of_its_kind(home: Home) -> None:
    """`*.phone_number` and `*.email`: in no column, nested ones too, and in no JSON member."""
    home.settings |= PATTERNS
    assert home.sync(*PERSONAL).success
    assert home.sync("profiles", "accounts", "campaigns", config=APPEND).success
    assert find_values(home.root, identifying_values(home)) == {}
    consent = "subscriptions_whatsapp_marketing_phone_number"
    found = home.query(f"SELECT DISTINCT length({consent}) FROM klaviyo.profiles")
    assert (64,) in found
    sender = hmac.new(SALT.encode(), b"shop@example.com", "sha256").hexdigest()
    assert find_values(home.data_dir / "lake" / "campaign_messages", [sender])
    assert find_values(home.data_dir / "lake" / "accounts", [sender])


def test_f82_what_a_pattern_does_not_reach_is_named_at_load(
    home: Home, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The code location warns as it loads, and so do `status` and `verify`, until it is covered."""
    home.load_definitions(exclude_columns="*.phone_number")
    assert "do not reach such values in" in caplog.text
    assert "events.event_properties" in caplog.text
    for word in ("status", "verify"):
        # Nothing was synced yet, which the code says; the warning comes all the same.
        assert verb(home, word, KLAVIYO_EXCLUDE_COLUMNS="*.phone_number") == 1
        assert "warning: KLAVIYO_EXCLUDE_COLUMNS" in capsys.readouterr().out
    caplog.clear()
    covered = {name.removeprefix("KLAVIYO_").lower(): text for name, text in PATTERNS.items()}
    home.load_definitions(**covered)
    assert caplog.text == ""


def test_f82_records_quarantined_before_a_setting_are_reported(home: Home) -> None:
    """A record lies whole in quarantine since before: each sync says so, with what ends it."""
    with home.account.inject_fault("null_id", match={"path": "/api/profiles"}, at=3):
        assert "quarantine were" not in home.sync("profiles").warnings
    home.settings["KLAVIYO_EXCLUDE_COLUMNS"] = "profiles.email"
    output = home.sync("profiles", config={"sync_mode": "full_refresh_overwrite"}).warnings
    assert "records in quarantine were stored whole" in output
    (command,) = re.findall(r"`(rm -r [^`]+)`", output)
    assert subprocess.run(shlex.split(command), check=False).returncode == 0
    with home.account.inject_fault("null_id", match={"path": "/api/profiles"}, at=3):
        assert home.sync("profiles", config={"sync_mode": "full_refresh_overwrite"}).success
    assert "quarantine were" not in home.sync("profiles").warnings


def erase_from_standard_input(home: Home, *ids: str) -> subprocess.CompletedProcess[str]:
    """Erase people as a shell does whose list of processes shows no id."""
    return subprocess.run(
        [sys.executable, "-m", "klaviyo_assets", "erase", "-"],
        cwd=ROOT,
        env={**os.environ, **home.variables},
        input="\n".join(ids),
        capture_output=True,
        check=False,
        text=True,
    )


def test_f83_an_erased_person_is_in_no_file(home: Home) -> None:
    """After a killed sync, a quarantined record and a killed erasure, one erasure removes all."""
    id_, theirs = somebody(home)
    child = fork_sync(home, "profiles", kill_at=KillAt("after moving files"))
    assert child.has_ended(within=300)
    assert find_values(home.data_dir, theirs), "the files of the killed sync"
    home.account.add_events({"profile": id_, "properties": {"$value": 7}})
    with home.account.inject_fault(
        "null_id", match={"path": "/api/profiles"}, at=place_of(home, id_)
    ):
        assert home.sync("profiles", "events", "global_exclusions").success
    assert home.sync("profiles", "events", config=APPEND).success
    found = {path.split("/")[2] for path in find_values(home.root, theirs)}
    assert found >= {"profiles", "profiles_history", "events", "global_exclusions", "_quarantine"}
    other = max(home.account.true_ids("profiles") - {id_})
    killed = fork_erasure(home, id_, other, kill_at=KillAt("before deleting files"))
    assert killed.has_ended(within=300)
    assert find_values(home.data_dir, {*theirs, other}), "retired files, and logs"

    done = erase_from_standard_input(home, other)

    assert done.returncode == 0, done.stdout + done.stderr
    assert find_values(home.root, {*theirs, other}) == {}
    assert id_ not in done.stdout + done.stderr
    assert home.account.true_ids("profiles") - {id_, other} == set(home.ids("profiles"))
    assert verb(home, "verify") == 0


def test_f83_what_remains_of_a_person_is_named(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another one's event holds the address, an export the rows: both are named, and it fails."""
    id_, theirs = somebody(home)
    (mail,) = (each for each in theirs if "@" in each)
    other = max(home.account.true_ids("profiles") - {id_})
    home.account.add_events({"profile": other, "properties": {"CC": mail.upper()}})
    assert home.sync("profiles", "events").success
    export = home.root / "handed-over.duckdb"
    assert verb(home, "export", str(export), "--tables", "profiles") == 0
    capsys.readouterr()

    assert verb(home, "erase", id_) == 1

    output = capsys.readouterr().out
    assert "events: rows about others name them in event_properties" in output
    assert f"{export}: names them" in output
    assert mail.lower() not in output.lower()
    left = {path for path in find_values(home.root, theirs) if not path.endswith(export.name)}
    assert {path.split("/")[2] for path in left} == {"events"}
    (receipt,) = (home.data_dir / "lake" / "_receipts").iterdir()
    assert len(json.loads(receipt.read_bytes())["remains"]) == 2
