"""A disk that fails in the middle of a sync loses no record: the mark stays behind the files."""

import errno
from collections.abc import Callable

import pytest

from klaviyo_assets.lake.write import staging, table_writer
from klaviyo_assets.sync import sync_run
from klaviyo_assets_tests.e2e.conftest import StartHome


def failing(real: Callable[..., object], *, at: int) -> Callable[..., object]:
    """Return `real` with its call number `at` meeting a full disk."""
    calls = 0

    def maybe(*words: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*words, **named)

    return maybe


@pytest.mark.parametrize("at", [1, 2, 3])
def test_files_that_cannot_be_placed_are_read_again(
    open_home: StartHome, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A full disk while a commit's files are put in place: the next run brings their rows."""
    home = open_home(events=6000)
    monkeypatch.setattr(sync_run, "COMMIT_BYTES", 200_000)
    with monkeypatch.context() as broken:
        broken.setattr(
            table_writer, "move_into_table", failing(table_writer.move_into_table, at=at)
        )
        assert "disk" in home.sync("events").failures["events"]
    assert home.sync("events").success
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_rows_that_cannot_be_staged_are_read_again(
    open_home: StartHome, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A full disk while rows are staged: they are gone from memory, and the mark knows."""
    home = open_home(events=6000)
    monkeypatch.setattr(sync_run, "COMMIT_BYTES", 200_000)
    with monkeypatch.context() as broken:
        broken.setattr(
            staging.StagingWriter,
            "write_batches",
            failing(staging.StagingWriter.write_batches, at=at),
        )
        assert "disk" in home.sync("events").failures["events"]
    assert home.sync("events").success
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))
