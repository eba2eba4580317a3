"""What the sandbox answers when it refuses a request: Klaviyo's own error body.

One exception carries status, code, title, detail and source to the server. The texts of each
refusal stand where the rule stands (grammar, query, limits); only those shared by many rooms are
here. Source: error format and recorded answers, revision 2026-07-15,
https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
"""

import uuid
from collections.abc import Mapping
from http import HTTPStatus

from klaviyo_assets.sandbox.json_types import JsonObject, dumps


class ApiError(Exception):
    """A refusal in Klaviyo's form; `source` is pointer or parameter, `headers` go out as given."""

    def __init__(
        self,
        status: int,
        code: str,
        *,
        title: str,
        detail: str,
        source: Mapping[str, str] | None = None,
    ) -> None:
        """Hold the five values of the answer."""
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.source: dict[str, str] = dict(source or {})
        self.headers: dict[str, str] = {}
        self.links: JsonObject = {}

    def body(self, number: int) -> bytes:
        """The JSON:API error body; the id is derived from the request's number, so runs repeat."""
        error: JsonObject = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"sandbox-error-{number}")),
            "status": self.status,
            "code": self.code,
            "title": self.title,
            "detail": self.detail,
            "source": dict(self.source),
            "links": self.links,
            "meta": [] if self.status == HTTPStatus.TOO_MANY_REQUESTS else {},
        }
        return dumps({"errors": [error]})


def invalid(detail: str, *, parameter: str | None = None, pointer: str | None = None) -> ApiError:
    """A 400 about one query parameter or one place in the document."""
    source = {"parameter": parameter} if parameter else {"pointer": pointer or "/data/"}
    return ApiError(400, "invalid", title="Invalid input.", detail=detail, source=source)


def not_found(kind: str, record_id: str) -> ApiError:
    """A 404 for a record that does not exist, or no longer."""
    article = "An" if kind[0] in "aeiou" else "A"
    return ApiError(
        404,
        "not_found",
        title="Not found.",
        detail=f"{article} {kind} with id {record_id} does not exist.",
        source={"pointer": "/data/"},
    )


def no_such_path() -> ApiError:
    """A 404 for a path or method family that this revision does not have."""
    return ApiError(
        404,
        "not_found",
        title="Not found.",
        detail="No valid revisions found for method",
        source={"pointer": "/data/"},
    )
