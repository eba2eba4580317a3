"""Checking: every kind of damage is found and named, and a sound lake passes."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from klaviyo_assets.errors import CorruptFileError, LakeError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    EVENTS,
    PROFILES,
    TAGS,
    build_batch,
    list_data_files,
    merge_rows,
    numbered_batch,
    read_notes,
    utc_now,
)


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle of the data."""
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(content)


def truncate_file(path: Path) -> None:
    """Take the last bytes away."""
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    """Leave a file of no bytes."""
    path.write_bytes(b"")


def swap(path: Path) -> None:
    """Put another sound file in its place."""
    other = next(each for each in path.parent.glob("*.parquet") if each != path)
    path.write_bytes(other.read_bytes())


def repack(path: Path) -> None:
    """Write the same rows as another file of another size."""
    pq.write_table(pq.read_table(path), path, compression="none")


def test_a_sound_lake_passes(lake: Lake) -> None:
    """Tables, histories and empty tables pass; so does a lake that does not exist yet."""
    lake.check_integrity()
    merge_rows(lake, EVENTS, [numbered_batch(0, 100, days=0.1)], with_history=True)
    merge_rows(lake, EVENTS, [numbered_batch(50, 100, days=0.1, synced=9)], with_history=True)
    merge_rows(lake, TAGS, [])
    lake.check_integrity()


@pytest.mark.parametrize("damage", [flip_a_bit, truncate_file, empty, swap, repack, Path.unlink])
def test_damage_is_named(lake: Lake, root: Path, damage: Callable[[Path], None]) -> None:
    """The error names the file and the way out, for any damage to it."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 500)])
    merge_rows(lake, PROFILES, [numbered_batch(500, 700)])
    damaged_path = list_data_files(root, "profiles")[0]
    damage(damaged_path)
    with pytest.raises(CorruptFileError) as caught:
        lake.check_integrity()
    assert str(damaged_path) in str(caught.value)
    assert "full_refresh_overwrite" in str(caught.value)


def test_all_damage_is_named_at_once(lake: Lake, root: Path) -> None:
    """One bad file does not hide another, nor one bad table the next."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 40, days=0.1)])
    merge_rows(lake, PROFILES, [numbered_batch(0, 40)])
    merge_rows(lake, TAGS, [numbered_batch(0, 40)])
    damaged_paths = [*list_data_files(root, "events")[:2], *list_data_files(root, "profiles")]
    for damaged_path in damaged_paths:
        truncate_file(damaged_path)
    (root / "lake/tags/_delta_log/00000000000000000000.json").write_text("{")
    with pytest.raises(CorruptFileError) as caught:
        lake.check_integrity()
    text = str(caught.value)
    assert all(str(damaged_path) in text for damaged_path in damaged_paths)
    assert "tags/_delta_log" in text


def test_a_key_on_two_days_is_found_and_goes_with_the_next_run(lake: Lake) -> None:
    """An event on two days, which no partition can see, is counted; an idle run mends it.

    Between two commits of one run it may lie there so.
    """
    merge_rows(lake, EVENTS, [build_batch([("a", 0, "", 1), ("b", 0, "", 1)])])
    with lake.open_session(
        EVENTS, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    ) as session:
        session.add(build_batch([("a", 3, "again", 2)]))
        session.commit({}, is_last=False)
    with pytest.raises(LakeError, match="events: 1 key has more than one row"):
        lake.check_integrity()
    merge_rows(lake, EVENTS, [])
    lake.check_integrity()
    assert read_notes(lake, "events") == {"a": "again", "b": ""}
