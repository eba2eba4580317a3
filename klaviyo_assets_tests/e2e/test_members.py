"""Who was on which list, from when, until when: joins, leaves and re-joins come out exactly."""

import os
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime
from math import ceil
from pathlib import Path
from random import Random
from unittest.mock import patch

import dagster as dg
import pytest

from klaviyo_assets.cli.command import main
from klaviyo_assets_tests.e2e.check_runs import run_checks
from klaviyo_assets_tests.e2e.home import Home, asset_key
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.e2e.test_form_and_segment_reports import fetch

FULL = {"sync_mode": "full_refresh_overwrite"}
KINDS = ("list", "segment")

Membership = tuple[str, str, datetime]
"""Group, profile, and when the profile joined."""


@pytest.fixture
def members_home(tmp_path: Path, dagster_template: Path) -> Iterator[Home]:
    """A home with both streams of members; a list has up to a hundred and some of them."""
    with open_sandbox_account(profiles=400, events=0, lists=4, segments=3) as account:
        home = Home(
            account=account,
            root=tmp_path,
            dagster_template=dagster_template,
            settings={
                "KLAVIYO_STREAMS": "list_members,segment_members,lists_detailed,segments_detailed"
            },
        )
        assert home.sync("lists", "segments").success
        yield home


def read_memberships(home: Home, kind: str) -> dict[Membership, datetime | None]:
    """Return every stored membership with when the profile left."""
    rows = home.query(f"SELECT {kind}_id, profile_id, joined_group_at, left_at FROM {kind}_members")
    found = {(row[0], row[1], row[2]): row[3] for row in rows}
    assert len(found) == len(rows)
    return found


def current(home: Home, kind: str) -> set[Membership]:
    """Return every membership that Klaviyo has now."""
    return {(*key, joined) for key, joined in home.account.true_members(kind).items()}


def change_members(home: Home, kind: str, chance: Random, former: set[tuple[str, str]]) -> int:
    """Let five profiles join, leave or re-join groups; add those that left to `former`."""
    here = sorted(home.account.true_members(kind))
    groups = sorted({group for group, _ in here})
    everybody = sorted({profile for _, profile in here})
    changed = 0
    for _ in range(5):
        group = chance.choice(groups)
        inside = [profile for other, profile in here if other == group]
        back = sorted(profile for other, profile in former if other == group)
        match chance.choice(("join", "leave", "return" if back else "join")):
            case "leave":
                profile = chance.choice(inside)
                home.account.mutate(**{kind: group}, remove=[profile])
                former.add((group, profile))
                here.remove((group, profile))
            case "return":
                profile = chance.choice(back)
                home.account.mutate(**{kind: group}, add=[profile])
                former.discard((group, profile))
            case _:
                profile = chance.choice([each for each in everybody if each not in inside])
                home.account.mutate(**{kind: group}, add=[profile])
                here.append((group, profile))
        changed += 1
    return changed


@pytest.mark.parametrize("kind", KINDS)
def test_fifty_changes_come_out_exactly(members_home: Home, kind: str) -> None:
    """Joins come with every sync, leaves with the full read after them; a re-join is a new row."""
    home, stream = members_home, f"{kind}_members"
    chance, former = Random(15), set[tuple[str, str]]()
    assert home.sync(stream).success
    seen = dict.fromkeys(current(home, kind))
    assert read_memberships(home, kind) == seen
    changed = 0
    for turn in range(10):
        home.account.advance_clock(minutes=20)
        changed += change_members(home, kind, chance, former)
        is_full = turn in (4, 9)
        home.account.advance_clock(minutes=20)
        assert home.sync(stream, config=FULL if is_full else None).success
        now = current(home, kind)
        seen |= {each: None for each in now if each not in seen}
        if is_full:
            seen |= {
                each: home.account.now
                for each, left in seen.items()
                if each not in now and not left
            }
        assert read_memberships(home, kind) == seen
    assert changed == 50
    assert {each for each, left in seen.items() if left is None} == current(home, kind)
    assert any(left for left in seen.values())
    again = [key[:2] for key in seen]
    assert len(again) > len(set(again)), "nobody joined twice"


def test_sizes_agree_with_the_profile_count(members_home: Home) -> None:
    """The members without `left_at` are as many as Klaviyo counts, in each list and segment."""
    home = members_home
    assert home.sync(
        "list_members", "lists_detailed", "segment_members", "segments_detailed"
    ).success
    for kind in KINDS:
        rows = home.query(
            "SELECT profile_count, count(profile_id) FILTER (left_at IS NULL) "
            f"FROM {kind}s_detailed LEFT JOIN {kind}_members ON {kind}_id = id "
            "GROUP BY id, profile_count"
        )
        assert rows
        assert all(ours == theirs for theirs, ours in rows)
    keys = {dg.AssetCheckKey(asset_key(f"{kind}_members"), "sizes_agree") for kind in KINDS}
    results = run_checks(home, keys).check_results
    assert {each.colour for each in results.values()} == {"green"}


def test_a_sync_asks_once_a_list_and_only_for_the_time_of_joining(members_home: Home) -> None:
    """An increment is one request a list, a full read one per hundred members."""
    home = members_home
    sizes = {
        group: sum(1 for other, _ in home.account.true_members("list") if other == group)
        for group in home.account.true_ids("lists")
    }
    for config, pages in (
        (None, {group: max(1, ceil(size / 100)) for group, size in sizes.items()}),
        (None, dict.fromkeys(sizes, 1)),
        (FULL, {group: max(1, ceil(size / 100)) for group, size in sizes.items()}),
    ):
        home.account.clear_journal()
        assert home.sync("list_members", config=config).success
        paths = {group: f"/api/lists/{group}/profiles" for group in sizes}
        counts = home.account.request_counts()
        assert {group: counts[path] for group, path in paths.items()} == pages
        for path in paths.values():
            for query in home.account.queries(path):
                assert "fields%5Bprofile%5D=joined_group_at" in query
                assert "sort=joined_group_at" in query
                assert "page%5Bsize%5D=100" in query
        home.account.advance_clock(hours=1)


@pytest.mark.usefixtures("fast_retries")
@pytest.mark.parametrize("config", [None, FULL], ids=["increment", "full read"])
def test_a_list_that_does_not_answer_loses_nothing(
    members_home: Home, config: dict[str, str] | None
) -> None:
    """Its rows stay as they are, and who joined it meanwhile comes with the next sync."""
    home = members_home
    assert home.sync("list_members").success
    before = read_memberships(home, "list")
    group, profile = min(key[:2] for key in before)
    home.account.advance_clock(hours=1)
    home.account.mutate(list=group, remove=[profile])
    home.account.advance_clock(hours=1)
    home.account.mutate(list=group, add=[profile])
    home.account.advance_clock(hours=1)
    match = {"path": f"/api/lists/{group}/profiles"}
    with home.account.inject_fault("error", match=match, status=500):
        home.sync("list_members", config=config)
    assert read_memberships(home, "list") == before
    assert home.sync("list_members").success
    assert set(read_memberships(home, "list")) == {*before, *current(home, "list")}


def test_members_of_a_deleted_list_have_left(members_home: Home) -> None:
    """A list that Klaviyo no longer has has no members; what is known of them stays."""
    home = members_home
    assert home.sync("list_members").success
    before = read_memberships(home, "list")
    sizes = {group: sum(1 for each in before if each[0] == group) for group, _, _ in before}
    group = min(sizes, key=lambda each: sizes[each])
    home.account.mutate(list=group, delete=True)
    home.account.advance_clock(hours=1)
    assert home.sync("lists").success
    assert home.sync("list_members", config=FULL | {"confirm_shrink": True}).success
    after = read_memberships(home, "list")
    assert set(after) == set(before)
    assert {each[0] for each, left in after.items() if left is not None} == {group}
    assert sum(left is not None for left in after.values()) == sizes[group]


def test_only_the_members_of_what_the_setting_names_are_read(members_home: Home) -> None:
    """Rows of lists outside the setting stay as they are, also in a full read."""
    home = members_home
    assert home.sync("list_members").success
    before = read_memberships(home, "list")
    groups = sorted({each[0] for each in before})
    gone = [next(each for each in sorted(before) if each[0] == group) for group in groups[:2]]
    for group, profile, _ in gone:
        home.account.mutate(list=group, remove=[profile])
    home.account.advance_clock(hours=1)
    home.account.clear_journal()
    run = home.sync("list_members", config=FULL, members_of=f"{groups[0]},nothing")
    assert run.success
    assert read_memberships(home, "list") == before | {gone[0]: home.account.now}
    asked = {path for path in home.account.request_counts() if path.endswith("/profiles")}
    assert asked == {f"/api/lists/{groups[0]}/profiles"}


def test_the_plan_says_what_each_list_costs(
    members_home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a member is read the price is there: by Klaviyo's count where that is stored."""
    home = members_home
    assert home.sync("lists_detailed").success
    members = [group for group, _ in home.account.true_members("list")]
    sizes = {each: members.count(each) for each in home.account.true_ids("lists")}
    largest = max(sizes, key=lambda each: sizes[each])
    with patch.dict(os.environ, home.variables | {"KLAVIYO_MEMBERS_OF": f"{largest},wrong"}):
        assert main(["plan", "--members"]) == 0
        said = capsys.readouterr().out
        assert main(["plan"]) == 2
    assert f"list_members: 1 of {len(sizes)} lists are read" in said
    requests = ceil(sizes[largest] / 100)
    assert f"a full read takes {requests} request" in said
    for group, size in sizes.items():
        (line,) = [each for each in said.splitlines() if each.strip().startswith(group)]
        assert f"{size} profile" in line
        assert ("not in KLAVIYO_MEMBERS_OF" in line) == (group != largest)
    assert "names no stored list or segment: wrong" in said
    assert "size unknown" in said, "segments have no count"


def test_a_size_that_differs_from_klaviyos_is_yellow(members_home: Home) -> None:
    """The check compares the members of a list with its profile count, where both are stored."""
    home, keys = members_home, {dg.AssetCheckKey(asset_key("list_members"), "sizes_agree")}
    assert home.sync("list_members").success
    assert run_checks(home, keys).check_results["list_members", "sizes_agree"].colour == "yellow"
    assert home.sync("lists_detailed").success
    assert run_checks(home, keys).check_results["list_members", "sizes_agree"].colour == "green"
    members = sorted(home.account.true_members("list"))
    group = members[0][0]
    leaving = [profile for other, profile in members if other == group][:11]
    home.account.mutate(list=group, remove=leaving)
    home.account.advance_clock(hours=1)
    assert home.sync("lists_detailed", "list_members").success
    result = run_checks(home, keys).check_results["list_members", "sizes_agree"]
    assert result.colour == "yellow"
    assert group in result.description
    assert home.sync("list_members", config=FULL).success
    assert run_checks(home, keys).check_results["list_members", "sizes_agree"].colour == "green"


def test_joins_and_leaves_are_those_of_the_segment_report(members_home: Home) -> None:
    """Day by day as many joined and left as Klaviyo reports, where each day is read whole.

    A leave is dated by the full read that missed it: on the day itself only if that day has one.
    """
    home = members_home
    home.settings["KLAVIYO_STREAMS"] += ",segment_series_reports"
    home.account.set_time_zone("UTC")
    assert home.sync("segment_members").success
    chance, former = Random(4), set[tuple[str, str]]()
    days: list[date] = []
    for _ in range(3):
        home.account.advance_clock(days=1)
        days.append(home.account.now.date())
        change_members(home, "segment", chance, former)
        home.account.advance_clock(hours=1)
        assert home.sync("segment_members", config=FULL).success
    home.account.advance_clock(days=1)
    assert fetch(home, "segment_series_reports", days[0], days[-1]).success
    reported = home.query(
        "SELECT date, segment_id, members_added, members_removed FROM segment_series_reports"
    )
    assert {row[0] for row in reported} == {*days}
    members = read_memberships(home, "segment").items()
    joined = Counter((at.date(), segment) for (segment, _, at), _ in members)
    gone = Counter((left.date(), segment) for (segment, _, _), left in members if left)
    ours = [(*row[:2], joined[row[:2]], gone[row[:2]]) for row in reported]
    assert ours == reported
    assert sum(row[2] for row in reported) > 3
    assert sum(row[3] for row in reported) > 1
