"""The search for equal keys, in any number of files, with little memory."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from klaviyo_assets.lake.read import duckdb
from klaviyo_assets.lake.read.duckdb import has_duplicate_hashes, query_duplicate_keys

KEY = pa.schema([("id", pa.string()), ("day", pa.date32())])


def write_keys(folder: Path, ids: Sequence[str], *, rows_per_file: int) -> list[str]:
    """Write files of keys of one day, in order; return their paths."""
    paths: list[str] = []
    folder.mkdir(exist_ok=True)
    for start in range(0, len(ids), rows_per_file):
        some = pa.table({"id": ids[start : start + rows_per_file]})
        some = some.append_column("day", pa.array([20_000] * some.num_rows, pa.int32()))
        paths.append(str(folder / f"{start}.parquet"))
        pq.write_table(some.cast(KEY), paths[-1])
    return paths


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spill to files from a hundred keys on, and read three files at a time."""
    monkeypatch.setattr(duckdb, "MAX_HASHES_IN_MEMORY", 100)
    monkeypatch.setattr(duckdb, "HASH_FILES", 3)


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 2000])
@pytest.mark.usefixtures("small_memory")
def test_each_key_once(tmp_path: Path, count: int) -> None:
    """Keys that differ have no equal hash, whether or not they fit in memory."""
    paths = write_keys(tmp_path, [f"id{number}" for number in range(count)], rows_per_file=40)
    assert not has_duplicate_hashes(paths, KEY, spill=tmp_path / "spill")
    assert not list(tmp_path.glob("spill/*"))


@pytest.mark.parametrize("count", [10, 150, 2000])
@pytest.mark.parametrize("place", [0, 7, -1])
@pytest.mark.usefixtures("small_memory")
def test_one_key_twice(tmp_path: Path, count: int, place: int) -> None:
    """A key that occurs again at the other end of the table is found."""
    ids = [f"id{number}" for number in range(count)]
    paths = write_keys(tmp_path, [*ids, ids[place]], rows_per_file=40)
    assert has_duplicate_hashes(paths, KEY, spill=tmp_path / "spill")
    assert not list(tmp_path.glob("spill/*"))


def test_equal_hashes_are_no_proof(tmp_path: Path) -> None:
    """Behind equal hashes the keys themselves are compared, and only equal ones are reported."""
    ids = [f"id{number}" for number in range(100)]
    paths = write_keys(tmp_path, ids, rows_per_file=40)
    assert not query_duplicate_keys(paths, KEY, spill=tmp_path / "spill").num_rows
    twice = [*paths, *write_keys(tmp_path / "more", [ids[7]], rows_per_file=40)]
    found = query_duplicate_keys(twice, KEY, spill=tmp_path / "spill")
    assert found["id"].to_pylist() == ["id7"]
