"""Accounts: F77. Whose data the lake holds, where the key may not know it."""

import os
from unittest.mock import patch

import pytest

from klaviyo_assets.cli.command import main
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.sandbox.account.config import DEFAULT_KEY, PrivateApiKey
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.faults.assertions import assert_complete, has_table
from klaviyo_assets_tests.faults.journal import response_statuses

ACCOUNTS = "/api/accounts"
MISSING = "Your API key is missing required scopes: accounts:read"
BLIND, OTHER = "pk_" + "b" * 34, "pk_" + "c" * 34
"""Keys of the account: one that may not read it, and a second one that may not either."""

WITHOUT = frozenset({"events:read", "lists:read", "metrics:read", "profiles:read"})


def account_of(home: Home) -> str | None:
    """Return whose data the lake says that it holds."""
    return Lake(home.data_dir, clock=lambda: home.account.now).stored_account()


def true_id(home: Home) -> str:
    """Return the account's id, as Klaviyo has it."""
    (found,) = home.account.true_ids("accounts")
    return found


def adopt(home: Home, *words: str, key: str = DEFAULT_KEY) -> int:
    """Run the verb with a key and no terminal; return the exit code."""
    with patch.dict(os.environ, home.variables | {"KLAVIYO_API_KEY": key}):
        return main(["adopt", *words])


def test_f77_one_refusal_at_the_first_call_binds_the_lake_to_nothing(home: Home) -> None:
    """The key that was refused once is known by itself: the lake takes the account's own name."""
    match = {"path": ACCOUNTS, "nth": 1}
    with home.account.inject_fault("error", match=match, status=403, detail=MISSING):
        run = home.sync("events")
    assert run.success
    assert "the key lacks accounts:read" in run.warnings
    home.account.advance_clock(hours=3)
    run = home.sync("events", "lists")
    assert run.success
    assert f"goes by {true_id(home)} from now on" in run.warnings
    assert account_of(home) == true_id(home)
    assert home.sync("events", "lists").warnings == ""
    assert_complete(home, "events", "lists")


@pytest.mark.parametrize("streams", [("lists",), ("events", "profiles")], ids=" ".join)
def test_f77_a_key_that_may_read_the_account_takes_the_lake_over(
    open_home: StartHome, streams: tuple[str, ...]
) -> None:
    """As our text advises: a new key with the scope goes on, once; another account is refused."""
    keys = (PrivateApiKey(value=BLIND, scopes=WITHOUT), PrivateApiKey(value=DEFAULT_KEY))
    home = open_home(keys=keys)
    assert home.sync(*streams, api_key=BLIND).success
    assert str(account_of(home)).startswith("key-")
    home.account.advance_clock(hours=3)
    run = home.sync(*streams, api_key=DEFAULT_KEY)
    assert run.success
    assert run.warnings.count("are one account") == 1
    assert account_of(home) == true_id(home)
    assert_complete(home, *streams)
    refuse_another(home, open_home, *streams)
    # And back to a narrower key: what is stored proves that it is the same account.
    assert home.sync(*streams, api_key=BLIND).success
    assert account_of(home) == true_id(home)


def test_f77_two_keys_without_the_scope_are_one_account(open_home: StartHome) -> None:
    """Neither key may read the account; the ids of what is stored tell that it is one."""
    keys = (PrivateApiKey(value=BLIND, scopes=WITHOUT), PrivateApiKey(value=OTHER, scopes=WITHOUT))
    home = open_home(keys=(*keys, PrivateApiKey(value=DEFAULT_KEY)))
    assert home.sync("lists", "events", api_key=BLIND).success
    home.account.advance_clock(hours=3)
    assert home.sync("lists", "events", api_key=OTHER).success
    assert home.sync("lists", "events", api_key=OTHER).success
    assert home.sync("lists", "events", api_key=DEFAULT_KEY).success
    assert account_of(home) == true_id(home)
    refuse_another(home, open_home, "lists")
    assert_complete(home, "lists", "events")


def refuse_another(home: Home, open_home: StartHome, *streams: str) -> None:
    """Assert that keys of another account, with the scope and without it, change nothing."""
    other = open_home(
        seed=77, keys=(PrivateApiKey(value=BLIND, scopes=WITHOUT), PrivateApiKey(value=DEFAULT_KEY))
    )
    before = {stream: sorted(home.ids(stream)) for stream in streams}
    for key in (DEFAULT_KEY, BLIND):
        run = home.sync(*streams, api_key=key, base_url=other.account.url)
        assert set(run.failures) == set(streams)
        assert all("Give each account its own KLAVIYO_DATA_DIR" in run.failures[s] for s in streams)
    assert {stream: sorted(home.ids(stream)) for stream in streams} == before


@pytest.mark.usefixtures("fast_retries")
@pytest.mark.parametrize("body", ['{"message": "blocked"}', "[]", '{"errors": []}'])
def test_f77_a_gateways_answer_binds_nothing(home: Home, body: str) -> None:
    """A 403 with a gateway's JSON is retried and stores nothing about the account."""
    with home.account.inject_fault("error", match={"path": ACCOUNTS}, status=403, body=body):
        run = home.sync("lists")
    assert "403" in run.failures["lists"]
    assert "scope" not in run.failures["lists"]
    assert len(response_statuses(home, ACCOUNTS)) > 2
    assert account_of(home) is None
    assert not has_table(home, "lists")
    assert home.sync("lists").success
    assert account_of(home) == true_id(home)
    assert_complete(home, "lists")


def test_f77_a_suspended_account_binds_nothing(home: Home) -> None:
    """A suspended account fails after one request, with Klaviyo's sentence."""
    words = "Your account has been suspended. Contact support."
    with home.account.inject_fault("error", match={"path": ACCOUNTS}, status=403, detail=words):
        run = home.sync("lists")
    assert "Your account has been suspended" in run.failures["lists"]
    assert response_statuses(home, ACCOUNTS) == [403]
    assert account_of(home) is None


def test_f77_what_cannot_be_compared_is_adopted_by_hand(
    open_home: StartHome, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the new key can read nothing stored, the message names the verb that asks for consent."""
    narrow = PrivateApiKey(value=OTHER, scopes=frozenset({"accounts:read", "flows:read"}))
    home = open_home(
        keys=(PrivateApiKey(value=BLIND, scopes=WITHOUT), narrow, PrivateApiKey(value=DEFAULT_KEY))
    )
    assert home.sync("lists", api_key=BLIND).success
    run = home.sync("flows", api_key=OTHER)
    assert "run `klaviyo-assets adopt`" in run.failures["flows"]
    assert adopt(home, key=OTHER) == 2
    assert "give --yes" in capsys.readouterr().err
    assert home.sync("flows", api_key=OTHER).failures
    assert adopt(home, "--yes", key=OTHER) == 0
    assert home.sync("flows", api_key=OTHER).success
    assert home.sync("lists", api_key=BLIND).success
    assert account_of(home) == true_id(home)
    assert adopt(home, key=DEFAULT_KEY) == 0
    assert "nothing to rename" in capsys.readouterr().out
    other = open_home(seed=77)
    home.settings["KLAVIYO_BASE_URL"] = other.account.url
    assert adopt(home, "--yes") == 1
    assert "Give each account its own" in capsys.readouterr().err
