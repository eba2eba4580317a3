"""Where bytes of a person may lie beside the rows: an erasure finds them all, or names the place.

What is left is searched by the tests' own means (`e2e/traces`), raw and decoded.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import signal
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import closing
from functools import reduce
from pathlib import Path

import duckdb
import pytest

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.maintenance import file_search
from klaviyo_assets.lake.maintenance.erasure import ErasureResult, erase_profiles
from klaviyo_assets.lake.maintenance.personal_data import ProfileTable
from klaviyo_assets.lake.read.views import PlainRelation
from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.e2e.value_search import find_values
from klaviyo_assets_tests.integration.lake.killed_process import (
    erase_two_profiles,
    merge_until_killed,
    run_in_child_process,
    sync_rows,
)
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    EVENTS,
    PROFILES,
    TAGS,
    build_batch,
    merge_rows,
    numbered_batch,
    open_lake,
    read_notes,
    replace_rows,
    utc_now,
)

ADA = "k0000007"
MAIL = "Ada.Lovelace@example.com"
PEOPLE = [
    ProfileTable(table=each, id_column="id", address_columns=("note",))
    for each in (EVENTS, PROFILES)
]


def erase(lake: Lake, *ids: str, beside: tuple[Path, ...] = ()) -> ErasureResult:
    """Erase Ada, or others."""
    relations = [PlainRelation(name="profiles"), PlainRelation(name="events")]
    return erase_profiles(
        lake.root, PEOPLE, ids or [ADA], relations=relations, clock=utc_now, other_places=beside
    )


def put_aside(lake: Lake, *records: bytes) -> None:
    """Put records of profiles into quarantine, as a sync does."""
    opened = lake.open_session(
        PROFILES, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    )
    with opened as session:
        session.quarantine_records(("no id", each) for each in records)


def in_a_retired_file(lake: Lake) -> None:
    """Ada was in an older version, and is in no row of the newest."""
    replace_rows(lake, PROFILES, [build_batch([(ADA, 0.0, MAIL, 0)])])
    replace_rows(lake, PROFILES, [numbered_batch(20, 5)])


def in_a_retired_file_of_another_clock(lake: Lake) -> None:
    """The same, and a machine whose clock is ahead has touched the file last."""
    in_a_retired_file(lake)
    tomorrow = utc_now().timestamp() + 86_400
    for path in (lake.root / "lake" / "profiles").glob("*.parquet"):
        os.utime(path, (tomorrow, tomorrow))


def in_files_of_a_killed_run(lake: Lake) -> None:
    """A run was killed before its first commit, its files in place."""
    assert run_in_child_process(sync_rows, lake.root, "days", KillAt("before a table commit")) == -9


def in_a_history_that_was_never_committed(lake: Lake) -> None:
    """A run was killed before the first commit of a history, which has no log so."""
    merge_rows(lake, PROFILES, [numbered_batch(20, 5)])
    kill_at = KillAt("before a table commit")
    assert run_in_child_process(sync_rows, lake.root, "merge", kill_at) == -9
    assert not list((lake.root / "lake" / "profiles_history").glob("_delta_log/*.json"))


def in_a_commit_without_its_name(lake: Lake) -> None:
    """A run was killed after it had written its commit, before that was linked to its name."""
    twin = open_lake(lake.root.with_name("twin"))
    for each in (lake, twin):
        merge_rows(each, PROFILES, [numbered_batch(20, 5)])
    merge_rows(
        twin, PROFILES, [numbered_batch(7, 1, note="note.of.7", synced=1)], {"generation": 2}
    )
    size = (twin.root / "lake/profiles/_delta_log/00000000000000000001.json").stat().st_size
    code = run_in_child_process(
        merge_until_killed, lake.root, PROFILES, 7, max_file_bytes=size - 1, with_history=False
    )
    assert code == -signal.SIGXFSZ
    assert list((lake.root / "lake" / "profiles" / "_delta_log").glob("*.json.tmp"))
    # What the commit names goes by itself; what is left is the commit.
    merge_rows(lake, PROFILES, [numbered_batch(30, 1)])


def in_quarantine_with_escapes(lake: Lake) -> None:
    """A record without an id has the address with JSON's escapes, another in capitals."""
    merge_rows(lake, PROFILES, [build_batch([(ADA, 0.0, MAIL, 0), ("k0000020", 1.0, "", 0)])])
    put_aside(
        lake,
        json.dumps({"id": None, "attributes": {"email": MAIL.upper()}}).encode(),
        b'{"id":null,"attributes":{"email":"' + MAIL.replace("@", "\\u0040").encode() + b'"}}',
        json.dumps({"id": None, "raw": json.dumps({"e": MAIL}).replace("@", "\\u0040")}).encode(),
    )


def in_quarantine_alone(lake: Lake) -> None:
    """All there is of Ada is in quarantine: a record by her id, and one by her address."""
    merge_rows(lake, PROFILES, [numbered_batch(20, 5)])
    put_aside(
        lake,
        json.dumps({"id": ADA, "attributes": {"note": MAIL}}).encode(),
        json.dumps({"id": None, "attributes": {"email": MAIL.lower()}}).encode(),
    )


def in_half_a_record_file(lake: Lake) -> None:
    """A process was killed while it wrote into the quarantine."""
    in_quarantine_alone(lake)
    (whole, *_) = (lake.root / "lake" / "_quarantine" / "profiles").glob("*.parquet")
    whole.with_suffix(".part").write_bytes(whole.read_bytes()[:-20])


def in_what_was_spilled(lake: Lake) -> None:
    """A check of keys was killed that had gone to disk."""
    merge_rows(lake, PROFILES, [numbered_batch(20, 5)])
    spill = lake.root / "lake" / "_spill"
    spill.mkdir()
    (spill / "duckdb_temp_storage-0.tmp").write_bytes(b"\0\1" + ADA.encode() + b"\0" * 100)


PLACES = (
    in_a_retired_file,
    in_a_retired_file_of_another_clock,
    in_files_of_a_killed_run,
    in_a_history_that_was_never_committed,
    in_a_commit_without_its_name,
    in_quarantine_with_escapes,
    in_quarantine_alone,
    in_half_a_record_file,
    in_what_was_spilled,
)


@pytest.mark.parametrize("plant", PLACES, ids=lambda each: each.__name__)
def test_nothing_is_left_there(lake: Lake, plant: Callable[[Lake], None]) -> None:
    """Ada is in that place; then in no file, raw or decoded, and others are as they were."""
    plant(lake)
    id_ = "k0000040" if "killed" in plant.__name__ or "never" in plant.__name__ else ADA
    theirs = [id_, MAIL]
    others = {name: read_notes(lake, name) for name in ("profiles",) if lake.read_table_state(name)}
    assert find_values(lake.root, theirs)
    done = erase(lake, id_)
    assert find_values(lake.root, theirs) == {}
    assert done.is_complete
    assert "nothing of them is in the lake" in list(done.describe())
    for name, rows in others.items():
        assert read_notes(lake, name) == {key: row for key, row in rows.items() if key != id_}


def test_quarantined_records_of_others_stay(lake: Lake) -> None:
    """An address that is part of another one is another one, and so is a longer id."""
    merge_rows(lake, PROFILES, [build_batch([(ADA, 0.0, MAIL, 0)])])
    others = (f'{{"id":"{ADA}7"}}'.encode(), f'{{"email":"x{MAIL}"}}'.encode())
    put_aside(lake, *others, ADA.encode())
    assert list(erase(lake).erased.quarantine.values()) == [1]
    assert find_values(lake.root, [f"x{MAIL}"])


def test_rows_about_others_are_named_and_stay(lake: Lake) -> None:
    """Another person's row that holds the address stays, and the result lists it."""
    merge_rows(
        lake, PROFILES, [build_batch([(ADA, 0.0, MAIL, 0), ("k0000020", 1.0, f"cc {MAIL}", 0)])]
    )
    done = erase(lake)
    assert not done.is_complete
    assert any(line.startswith("profiles: rows about others") for line in done.remaining_places)
    assert any("in note" in line for line in done.remaining_places)
    assert set(read_notes(lake, "profiles")) == {"k0000020"}
    assert MAIL.lower() not in "\n".join(done.describe()).lower()
    assert done.receipt is not None
    assert json.loads(done.receipt.read_bytes())["remains"] == list(done.remaining_places)


def test_a_table_without_people_is_looked_through_too(lake: Lake) -> None:
    """A table that no profile's id leads to names Ada in its older version alone: that goes."""
    replace_rows(lake, TAGS, [build_batch([("t1", 0.0, f"of {ADA}", 0)])])
    replace_rows(lake, TAGS, [build_batch([("t1", 0.0, "of nobody", 0)])])
    done = erase(lake)
    assert done.is_complete
    assert find_values(lake.root, [ADA]) == {}
    assert len(done.erased.files) == 1


@pytest.mark.parametrize("given", [[ADA], ["k0000040"], [ADA, "k0000040"]])
def test_a_killed_erasure_of_two_is_finished_by_the_next(lake: Lake, given: list[str]) -> None:
    """The next erasure, of one of the two, finishes both, with one receipt."""
    two = ["k0000003", "k0000040"]
    for table in (EVENTS, PROFILES):
        merge_rows(lake, table, [numbered_batch(0, 60, note="n")], with_history=True)
    assert run_in_child_process(erase_two_profiles, lake.root, KillAt("after a table commit")) == -9
    done = erase(lake, *given)
    assert find_values(lake.root, {*two, *given}) == {}
    assert done.is_complete
    assert not list((lake.root / "lake" / "_receipts").glob("*.begun"))
    lake.check_integrity()


def test_a_killed_erasure_of_whom_nobody_knows_is_said(lake: Lake) -> None:
    """If the other's rows are already erased, the next erasure reports that it cannot finish."""
    for table in (EVENTS, PROFILES):
        merge_rows(lake, table, [numbered_batch(0, 60, note="n")], with_history=True)
    kill_at = KillAt("before finishing a receipt")
    assert run_in_child_process(erase_two_profiles, lake.root, kill_at) == -9
    done = erase(lake, ADA)
    assert not done.is_complete
    assert any("was killed and is not finished" in line for line in done.describe())
    assert erase(lake, "k0000003", "k0000040").is_complete
    assert erase(lake, ADA).is_complete


@pytest.mark.parametrize("content", [None, b"", b"[]"], ids=["whole", "empty", "damaged"])
def test_a_killed_erasure_whose_ids_are_lost_is_finished_by_hand(
    lake: Lake, content: bytes | None
) -> None:
    """Each erasure names the file to delete, which is the way out; then none is open any more."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 60, note="n")])
    merge_rows(lake, EVENTS, [numbered_batch(0, 60, note="n")])
    kill_at = KillAt("before finishing a receipt")
    assert run_in_child_process(erase_two_profiles, lake.root, kill_at) == -9
    (note,) = (lake.root / "lake" / "_receipts").glob("*.begun")
    if content is not None:
        note.write_bytes(content)
    for _ in range(2):
        done = erase(lake, ADA)
        assert not done.is_complete
        assert any("delete" in line and str(note) in line for line in done.describe()) or content
        assert any(str(note) in line and "not finished" in line for line in done.describe())
    note.unlink()
    assert erase(lake, ADA).is_complete


def test_files_elsewhere_are_looked_through(lake: Lake, tmp_path: Path) -> None:
    """Known exports and the state folder are searched, and listed if they hold the person."""
    merge_rows(lake, PROFILES, [build_batch([(ADA, 0.0, MAIL, 0)])])
    export, state = tmp_path / "export.duckdb", tmp_path / "state"
    with duckdb.connect(str(export)) as database:
        database.execute("CREATE TABLE people AS SELECT lower(?) AS email, [?] AS ids", [MAIL, ADA])
    state.mkdir()
    (state / "facts.json").write_text(json.dumps({"who": "nobody"}))
    done = erase(lake, beside=(export, state, tmp_path / "gone.duckdb"))
    assert [line.partition(": ")[0] for line in done.remaining_places] == [str(export)]
    export.unlink()
    assert erase(lake, beside=(export, state)).is_complete


def test_a_longer_address_in_an_export_is_no_find(lake: Lake, tmp_path: Path) -> None:
    """Pages of a database bound no value, but its rows say which addresses it holds."""
    merge_rows(lake, PROFILES, [build_batch([(ADA, 0.0, MAIL, 0)])])
    exports = [tmp_path / "export.duckdb", tmp_path / "export.sqlite"]
    with duckdb.connect(str(exports[0])) as database:
        database.execute("CREATE TABLE people AS SELECT ? AS email", [f"x{MAIL}"])
    with closing(sqlite3.connect(exports[1])) as database:
        database.execute("CREATE TABLE people (email TEXT)")
        database.execute("INSERT INTO people VALUES (?)", [f"x{MAIL}"])
        database.commit()
    done = erase(lake, beside=tuple(exports))
    assert done.remaining_places == ()
    assert done.is_complete


def zip_file(content: bytes, name: str = "people.csv") -> bytes:
    """Return a zip of one file."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return made.getvalue()


def in_a_tar(content: bytes) -> bytes:
    """Return a packed tar of one file."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        entry = tarfile.TarInfo("people.csv")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def in_utf_16(content: bytes) -> bytes:
    """Return a text as some programs of Windows write it."""
    return content.decode().encode("utf-16")


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "utf-16": in_utf_16,
    "utf-16, the other way": lambda text: b"\xfe\xff" + text.decode().encode("utf-16-be"),
    "utf-32": lambda text: text.decode().encode("utf-32"),
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": zip_file,
    "tar": in_a_tar,
    "utf-16 in gzip in a zip": lambda text: zip_file(gzip.compress(in_utf_16(text))),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("before", ["", "x"], ids=["them", "others"])
def test_a_file_of_another_form_is_looked_into(
    lake: Lake, form: Callable[[bytes], bytes], before: str
) -> None:
    """Texts of other widths, and what is packed, however often; a longer address is another one."""
    merge_rows(lake, PROFILES, [build_batch([(ADA, 0.0, MAIL, 0)])])
    path = lake.root / "notes"
    path.write_bytes(form(f"id,email\n1,{before}{MAIL}\n".encode() + b"0,nobody\n" * 1000))
    done = erase(lake)
    assert [line.partition(": names them")[0] for line in done.remaining_places] == [str(path)] * (
        not before
    )
    assert done.is_complete is bool(before)


CLOSED: dict[str, bytes] = {
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "a database in a zip": zip_file(b"SQLite format 3\0" + bytes(100)),
    "a zip in gzip": gzip.compress(zip_file(b"nobody")),
    "half a file of gzip": gzip.compress(os.urandom(1000))[:500],
    "gzip six times": reduce(lambda text, _: gzip.compress(text), range(6), b"nobody"),
    "too much": gzip.compress(bytes(3_000_000)),
    "too much in parts": zip_file(gzip.compress(bytes(1_999_000))),
}


@pytest.mark.parametrize("content", CLOSED.values(), ids=CLOSED)
def test_a_file_that_cannot_be_looked_into_is_named(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """A file that cannot be read is listed, not assumed to be free of the person."""
    monkeypatch.setattr(file_search, "MAX_UNPACKED_BYTES", 2_000_000)
    merge_rows(lake, PROFILES, [build_batch([(ADA, 0.0, MAIL, 0)])])
    path = lake.root / "notes"
    path.write_bytes(content)
    done = erase(lake)
    assert not done.is_complete
    (line,) = done.remaining_places
    assert line.startswith(f"{path}: cannot be looked through")


def test_a_file_that_is_named_for_them_is_not_quoted(lake: Lake) -> None:
    """A name of a file holds the id: the folder is named, and nothing of the person."""
    merge_rows(lake, PROFILES, [build_batch([(ADA, 0.0, MAIL, 0)])])
    (lake.root / f"{MAIL}.csv").write_text("a,b\n")
    done = erase(lake)
    (remains,) = done.remaining_places
    assert str(lake.root) in remains
    assert MAIL.lower() not in remains.lower()


@pytest.mark.parametrize("table", [PROFILES, EVENTS], ids=lambda each: each.name)
def test_vacuum_removes_what_kills_leave(lake: Lake, table: LakeTable) -> None:
    """An ordinary upkeep, after the grace, clears commits without a name and dead sessions."""
    merge_rows(lake, table, [numbered_batch(20, 5)])
    assert (
        run_in_child_process(
            merge_until_killed, lake.root, table, 7, max_file_bytes=100, with_history=True
        )
        != 0
    )
    log = lake.root / "lake" / f"{table.name}_history" / "_delta_log"
    assert list(log.glob("*.tmp"))
    lake.vacuum(table.name)
    assert list(log.glob("*.tmp")), "somebody may be writing it, as far as the grace goes"
    later = Lake(lake.root, clock=lambda: utc_now() + 2 * lake.grace)
    later.vacuum(table.name)
    assert not list(log.glob("*.tmp"))
    assert not [
        each for each in (lake.root / "lake").glob("*/_staging/*") if "history" in str(each)
    ]
