"""Everything that Klaviyo lets a key read whole is read by a stream, or says why not."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.contract.coverage import (
    COLLECTIONS,
    EXCLUDED,
    POSTS,
    REVISIONS,
    coverage_problems,
)
from klaviyo_assets_tests.contract.read_collections import COLLECTIONS_PATH, collections_text
from klaviyo_assets_tests.contract.read_facts import DOCUMENT

LISTED = DOCUMENT.with_name("endpoints-2026-10-15.json")


def test_everything_published_is_read_or_says_why_not() -> None:
    """A collection or a report that no stream reads has its reason, and only such a one."""
    assert coverage_problems({**COLLECTIONS, **POSTS}, EXCLUDED, STREAMS) == []


def test_a_new_collection_is_reported_with_its_revision() -> None:
    """New facts name what they add and what they drop, and what to do about it."""
    published = {**COLLECTIONS, **POSTS, "/api/widgets": ["2027-01-15"]}
    del published["/api/coupon-code-bulk-create-jobs"]
    excluded = {**EXCLUDED, "/api/coupon-codes": "too many"}
    assert coverage_problems(published, excluded, STREAMS) == [
        "/api/coupon-code-bulk-create-jobs: no revision offers it; delete its line in EXCLUDED",
        "/api/coupon-codes: coupon_codes reads it; delete its line in EXCLUDED",
        "/api/widgets: offered by 2027-01-15; add a stream, or a reason to EXCLUDED",
    ]


def test_the_facts_are_whole() -> None:
    """There are 51 collections over both revisions, seven reports, and two other reading POSTs."""
    assert REVISIONS == ("2026-07-15", "2026-10-15")
    assert len(COLLECTIONS) == 51
    assert [path for path in POSTS if not path.endswith("-reports")] == [
        "/api/metric-aggregates",
        "/api/template-render",
    ]
    assert len(POSTS) == 9
    every = [path for path, revisions in COLLECTIONS.items() if list(REVISIONS) == revisions]
    assert len(every) == 42


def test_the_facts_are_those_of_the_sources() -> None:
    """Where the documents lie beside the checkout, reading them again gives this very file."""
    text = COLLECTIONS_PATH.read_text(encoding="utf-8")
    if DOCUMENT.exists() and LISTED.exists():
        sources = [(REVISIONS[0], DOCUMENT), (REVISIONS[1], LISTED)]
        read = [(name, json.loads(Path(file).read_text("utf-8"))) for name, file in sources]
        assert text == collections_text(read)
    assert tomllib.loads(text)["revisions"] == list(REVISIONS)


def test_no_reason_is_empty() -> None:
    """Each reason is a sentence that a user who misses the data can reply to."""
    assert all(re.fullmatch(r"[a-z][^|\n]{10,}", reason) for reason in EXCLUDED.values())


OLD: dict[str, Any] = {
    "paths": {
        "/api/things": {"get": {"x-klaviyo-scopes": ["things:read"]}, "post": {}},
        "/api/things/{id}": {"get": {"x-klaviyo-scopes": ["things:read"]}},
        "/api/thing-reports": {"post": {"x-klaviyo-scopes": ["things:read"]}},
        "/api/thing-jobs": {"post": {"x-klaviyo-scopes": ["things:read", "things:write"]}},
        "/client/things": {"get": {}},
    }
}

NEW: list[dict[str, Any]] = [{"method": "GET", "path": "/api/parts", "scopes": ["parts:read"]}]


def test_a_list_adds_and_a_document_replaces() -> None:
    """A list of endpoints adds; an endpoint missing in a document is no longer offered."""
    assert tomllib.loads(collections_text([("1", OLD), ("2", NEW), ("3", {"paths": {}})])) == {
        "revisions": ["1", "2", "3"],
        "collections": {"/api/parts": ["2"], "/api/things": ["1", "2"]},
        "posts": {"/api/thing-reports": ["1", "2"]},
    }
