"""Requests that Klaviyo refuses are refused, with its status, code and words."""

import pytest

from klaviyo_assets.sandbox.account.config import PrivateApiKey
from klaviyo_assets_tests.sandbox.conftest import StartSandbox
from klaviyo_assets_tests.sandbox.sandbox_client import SandboxClient

CAMPAIGNS = "/api/campaigns?filter=equals(messages.channel,'email')"

REFUSED = [
    ("/api/metrics?page[size]=5", "'page_size' is not a valid field for the resource 'metric'"),
    ("/api/tags?page[number]=2", "'page[number]' is not a valid parameter for the resource 'tag'"),
    ("/api/events?foo=1", "'foo' is not a valid parameter for the resource 'event'"),
    ("/api/accounts?filter=equals(id,'x')", "'filter' is not a valid parameter for the resource"),
    ("/api/accounts?page[cursor]=x", "'page_cursor' is not a valid field for the resource"),
    ("/api/events?page[size]=1001", "Page size must be an integer between 1 and 1000."),
    ("/api/profiles?page[size]=101", "Page size must be an integer between 1 and 100."),
    ("/api/lists?page[size]=11", "Page size must be an integer between 1 and 10."),
    ("/api/tags?page[size]=0", "Page size must be an integer between 1 and 50."),
    ("/api/tags?page[size]=ten", "Page size must be an integer between 1 and 50."),
    (
        "/api/campaigns?filter=equals(name,'x')",
        "'equals' is not an allowed filter operator for name.  Allowed operators are contains",
    ),
    (
        "/api/profiles?filter=greater-or-equal(updated,2026-01-01T00:00:00Z)",
        (
            "'greater-or-equal' is not an allowed filter operator for updated.  "
            "Allowed operators are greater-than,less-than"
        ),
    ),
    (
        "/api/lists?filter=less-than(updated,2026-01-01T00:00:00Z)",
        (
            "'less-than' is not an allowed filter operator for updated.  "
            "Allowed operators are greater-than"
        ),
    ),
    ("/api/profiles?filter=equals(title,'x')", "'title' is not a filterable field"),
    ("/api/campaigns", "A filter on 'messages.channel' is required"),
    ("/api/campaigns?filter=equals(archived,true)", "A filter on 'messages.channel' is required"),
    ("/api/campaigns?filter=equals(messages.channel,'whatsapp')", "'whatsapp' is not a valid"),
    (
        CAMPAIGNS + ",greater-than(updated_at,2026-11-21T00:00:00Z)",
        "End date may not be in the future",
    ),
    ("/api/flows?filter=less-than(updated,2026-11-21T00:00:00Z)", "End date may not be in the"),
    (
        "/api/flows?sort=created&filter=less-than(updated,2026-11-01T00:00:00Z)",
        "Sort field must match the filtered date field",
    ),
    ("/api/events?sort=id", "'id' is not a sortable field"),
    ("/api/metrics?sort=name", "'sort' is not a valid parameter"),
    ("/api/profiles?include=profiless", "'profiless' is not an allowed include parameter"),
    ("/api/lists?include=profiles", "'profiles' is not an allowed include parameter"),
    ("/api/lists?additional-fields[list]=profile_count", "additional-fields must be in []"),
    (
        "/api/profiles?additional-fields[profile]=x",
        "additional-fields must be in ['subscriptions', 'predictive_analytics']",
    ),
    ("/api/profiles?fields[profile]=emial", "'emial' is not a valid field for the resource"),
    ("/api/profiles?fields[event]=id", "'fields[event]' is not a valid parameter"),
    ("/api/events/NOPE01", "Invalid Event ID: 'NOPE01'"),
    ("/api/mapped-metrics/nope", "Invalid Mapped Metric ID: 'nope'"),
    ("/api/tags?sort=id&sort=name", "'sort' may be given only once."),
]

BAD_GRAMMAR = [
    "equals(email,x@example.com)",
    "equals(email,'x'",
    "equals(email 'x')",
    "or(equals(email,'x'),equals(email,'y'))",
    "equals(email,'x'),",
    "any(email,'x')",
    "any(email,[])",
    "is(email,'x')",
    "greater-than(updated,'2026-01-01T00:00:00Z')",
    "greater-than(updated,yesterday)",
    "greater-than(updated,2026-13-01T00:00:00Z)",
    "greater-than(updated,5)",
    "",
    "and(equals(email,'x')",
    "equals(email,'x'))",
    "equals(email,'x\\')",
]


@pytest.mark.parametrize(("target", "detail"), REFUSED)
def test_a_request_beyond_the_offer_is_refused(
    client: SandboxClient, target: str, detail: str
) -> None:
    """Whatever the reference does not offer is a 400 that says what and where."""
    answered = client.request(target)
    assert answered.status == 400, answered.body[:200]
    error = answered.json["errors"][0]
    assert error["detail"].startswith(detail)
    assert (error["code"], error["status"], error["title"]) == ("invalid", 400, "Invalid input.")
    assert set(error["source"]) <= {"parameter", "pointer"}
    assert error["id"]


@pytest.mark.parametrize("text", BAD_GRAMMAR)
def test_a_filter_outside_the_grammar_is_refused(client: SandboxClient, text: str) -> None:
    """A filter that cannot be read, or whose literal is of the wrong kind, is one 400."""
    answered = client.request(f"/api/profiles?filter={text}")
    assert (answered.status, answered.detail) == (400, "Invalid filter provided")
    assert answered.json["errors"][0]["source"] == {"parameter": "filter"}


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": None}, 401, "not_authenticated"),
        ({"Authorization": ""}, 401, "not_authenticated"),
        ({"Authorization": "Klaviyo-API-Key pk_wrong"}, 401, "authentication_failed"),
        ({"Authorization": "Bearer KEY"}, 401, "authentication_failed"),
        ({"revision": None}, 400, "invalid"),
        ({"revision": "soon"}, 400, "invalid"),
        ({"revision": "2029-01-15"}, 400, "invalid"),
        (
            {"revision": "2023-10-15", "X-Klaviyo-Revision-Fall-Forward-Opt-Out": "1"},
            410,
            "gone",
        ),
    ],
)
def test_who_asks_and_how_is_checked(
    client: SandboxClient, headers: dict[str, str | None], status: int, code: str
) -> None:
    """Key, then revision: each has its own refusal."""
    sent = {
        name: value and value.replace("KEY", client.sandbox.key) for name, value in headers.items()
    }
    answered = client.request("/api/lists", sent)
    assert (answered.status, answered.json["errors"][0]["code"]) == (status, code)


def test_a_retired_revision_falls_forward(client: SandboxClient) -> None:
    """Without the opt-out header an old revision is answered as a live one, with a header."""
    answered = client.request("/api/lists", {"revision": "2023-10-15"})
    assert answered.status == 200
    assert answered.headers["x-klaviyo-api-revision"] > "2023-10-15"


@pytest.mark.parametrize(
    ("target", "method", "status", "code"),
    [
        ("/api/nowhere", "GET", 404, "not_found"),
        ("/api/campaign-series-reports", "POST", 404, "not_found"),
        ("/api/lists", "POST", 405, "method_not_allowed"),
        ("/api/profiles/01KB8R38ES1Y9FXPH03KZDM80S", "DELETE", 405, "method_not_allowed"),
        ("/api/profiles/01KB8R38ES1Y9FXPH03KZDM80S", "GET", 404, "not_found"),
        ("/api/campaign-recipient-estimations/01X", "GET", 404, "not_found"),
        ("/api/lists/none/profiles", "GET", 404, "not_found"),
        ("/api/events/00000000000", "GET", 404, "not_found"),
    ],
)
def test_unknown_paths_and_records(
    client: SandboxClient, target: str, method: str, status: int, code: str
) -> None:
    """A path, a method or a record that is not there has Klaviyo's status for it."""
    answered = client.request(target, method=method)
    assert (answered.status, answered.json["errors"][0]["code"]) == (status, code)


def test_a_missing_scope_is_named(start_sandbox: StartSandbox) -> None:
    """A key without a scope gets a 403 that names it, and what it may read goes on."""
    key = PrivateApiKey(value="pk_narrow", scopes=frozenset({"lists:read"}))
    client = start_sandbox(keys=(key,))
    lists = client.read_ids("/api/lists")
    answered = client.request(f"/api/lists/{lists[0]}/profiles")
    assert (answered.status, answered.json["errors"][0]["code"]) == (403, "permission_denied")
    assert "profiles:read" in answered.detail
    assert "lists:read" not in answered.detail


def test_a_deleted_list_is_a_404(start_sandbox: StartSandbox) -> None:
    """Between the list of lists and its members a list can vanish: 404 for both."""
    client = start_sandbox()
    gone = client.read_ids("/api/lists")[0]
    client.call_admin("POST", "/__mutate", {"list": gone, "delete": True})
    assert gone not in client.read_ids("/api/lists")
    for path in (f"/api/lists/{gone}", f"/api/lists/{gone}/profiles"):
        answered = client.request(path)
        assert answered.status == 404
        assert answered.detail == f"A list with id {gone} does not exist."
