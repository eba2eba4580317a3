"""Stores how healthy each stream is: `lake/_health.json`, which every run's end writes anew.

It is small, and plain JSON, so that whoever alerts can read it without this project:

    {"color": "red", "written_at": "2026-10-01T12:00:00Z",
     "streams": {"events": {"color": "red", "sentence": "its last run failed. ...", ...}}}
"""

from collections.abc import Callable

import msgspec

from klaviyo_assets.lake.disk import create_folder, hold_lock, map_storage_errors, remove_symlink
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.health import ColorChange, LakeHealth

HEALTH_FILE = "_health.json"

_HEALTH_LOCK_FILE = "_health.lock"

_LOCK_SECONDS = 10.0


def read_health(lake: Lake) -> LakeHealth:
    """Return the health of the lake's streams; of none where no run wrote it, or it is damaged."""
    try:
        raw = (lake.root / "lake" / HEALTH_FILE).read_bytes()
        return msgspec.json.decode(raw, type=LakeHealth)
    except (OSError, ValueError):
        return LakeHealth()


def update_health(
    lake: Lake, change: Callable[[LakeHealth], tuple[LakeHealth, list[ColorChange]]]
) -> tuple[LakeHealth, list[ColorChange]]:
    """Store what `change` makes of the health that is known; return what it returned.

    Runs that end at the same time wait for each other.

    Raises:
        StorageError: the folder cannot be written.
    """
    folder = lake.root / "lake"
    with map_storage_errors(folder, None):
        create_folder(folder)
        with hold_lock(folder / _HEALTH_LOCK_FILE, timeout_seconds=_LOCK_SECONDS):
            health, changes = change(read_health(lake))
            part_file = folder / "_health.part"
            remove_symlink(part_file)
            part_file.write_bytes(_encode_health(health))
            part_file.replace(folder / HEALTH_FILE)
    return health, changes


def _encode_health(health: LakeHealth) -> bytes:
    content = {"color": health.color, **msgspec.to_builtins(health)}
    return msgspec.json.format(msgspec.json.encode(content), indent=1)
