"""A replacement that others overtook: what they stored meanwhile is beside its own rows."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import pyarrow as pa
import pytest

from klaviyo_assets.errors import LakeConflictError
from klaviyo_assets.lake import Lake, Noticed, PeopleTable, Rebase, Receipt, Session, Table
from klaviyo_assets.lake import writing as lake_writing
from klaviyo_assets.lake.erasures import ErasureReceipt
from klaviyo_assets.lake.removal import without_rows
from klaviyo_assets_tests.integration.lake.ground import (
    ACCOUNT,
    EVENTS,
    PROFILES,
    START,
    data_files,
    merge,
    notes_of,
    now,
    numbered,
    replace,
)
from klaviyo_assets_tests.integration.lake.test_gone import MARKING, key, marks, unmarked

BEGAN = 100.0
"""When the replacement began to read, in seconds since START."""

BEFORE, MEANWHILE, LATER = BEGAN - 10, BEGAN + 10, BEGAN + 20


def begun(lake: Lake, table: Table, *, with_history: bool = False) -> Session:
    """Return a replacement that found what there is now."""
    return lake.open(
        table, account=ACCOUNT, mode="replace", with_history=with_history, started_at=now()
    )


def rebase(hidden: frozenset[str] = frozenset()) -> Rebase:
    """Return how it goes on: the states of both in one."""

    def both(theirs: Mapping[str, object]) -> dict[str, object]:
        return {"ours": 1, "theirs": theirs.get("n")}

    return Rebase(since=START + timedelta(seconds=BEGAN), state_of=both, hidden=hidden)


def ended(session: Session, batches: Sequence[pa.RecordBatch], **more: object) -> Receipt:
    """Bring the rows of the replacement and commit it."""
    wanted = rebase(**more)  # pyright: ignore[reportArgumentType]
    with session:
        for each in batches:
            session.add(each)
        return session.commit({"ours": 1}, None, wanted)


def state(lake: Lake, name: str) -> object:
    """Return what the newest commit says."""
    found = lake.state(name)
    return None if found is None else found.state


@pytest.mark.parametrize("table", [PROFILES, EVENTS], ids=["by cursor", "by day"])
def test_rows_of_both_are_there_once(lake: Lake, table: Table) -> None:
    """New rows of others stay, of a key that both have the newer; what left Klaviyo leaves."""
    merge(lake, table, [numbered(0, 50, note="old", synced=BEFORE)], {"n": 1})
    session = begun(lake, table)
    # Of keys that are there already, so that the old rows beside them come into new files.
    merge(lake, table, [numbered(20, 5, note="theirs", synced=LATER)], {"n": 2})
    merge(lake, table, [numbered(25, 5, note="theirs, older", synced=BEGAN)], {"n": 3})
    merge(lake, table, [numbered(60, 5, note="theirs", synced=MEANWHILE)], {"n": 4})
    receipt = ended(session, [numbered(10, 40, note="ours", synced=MEANWHILE)])
    expected = {key(at): "ours" for at in range(10, 50)}
    expected |= {key(at): "theirs" for at in (*range(20, 25), *range(60, 65))}
    assert notes_of(lake, table.name) == expected
    assert state(lake, table.name) == {"ours": 1, "theirs": 4}
    assert (receipt.rows_total, receipt.taken_over) == (45, 15)


def test_the_first_of_two_makes_the_table(lake: Lake) -> None:
    """A refresh that found no table goes on from the one that an increment made."""
    session = begun(lake, PROFILES)
    merge(lake, PROFILES, [numbered(0, 5, note="theirs", synced=MEANWHILE)], {"n": 1})
    ended(session, [numbered(3, 5, note="ours", synced=LATER)])
    assert notes_of(lake, "profiles") == {
        **{key(at): "theirs" for at in range(3)},
        **{key(at): "ours" for at in range(3, 8)},
    }


def test_nobody_came_between(lake: Lake) -> None:
    """Then it is a replacement like any other, and nothing of the table is read for it."""
    merge(lake, PROFILES, [numbered(0, 5, synced=MEANWHILE)], {"n": 1})
    session = begun(lake, PROFILES)
    for path in data_files(lake.root, "profiles"):
        path.write_bytes(b"damaged")
    receipt = ended(session, [numbered(3, 5, synced=LATER)])
    assert (receipt.rows_total, receipt.taken_over) == (5, 0)
    assert state(lake, "profiles") == {"ours": 1}


def test_what_is_gone_is_marked_not_what_others_brought(lake: Lake) -> None:
    """Where deleted rows stay, one that an increment read later than the others is no such row.

    One that it read before is marked from when it was read last: it was there then.
    """
    merge(lake, MARKING, [unmarked(numbered(0, 6, synced=BEFORE))])
    session = begun(lake, MARKING)
    merge(lake, MARKING, [unmarked(numbered(10, 2, synced=BEGAN - 1))])
    merge(lake, MARKING, [unmarked(numbered(20, 2, synced=MEANWHILE))])
    noticed = Noticed(at=START + timedelta(seconds=BEGAN - 5))
    with session:
        session.add(unmarked(numbered(2, 4, synced=BEGAN)))
        receipt = session.commit({}, noticed, rebase())
    read_last = START + timedelta(seconds=BEGAN - 1)
    expected = {key(at): noticed.at for at in range(2)}
    expected |= {key(at): read_last for at in (10, 11)}
    expected |= dict.fromkeys([*(key(at) for at in range(2, 6)), key(20), key(21)])
    assert marks(lake) == expected
    assert receipt.deleted == 4


def test_a_history_keeps_the_versions_of_both(lake: Lake) -> None:
    """Its commit goes on from what others stored there, too."""
    merge(lake, PROFILES, [numbered(0, 5, synced=BEFORE)], with_history=True)
    session = begun(lake, PROFILES, with_history=True)
    merge(lake, PROFILES, [numbered(5, 5, synced=MEANWHILE)], with_history=True)
    ended(session, [numbered(2, 5, synced=LATER, days=0.02)])
    assert lake.relation("profiles_history").aggregate("count(*)").fetchall() == [(15,)]
    assert len(notes_of(lake, "profiles")) == 8


def test_columns_older_than_a_setting_of_privacy_are_not_taken_over(lake: Lake) -> None:
    """A run with the old settings may have stored them."""
    merge(lake, PROFILES, [numbered(0, 5, synced=BEFORE)])
    session = begun(lake, PROFILES)
    merge(lake, PROFILES, [numbered(5, 1, note="secret", synced=MEANWHILE)])
    ended(session, [numbered(0, 5, note="ours", synced=LATER)], hidden=frozenset({"note"}))
    assert notes_of(lake, "profiles")[key(5)] is None


@pytest.mark.parametrize("taking", ["a replacement", "an erasure"])
def test_after_a_commit_that_took_keys_away_it_is_refused(lake: Lake, taking: str) -> None:
    """Rows that it read before would come back."""
    merge(lake, PROFILES, [numbered(0, 50, synced=BEFORE)], {"n": 1})
    session = begun(lake, PROFILES)
    merge(lake, PROFILES, [numbered(50, 5, synced=MEANWHILE)], {"n": 2})
    if taking == "a replacement":
        replace(lake, PROFILES, [numbered(10, 40, synced=MEANWHILE)], {"n": 3})
    else:
        place = PeopleTable(table=PROFILES, column="id")
        receipt = ErasureReceipt(lake.root, [key(3)], clock=now)
        without_rows(lake.root, place, [key(3)], receipt=receipt, clock=now)
    before = notes_of(lake, "profiles")
    with pytest.raises(LakeConflictError, match=r"another run committed first"):
        ended(session, [numbered(0, 50, note="ours", synced=LATER)])
    assert notes_of(lake, "profiles") == before


def test_one_that_is_outrun_as_it_commits_goes_on_from_there(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are in place when another commit comes first: they are not lost; nor for ever."""
    merge(lake, EVENTS, [numbered(0, 50, note="old", synced=BEFORE)])
    placed, rivals = lake_writing.placed, [3, 2, 1]

    def outrun(*what: object, **named: object) -> object:
        done = placed(*what, **named)  # pyright: ignore[reportArgumentType]
        if rivals:
            batch = numbered(100 + rivals.pop(), 1, note="theirs", synced=MEANWHILE)
            with pytest.MonkeyPatch.context() as calm:
                calm.setattr(lake_writing, "placed", placed)
                merge(lake, EVENTS, [batch])
        return done

    session = begun(lake, EVENTS)
    monkeypatch.setattr(lake_writing, "placed", outrun)
    receipt = ended(session, [numbered(0, 50, note="ours", synced=LATER)])
    expected = {key(at): "ours" for at in range(50)}
    assert notes_of(lake, "events") == expected | {key(at): "theirs" for at in (101, 102, 103)}
    assert receipt.taken_over == 3
    rivals.extend([7] * 5)
    with pytest.raises(LakeConflictError):
        ended(begun(lake, EVENTS), [numbered(0, 50, note="ours", synced=LATER)])
