"""A refusal becomes the error that says who acts; its text holds no personal data."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.api.messages import (
    describe_request,
    map_error_response,
    parse_retry_after,
    redact_personal_data,
)
from klaviyo_assets.errors import (
    AccessDeniedError,
    BadKeyError,
    CursorLostError,
    KlaviyoAssetsError,
    MissingScopeError,
    NotFoundError,
    PageSizeError,
    PermanentError,
    PlanError,
    RateLimitError,
    RequestError,
    RevisionRetiredError,
    ServerError,
    TransientError,
)
from klaviyo_assets_tests.unit.api.samples import KEY, build_request, build_response

CHALLENGE = "<!DOCTYPE html><html><title>Just a moment...</title></html>"
PHP = '{"errors":[{"status":429,"code":"throttled","links":[],"meta":[],"source":[]}]}'


BARE = "You do not have permission to perform this action."


def body_of(code: str, detail: str, **source: str) -> str:
    """Return an error body in Klaviyo's form."""
    error = {"id": "3f1c", "status": 400, "code": code, "title": "Invalid input."}
    return json.dumps({"errors": [error | {"detail": detail, "source": source}]})


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, body_of("invalid", "Invalid filter provided", parameter="filter"), RequestError),
        (400, body_of("invalid", "Invalid cursor provided.", pointer="/data/"), CursorLostError),
        (401, body_of("not_authenticated", "Credentials were not provided."), BadKeyError),
        (401, "", BadKeyError),
        (403, body_of("permission_denied", "Missing scope."), MissingScopeError),
        (403, body_of("forbidden", "Entitlement not found."), PlanError),
        (403, body_of("forbidden", "This feature needs the Advanced plan."), PlanError),
        (403, body_of("permission_denied", "Your account has been suspended."), AccessDeniedError),
        (403, body_of("permission_denied", "Not from this network."), AccessDeniedError),
        (403, body_of("permission_denied", "Your plan is past due."), AccessDeniedError),
        (403, body_of("permission_denied", "Something new."), AccessDeniedError),
        (403, body_of("permission_denied", BARE), MissingScopeError),
        (403, '{"message": "blocked"}', ServerError),
        (403, '{"errors": [{}]}', ServerError),
        (403, "[]", ServerError),
        (403, CHALLENGE, ServerError),
        (403, "", ServerError),
        (404, body_of("not_found", "A profile with id X does not exist."), NotFoundError),
        (404, body_of("not_found", "No valid revisions found for method"), RevisionRetiredError),
        (404, CHALLENGE, NotFoundError),
        (405, body_of("method_not_allowed", "No."), RequestError),
        (408, "", ServerError),
        (409, body_of("duplicate_profile", "Twice."), RequestError),
        (410, body_of("gone", "Retired."), RevisionRetiredError),
        (410, "", RevisionRetiredError),
        (415, "", RequestError),
        (429, PHP, RateLimitError),
        (429, CHALLENGE, RateLimitError),
        (301, "", RequestError),
        (304, "", RequestError),
        (500, body_of("error", "A server error occurred."), ServerError),
        (502, CHALLENGE, ServerError),
        (503, "", ServerError),
        (504, "", ServerError),
        (520, CHALLENGE, ServerError),
        (524, CHALLENGE, ServerError),
        (530, CHALLENGE, ServerError),
        (599, "", ServerError),
    ],
    ids=str,
)
def test_every_status_has_one_error(status: int, body: str, kind: type[KlaviyoAssetsError]) -> None:
    """Status and body decide the class, and the class decides who acts."""
    error = map_error_response(build_response(status, body), build_request())
    assert type(error) is kind
    assert str(error).startswith(f"GET /api/events was answered with {status}")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (body_of("invalid", "Too large.", parameter="page[size]"), PageSizeError),
        (body_of("invalid", "Too large.", parameter="page_size"), PageSizeError),
        (body_of("invalid", "'page_size' must be at most 200.", pointer="/data/"), PageSizeError),
        (
            body_of("invalid", "The page size may not change.", parameter="page[cursor]"),
            PageSizeError,
        ),
        (body_of("invalid", "page[size] is too large."), PageSizeError),
        (body_of("invalid", "Invalid cursor provided.", parameter="page[size]"), CursorLostError),
        (body_of("invalid", "No page size there.", parameter="filter"), RequestError),
        (body_of("invalid", "The page is not sized."), RequestError),
    ],
    ids=str,
)
def test_a_refused_page_size_is_distinguished_from_other_refusals(
    body: str, kind: type[KlaviyoAssetsError]
) -> None:
    """By where Klaviyo points, or its words; a request that names no size is refused as ever."""
    answer = build_response(400, body)
    sized = build_request(query="page%5Bsize%5D=1000")
    assert type(map_error_response(answer, sized)) is kind
    assert not isinstance(map_error_response(answer, build_request()), PageSizeError)


@given(
    status=st.integers(100, 599).filter(lambda status: not 200 <= status < 300),
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["errors", "code", "detail", "title", "source", "pointer", "x"]
                    ),
                    inner,
                    max_size=4,
                )
            ),
        ).map(lambda value: json.dumps({"errors": value}).encode()),
    ),
    retry_after=st.text(max_size=8),
)
def test_no_body_breaks_the_error_path(status: int, body: bytes, retry_after: str) -> None:
    """Whatever the body, the error has the status, in one line."""
    answer = build_response(status, body, {"retry-after": retry_after})
    error = map_error_response(answer, build_request())
    assert f"answered with {status}" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "body",
    [
        "null",
        "[]",
        "7",
        '"text"',
        '{"errors":[]}',
        '{"errors":null}',
        '{"errors":["text"]}',
        '{"errors":{"code":"x"}}',
        "[" * 100_000,
        '{"errors":[{"detail":["a"],"source":"x","code":7}]}',
    ],
    ids=lambda body: body[:40],
)
def test_odd_bodies_are_read_leniently(body: str) -> None:
    """JSON that keeps to no form is still a plain 400."""
    assert type(map_error_response(build_response(400, body), build_request())) is RequestError


def test_the_text_says_what_came_back() -> None:
    """Code, source and detail stand in the text, and as values on the error."""
    body = body_of("invalid", "'equals' is not an allowed operator.", parameter="filter")
    error = map_error_response(build_response(400, body), build_request())
    assert "(invalid: filter: 'equals' is not an allowed operator)" in str(error)
    assert isinstance(error, PermanentError)
    assert (error.status, error.code, error.source) == (400, "invalid", "filter")


def test_a_missing_scope_is_named() -> None:
    """What the operator must give the key is read from Klaviyo's own words."""
    detail = "The following scopes are required: segments:read"
    error = map_error_response(
        build_response(403, body_of("permission_denied", detail)), build_request()
    )
    assert isinstance(error, MissingScopeError)
    assert error.scopes == ("segments:read",)
    assert "lacks the scope segments:read" in str(error)


def test_a_plan_that_forbids_names_no_scope() -> None:
    """Without a scope in the words none is invented."""
    detail = "You must have Advanced KDP enabled to use this endpoint."
    error = map_error_response(
        build_response(403, body_of("permission_denied", detail)), build_request()
    )
    assert isinstance(error, PlanError)
    assert error.detail == detail
    assert "plan" in str(error)


def test_a_retired_revision_names_the_setting() -> None:
    """The error names the variable to set."""
    error = map_error_response(build_response(410), build_request())
    assert "KLAVIYO_REVISION" in str(error)


def test_a_redirect_names_its_host() -> None:
    """The error names the redirect's host, which is not requested."""
    answer = build_response(302, "", {"location": "https://evil.example/api/events?email=a@b.de"})
    assert "here to evil.example" in str(map_error_response(answer, build_request()))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1),
        ("0", 0),
        (" 60 ", 60),
        ("73473", 73473),
        ("", None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1e3", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("soon", None),
        ("٣", None),
        ("9" * 400, None),
    ],
    ids=lambda value: str(value)[:12],
)
def test_retry_after_is_whole_seconds_or_nothing(text: str, seconds: int | None) -> None:
    """Only a plain number of seconds is believed; anything else is our own back-off's business."""
    assert parse_retry_after({"retry-after": text}) == seconds
    error = map_error_response(build_response(429, PHP, {"retry-after": text}), build_request())
    assert isinstance(error, TransientError)
    assert error.retry_after_seconds == seconds


def test_a_missing_retry_after_is_nothing() -> None:
    """No header, no number."""
    assert parse_retry_after({}) is None


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        "pk_live_Ab3",
        "jane.doe+news@example.co.uk",
        "jane%40example.com",
        "jörg@müller.example",
        "+4915112345678",
        "+49 151 1234-5678",
        "%2B4915112345678",
        "(555) 123-4567",
        "555-123-4567",
        "15551234567",
    ],
)
def test_details_are_scrubbed(secret: str) -> None:
    """A detail quotes the values of filters: keys, addresses and numbers of people go."""
    for detail in (secret, f"'{secret}' is not valid", f'equals(email,"{secret}") and more'):
        error = map_error_response(build_response(400, body_of("invalid", detail)), build_request())
        assert secret not in str(error)
        assert secret not in repr(error)


@pytest.mark.parametrize(
    "plain",
    [
        "End date may not be in the future: 2026-11-23T10:00:00+00:00",
        "'page_size' is not a valid field for the resource 'metric'",
        "Request was throttled. Expected available in 73473 seconds.",
        "A profile with id 01GDDKASAP8TKDDA2GRZDSVP4H does not exist.",
        "equals(messages.channel,'email')",
    ],
)
def test_what_names_nobody_stays(plain: str) -> None:
    """Dates, ids and words that help are not scrubbed."""
    assert redact_personal_data(plain) == plain


def test_a_long_or_broken_detail_is_one_short_line() -> None:
    """A log line cannot be forged, and a page of text is cut."""
    assert redact_personal_data("a\r\nERROR forged\x1b[31m") == "a  ERROR forged [31m"
    assert len(redact_personal_data("word " * 500)) == 300


def test_a_request_is_described_without_personal_data() -> None:
    """Parameters are named; values of filters and paging cursors are not shown."""
    query = (
        "filter=equals%28email%2C%22jane%40example.com%22%29&sort=-updated&page%5Bcursor%5D=WzE3"
    )
    message = describe_request(build_request("/api/profiles", query))
    assert message == "GET /api/profiles?filter=…&sort=-updated&page[cursor]=…"


def test_no_parameter_slips_through() -> None:
    """Also personal data in an unknown parameter is redacted."""
    request = replace(build_request("/api/x", "hint=jane%40example.com"), method="POST")
    assert describe_request(request) == "POST /api/x?hint=[e-mail]"


def test_values_of_an_error_are_scrubbed_too() -> None:
    """Code and source are shown and stored, so they are treated as the detail is."""
    body = body_of("jane@example.com", "x", pointer=f"/data/{KEY}")
    error = map_error_response(build_response(400, body), build_request())
    assert isinstance(error, PermanentError)
    assert "jane" not in f"{error!r} {error} {error.code}"
    assert KEY not in f"{error!r} {error} {error.source}"
