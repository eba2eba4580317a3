"""The lake's note of its own name: what cannot be read just now is not taken for no note."""

import errno
from pathlib import Path

import pytest

from klaviyo_assets.errors import StorageError
from klaviyo_assets.lake.delta.state import refuse_other_account
from klaviyo_assets.lake.layout import (
    IDENTITY_FILE,
    LakeIdentity,
    ensure_identity,
    read_identity,
    record_account,
)


def test_a_lake_without_a_note_has_no_name(tmp_path: Path) -> None:
    """Nor has one whose folder is not there yet."""
    assert read_identity(tmp_path / "nowhere") == LakeIdentity()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_note_that_cannot_be_read_is_reported_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Taken for none, it would be written anew: without its names the lake were a foreign one."""
    record_account(tmp_path, "AbC123", aliases=["key-1234"])
    note = tmp_path / "lake" / IDENTITY_FILE
    before = note.read_bytes()

    def refuse(path: Path) -> bytes:
        raise OSError(number, "refused", str(path))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", refuse)
        with pytest.raises(StorageError, match=IDENTITY_FILE):
            read_identity(tmp_path)
        with pytest.raises(StorageError):
            ensure_identity(tmp_path)
        with pytest.raises(StorageError):
            record_account(tmp_path, "XyZ987", aliases=[])
        with pytest.raises(StorageError):
            refuse_other_account(tmp_path, "AbC123", tables=[])
    assert note.read_bytes() == before
    assert read_identity(tmp_path).current_account_name("key-1234") == "AbC123"
