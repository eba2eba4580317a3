"""Nothing leaves this process that should not: keys, hosts and requests are looked at first."""

import re
from dataclasses import replace

import pytest

from klaviyo_assets.api.messages import (
    READ_ONLY_POST_PATHS,
    check_request,
    is_loopback_host,
    validate_api_key,
    validate_base_url,
)
from klaviyo_assets.errors import PermanentError, SettingError
from klaviyo_assets_tests.unit.api.samples import KEY, build_request


def test_a_private_key_passes_unchanged() -> None:
    """The form Klaviyo gives out is accepted."""
    assert validate_api_key(KEY) == KEY


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "is empty"),
        (f" {KEY}", "blank or a line end"),
        (f"{KEY}\n", "blank or a line end"),
        (f"{KEY}\r\nX-Evil: 1", "blank or a line end"),
        (f"{KEY}\u00a0", "blank or a line end"),
        ("AbC123", "public key"),
        ("sk_0123456789abcdef", "not the form"),
        ("pk_short", "not the form"),
        ("pk_0123456789abcdé", "not the form"),
        (f"{KEY};", "not the form"),
    ],
    ids=["none", "blank", "line", "header", "space", "public", "other", "short", "umlaut", "mark"],
)
def test_another_key_is_refused_in_words_and_never_quoted(raw: str, message: str) -> None:
    """A wrong key is a setting error that names the variable and shows nothing of the value."""
    with pytest.raises(SettingError, match=message) as caught:
        validate_api_key(raw)
    assert "KLAVIYO_API_KEY" in str(caught.value)
    for length in range(4, len(raw.strip())):
        assert raw.strip()[:length] not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("https://a.klaviyo.com", "https://a.klaviyo.com"),
        ("https://a.klaviyo.com/", "https://a.klaviyo.com"),
        ("https://proxy.example:8443", "https://proxy.example:8443"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_safe_address_passes(raw: str, address: str) -> None:
    """Https goes anywhere, plain http to this machine; a trailing slash does not matter."""
    assert validate_base_url(raw) == address


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "a.klaviyo.com",
        "http://a.klaviyo.com",
        "http://127.0.0.1.evil.example",
        "http://10.0.0.1",
        "ftp://a.klaviyo.com",
        "https://",
        "https://user:secret@a.klaviyo.com",
        "https://a.klaviyo.com/api",
        "https://a.klaviyo.com?x=1",
        "https://a.klaviyo.com#x",
        "https://a.klaviyo.com:99999",
        "https://a.klaviyo.com:port",
        "https://a.klaviyo.com\n",
        "https://[::1",
    ],
    ids=ascii,
)
def test_an_unsafe_address_is_refused(raw: str) -> None:
    """What is no bare https address, or plain http beyond loopback, is a setting error."""
    with pytest.raises(SettingError, match="KLAVIYO_BASE_URL") as caught:
        validate_base_url(raw)
    assert "secret" not in str(caught.value)


def test_loopback_is_an_address_not_a_spelling() -> None:
    """Names that only look like this machine are not this machine."""
    assert is_loopback_host("127.8.8.8")
    assert is_loopback_host("::1")
    assert not is_loopback_host("127.0.0.1.example")
    assert not is_loopback_host("0.0.0.0")  # noqa: S104 - compared, not bound


def test_gets_and_the_eight_reading_posts_pass() -> None:
    """All that reads may be sent."""
    assert len(READ_ONLY_POST_PATHS) == 8
    check_request(build_request("/api/events", "sort=datetime"))
    for path in READ_ONLY_POST_PATHS:
        check_request(replace(build_request(path), method="POST"))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD", "get", "GET "])
def test_what_could_write_is_refused(method: str) -> None:
    """No method but GET reaches an endpoint, whatever the request calls itself."""
    with pytest.raises(PermanentError, match="was not sent"):
        check_request(replace(build_request("/api/profiles"), method=method))


@pytest.mark.parametrize(
    "path",
    [
        "/api/campaign-values-reports/",
        "/api/campaign-values-reports/../profiles",
        "/api/x/campaign-values-reports",
        "/api//campaign-values-reports",
    ],
)
def test_a_post_is_judged_by_its_url(path: str) -> None:
    """The path that would be sent counts, not the one that the request states."""
    request = replace(build_request(path), method="POST", path="/api/campaign-values-reports")
    with pytest.raises(PermanentError, match="was not sent"):
        check_request(request)


def test_only_the_api_is_requested() -> None:
    """Klaviyo's host has more than its API; the key goes nowhere else on it."""
    with pytest.raises(PermanentError, match=re.escape("'/client/profiles'")):
        check_request(build_request("/client/profiles"))


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/api/events",
        "//evil.example/api/events",
        "@evil.example/api/events",
        ":444/api/events",
        ".evil.example/api/events",
        "api/events",
        "",
    ],
)
def test_a_target_is_a_path_of_the_api(target: str) -> None:
    """A target that would change the server, behind the client's own, is refused."""
    with pytest.raises(PermanentError, match="was not sent"):
        check_request(replace(build_request(), target=target))
