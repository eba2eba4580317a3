"""Which operation a method and path mean, or the refusal they deserve.

404 for a path this revision does not have, 405 for a known path with another method.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from klaviyo_assets.sandbox.errors import ApiError, no_such_path
from klaviyo_assets.sandbox.facts.operation import Operation
from klaviyo_assets.sandbox.facts.operations import OPERATIONS


@dataclass(frozen=True, slots=True)
class Route:
    """An operation and the id in its path, empty where it has none."""

    operation: Operation
    record_id: str


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(r"\{id\}", "([^/]+)") + "/?")


_PATTERNS = [(_pattern(operation.path), operation) for operation in OPERATIONS]


def route(method: str, path: str) -> Route:
    """The operation for a path as sent (still percent-encoded); 404 or 405 otherwise."""
    known = False
    for pattern, operation in _PATTERNS:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        known = True
        if operation.method == method:
            return Route(operation, unquote(match.group(1)) if match.groups() else "")
    raise method_not_allowed(method) if known else no_such_path()


def method_not_allowed(method: str) -> ApiError:
    """A 405; the sandbox has no writes at all."""
    return ApiError(
        405,
        "method_not_allowed",
        title="Method not allowed.",
        detail=f'Method "{method}" not allowed.',
        source={"pointer": "/data/"},
    )
