"""KLAVIYO_HISTORY: what changed stays as a dated version, what did not writes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.e2e.test_cli import verb
from klaviyo_assets_tests.e2e.value_search import find_values

FULL = {"sync_mode": "full_refresh_overwrite"}
SALT = "correct horse battery staple"
REVISION = "2026-10-15"
"""The first that offers the usage of the plan."""

VALUES = {
    "profiles": "predictive_analytics_churn_probability",
    "lists_detailed": "profile_count",
    "segments_detailed": "profile_count",
    "email_templates": "html",
    "flow_definitions": "definition",
    "form_definitions": "definition_versions",
    "billing_usage": "usage_used",
}
"""Each stream that can keep a history, and a column that the test changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatedHome:
    """A home after four syncs, an hour or more apart, with the records that changed."""

    home: Home
    times: list[datetime]
    """When each sync ran."""
    living: list[int]
    """How many profiles there were after each."""
    runs: list[RunResult]
    changed: dict[str, str]
    """By stream, the record whose value changed between the first two syncs."""
    silent: str
    """The profile whose value changed beside the same `updated`."""
    renamed: str
    """The profile of which nothing changed but the name."""
    gone: str
    """The profile that was deleted before the last sync."""
    erased: str
    """The profile with two versions that a test erases, at some time: no other test looks at it."""


def change_everything(home: Home) -> dict[str, str]:
    """Change one record of each stream; return their ids by stream."""
    account = home.account
    chosen = {stream: min(home.ids(stream)) for stream in VALUES}
    account.mutate(
        profile=chosen["profiles"], set={"predictive_analytics": {"churn_probability": 0.987}}
    )
    for stream, kind in (("lists_detailed", "list"), ("segments_detailed", "segment")):
        inside = [who for group, who in account.true_members(kind) if group == chosen[stream]]
        account.mutate(**{kind: chosen[stream]}, remove=[min(inside)])
    account.mutate(template=chosen["email_templates"], set={"html": "<p>another</p>"})
    account.mutate(flow=chosen["flow_definitions"], set={"definition": {"triggers": []}})
    account.mutate(form=chosen["form_definitions"], set={"definition": {"versions": []}})
    account.mutate(**{"billing-usage": chosen["billing_usage"]}, set={"usage_used": 98765})
    return chosen


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory, dagster_template: Path) -> Iterator[DatedHome]:
    """Sync, change, sync, change in silence, read all again, delete, read all again."""
    numbers = {"profiles": 60, "events": 0, "lists": 2, "segments": 2, "templates": 3, "flows": 3}
    with pytest.MonkeyPatch.context() as patch, open_sandbox_account(**numbers) as account:
        patch.setenv("KLAVIYO_HASH_SALT", SALT)
        home = Home(
            account=account,
            root=tmp_path_factory.mktemp("dated"),
            dagster_template=dagster_template,
            settings={
                "KLAVIYO_STREAMS": ",".join(VALUES),
                "KLAVIYO_HISTORY": "default",
                "KLAVIYO_REVISION": REVISION,
                "KLAVIYO_EXCLUDE_COLUMNS": "profiles.phone_number",
                "KLAVIYO_HASH_COLUMNS": "profiles.email",
                "KLAVIYO_JSON_KEYS": "profiles.properties:Name",
            },
        )
        streams = (*VALUES, "lists", "segments", "flows", "forms")
        runs, times, living = list[RunResult](), list[datetime](), list[int]()

        def sync(*names: str, config: dict[str, str] | None = None) -> None:
            runs.append(home.sync(*names, config=config))
            times.append(account.now)
            living.append(len(home.live_ids("profiles")))

        sync(*streams)
        account.advance_clock(hours=1)
        changed = change_everything(home)
        others = sorted(set(home.ids("profiles")) - set(changed.values()))
        renamed, silent, gone, erased = others[:4]
        account.mutate(profile=erased, set={"predictive_analytics": {"churn_probability": 0.456}})
        account.mutate(profile=renamed, set={"last_name": "Renamed"})
        account.advance_clock(hours=1)
        sync(*streams)
        account.advance_clock(hours=1)
        before = account.true_cursors("profiles")[silent]
        assert before is not None
        account.mutate(
            profile=silent,
            set={
                "predictive_analytics": {"churn_probability": 0.123},
                "updated": before.isoformat(),
            },
        )
        account.advance_clock(hours=1)
        sync("profiles", config=FULL)
        account.mutate(profile=gone, delete=True)
        account.advance_clock(hours=1)
        sync("profiles", config=FULL)
        yield DatedHome(
            home=home,
            times=times,
            living=living,
            runs=runs,
            changed=changed,
            silent=silent,
            renamed=renamed,
            gone=gone,
            erased=erased,
        )


def test_every_sync_came_through(dated: DatedHome) -> None:
    """The setting fails no run."""
    assert [run.failures for run in dated.runs] == [{}] * 4


@pytest.mark.parametrize("stream", VALUES)
def test_a_changed_value_is_a_version_with_its_dates(dated: DatedHome, stream: str) -> None:
    """What changed has two versions, the second from the sync that saw it; the others have one."""
    rows = dated.home.query(
        f"SELECT id, {VALUES[stream]}, valid_from, valid_to FROM {stream}_history "
        f"WHERE id = '{dated.changed[stream]}' ORDER BY valid_from"
    )
    first, second = dated.times[:2]
    assert [(row[2], row[3]) for row in rows] == [(first, second), (second, None)]
    assert rows[0][1] != rows[1][1]
    newest = dated.home.query(
        f"SELECT {VALUES[stream]} FROM {stream} WHERE id = '{dated.changed[stream]}'"
    )
    assert newest == [(rows[1][1],)]
    silent = 1 if stream == "profiles" else 0
    ((versions, current),) = dated.home.query(
        f"SELECT count(*), count(*) FILTER (valid_to IS NULL OR valid_to = '{dated.times[3]}') "
        f"FROM {stream}_history WHERE id <> '{dated.erased}'"
    )
    assert versions == current + 1 + silent
    assert current == dated.home.row_count(stream) - len(
        dated.home.query(f"SELECT id FROM {stream} WHERE id = '{dated.erased}'")
    )


def test_a_full_refresh_sees_what_moved_no_cursor(dated: DatedHome) -> None:
    """A value that changed beside the same `updated` is a version too, from that refresh on."""
    rows = dated.home.query(
        "SELECT predictive_analytics_churn_probability, updated, valid_from FROM profiles_history "
        f"WHERE id = '{dated.silent}' ORDER BY valid_from"
    )
    assert [row[2] for row in rows] == [dated.times[0], dated.times[2]]
    assert rows[1][0] == 0.123
    assert rows[0][1] == rows[1][1]


def test_what_is_no_history_column_is_no_version(dated: DatedHome) -> None:
    """A new name alone changes the row, and adds nothing to the history."""
    names = "SELECT last_name FROM {} WHERE id = '" + dated.renamed + "'"
    assert dated.home.query(names.format("profiles")) == [("Renamed",)]
    assert len(dated.home.query(names.format("profiles_history"))) == 1


def test_a_row_as_of_a_date_is_one_row(dated: DatedHome) -> None:
    """At each moment every profile that was there has one version; a deleted one has none."""
    for at, profiles in zip(dated.times, dated.living, strict=True):
        rows = dated.home.query(
            f"SELECT id FROM profiles_history WHERE valid_from <= '{at.isoformat()}' "
            f"AND (valid_to > '{at.isoformat()}' OR valid_to IS NULL) AND id <> '{dated.erased}'"
        )
        assert len(rows) == len({*rows}) == profiles - 1
    ends = dated.home.query(f"SELECT valid_to FROM profiles_history WHERE id = '{dated.gone}'")
    assert ends == [(dated.times[3],)]


def test_versions_hold_no_more_than_the_rows(dated: DatedHome) -> None:
    """What a privacy setting hashes, leaves out or cuts is so in each version, and in its files."""
    counts = (
        "SELECT min(length(email)), max(length(email)), count(phone_number), "
        "list_distinct(flatten(list(json_keys(properties)))) FROM profiles_history"
    )
    ((shortest, longest, numbers, members),) = dated.home.query(counts)
    assert (shortest, longest, numbers, members) == (64, 64, 0, ["Name"])
    people = dated.home.account.attributes("profile").values()
    hidden = {each[name] for each in people for name in ("email", "phone_number")} - {None}
    assert len(hidden) > 50
    assert find_values(dated.home.data_dir / "lake", hidden) == {}
    hashes = "SELECT id, email FROM {} WHERE email IS NOT NULL"
    rows = dated.home.query(hashes.format("profiles"))
    assert set(rows) <= set(dated.home.query(hashes.format("profiles_history")))


def test_versions_of_before_a_setting_are_reported_and_can_be_replaced(home: Home) -> None:
    """No sync rewrites them: a warning says how to; the history then begins anew, without them."""
    home.settings["KLAVIYO_HISTORY"] = "profiles"
    assert home.sync("profiles").success
    rows = home.row_count("profiles")
    home.settings["KLAVIYO_EXCLUDE_COLUMNS"] = (
        "profiles.email,profiles.predictive_analytics_churn_probability"
    )
    run = home.sync("profiles", config=FULL)
    assert "profiles_history holds versions from before the privacy settings" in run.warnings
    ((person,),) = home.query("SELECT min(id) FROM profiles")
    address = home.account.attributes("profile")[person]["email"]
    lake = home.data_dir / "lake"
    assert home.query("SELECT count(email) FROM profiles") == [(0,)]
    assert find_values(lake / "profiles_history", [address])
    assert verb(home, "set-aside", "profiles_history", "--yes") == 0
    run = home.sync("profiles", config=FULL)
    assert run.warnings == ""
    assert home.query("SELECT count(*), count(email) FROM profiles_history") == [(rows, 0)]
    assert not find_values(lake / "profiles_history", [address])


def test_metadata_counts_the_versions(dated: DatedHome) -> None:
    """Each run says how many versions it added: all rows at first, then what changed."""
    counts = [run.metadata_number("profiles", "versions_written") for run in dated.runs]
    created = [later - earlier for earlier, later in pairwise(dated.living)]
    assert counts == [dated.living[0], created[0] + 2, created[1] + 1, 0]


def test_columns_of_the_history_say_what_they_are(dated: DatedHome) -> None:
    """The history and its dates have comments, as every relation has."""
    comments = dict(
        dated.home.query(
            "SELECT column_name, comment FROM duckdb_columns() "
            "WHERE table_name = 'profiles_history'"
        )
    )
    assert comments["valid_to"].startswith("When the next version was read")
    assert None not in comments.values()


def test_the_lake_is_whole(dated: DatedHome) -> None:
    """`verify` reads histories too, and finds no version twice."""
    assert verb(dated.home, "verify") == 0


def test_an_erasure_reaches_the_versions(dated: DatedHome) -> None:
    """An erased person is in no file, dated versions included; the others stay."""
    person = dated.erased
    assert find_values(dated.home.data_dir / "lake" / "profiles_history", {person})
    before = dated.home.row_count("profiles_history")
    assert verb(dated.home, "erase", person) == 0
    assert not find_values(dated.home.root, {person})
    assert dated.home.row_count("profiles_history") == before - 2
    assert verb(dated.home, "verify") == 0
