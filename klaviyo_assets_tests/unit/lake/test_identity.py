"""The lake's note of its own name: what cannot be read just now is not taken for no note."""

import errno
from pathlib import Path

import pytest

from klaviyo_assets.errors import StorageError
from klaviyo_assets.lake.identity import (
    IDENTITY,
    Identity,
    call_account,
    lake_identity,
    named_identity,
)
from klaviyo_assets.lake.states import refuse_foreign


def test_a_lake_without_a_note_has_no_name(tmp_path: Path) -> None:
    """Nor has one whose folder is not there yet."""
    assert lake_identity(tmp_path / "nowhere") == Identity()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_note_that_the_disk_does_not_give_is_told_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Taken for none, it would be written anew: without its names the lake were a foreign one."""
    call_account(tmp_path, "AbC123", also=["key-1234"])
    note = tmp_path / "lake" / IDENTITY
    before = note.read_bytes()

    def refuse(path: Path) -> bytes:
        raise OSError(number, "refused", str(path))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", refuse)
        with pytest.raises(StorageError, match=IDENTITY):
            lake_identity(tmp_path)
        with pytest.raises(StorageError):
            named_identity(tmp_path)
        with pytest.raises(StorageError):
            call_account(tmp_path, "XyZ987", also=[])
        with pytest.raises(StorageError):
            refuse_foreign(tmp_path, "AbC123", tables=[])
    assert note.read_bytes() == before
    assert lake_identity(tmp_path).name_of("key-1234") == "AbC123"
