"""A connection error names the host and a hint."""

import ssl

import pytest

from klaviyo_assets.api.messages import connection_error
from klaviyo_assets.errors import ConfigError, ConnectionLostError
from klaviyo_assets_tests.unit.api.samples import build_request

HOST = "a.klaviyo.com"


def wrap_error(inner: Exception) -> Exception:
    """Return an error as a library wraps it: in its arguments and as its cause."""
    outer = OSError("pool of https://a.klaviyo.com/api?filter=jane", inner)
    outer.__cause__ = inner
    return outer


def test_the_innermost_reason_is_reported() -> None:
    """Of the layers only the lowest speaks; the libraries' own words quote URLs."""
    failure = wrap_error(ConnectionRefusedError(111, "Connection refused"))
    error = connection_error(build_request(), failure, host=HOST, addresses=["93.184.216.34"])
    assert type(error) is ConnectionLostError
    assert str(error).startswith(
        "GET /api/events got no response from a.klaviyo.com: ConnectionRefusedError: "
        "[Errno 111] Connection refused."
    )
    assert "jane" not in str(error)


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "::", "::1"])  # noqa: S104 - told, not bound
def test_a_blocked_name_is_reported(address: str) -> None:
    """A public name that stands for this machine or none was blocked by a DNS filter."""
    failure = ssl.SSLCertVerificationError("a local server's certificate")
    error = connection_error(build_request(), failure, host=HOST, addresses=[address])
    assert type(error) is ConnectionLostError
    assert f"resolves to {address}: a DNS filter" in str(error)


def test_loopback_on_purpose_is_not_blocked() -> None:
    """The sandbox lives on loopback; its absence is no DNS filter's work."""
    failure = ConnectionRefusedError("refused")
    error = connection_error(build_request(), failure, host="localhost", addresses=["127.0.0.1"])
    assert "DNS filter" not in str(error)


def test_a_bad_certificate_is_the_operators_to_mend() -> None:
    """A certificate that cannot be verified is never tried again, and never let pass."""
    failure = wrap_error(ssl.SSLCertVerificationError("self-signed certificate"))
    error = connection_error(build_request(), failure, host=HOST, addresses=["93.184.216.34"])
    assert type(error) is ConfigError
    assert "SSL_CERT_FILE" in str(error)
    assert "the key was not sent" in str(error)


def test_other_trouble_with_tls_may_pass() -> None:
    """A handshake cut short is a lost connection like any other."""
    failure = ssl.SSLEOFError("EOF occurred in violation of protocol")
    error = connection_error(build_request(), failure, host=HOST, addresses=["93.184.216.34"])
    assert type(error) is ConnectionLostError


def test_errors_that_name_each_other_end() -> None:
    """A circle of causes is read once."""
    one, two = OSError("one"), OSError("two")
    one.__cause__, two.__cause__ = two, one
    error = connection_error(build_request(), one, host=HOST, addresses=[])
    assert "OSError: two" in str(error)
