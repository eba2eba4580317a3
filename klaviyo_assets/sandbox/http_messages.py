"""HTTP requests and responses as values, and the errors that become Klaviyo's error responses.

One exception carries status, code, title, detail and source to the server. The texts of each
refusal stand where the rule stands (grammar, query, limits); only those shared by many modules are
here. Source: error format and recorded answers, revision 2026-07-15,
https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Self

from klaviyo_assets.sandbox.json_types import JsonObject, dump_json

JSON_API_TYPE = "application/vnd.api+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request as it came: path and query still encoded, header names in lower case.

    `origin` is the address the client used; `page_factor` is set by a fault only.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""
    origin: str = ""
    page_factor: float = 1.0

    def with_query(self, query: str) -> Self:
        """The same request with another query."""
        return replace(self, query=query)

    def with_page_factor(self, factor: float) -> Self:
        """The same request, to be answered with pages of another length."""
        return replace(self, page_factor=factor)


@dataclass(slots=True, kw_only=True)
class HttpResponse:
    """An answer to send: status, headers, body, and the ordinals of the records in it."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict[str, str])
    kind: str | None = None
    shown_ordinals: list[int] = field(default_factory=list[int])


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

    def render_body(self, request_number: int) -> bytes:
        """The JSON:API error body; the id is derived from the request's number, so runs repeat."""
        error: JsonObject = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"sandbox-error-{request_number}")),
            "status": self.status,
            "code": self.code,
            "title": self.title,
            "detail": self.detail,
            "source": dict(self.source),
            "links": self.links,
            "meta": [] if self.status == HTTPStatus.TOO_MANY_REQUESTS else {},
        }
        return dump_json({"errors": [error]})


def invalid_input_error(
    detail: str, *, parameter: str | None = None, pointer: str | None = None
) -> ApiError:
    """A 400 about one query parameter or one place in the document."""
    source = {"parameter": parameter} if parameter else {"pointer": pointer or "/data/"}
    return ApiError(400, "invalid", title="Invalid input.", detail=detail, source=source)


def not_found_error(kind: str, record_id: str) -> ApiError:
    """A 404 for a record that does not exist, or no longer."""
    article = "An" if kind[0] in "aeiou" else "A"
    return ApiError(
        404,
        "not_found",
        title="Not found.",
        detail=f"{article} {kind} with id {record_id} does not exist.",
        source={"pointer": "/data/"},
    )


def unknown_path_error() -> ApiError:
    """A 404 for a path or method family that this revision does not have."""
    return ApiError(
        404,
        "not_found",
        title="Not found.",
        detail="No valid revisions found for method",
        source={"pointer": "/data/"},
    )
