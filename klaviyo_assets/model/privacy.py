"""Privacy: which values of a stream are never stored as they came, by the settings.

What belongs here: from the settings' words to the columns of one stream, and what is refused. What
does not: leaving out, hashing and thinning (`tables`), and not asking at all (`api/sparse`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.column import EXTRA, Column, ColumnType, PersonalKind, RelatedId
from klaviyo_assets.model.report import Report
from klaviyo_assets.model.stream import Collection, Join, Stream
from klaviyo_assets.settings import SALT_VARIABLE, SHORTEST_SALT, Settings, variable_of

EVERY = "*"
"""Stands for every stream that has the column."""

PROFILE = "profile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What becomes of one stream's columns before anything of them is stored.

    `excluded` are NULL, `hashed` are HMAC-SHA-256 with `salt`, of `json_keys` only these members
    stay. Excluded wins where a column is named twice, and what is named by itself over what only
    holds the same kind of value. Members of `members` are taken out of JSON columns or hashed
    there, at any depth.
    """

    excluded: frozenset[str] = frozenset()
    hashed: frozenset[str] = frozenset()
    json_keys: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    members: Mapping[str, "PrivateMembers"] = field(default_factory=lambda: MappingProxyType({}))
    salt: bytes = field(default=b"", repr=False)

    @property
    def touched(self) -> frozenset[str]:
        """Return the columns that are not stored as they come."""
        return self.excluded | self.hashed | self.json_keys.keys() | self.members.keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateMembers:
    """Names of members of a JSON column whose values do not stay as they came."""

    excluded: frozenset[str] = frozenset()
    hashed: frozenset[str] = frozenset()


def privacy_of(stream: Stream, settings: Settings, *, salt: bytes = b"") -> Privacy:
    """Return what the settings say of a stream's columns.

    What is said of the stream that is named as the records' path holds for the others that read the
    same records: profiles' for global_exclusions, so that no value comes in by another door.
    """
    if isinstance(stream.source, Join | Report):
        return Privacy()
    there = types_of(stream)
    names = {EVERY, stream.name}
    if isinstance(stream.source, Collection):
        names.add(stream.source.path.rsplit("/", maxsplit=1)[-1])

    def chosen(entries: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        for entry in entries:
            name, column, rest = parts_of(entry)
            if name in names:
                yield column, rest

    excluded = frozenset(column for column, _ in chosen(settings.exclude_columns))
    hashed = frozenset(column for column, _ in chosen(settings.hash_columns))
    named = excluded | hashed

    def of_kind(kinds: frozenset[str]) -> frozenset[str]:
        """Return the columns that are named, and those not named that hold a kind that is."""
        alike = {each.name for each in stream.columns if each.holds in kinds} - named
        return frozenset(alike | (kinds & there.keys()))

    return Privacy(
        excluded=of_kind(excluded),
        hashed=of_kind(hashed),
        json_keys={
            column: frozenset(rest.split("|"))
            for column, rest in chosen(settings.json_keys)
            if column in there
        },
        members={
            each.name: PrivateMembers(
                excluded=_members_of(each, excluded), hashed=_members_of(each, hashed - excluded)
            )
            for each in stream.columns
            if _members_of(each, named) and each.name not in excluded
        },
        salt=salt,
    )


def _members_of(column: Column, kinds: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name, kind in column.members if kind in kinds)


def parts_of(entry: str) -> tuple[str, str, str]:
    """Return stream, column and what comes after a colon of `stream.column:key|key`."""
    place, _, rest = entry.partition(":")
    name, _, column = place.partition(".")
    return name, column, rest


def types_of(stream: Stream) -> dict[str, ColumnType]:
    """Return the columns that a setting can name, with their types."""
    return {EXTRA: "json", **{column.name: column.type for column in stream.columns}}


def checked_salt(salt: str) -> bytes:
    """Return the salt as bytes.

    Raises:
        SettingError: it is missing or too short; it is not quoted.
    """
    if len(salt.strip()) < SHORTEST_SALT:
        raise SettingError(
            f"{SALT_VARIABLE} cannot be used: KLAVIYO_HASH_COLUMNS needs a secret of at least "
            f"{SHORTEST_SALT} characters that never changes, such as `openssl rand -hex 32` makes."
        )
    return salt.strip().encode()


def privacy_refusals(settings: Settings, streams: Mapping[str, Stream]) -> list[SettingError]:
    """Return a refusal for each column that cannot be excluded, hashed or thinned."""
    wanted: tuple[tuple[str, tuple[str, ...], ColumnType | None], ...] = (
        ("exclude_columns", settings.exclude_columns, None),
        ("hash_columns", settings.hash_columns, "string"),
        ("json_keys", settings.json_keys, "json"),
    )
    return [
        SettingError(f"{variable_of(name)}={entry!r} cannot be used: {reason}.")
        for name, entries, kind in wanted
        for entry in entries
        if (reason := _reason_against(entry, kind, streams)) is not None
    ]


def uncovered_places(settings: Settings, streams: Mapping[str, Stream]) -> list[str]:
    """Return a sentence for each personal kind that a setting names and that stays somewhere.

    Of what people write themselves nobody knows the members: that is named too, unless it is left
    out or cut to listed members.
    """
    entries = (*settings.exclude_columns, *settings.hash_columns)
    every = streams.values()
    kinds: dict[PersonalKind, None] = dict.fromkeys(
        kind for entry in entries for kind in _kinds_of(entry, every)
    )
    found = {kind: [*_clear_places(kind, settings, every)] for kind in kinds}
    return [
        f"KLAVIYO_EXCLUDE_COLUMNS and KLAVIYO_HASH_COLUMNS name columns of the kind {kind}, and do "
        f"not reach such values in {', '.join(places)}: name those columns as well, leave them out "
        "(KLAVIYO_EXCLUDE_COLUMNS), or keep listed members alone (KLAVIYO_JSON_KEYS)"
        for kind, places in found.items()
        if places
    ]


def _kinds_of(entry: str, streams: Iterable[Stream]) -> Iterator[PersonalKind]:
    name, column, _ = parts_of(entry)
    for stream in streams:
        for each in stream.columns:
            if each.name == column and each.holds is not None and name in {EVERY, stream.name}:
                yield each.holds


def _clear_places(
    kind: PersonalKind, settings: Settings, streams: Iterable[Stream]
) -> Iterator[str]:
    for stream in streams:
        if isinstance(stream.source, Join | Report):
            continue
        privacy = privacy_of(stream, settings)
        for each in stream.columns:
            is_of_kind = each.holds == kind or kind in {one for _, one in each.members}
            if (is_of_kind or each.is_free_form) and each.name not in privacy.touched:
                yield f"{stream.name}.{each.name}"
        is_personal = any(each.holds or each.is_free_form for each in stream.columns)
        if is_personal and EXTRA not in privacy.touched:
            yield f"{stream.name}.{EXTRA}"


def _reason_against(
    entry: str, kind: ColumnType | None, streams: Mapping[str, Stream]
) -> str | None:
    name, column, _ = parts_of(entry)
    if name != EVERY and name not in streams:
        return f"no stream is called {name}; `klaviyo-assets streams` lists them"
    if name == EVERY:
        meant = [each for each in streams.values() if _reason_against_stream(each) is None]
    elif (reason := _reason_against_stream(streams[name])) is not None:
        return reason
    else:
        meant = [streams[name]]
    found = [each for each in meant if column in types_of(each) | dict.fromkeys(_ours(each))]
    if not found:
        return f"{'no stream' if name == EVERY else name} has a column {column}"
    for each in found:
        if column in needed(each, streams):
            return f"{column} of {each.name} is a key, a cursor or what tables are joined by"
        if kind is not None and types_of(each).get(column) != kind:
            return f"{column} of {each.name} is not {'text' if kind == 'string' else 'JSON'}"
    return None


def _reason_against_stream(stream: Stream) -> str | None:
    match stream.source:
        case Join(left=left, right=right):
            return f"{stream.name} is made of {left} and {right}, so name the column there"
        case Report():
            return f"{stream.name} counts, and holds no person's data"
        case _:
            return None


def _ours(stream: Stream) -> tuple[str, ...]:
    return (*stream.key, "synced_at")


def needed(stream: Stream, streams: Mapping[str, Stream]) -> frozenset[str]:
    """Return the columns that a stream cannot do without, nor an erasure of a person."""
    cursor = [each.column for each in (stream.cursor, stream.ids_by) if each is not None]
    joined = (
        each.source.on
        for each in streams.values()
        if isinstance(each.source, Join) and each.source.left == stream.name
    )
    return frozenset({*_ours(stream), *cursor, *joined, *filter(None, (profile_id_of(stream),))})


def profile_id_of(stream: Stream) -> str | None:
    """Return the column that holds the id of the profile a row is about; None where none is."""
    if isinstance(stream.source, Collection) and stream.source.path.endswith("/profiles"):
        return "id"
    for column in stream.columns:
        if column.source == RelatedId(PROFILE):
            return column.name
    return None
