"""The types of a JSON text, and the one way the sandbox writes it.

Types and their two converters belong here; nothing that knows Klaviyo.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None
JsonObject: TypeAlias = dict[str, Json]


def dump_json(value: Json) -> bytes:
    """Compact JSON in UTF-8, keys in the order given."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def load_json_object(text: bytes | str) -> JsonObject:
    """Read a JSON object; raise `ValueError` for any other JSON value or for bad JSON."""
    value: object = json.loads(text)
    if not isinstance(value, dict):
        message = "expected a JSON object"
        raise ValueError(message)  # noqa: TRY004  (callers answer bad input with one error)
    return cast("JsonObject", value)


def as_object(value: Json) -> JsonObject:
    """The value as an object; an empty one when it is anything else."""
    return dict(value) if isinstance(value, Mapping) else {}


def as_list(value: Json) -> list[Json]:
    """The value as a list; an empty one when it is anything else."""
    return list(value) if isinstance(value, list | tuple) else []
