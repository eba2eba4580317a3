"""What klaviyo.duckdb shows: noted beside the lake, for the next publisher.

What belongs here: the note. What does not: the database (`database`). Which files a new database
retires, and from when their grace counts, follows from the versions: a file is retired when the
database that named it is replaced, not when a commit dropped it. By the seal a publisher knows
that there is nothing new to show.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from klaviyo_assets.lake.layout import DATABASE
from klaviyo_assets.lake.relations import Plain, Relation, from_json, to_json

PUBLISHED = "_published.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the database shows: versions by table, and the relations that are not plain tables.

    `seal` stands for the statements that made it and the file that they made, "" where one failed.
    """

    versions: Mapping[str, int] = field(default_factory=dict[str, int])
    relations: tuple[Relation, ...] = ()
    seal: str = ""


def published(root: Path) -> Published:
    """Return what the last publisher showed; nothing where that is not known."""
    try:
        known = json.loads((root / "lake" / PUBLISHED).read_bytes())
        return Published(
            versions={str(name): int(number) for name, number in known["versions"].items()},
            relations=tuple(from_json(each) for each in known["relations"]),
            seal=str(known.get("seal", "")),
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
        "seal": shown.seal,
    }
    half.write_text(json.dumps(known), encoding="utf-8")
    half.replace(target)


def seal_of(root: Path, views: Mapping[str, Sequence[str]]) -> str:
    """Return the seal of the database as it lies there, if the statements of these views made it.

    Raises:
        FileNotFoundError: it is not there.
    """
    file = (root / DATABASE).stat()
    statements = (each for view in views.values() for each in view)
    text = "\n".join((*statements, f"{file.st_ino} {file.st_size} {file.st_mtime_ns}"))
    return sha256(text.encode()).hexdigest()
