"""What klaviyo.duckdb shows: noted beside the lake, for the next publisher.

What belongs here: the note. What does not: the database (`database`). Which files a new database
retires, and from when their grace counts, follows from the versions: a file is retired when the
database that named it is replaced, not when a commit dropped it. By the views and the file a
publisher knows what is new, and whether the database is still the one that was published.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from klaviyo_assets.lake.disk import without_link
from klaviyo_assets.lake.relations import Plain, Relation, from_json, to_json

PUBLISHED = "_published.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the database shows: versions by table, and the relations that are not plain tables.

    `views` has the digest of the statements that made each view, `file` the fingerprint of the
    database that has them: "" where that is not known. `lake_root` is the lake's folder as those
    have it mounted for whom the database was made, "" where that is here; `folder_mode` the mode
    that folders were given.
    """

    versions: Mapping[str, int] = field(default_factory=dict[str, int])
    relations: tuple[Relation, ...] = ()
    views: Mapping[str, str] = field(default_factory=dict[str, str])
    file: str = ""
    lake_root: str = ""
    folder_mode: str = ""


def published(root: Path) -> Published:
    """Return what the last publisher showed; nothing where that is not known."""
    try:
        known = json.loads((root / "lake" / PUBLISHED).read_bytes())
        return Published(
            versions={str(name): int(number) for name, number in known["versions"].items()},
            relations=tuple(from_json(each) for each in known["relations"]),
            views={str(name): str(digest) for name, digest in known.get("views", {}).items()},
            file=str(known.get("file", "")),
            lake_root=str(known.get("lake_root", "")),
            folder_mode=str(known.get("folder_mode", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # A cache: what it says is found out anew by the next publisher.
        return Published()


def remember(root: Path, shown: Published) -> None:
    """Write down what the database shows now."""
    target = root / "lake" / PUBLISHED
    half = target.with_suffix(".part")
    known = {
        "versions": dict(shown.versions),
        "relations": [to_json(each) for each in shown.relations if not isinstance(each, Plain)],
        "views": dict(shown.views),
        "file": shown.file,
        "lake_root": shown.lake_root,
        "folder_mode": shown.folder_mode,
    }
    without_link(half)
    half.write_text(json.dumps(known), encoding="utf-8")
    half.replace(target)


def fingerprint(database: Path) -> str:
    """Return what tells a database file from any other state of it; "" where it is none of ours.

    That is where it is missing, or where a program opened it for writing and left a side file.
    """
    if side_files(database):
        return ""
    try:
        file = database.stat()
    except FileNotFoundError:
        return ""
    return f"{file.st_ino} {file.st_size} {file.st_mtime_ns}"


def side_files(database: Path) -> list[Path]:
    """Return what a program that opened a database for writing has beside it, or left there."""
    return sorted(database.parent.glob(f"{database.name}.wal*"))


def digest_of(statements: Sequence[str]) -> str:
    """Return what stands for the statements of a view."""
    return sha256("\n".join(statements).encode()).hexdigest()
