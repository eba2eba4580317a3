"""A request and an answer as values, between the socket and everything else."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

JSON_API = "application/vnd.api+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
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

    def with_factor(self, factor: float) -> Self:
        """The same request, to be answered with pages of another length."""
        return replace(self, page_factor=factor)


@dataclass(slots=True, kw_only=True)
class Reply:
    """An answer to send: status, headers, body, and the ordinals of the records in it."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict[str, str])
    kind: str | None = None
    shown: list[int] = field(default_factory=list[int])
