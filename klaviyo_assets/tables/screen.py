"""The screen: what the settings, or we by default, keep from being stored as it came.

What belongs here: a page's record batch without excluded values, with hashes, with the JSON members
that are allowed; records in quarantine without their text; webhooks without their headers. What
does not: which columns that is (`model/privacy`). All of it happens after a page was decoded and
before anything leaves this room; a stream without such settings pays nothing.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw

from klaviyo_assets.model.column import (
    At,
    Column,
    FirstIncludedId,
    Included,
    RelatedId,
    RelatedIds,
)
from klaviyo_assets.model.privacy import Privacy
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.tables.gathered import Quarantined
from klaviyo_assets.tables.hashing import form_of, hash_of_text, hashed
from klaviyo_assets.tables.schema import EXTRA, arrow_schema
from klaviyo_assets.tables.tree import Branch, extra_key, fields_of, path_of
from klaviyo_assets.tables.values import Array, nulls, strings

DEFINITION = "definition"
HEADERS = "headers"
"""The member of a webhook's definition that mostly holds somebody's password or token."""

_MENTIONED = f'"{HEADERS}"'

Change = Callable[[Array], Array]
"""From a column as it came to the column as it is stored."""

_members = msgspec.json.Decoder(dict[str, Raw])
_items = msgspec.json.Decoder(list[Raw])


class Screen:
    """What stands between the pages of one stream and everything that stores them."""

    def __init__(self, stream: Stream, privacy: Privacy, root: Branch) -> None:
        """Work out what becomes of each column; `root` is what is known of the attributes."""
        self.schema = arrow_schema(stream)
        self._is_private = bool(privacy.touched)
        self._changes: dict[str, Change] = {}
        for column in stream.columns:
            if column.name in privacy.hashed - privacy.excluded:
                self._changes[column.name] = partial(
                    hashed, salt=privacy.salt, form=form_of(column.name)
                )
            elif column.name in privacy.json_keys:
                self._changes[column.name] = partial(
                    thinned, one=partial(_only, keys=privacy.json_keys[column.name])
                )
            elif holds_definition(column):
                self._changes[column.name] = partial(cleaned, inside=_is_definition(column))
            if column.name in privacy.members:
                self._changes[column.name] = _one_after_another(
                    self._changes.get(column.name),
                    partial(thinned, one=_members_masked(column, privacy)),
                )
        whole = privacy.touched - privacy.members.keys()
        touched = [column for column in stream.columns if column.name in whole]
        keys = frozenset(key for column in touched for key in _keys_of(column, root))
        self._changes[EXTRA] = partial(
            _extra,
            without=keys,
            only=privacy.json_keys.get(EXTRA),
            is_kept=EXTRA not in privacy.excluded,
        )

    def screened(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch as it may be stored, with all columns; excluded ones are NULL."""
        for name, change in self._changes.items():
            place = batch.schema.get_field_index(name)
            if place >= 0:
                values = cast("Array", batch.column(place))
                changed = change(values)
                if changed is not values:
                    batch = batch.set_column(place, name, changed)
        if batch.num_columns == len(self.schema):
            return batch
        there = set(batch.schema.names)
        pairs = zip(self.schema.names, self.schema.types, strict=True)
        arrays: list[Array] = [
            cast("Array", batch[name]) if name in there else nulls(batch.num_rows, kind)
            for name, kind in pairs
        ]
        return pa.record_batch(arrays, schema=self.schema)

    def quarantined(self, each: Quarantined) -> Quarantined:
        """Return a record that cannot be stored as it may be kept.

        Where the stream has settings of privacy, nothing of it stays but an id that looks like one.
        """
        if self._is_private:
            return Quarantined(each.reason, _id_alone(each.record))
        if _MENTIONED.encode() not in each.record:
            return each
        try:
            return Quarantined(each.reason, without_headers(each.record.strip(), inside=False))
        except (msgspec.DecodeError, RecursionError):
            return Quarantined(each.reason, b"{}")


def _one_after_another(first: Change | None, then: Change) -> Change:
    return then if first is None else lambda values: then(first(values))


def _members_masked(column: Column, privacy: Privacy) -> Callable[[bytes], bytes]:
    """Return what takes members of a JSON column out, or hashes their texts."""
    private = privacy.members[column.name]
    forms = {name: form_of(kind) for name, kind in column.members if name in private.hashed}

    def one(name: str, value: bytes) -> bytes:
        if value.startswith(b"["):
            return _array([one(name, bytes(item)) for item in _items.decode(value)])
        if value.startswith(b"{"):
            return masked(value)
        if not value.startswith(b'"'):
            # A number that a text was expected for tells the person as well.
            return b"null"
        text = msgspec.json.decode(value, type=str)
        return msgspec.json.encode(hash_of_text(text, salt=privacy.salt, form=forms[name]))

    def masked(raw: bytes) -> bytes:
        if raw.startswith(b"["):
            return _array([masked(bytes(item)) for item in _items.decode(raw)])
        if not raw.startswith(b"{"):
            return raw
        return _object(
            {
                name: one(name, bytes(value)) if name in forms else masked(bytes(value))
                for name, value in _members.decode(raw).items()
                if name not in private.excluded
            }
        )

    return masked


def thinned(values: Array, *, one: Callable[[bytes], bytes | None]) -> Array:
    """Return JSON texts changed one by one; None becomes NULL."""
    texts = cast("list[str | None]", values.to_pylist())
    kept = [None if text is None else one(text.encode()) for text in texts]
    return strings([None if each is None else each.decode() for each in kept])


def cleaned(values: Array, *, inside: bool) -> Array:
    """Return JSON texts without the headers of webhooks."""
    if not pc.any(pc.match_substring(values, _MENTIONED)).as_py():
        return values
    return thinned(values, one=partial(without_headers, inside=inside))


def without_headers(raw: bytes, *, inside: bool) -> bytes:
    """Return JSON without each member `headers` that lies in a definition.

    `inside` tells that all of it is one; otherwise definitions are what members of that name hold.

    Raises:
        msgspec.DecodeError: it is not JSON.
    """
    if _MENTIONED.encode() not in raw:
        return raw
    if raw.startswith(b"["):
        return _array([without_headers(bytes(item), inside=inside) for item in _items.decode(raw)])
    if not raw.startswith(b"{"):
        return raw
    return _object(
        {
            name: without_headers(bytes(value), inside=inside or name == DEFINITION)
            for name, value in _members.decode(raw).items()
            if not (inside and name == HEADERS)
        }
    )


def holds_definition(column: Column) -> bool:
    """Tell whether a webhook's or a feed's definition could lie in a column."""
    return isinstance(column.source, Included) or _is_definition(column)


def _is_definition(column: Column) -> bool:
    source = column.source
    return isinstance(source, At) and path_of(source.path)[-1] == DEFINITION


def _keys_of(column: Column, root: Branch) -> set[str]:
    """Return the keys in `extra` under which a column's value could lie, or what it is part of."""
    match column.source:
        case RelatedId(name) | RelatedIds(name) | Included(name) | FirstIncludedId(name):
            return {f"relationships.{name}", "record.relationships"}
        case _:
            paths = [path for path, _ in fields_of(column)]
            ends = [(path, end) for path in paths for end in range(1, len(path) + 1)]
            return {extra_key(root, path[:end]) for path, end in ends}


def _extra(
    values: Array, *, without: frozenset[str], only: frozenset[str] | None, is_kept: bool
) -> Array:
    if not is_kept:
        return nulls(len(values), values.type)
    if values.null_count == len(values):
        return values
    if not without and only is None:
        return cleaned(values, inside=False)

    def one(raw: bytes) -> bytes | None:
        members = _members.decode(without_headers(raw, inside=False))
        kept = {
            name: bytes(value)
            for name, value in members.items()
            if name not in without and (only is None or name in only)
        }
        return _object(kept) if kept else None

    return thinned(values, one=one)


def _only(raw: bytes, *, keys: frozenset[str]) -> bytes | None:
    """Return an object with these members alone, of an array its objects; None for all else."""
    if raw.startswith(b"["):
        found = [_only(bytes(item), keys=keys) for item in _items.decode(raw)]
        return _array([each for each in found if each is not None])
    if not raw.startswith(b"{"):
        return None
    members = _members.decode(raw)
    return _object({name: bytes(value) for name, value in members.items() if name in keys})


def _object(members: Mapping[str, bytes]) -> bytes:
    pairs = (msgspec.json.encode(name) + b":" + value for name, value in members.items())
    return b"{" + b",".join(pairs) + b"}"


def _array(items: list[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def _id_alone(record: bytes) -> bytes:
    try:
        id_ = bytes(_members.decode(record).get("id", Raw()))
    except (msgspec.DecodeError, RecursionError):
        return b"{}"
    return b'{"id":' + id_ + b"}" if re.fullmatch(rb'"[A-Za-z0-9_-]{1,64}"', id_) else b"{}"
