"""Masks personal data in batches and quarantine: drops columns, hashes values, cuts JSON members.

Headers of webhooks are removed from every definition, whatever the settings: they mostly contain
a password or token of somebody.
"""

import hmac
import re
from collections.abc import Callable
from functools import partial
from typing import cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw

from klaviyo_assets.arrow_buffers import ArrowArray, build_null_array, build_string_array
from klaviyo_assets.decode.jsonapi import (
    QuarantinedRecord,
    encode_json_array,
    encode_json_object,
    json_array_decoder,
    json_object_decoder,
)
from klaviyo_assets.decode.schema import ObjectNode, arrow_schema, extra_key
from klaviyo_assets.model.column import (
    EXTRA_FIELD,
    Column,
    FieldPath,
    FirstIncludedId,
    Included,
    RelatedId,
    RelatedIds,
    column_fields,
    split_path,
)
from klaviyo_assets.model.privacy import PrivacyRules
from klaviyo_assets.model.stream import Stream


def hash_values(values: ArrowArray, *, salt: bytes, normalize: Callable[[str], str]) -> ArrowArray:
    """Return the HMAC-SHA-256 of the normalized texts, in hexadecimal; NULL stays NULL."""
    texts = cast("list[str | None]", values.to_pylist())
    known = {
        text: hash_text(text, salt=salt, normalize=normalize)
        for text in set(texts)
        if text is not None
    }
    return build_string_array([None if text is None else known[text] for text in texts])


def hash_text(text: str, *, salt: bytes, normalize: Callable[[str], str]) -> str:
    """Return the HMAC-SHA-256 of a normalized text, in hexadecimal."""
    return hmac.digest(salt, normalize(text).encode(), "sha256").hex()


def column_normalizer(name: str) -> Callable[[str], str]:
    """Return the function that normalizes the texts of a column, by words in its name."""
    words = name.split("_")
    if "email" in words:
        return normalize_email
    return normalize_phone if "phone" in words else str


def normalize_email(text: str) -> str:
    """Return an e-mail address trimmed and in lower case."""
    return text.strip().lower()


def normalize_phone(text: str) -> str:
    """Return a phone number as its digits, with a leading plus if it has one.

    A text without digits is only trimmed.
    """
    digits = re.sub(r"[^0-9]", "", text)
    if not digits:
        return text.strip()
    return f"+{digits}" if text.strip().startswith("+") else digits


DEFINITION_MEMBER = "definition"
HEADERS_MEMBER = "headers"
"""The member of a webhook's definition that mostly contains somebody's password or token."""

_HEADERS_JSON_KEY = f'"{HEADERS_MEMBER}"'

ColumnTransform = Callable[[ArrowArray], ArrowArray]
"""Turns a column as received into the column as stored."""


class ColumnMasker:
    """Masks the pages of one stream by its privacy rules, before anything of them is stored."""

    def __init__(self, stream: Stream, rules: PrivacyRules, field_tree: ObjectNode) -> None:
        """Build the transform of each column; `field_tree`: the stream's declared attributes."""
        self.schema = arrow_schema(stream)
        self._has_rules = bool(rules.affected_columns)
        self._transforms: dict[str, ColumnTransform] = {}
        for column in stream.columns:
            if column.name in rules.hashed_columns - rules.excluded_columns:
                self._transforms[column.name] = partial(
                    hash_values, salt=rules.salt, normalize=column_normalizer(column.name)
                )
            elif column.name in rules.allowed_json_keys:
                self._transforms[column.name] = partial(
                    transform_json_texts,
                    transform=partial(_keep_members, keys=rules.allowed_json_keys[column.name]),
                )
            elif can_contain_definition(column):
                self._transforms[column.name] = partial(
                    remove_webhook_headers, is_definition=_is_definition(column)
                )
            if column.name in rules.json_members:
                self._transforms[column.name] = _compose_transforms(
                    self._transforms.get(column.name),
                    partial(transform_json_texts, transform=_build_member_masker(column, rules)),
                )
        # Without any, a batch changes only if a value of its page is in `extra`.
        self.has_transforms = self._has_rules or bool(self._transforms)
        whole = rules.affected_columns - rules.json_members.keys()
        touched = [column for column in stream.columns if column.name in whole]
        keys = frozenset(
            key for column in touched for key in _extra_keys_of_column(column, field_tree)
        )
        self._transforms[EXTRA_FIELD] = partial(
            _mask_extra,
            excluded_keys=keys,
            allowed_keys=rules.allowed_json_keys.get(EXTRA_FIELD),
            is_kept=EXTRA_FIELD not in rules.excluded_columns,
        )

    def mask_batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch as it may be stored, with all columns; excluded ones are NULL."""
        arrays = cast("list[ArrowArray]", batch.columns)
        columns = dict(zip(batch.schema.names, arrays, strict=True))
        for name in self._transforms.keys() & columns.keys():
            columns[name] = self._transforms[name](columns[name])
        arrays = [
            columns[name] if name in columns else build_null_array(batch.num_rows, kind)
            for name, kind in zip(self.schema.names, self.schema.types, strict=True)
        ]
        return pa.record_batch(arrays, schema=self.schema)

    def mask_quarantined(self, record: QuarantinedRecord) -> QuarantinedRecord:
        """Return a quarantined record as it may be stored.

        If the stream has privacy rules, only its id stays, and only if it has the form of one.
        """
        if self._has_rules:
            return QuarantinedRecord(record.reason, _keep_id_only(record.record))
        if _HEADERS_JSON_KEY.encode() not in record.record:
            return record
        try:
            return QuarantinedRecord(
                record.reason, remove_header_members(record.record.strip(), is_definition=False)
            )
        except (msgspec.DecodeError, RecursionError):
            return QuarantinedRecord(record.reason, b"{}")


def _compose_transforms(first: ColumnTransform | None, then: ColumnTransform) -> ColumnTransform:
    return then if first is None else lambda values: then(first(values))


def transform_members(raw: bytes, transform: Callable[[str, bytes], bytes | None]) -> bytes:
    """Return JSON with each member of its objects transformed, those in arrays as well.

    A result of None removes the member. Members inside of members are left to `transform`.
    """
    if raw.startswith(b"["):
        items = json_array_decoder.decode(raw)
        return encode_json_array(transform_members(bytes(each), transform) for each in items)
    if not raw.startswith(b"{"):
        return raw
    pairs = json_object_decoder.decode(raw).items()
    changed = {name: transform(name, bytes(value)) for name, value in pairs}
    return encode_json_object({name: one for name, one in changed.items() if one is not None})


def _build_member_masker(column: Column, rules: PrivacyRules) -> Callable[[bytes], bytes]:
    """Return the function that removes members of a JSON column, or hashes their texts."""
    private = rules.json_members[column.name]
    forms = {
        name: column_normalizer(kind)
        for name, kind in column.personal_members
        if name in private.hashed
    }

    def one(name: str, value: bytes) -> bytes | None:
        if name in private.excluded:
            return None
        return hash_member(name, value) if name in forms else transform_members(value, one)

    def hash_member(name: str, value: bytes) -> bytes:
        if value.startswith(b"["):
            items = json_array_decoder.decode(value)
            return encode_json_array([hash_member(name, bytes(item)) for item in items])
        if value.startswith(b"{"):
            return transform_members(value, one)
        if not value.startswith(b'"'):
            # A number in place of a text may identify the person too.
            return b"null"
        text = msgspec.json.decode(value, type=str)
        return msgspec.json.encode(hash_text(text, salt=rules.salt, normalize=forms[name]))

    return partial(transform_members, transform=one)


def transform_json_texts(
    values: ArrowArray, *, transform: Callable[[bytes], bytes | None]
) -> ArrowArray:
    """Return JSON texts transformed one by one; a result of None becomes NULL."""
    texts = cast("list[str | None]", values.to_pylist())
    kept = [None if text is None else transform(text.encode()) for text in texts]
    return build_string_array([None if each is None else each.decode() for each in kept])


def remove_webhook_headers(values: ArrowArray, *, is_definition: bool) -> ArrowArray:
    """Return JSON texts without the headers of webhooks."""
    if not pc.any(pc.match_substring(values, _HEADERS_JSON_KEY)).as_py():
        return values
    return transform_json_texts(
        values, transform=partial(remove_header_members, is_definition=is_definition)
    )


def remove_header_members(raw: bytes, *, is_definition: bool) -> bytes:
    """Return JSON without any member `headers` inside a definition.

    `is_definition`: the whole JSON is a definition; otherwise the values of its members named
    `definition` are.

    Raises:
        msgspec.DecodeError: it is not JSON.
    """
    if _HEADERS_JSON_KEY.encode() not in raw:
        return raw

    def one(name: str, value: bytes) -> bytes | None:
        if is_definition and name == HEADERS_MEMBER:
            return None
        return remove_header_members(
            value, is_definition=is_definition or name == DEFINITION_MEMBER
        )

    return transform_members(raw, one)


def can_contain_definition(column: Column) -> bool:
    """Return whether a column may contain the definition of a webhook or a feed."""
    return isinstance(column.source, Included) or _is_definition(column)


def _is_definition(column: Column) -> bool:
    source = column.source
    return isinstance(source, FieldPath) and split_path(source.path)[-1] == DEFINITION_MEMBER


def _extra_keys_of_column(column: Column, root: ObjectNode) -> set[str]:
    """Return the keys in `extra` that may hold a column's value, or an object that contains it."""
    match column.source:
        case RelatedId(name) | RelatedIds(name) | Included(name) | FirstIncludedId(name):
            return {f"relationships.{name}", "record.relationships"}
        case _:
            paths = [path for path, _ in column_fields(column)]
            ends = [(path, end) for path in paths for end in range(1, len(path) + 1)]
            return {extra_key(root, path[:end]) for path, end in ends}


def _mask_extra(
    values: ArrowArray,
    *,
    excluded_keys: frozenset[str],
    allowed_keys: frozenset[str] | None,
    is_kept: bool,
) -> ArrowArray:
    if not is_kept:
        return build_null_array(len(values), values.type)
    if values.null_count == len(values):
        return values
    if not excluded_keys and allowed_keys is None:
        return remove_webhook_headers(values, is_definition=False)

    def one(raw: bytes) -> bytes | None:
        members = json_object_decoder.decode(remove_header_members(raw, is_definition=False))
        kept = {
            name: bytes(value)
            for name, value in members.items()
            if name not in excluded_keys and (allowed_keys is None or name in allowed_keys)
        }
        return encode_json_object(kept) if kept else None

    return transform_json_texts(values, transform=one)


def _keep_members(raw: bytes, *, keys: frozenset[str]) -> bytes | None:
    """Return an object, or an array's objects, with only these members; None for other JSON."""
    if raw.startswith(b"["):
        found = [_keep_members(bytes(item), keys=keys) for item in json_array_decoder.decode(raw)]
        return encode_json_array([each for each in found if each is not None])
    if not raw.startswith(b"{"):
        return None
    members = json_object_decoder.decode(raw)
    return encode_json_object(
        {name: bytes(value) for name, value in members.items() if name in keys}
    )


def _keep_id_only(record: bytes) -> bytes:
    try:
        id_ = bytes(json_object_decoder.decode(record).get("id", Raw()))
    except (msgspec.DecodeError, RecursionError):
        return b"{}"
    return b'{"id":' + id_ + b"}" if re.fullmatch(rb'"[A-Za-z0-9_-]{1,64}"', id_) else b"{}"
