"""A plain client for the tests of the sandbox: requests URLs, follows pages, calls `/__`.

The standard library only, so that what a test sees is what the sandbox sent.
"""

import json
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import quote, urlsplit

from klaviyo_assets.sandbox import Sandbox

Document = dict[str, Any]


class SandboxResponse:
    """Status, headers (lower case) and body of an answer."""

    def __init__(self, response: HTTPResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = body

    @property
    def json(self) -> Document:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """The detail of the first error."""
        return self.json["errors"][0]["detail"]


class SandboxClient:
    """Asks one sandbox over one kept connection."""

    def __init__(
        self, sandbox: Sandbox, key: str | None = None, *, revision: str = "2026-07-15"
    ) -> None:
        self.sandbox = sandbox
        self.revision = revision
        self.url = sandbox.url
        self.headers: dict[str, str | None] = {
            "Authorization": f"Klaviyo-API-Key {key or sandbox.key}",
            "revision": revision,
            "Accept": "application/vnd.api+json",
        }
        self.connection = HTTPConnection("127.0.0.1", urlsplit(self.url).port or 0, timeout=300)

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def request(
        self,
        target: str,
        headers: Mapping[str, str | None] | None = None,
        *,
        method: str = "GET",
        body: bytes | None = None,
    ) -> SandboxResponse:
        """One request; a header given as None is left out."""
        parts = urlsplit(target)
        path = parts.path + (f"?{quote(parts.query, safe='=&%+')}" if parts.query else "")
        sent = {**self.headers, **(headers or {})}
        self.connection.request(
            method, path, body, {name: value for name, value in sent.items() if value is not None}
        )
        response = self.connection.getresponse()
        return SandboxResponse(response, response.read())

    def get_document(self, target: str) -> Document:
        """The document of a GET that must succeed."""
        answered = self.request(target)
        assert answered.status == 200, answered.body[:500]
        return answered.json

    def read_pages(self, target: str) -> Iterator[Document]:
        """The documents from this one to the last, by the next links."""
        following: str | None = target
        while following:
            document = self.get_document(following)
            yield document
            following = document["links"].get("next")

    def read_records(self, target: str) -> list[Document]:
        """All records from this page to the last."""
        return [record for page in self.read_pages(target) for record in page["data"]]

    def read_ids(self, target: str) -> list[str]:
        """The ids of all records from this page to the last, in order."""
        return [record["id"] for record in self.read_records(target)]

    def call_admin(self, method: str, path: str, body: object = None) -> Document:
        """The JSON of an admin request that must succeed."""
        data = None if body is None else json.dumps(body).encode()
        answered = self.request(path, method=method, body=data)
        assert answered.status == 200, answered.body
        return json.loads(answered.body)

    def read_truth(self, name: str) -> dict[str, str | None]:
        """Ids and sort keys that a complete reader must hold."""
        joint = "&" if "?" in name else "?"
        target = f"/__truth/{name}{joint}revision={self.revision}"
        return dict(self.call_admin("GET", target)["records"])

    def add_fault(
        self, kind: str, match: dict[str, object] | None = None, **options: object
    ) -> None:
        """Add one fault to the script, on every request unless told otherwise."""
        rule = {"match": match or {}, "fault": {"kind": kind, **options}}
        self.call_admin("POST", "/__faults", [rule])
