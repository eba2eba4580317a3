"""A proxy is used where the environment names one, and nowhere else."""

import pytest

from klaviyo_assets.api.proxies import proxy_for
from klaviyo_assets.errors import SettingError

NAMES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without any proxy."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_none_is_named_none_is_used() -> None:
    """The plain case goes straight."""
    assert proxy_for("a.klaviyo.com") is None


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_named_proxy_is_used(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each of the usual variables counts; a missing scheme means http."""
    monkeypatch.setenv(name, "proxy.example:3128")
    proxy = proxy_for("a.klaviyo.com")
    assert proxy is not None
    assert (proxy.url, proxy.headers) == ("http://proxy.example:3128", {})


@pytest.mark.parametrize("exempt", ["a.klaviyo.com", ".klaviyo.com", "*"])
def test_an_exempt_host_goes_straight(monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    """NO_PROXY is honoured."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", exempt)
    assert proxy_for("a.klaviyo.com") is None


def test_a_login_travels_in_a_header_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """User and password leave the URL; printing the proxy shows neither."""
    monkeypatch.setenv("HTTPS_PROXY", "http://jane:p%40ss@proxy.example:3128")
    proxy = proxy_for("a.klaviyo.com")
    assert proxy is not None
    assert proxy.url == "http://proxy.example:3128"
    assert proxy.headers == {"Proxy-Authorization": "Basic amFuZTpwQHNz"}
    assert "jane" not in repr(proxy)
    assert "amFu" not in repr(proxy)


@pytest.mark.parametrize("url", ["socks5://jane:pass@proxy.example:1080", "https://proxy.example"])
def test_another_kind_of_proxy_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What we cannot speak is a setting error, without the login."""
    monkeypatch.setenv("ALL_PROXY", url)
    with pytest.raises(SettingError, match="Allowed is http://") as caught:
        proxy_for("a.klaviyo.com")
    assert "jane" not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        "rubbish",
        "true",
        "http:///",
        "http://proxy:port",
        "http://proxy:0",
        "http://[::1",
        "http://pro xy:80",
        "http://jane:pass@/",
        "proxy.example:3128/path",
        "$PROXY:80",
    ],
)
def test_rubbish_is_a_setting_error(monkeypatch: pytest.MonkeyPatch, raw: str) -> None:
    """What is no address is refused by the variables' names, and is not quoted."""
    monkeypatch.setenv("HTTPS_PROXY", raw)
    with pytest.raises(SettingError, match="HTTPS_PROXY or ALL_PROXY") as caught:
        proxy_for("a.klaviyo.com")
    assert raw not in str(caught.value)
    assert "jane" not in str(caught.value)


@pytest.mark.parametrize("raw", ["10.0.0.1", "[::1]:3128", "localhost:3128", "http://proxy:80/"])
def test_short_addresses_are_taken(monkeypatch: pytest.MonkeyPatch, raw: str) -> None:
    """A number, a port, or a scheme tells an address from a word."""
    monkeypatch.setenv("HTTPS_PROXY", raw)
    assert proxy_for("a.klaviyo.com") is not None
