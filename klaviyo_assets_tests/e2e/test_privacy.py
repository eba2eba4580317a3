"""What the settings keep back is nowhere: in no file of the lake, of Dagster or of the state."""

import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.e2e.value_search import find_values

SALT = "correct horse battery staple"
ADA = "ada.lovelace@example.com"

EXCLUDED = {
    "KLAVIYO_EXCLUDE_COLUMNS": "profiles.location_ip,profiles.phone_number,*.extra,"
    "accounts.contact_information_default_sender_email",
    "KLAVIYO_HASH_COLUMNS": "*.email,"
    + ",".join(
        f"profiles.subscriptions_whatsapp_{purpose}_phone_number"
        for purpose in ("marketing", "transactional", "conversational")
    ),
    "KLAVIYO_JSON_KEYS": "events.event_properties:$value,profiles.properties:Name",
}
"""Settings under which no address and no number of anybody may be stored."""


@pytest.fixture(autouse=True)
def set_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the salt, as an operator's environment has it."""
    monkeypatch.setenv("KLAVIYO_HASH_SALT", SALT)


@pytest.fixture(scope="module")
def hidden_home(tmp_path_factory: pytest.TempPathFactory, dagster_template: Path) -> Iterator[Home]:
    """Give a home that lived under the settings of `EXCLUDED`."""
    with pytest.MonkeyPatch.context() as patched, open_sandbox_account() as account:
        patched.setenv("KLAVIYO_HASH_SALT", SALT)
        home = Home(
            account=account,
            root=tmp_path_factory.mktemp("home"),
            dagster_template=dagster_template,
            settings=dict(EXCLUDED),
        )
        live(home)
        yield home


def addresses(home: Home) -> set[str]:
    """Return the e-mail addresses, phone numbers and IP addresses of everybody in the account."""
    people = home.account.attributes("profile").values()
    own = {each[name] for each in people for name in ("email", "phone_number")}
    seen_at = {each["location"]["ip"] for each in people if each["location"]}
    return {ADA, "+15550123", *(str(each) for each in own | seen_at if each is not None)}


def requested_attributes(query: str) -> set[str]:
    """Return the attributes of profiles that a query asks for by name; empty: all."""
    return set(",".join(parse_qs(query).get("fields[profile]", [])).split(",")) - {""}


def live(home: Home, *streams: str) -> None:
    """Sync streams, or everything, with history; addresses are where none are expected, too."""
    someone = min(home.account.attributes("profile"))
    home.account.add_events({"profile": someone, "properties": {"$value": 7, "CC": ADA}})
    odd = {"path": "/api/profiles"}
    append = {"sync_mode": "incremental_append"}
    with home.account.inject_fault("null_id", match=odd, at=3):
        assert home.sync("profiles", config=append).success
    with home.account.inject_fault(
        "new_field", match=odd, field="second_email", value=ADA, count=100
    ):
        assert home.sync(*streams).success
    home.account.advance_clock(days=1)
    home.account.mutate(profile=someone, set={"email": ADA, "first_name": "Ada"})
    with home.account.inject_fault("type_change", match=odd, field="email", value=[ADA], count=100):
        assert home.sync("profiles", "events", config=append).success


def test_no_hidden_value_is_on_the_disk(hidden_home: Home) -> None:
    """Hashed, excluded and unlisted values are in no file, decoded or raw, of a whole home."""
    home = hidden_home
    assert len(addresses(home)) > 150
    assert find_values(home.root, {*addresses(home), SALT}) == {}
    (put_aside,) = (home.data_dir / "lake" / "_quarantine" / "profiles").iterdir()
    assert put_aside.is_file()


def test_without_the_settings_the_same_search_finds_them(home: Home) -> None:
    """The search is not blind: without the settings the lake holds addresses, and only the lake."""
    live(home, "events", "global_exclusions", "lists", "profiles")
    found = find_values(home.root, addresses(home))
    tables = {path.split("/")[2] for path in found}
    assert tables >= {"profiles", "profiles_history", "global_exclusions", "events", "_quarantine"}
    assert {path.split("/")[:2] == ["data", "lake"] for path in found} == {True}
    assert ADA in set().union(*found.values())


def test_hashes_join_and_allowed_members_stay(hidden_home: Home) -> None:
    """Tables still join by a hashed column, which anybody with the salt can work out anew."""
    home = hidden_home
    known = {each["email"] for each in home.account.attributes("profile").values()} - {None, ADA}
    digests = {hmac.new(SALT.encode(), each.encode(), "sha256").hexdigest() for each in known}
    stored = {each for (each,) in home.query("SELECT email FROM klaviyo.profiles") if each}
    assert stored & digests
    assert {len(each) for each in stored} == {64}
    joined = home.query(
        "SELECT count(*), count(p.id = x.id OR NULL) FROM klaviyo.global_exclusions x "
        "JOIN klaviyo.profiles p USING (email)"
    )
    assert joined[0][0] == joined[0][1] > 0
    stored_keys = home.query(
        "SELECT DISTINCT json_keys(event_properties) FROM klaviyo.events_detailed"
    )
    assert sorted(stored_keys) == [([],), (["$value"],)]


def test_what_is_excluded_is_not_requested(home: Home) -> None:
    """The other attributes are requested by name; without exclusions all of them are."""
    home.sync("profiles")
    assert [
        each for each in home.account.queries("/api/profiles") if requested_attributes(each)
    ] == []
    home.account.clear_journal()
    home.sync("profiles", "global_exclusions", exclude_columns="profiles.email,*.location_ip")
    for query in home.account.queries("/api/profiles"):
        assert {"location.city", "updated", "subscriptions"} <= requested_attributes(query)
        assert not {"email", "location", "location.ip"} & requested_attributes(query)


def test_older_rows_are_reported_until_a_full_refresh(home: Home) -> None:
    """Runs warn that a new privacy setting does not cover stored rows, until a full refresh.

    What Klaviyo no longer has stays in the table, but for what the setting keeps back.
    """
    home.sync("profiles")
    home.settings["KLAVIYO_EXCLUDE_COLUMNS"] = "profiles.email"
    for _ in range(2):
        message = home.sync("profiles").warnings
        assert "profiles: rows stored before" in message
        assert "hold email as before" in message
        assert "full_refresh_overwrite" in message
    full = {"sync_mode": "full_refresh_overwrite"}
    gone = min(home.ids("profiles"))
    home.account.mutate(profile=gone, delete=True)
    assert home.sync("profiles", config=full).warnings == ""
    assert home.query("SELECT id FROM klaviyo.profiles WHERE deleted_at IS NOT NULL") == [(gone,)]
    assert home.sync("profiles").warnings == ""
    assert home.query("SELECT count(email) FROM klaviyo.profiles") == [(0,)]
    del home.settings["KLAVIYO_EXCLUDE_COLUMNS"]
    assert "hold email as before" in home.sync("profiles", hash_columns="profiles.email").warnings


def test_an_older_history_is_reported(home: Home) -> None:
    """No refresh rewrites a history: runs go on warning that a later setting does not cover it."""
    home.sync("profiles", config={"sync_mode": "incremental_append"})
    home.settings["KLAVIYO_EXCLUDE_COLUMNS"] = "profiles.email"
    full = {"sync_mode": "full_refresh_overwrite"}
    for _ in range(2):
        message = home.sync("profiles", config=full).warnings
        assert "profiles_history holds versions from before" in message
        assert "rows stored before" not in message


def test_another_salt_is_reported(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of two salts do not join: a run with another one says that the old ones stay."""
    home.settings["KLAVIYO_HASH_COLUMNS"] = "profiles.email"
    assert home.sync("profiles").warnings == ""
    assert home.sync("profiles").warnings == ""
    monkeypatch.setenv("KLAVIYO_HASH_SALT", SALT[::-1])
    assert "hold email as before" in home.sync("profiles").warnings


def test_the_ui_shows_no_salt(home: Home) -> None:
    """The salt reaches the resource as the name of its variable, never as its value."""
    home.settings |= EXCLUDED
    resources = home.load_definitions().resources or {}
    shown = json.dumps(resources["klaviyo"].model_dump(), default=str)
    assert SALT not in shown
    assert SALT not in repr(resources["klaviyo"])
