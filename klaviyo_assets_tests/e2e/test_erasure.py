"""`klaviyo-assets erase`: a person's rows leave the disk, and a receipt stays."""

import json
from hashlib import sha256

import pytest

from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.test_cli import verb
from klaviyo_assets_tests.e2e.value_search import find_values


def somebody(home: Home) -> tuple[str, set[str]]:
    """Return a suppressed profile's id; and all that tells them: id, address and number."""
    people = home.account.attributes("profile")
    excluded = home.account.true_ids("global_exclusions")
    for each in sorted(excluded):
        mail, phone = people[each]["email"], people[each]["phone_number"]
        if mail and phone:
            return each, {each, mail, phone}
    raise AssertionError("the account has no suppressed person with address and number")


def place_of(home: Home, id_: str) -> int:
    """Return where a profile stands on the first page of profiles."""
    moments = home.account.true_cursors("profiles")
    return sorted(moments, key=lambda each: (moments[each], each)).index(id_)


def test_a_person_leaves_every_file(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Id, address and number are in no file of the home, whatever it is of."""
    id_, theirs = somebody(home)
    others = set(home.account.true_ids("profiles")) - {id_}
    home.account.add_events({"profile": id_, "properties": {"$value": 7}})
    streams = ("profiles", "events", "global_exclusions")
    with home.account.inject_fault(
        "null_id", match={"path": "/api/profiles"}, at=place_of(home, id_)
    ):
        assert home.sync("profiles").success
    assert home.sync(*streams, config={"sync_mode": "full_refresh_append"}).success
    found = {path.split("/")[2] for path in find_values(home.root, theirs)}
    assert found >= {"profiles", "profiles_history", "events", "global_exclusions", "_quarantine"}
    capsys.readouterr()

    assert verb(home, "erase", id_) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"{id_}:\n")
    assert "profiles: 1 row removed" in output
    assert "Klaviyo may still have them" in output
    assert find_values(home.root, theirs) == {}
    assert set(home.ids("profiles")) == others
    assert verb(home, "verify") == 0
    (receipt,) = (home.data_dir / "lake" / "_receipts").iterdir()
    written = json.loads(receipt.read_bytes())
    assert written["profile_id_sha256"] == [sha256(id_.encode()).hexdigest()]
    assert list(written["quarantine"].values()) == [1]
    assert written["tables"]["events"]["rows"] >= 1

    capsys.readouterr()
    assert verb(home, "erase", id_) == 0
    assert "nothing of them is in the lake" in capsys.readouterr().out


def test_whom_klaviyo_still_has_comes_back_with_a_read(home: Home) -> None:
    """No list of erased people is stored: a later sync stores whom Klaviyo still has."""
    id_, _ = somebody(home)
    home.sync("profiles")
    assert verb(home, "erase", id_) == 0
    assert home.sync("profiles").success
    assert id_ not in home.ids("profiles")
    home.account.advance_clock(hours=1)
    home.account.mutate(profile=id_, set={"title": "Dr"})
    home.account.advance_clock(hours=1)
    home.sync("profiles")
    assert id_ in home.ids("profiles")


def test_an_address_instead_of_an_id_is_refused_unquoted(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """An e-mail address instead of an id ends with 2; the message does not repeat it."""
    assert verb(home, "erase", "ada@example.com") == 2
    output = capsys.readouterr()
    assert "an id of a profile is wanted" in output.err
    assert "ada@example.com" not in output.out + output.err


def test_ids_come_from_a_file(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """A file has an id a line, with blank lines between; none is printed."""
    home.sync("profiles")
    one, two, *_ = sorted(home.ids("profiles"))
    ids = home.root / "ids.txt"
    ids.write_text(f"\ufeff{one}\r\n\n {two} \n", encoding="utf-8")
    capsys.readouterr()
    assert verb(home, "erase", "--file", str(ids)) == 0
    output = capsys.readouterr().out
    assert output.startswith("2 profiles:\n")
    assert one not in output
    ids.unlink()
    assert find_values(home.root, [one, two]) == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [("abc\nada@example.com\n", "line 2"), ("\n", "no profile is named"), (None, "No such file")],
)
def test_a_file_without_ids_is_refused_unquoted(
    home: Home, capsys: pytest.CaptureFixture[str], content: str | None, reason: str
) -> None:
    """A line that is no id ends with 2 and its number; nothing of it is repeated."""
    ids = home.root / "ids.txt"
    if content is not None:
        ids.write_text(content)
    assert verb(home, "erase", "--file", str(ids)) == 2
    output = capsys.readouterr()
    assert reason in output.err
    assert "ada@example.com" not in output.out + output.err


def test_without_a_lake_there_is_nothing_to_erase(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any sync the verb says so, and makes no folder."""
    assert verb(home, "erase", "01KB5TJ8R4W8KTENDJT6KNBCPA") == 0
    assert "nothing of them is in the lake" in capsys.readouterr().out
    assert not home.data_dir.exists()
