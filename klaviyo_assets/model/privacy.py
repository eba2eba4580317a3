"""Resolves the privacy settings: which values of a stream are excluded, hashed or cut."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.column import (
    EXTRA_FIELD,
    Column,
    ColumnType,
    Derived,
    FirstIncludedId,
    PersonalDataKind,
    RecordId,
    RelatedId,
)
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.stream import (
    KEY_COLUMN,
    REVISION_COLUMN,
    Children,
    Collection,
    Detail,
    Join,
    Stream,
    Unnest,
    ViewSource,
    base_stream_name,
    relation_columns,
)
from klaviyo_assets.settings import MIN_SALT_CHARACTERS, SALT_VARIABLE, Settings, variable_name

ALL_STREAMS = "*"
"""In a setting, means every stream that has the column."""

PROFILE_RELATIONSHIP = "profile"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyRules:
    """How the columns of one stream are masked before anything of them is stored.

    `excluded_columns` become NULL; `hashed_columns` become HMAC-SHA-256 with `salt`;
    `allowed_json_keys`: the only members of a JSON column that stay; `json_members`: members of
    JSON columns, at any depth, that are removed or hashed. If a column is named twice, excluding
    wins; and a column's own name wins over a kind of personal data that it has.
    """

    excluded_columns: frozenset[str] = frozenset()
    hashed_columns: frozenset[str] = frozenset()
    allowed_json_keys: Mapping[str, frozenset[str]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    json_members: Mapping[str, "PrivateJsonMembers"] = field(
        default_factory=lambda: MappingProxyType({})
    )
    salt: bytes = field(default=b"", repr=False)

    @property
    def affected_columns(self) -> frozenset[str]:
        """Return the columns that are not stored as received."""
        return (
            self.excluded_columns
            | self.hashed_columns
            | self.allowed_json_keys.keys()
            | self.json_members.keys()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateJsonMembers:
    """Names of the members of a JSON column whose values are removed or hashed."""

    excluded: frozenset[str] = frozenset()
    hashed: frozenset[str] = frozenset()


def resolve_privacy_rules(stream: Stream, settings: Settings, *, salt: bytes = b"") -> PrivacyRules:
    """Return the rules that the settings give for a stream.

    Settings for the stream that has the name of the endpoint apply to all streams that read the
    same records: those for profiles also to global_exclusions, which would otherwise store the same
    values.
    """
    if isinstance(stream.source, ViewSource | ReportEndpoint):
        return PrivacyRules()
    there = configurable_column_types(stream)
    names = {ALL_STREAMS, stream.name}
    if isinstance(stream.source, Collection):
        names.add(stream.source.path.rsplit("/", maxsplit=1)[-1])

    def entries_of(entries: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        for entry in entries:
            name, column, rest = split_column_entry(entry)
            if name in names:
                yield column, rest

    excluded = frozenset(column for column, _ in entries_of(settings.exclude_columns))
    hashed = frozenset(column for column, _ in entries_of(settings.hash_columns))
    allowed_keys = [(name, rest) for name, rest in entries_of(settings.json_keys) if name in there]
    named = excluded | hashed

    def of_kind(kinds: frozenset[str]) -> frozenset[str]:
        """Return the named columns, and the unnamed ones that hold a named kind of data."""
        alike = {each.name for each in stream.columns if each.personal_kind in kinds} - named
        return frozenset(alike | (kinds & there.keys()))

    return PrivacyRules(
        excluded_columns=of_kind(excluded),
        hashed_columns=of_kind(hashed),
        allowed_json_keys={name: frozenset(rest.split("|")) for name, rest in allowed_keys},
        json_members={
            each.name: PrivateJsonMembers(
                excluded=_personal_member_names(each, excluded),
                hashed=_personal_member_names(each, hashed - excluded),
            )
            for each in stream.columns
            if _personal_member_names(each, named) and each.name not in excluded
        },
        salt=salt,
    )


def _personal_member_names(column: Column, kinds: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name, kind in column.personal_members if kind in kinds)


def split_column_entry(entry: str) -> tuple[str, str, str]:
    """Return the stream, the column and the keys of an entry `stream.column:key|key`."""
    place, _, rest = entry.partition(":")
    name, _, column = place.partition(".")
    return name, column, rest


def configurable_column_types(stream: Stream) -> dict[str, ColumnType]:
    """Return the columns that a setting can name, with their types."""
    return {EXTRA_FIELD: "json", **{column.name: column.type for column in stream.columns}}


def validate_salt(salt: str) -> bytes:
    """Return the salt as bytes.

    Raises:
        SettingError: it is missing or too short; it is not quoted.
    """
    if len(salt.strip()) < MIN_SALT_CHARACTERS:
        raise SettingError(
            f"{SALT_VARIABLE} cannot be used: KLAVIYO_HASH_COLUMNS needs a secret of at least "
            f"{MIN_SALT_CHARACTERS} characters that never changes, such as `openssl rand -hex 32` "
            "makes."
        )
    return salt.strip().encode()


def privacy_setting_errors(settings: Settings, streams: Mapping[str, Stream]) -> list[SettingError]:
    """Return an error for each entry whose column cannot be excluded, hashed or cut to keys."""
    wanted: tuple[tuple[str, tuple[str, ...], ColumnType | None], ...] = (
        ("exclude_columns", settings.exclude_columns, None),
        ("hash_columns", settings.hash_columns, "string"),
        ("json_keys", settings.json_keys, "json"),
    )
    return [
        SettingError(f"{variable_name(name)}={entry!r} cannot be used: {reason}.")
        for name, entries, kind in wanted
        for entry in entries
        if (reason := _entry_error_reason(entry, kind, streams)) is not None
    ]


def unprotected_column_warnings(settings: Settings, streams: Mapping[str, Stream]) -> list[str]:
    """Return a warning for each kind of personal data that the settings mask in some columns only.

    Free-form columns may contain any kind, so they are named too unless they are excluded or cut
    to listed keys.
    """
    entries = (*settings.exclude_columns, *settings.hash_columns)
    every = streams.values()
    kinds: dict[PersonalDataKind, None] = dict.fromkeys(
        kind for entry in entries for kind in _personal_kinds_of_entry(entry, every)
    )
    found = {kind: [*_unprotected_columns(kind, settings, every)] for kind in kinds}
    return [
        f"KLAVIYO_EXCLUDE_COLUMNS and KLAVIYO_HASH_COLUMNS name columns of the kind {kind}, and do "
        f"not reach such values in {', '.join(places)}: name those columns as well, leave them out "
        "(KLAVIYO_EXCLUDE_COLUMNS), or keep listed members alone (KLAVIYO_JSON_KEYS)"
        for kind, places in found.items()
        if places
    ]


def _personal_kinds_of_entry(entry: str, streams: Iterable[Stream]) -> Iterator[PersonalDataKind]:
    name, column, _ = split_column_entry(entry)
    for stream in streams:
        for each in stream.columns:
            if (
                each.name == column
                and each.personal_kind is not None
                and name in {ALL_STREAMS, stream.name}
            ):
                yield each.personal_kind


def _unprotected_columns(
    kind: PersonalDataKind, settings: Settings, streams: Iterable[Stream]
) -> Iterator[str]:
    for stream in streams:
        if isinstance(stream.source, ViewSource | ReportEndpoint):
            continue
        privacy = resolve_privacy_rules(stream, settings)
        for each in stream.columns:
            is_of_kind = each.personal_kind == kind or kind in {
                one for _, one in each.personal_members
            }
            if (is_of_kind or each.is_free_form) and each.name not in privacy.affected_columns:
                yield f"{stream.name}.{each.name}"
        is_personal = any(each.personal_kind or each.is_free_form for each in stream.columns)
        if is_personal and EXTRA_FIELD not in privacy.affected_columns:
            yield f"{stream.name}.{EXTRA_FIELD}"


def _entry_error_reason(
    entry: str, kind: ColumnType | None, streams: Mapping[str, Stream]
) -> str | None:
    name, column, _ = split_column_entry(entry)
    if name != ALL_STREAMS and name not in streams:
        return f"no stream is called {name}; `klaviyo-assets streams` lists them"
    if name == ALL_STREAMS:
        meant = [each for each in streams.values() if _stream_error_reason(each) is None]
    elif (reason := _stream_error_reason(streams[name])) is not None:
        return reason
    else:
        meant = [streams[name]]
    found = [
        each
        for each in meant
        if column in configurable_column_types(each) | dict.fromkeys(_key_columns(each))
    ]
    if not found:
        return f"{'no stream' if name == ALL_STREAMS else name} has a column {column}"
    for each in found:
        if (reason := _column_error_reason(each, column, kind, streams)) is not None:
            return reason
    return None


def _column_error_reason(
    stream: Stream, column: str, kind: ColumnType | None, streams: Mapping[str, Stream]
) -> str | None:
    if origin := _derived_origin(stream, column):
        return f"{column} of {stream.name} is computed from {origin}, so name the column there"
    if column in unmaskable_columns(stream, streams):
        return f"{column} of {stream.name} is a key, a cursor or what tables are joined by"
    if kind is not None and configurable_column_types(stream).get(column) != kind:
        return f"{column} of {stream.name} is not {'text' if kind == 'string' else 'JSON'}"
    return None


def _derived_origin(stream: Stream, name: str) -> str:
    """Return what a column is computed from where the relation is read; empty where it is not."""
    sources = (each.source for each in stream.columns if each.name == name)
    return next((each.origin for each in sources if isinstance(each, Derived)), "")


def _stream_error_reason(stream: Stream) -> str | None:
    match stream.source:
        case Join(left=left, right=right):
            return f"{stream.name} is made of {left} and {right}, so name the column there"
        case Unnest(parent=parent):
            return f"{stream.name} is made of {parent}, so name the column there"
        case ReportEndpoint():
            return f"{stream.name} counts, and holds no person's data"
        case _:
            return None


def _key_columns(stream: Stream) -> tuple[str, ...]:
    return (*stream.key, "synced_at")


def unmaskable_columns(stream: Stream, streams: Mapping[str, Stream]) -> frozenset[str]:
    """Return the columns that the stream, a join, or the erasure of a person needs unmasked."""
    cursor = [each.column for each in (stream.cursor, stream.id_scan_cursor) if each is not None]
    joined = (
        each.source.join_column
        for each in streams.values()
        if isinstance(each.source, Join) and each.source.left == stream.name
    )
    rollups = [each.rollup for each in streams.values() if each.rollup is not None]
    owners = (each.join_column for each in rollups if each.table == stream.name)
    shape = [REVISION_COLUMN.name] if stream.has_shapes else []
    profile = filter(None, (profile_id_column(stream),))
    return frozenset({*_key_columns(stream), *cursor, *joined, *owners, *shape, *profile})


def profile_id_column(stream: Stream) -> str | None:
    """Return the column with the id of the profile that a row is about; None without one."""
    source, profile_source = stream.source, RelatedId(PROFILE_RELATIONSHIP)
    if isinstance(source, Collection | Children) and source.path.endswith("/profiles"):
        if KEY_COLUMN.name in stream.key:
            return KEY_COLUMN.name
        profile_source = RecordId()
    return next((each.name for each in stream.columns if each.source == profile_source), None)


MAX_PREVIEW_COLUMNS = 8


def preview_columns(stream: Stream) -> tuple[str, ...]:
    """Return the columns of which a few rows may be shown outside the lake, in their order.

    No erasure reaches what is shown there. So a stream about people shows no text, number or id
    that is theirs; of any stream, JSON stays in the lake, and addresses, which may hold secrets.
    Where an account chooses what is in the records, their ids may say anything.
    """
    if is_about_people(stream):
        names = [each.name for each in stream.columns if _is_shown_of_people(each)]
    else:
        is_free_form = any(each.is_free_form for each in stream.columns)
        own = [] if is_free_form or KEY_COLUMN.name not in stream.key else [KEY_COLUMN.name]
        names = [*own, *(each.name for each in stream.columns if _is_shown(each))]
    return tuple(names[:MAX_PREVIEW_COLUMNS])


def is_about_people(stream: Stream) -> bool:
    """Return whether a stream's rows are about profiles, or hold a person's address.

    Where its rows are those of other streams that is not known, and it counts as if they were.
    """
    return (
        isinstance(stream.source, ViewSource | Detail)
        or profile_id_column(stream) is not None
        or any(each.personal_kind for each in stream.columns)
    )


def _is_shown_of_people(column: Column) -> bool:
    """Return whether a column has times, flags, or what an event is of: nothing of a person."""
    match column.source:
        case RelatedId("metric") | FirstIncludedId(_, "campaign" | "flow"):
            return True
        case _:
            return column.type in {"timestamp", "boolean"}


def _is_shown(column: Column) -> bool:
    is_json = column.type in {"json", "ids"} or bool(column.personal_members)
    return not is_json and "url" not in column.name.split("_")


def personal_columns(stream: Stream, streams: Mapping[str, Stream]) -> frozenset[str]:
    """Return the columns of a stream's relation that may hold personal data.

    These are the declared ones, `extra`, whatever the account fills as it likes, and, where a row
    is about a person, all JSON. The ids of profiles are none of them: rows are joined by these.
    """
    base = base_stream_name(stream)
    is_about_person = any(
        profile_id_column(each) is not None
        for each in (stream, *([streams[base]] if base is not None else []))
    )
    return frozenset(
        each.name
        for each in relation_columns(stream, streams)
        if each.personal_kind is not None
        or each.personal_members
        or each.is_free_form
        or each.is_personal
        or each.name == EXTRA_FIELD
        or (is_about_person and each.type == "json")
    )
