"""The key goes to one server only, over a connection that is verified, and is shown nowhere."""

import logging
import socket
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import requests
from requests.utils import get_netrc_auth

from klaviyo_assets.api.messages import READ_ONLY_POST_PATHS, Request, Response
from klaviyo_assets.api.requests import next_page_request
from klaviyo_assets.api.retry import RetryPolicy
from klaviyo_assets.errors import (
    BrokenBodyError,
    ConfigError,
    ConnectionLostError,
    ForeignLinkError,
    KlaviyoAssetsError,
    PermanentError,
    RequestError,
    SettingError,
)
from klaviyo_assets_tests.integration.api.conftest import KEY, FakeClock, MakeClient, events_request
from klaviyo_assets_tests.integration.api.scripted_server import (
    CERTIFICATE_PATH,
    PAGE_BODY,
    ReceivedRequest,
    ScriptedServer,
    ServerAction,
    run_server,
    send_and_close,
    send_and_hang,
    send_and_reset,
    send_bytes,
    send_response,
)

PERSON = "jane.doe@example.com"


def body_of(answer: Response) -> bytes:
    """Read anything."""
    return answer.body


def nothing_good(_: Response) -> NoReturn:
    """Find every body broken."""
    raise BrokenBodyError("not valid JSON")


def test_another_server_hears_nothing(client_of: MakeClient) -> None:
    """A next link to another host is refused, and so is a request that goes there anyway."""
    with run_server(send_response()) as server, run_server(send_response()) as other:
        client = client_of(server)
        first = events_request()
        with pytest.raises(ForeignLinkError):
            next_page_request(
                first,
                f"{other.url}/api/events?page%5Bcursor%5D=a",
                base_url=client.base_url,
                seen_targets=set(),
            )
        elsewhere = other.url.removeprefix("http:")
        for target in (f"{other.url}/api/events", f"{elsewhere}/api/events", f"@{elsewhere[2:]}"):
            with pytest.raises(PermanentError, match="was not sent"):
                client.fetch(replace(first, target=target), body_of, stream="events")
        assert (other.received, other.connections, server.received) == ([], 0, [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, client_of: MakeClient) -> None:
    """A redirect is an error that names its target, which never gets the key."""
    with run_server(send_response()) as other:
        location = {"Location": f"{other.url}/api/events"}
        with run_server(send_response(status, b"", location)) as server:
            with pytest.raises(RequestError, match=r"Redirects \(here to 127\.0\.0\.1\)"):
                client_of(server).fetch(events_request(), body_of, stream="events")
            assert len(server.received) == 1
        assert other.connections == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_what_could_write_opens_no_socket(method: str, client_of: MakeClient) -> None:
    """A request that is neither GET nor a reading POST is refused before anything is sent."""
    with run_server(send_response()) as server:
        request = replace(events_request(), method=method, body=b"{}")
        with pytest.raises(PermanentError, match="only reads"):
            client_of(server).fetch(request, body_of, stream="events")
        assert server.connections == 0


def test_a_reading_post_carries_its_body(client_of: MakeClient) -> None:
    """The POSTs that read are sent with their JSON and its type, and tried again like GETs."""
    with run_server(send_response(503, b""), send_response()) as server:
        client = client_of(server)
        for path in sorted(READ_ONLY_POST_PATHS):
            request = Request("POST", path, (), path, b'{"data":{}}')
            assert client.fetch(request, body_of, stream="reports") == PAGE_BODY
        assert {seen.body for seen in server.received} == {b'{"data":{}}'}
        assert {seen.headers["content-type"] for seen in server.received} == {
            "application/vnd.api+json"
        }
        assert len(server.received) == len(READ_ONLY_POST_PATHS) + 1


def test_a_certificate_nobody_vouches_for_is_refused(
    client_of: MakeClient, fake_clock: FakeClock
) -> None:
    """An unknown authority fails at once: no second try, no request, no way around."""
    with run_server(send_response(), is_tls=True) as server:
        with pytest.raises(ConfigError, match="CERTIFICATE_VERIFY_FAILED"):
            client_of(server).fetch(events_request(), body_of, stream="events")
        assert (server.received, server.connections, fake_clock.sleeps) == ([], 1, [])


def test_a_certificate_for_another_name_is_refused(
    client_of: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right authority for the wrong host is not the right host."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE_PATH))
    with run_server(send_response(), is_tls=True) as server:
        server.url = server.url.replace("localhost", "127.0.0.1")
        with pytest.raises(ConfigError, match=r"not valid for '127\.0\.0\.1'"):
            client_of(server).fetch(events_request(), body_of, stream="events")
        assert server.received == []


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_authority_of_ones_own_can_be_named(
    name: str, client_of: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its file named the server is verified and read, with deadlines as over plain http."""
    monkeypatch.setenv(name, str(CERTIFICATE_PATH))
    with run_server(
        send_response(), send_and_hang(b"HTTP/1.1 200 OK\r\n"), send_response(), is_tls=True
    ) as server:
        client = client_of(server, timeout_seconds=1.0)
        for _ in range(2):
            assert client.fetch(events_request(), body_of, stream="events") == PAGE_BODY
        assert client.stats.retries == 1


def test_the_bundle_of_requests_goes_before_that_of_openssl(
    client_of: MakeClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where both are named, the one that `requests` reads is trusted, and it alone."""
    folder = tmp_path / "authorities"
    folder.mkdir()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder))
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE_PATH))
    with run_server(send_response(), is_tls=True) as server:
        with pytest.raises(ConfigError, match="CERTIFICATE_VERIFY_FAILED"):
            client_of(server).fetch(events_request(), body_of, stream="events")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE_PATH))
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "gone.pem"))
        assert client_of(server).fetch(events_request(), body_of, stream="events") == PAGE_BODY


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("content", [None, "no certificate"], ids=["no file", "no certificate"])
def test_a_bundle_that_cannot_be_read_is_a_setting_error(
    name: str,
    content: str | None,
    client_of: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The variables are named, the value is not quoted; plain http to loopback does not care."""
    bundle = tmp_path / "authorities.pem"
    if content is not None:
        bundle.write_text(content)
    monkeypatch.setenv(name, str(bundle))
    with pytest.raises(SettingError, match=name) as caught:
        client_of("https://localhost:1")
    assert str(bundle) not in str(caught.value)
    assert client_of("http://127.0.0.1:1").session.verify is True


NETRC = "machine {host} login jane password secret\ndefault login jane password secret\n"


def test_what_netrc_holds_never_takes_the_place_of_the_key(
    client_of: MakeClient, bare_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `.netrc` with this very host, at home and named by NETRC: the key's header stays."""
    with run_server(send_response()) as server:
        netrc = bare_environment / ".netrc"
        netrc.write_text(NETRC.format(host="127.0.0.1"))
        netrc.chmod(0o600)
        assert get_netrc_auth(server.url) == ("jane", "secret")
        client = client_of(server)
        for _ in range(2):
            client.fetch(events_request(), body_of, stream="events")
            monkeypatch.setenv("NETRC", str(netrc))
        # Nor would it, were a request prepared as `requests` does it.
        outgoing = requests.Request("GET", f"{server.url}/api/events", headers=client.headers)
        prepared = client.session.prepare_request(outgoing)
    assert prepared.headers["Authorization"] == f"Klaviyo-API-Key {KEY}"
    assert {seen.headers["authorization"] for seen in server.received} == {f"Klaviyo-API-Key {KEY}"}
    assert len(server.received) == 2


def test_a_cookie_is_not_kept(client_of: MakeClient) -> None:
    """What a server sets is not sent back, and not even remembered."""
    with run_server(
        send_response(200, PAGE_BODY, {"Set-Cookie": "__cf_bm=1; Path=/; Max-Age=1800"})
    ) as server:
        client = client_of(server)
        for _ in range(2):
            client.fetch(events_request(), body_of, stream="events")
        outgoing = requests.Request("GET", f"{server.url}/api/events")
        prepared = client.session.prepare_request(outgoing)
    assert [seen.headers.get("cookie") for seen in server.received] == [None] * 2
    assert "Cookie" not in prepared.headers
    assert list(client.session.cookies) == []


def test_the_session_has_a_way_to_one_server_only(client_of: MakeClient) -> None:
    """The session has no adapter for another host, port or scheme."""
    with run_server(send_response()) as server, run_server(send_response()) as other:
        session = client_of(server).session
        for url in (other.url, "http://127.0.0.1:1", server.url.replace("http:", "https:")):
            with pytest.raises(requests.exceptions.InvalidSchema):
                session.get(f"{url}/api/events")
        assert (server.connections, other.connections) == (0, 0)


def test_a_redirects_body_is_bounded_too(client_of: MakeClient) -> None:
    """An endless redirect ends at the maximum size of any response, and is not followed."""
    head = b"HTTP/1.1 302 Found\r\nLocation: /api/lists\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with run_server(send_bytes(head + chunk * 320)) as server:
        client = client_of(server)
        client.max_body_bytes = 2**20
        with pytest.raises(RequestError, match="Redirects"):
            client.fetch(events_request(), body_of, stream="events")
        assert len(server.received) == 1


def tunnel(target: ScriptedServer) -> ServerAction:
    """Answer a CONNECT as a proxy does: from then on pass bytes to `target` and back."""

    def act(line: socket.socket, _: ScriptedServer) -> None:
        port = int(target.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as onward:
            line.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            line.settimeout(0.02)
            onward.settimeout(0.02)
            while not target.closing.is_set():
                for source, sink in ((line, onward), (onward, line)):
                    try:
                        sink.sendall(source.recv(65536))
                    except TimeoutError:
                        continue
        raise ConnectionError

    return act


def test_a_proxy_sees_the_host_and_never_the_key(
    client_of: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a proxy the connection is TLS to Klaviyo's own certificate, end to end."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE_PATH))
    with run_server(send_response(), is_tls=True) as server, run_server(tunnel(server)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//jane:secret@"))
        client = client_of(server)
        assert client.fetch(events_request(), body_of, stream="events") == PAGE_BODY
        assert server.received[0].headers["authorization"] == f"Klaviyo-API-Key {KEY}"
        (seen,) = proxy.received
    assert seen.line.startswith("CONNECT localhost:")
    assert seen.headers["proxy-authorization"] == "Basic amFuZTpzZWNyZXQ="
    assert KEY not in str(seen)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_each_of_the_usual_variables_names_a_proxy(
    name: str, client_of: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a scheme or without one; NO_PROXY exempts the host, or a host above it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE_PATH))
    with run_server(send_response(), is_tls=True) as server, run_server(tunnel(server)) as proxy:
        for value in (proxy.url, proxy.url.removeprefix("http://")):
            monkeypatch.setenv(name, value)
            assert client_of(server).fetch(events_request(), body_of, stream="events") == PAGE_BODY
        assert len(proxy.received) == 2
        for exempt in ("localhost", "*", "example.com, localhost"):
            monkeypatch.setenv("NO_PROXY", exempt)
            assert client_of(server).fetch(events_request(), body_of, stream="events") == PAGE_BODY
        assert (len(proxy.received), len(server.received)) == (2, 5)


@pytest.mark.parametrize("exempt", ["a.klaviyo.com", ".klaviyo.com", "klaviyo.com", "*"])
def test_an_exempt_host_goes_straight(
    exempt: str, client_of: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY is honoured as `requests` honours it."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert client_of("https://a.klaviyo.com").session.proxies == {
        "https": "http://proxy.example:3128"
    }
    monkeypatch.setenv("NO_PROXY", exempt)
    assert client_of("https://a.klaviyo.com").session.proxies == {}


@pytest.mark.parametrize(
    "value",
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
        "https://proxy.example",
        "socks5://jane:pass@proxy.example:1080",
    ],
)
def test_a_proxy_that_cannot_be_used_is_a_setting_error(
    value: str, client_of: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no address, or wants another way, is refused by the variables' names, unquoted."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(
        SettingError, match=r"HTTPS_PROXY or ALL_PROXY.*Allowed is http://"
    ) as raised:
        client_of("https://a.klaviyo.com")
    assert value not in str(raised.value)
    assert "jane" not in str(raised.value)


@pytest.mark.parametrize(
    "value",
    ["10.0.0.1", "[::1]:3128", "localhost:3128", "http://proxy:80/", "HTTP://j:p%40@s@10.0.0.1:80"],
)
def test_short_addresses_are_taken(
    value: str, client_of: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number, a port, or a scheme distinguishes an address from a word."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    assert client_of("https://a.klaviyo.com").session.proxies == {"https": value}


def test_a_proxy_that_refuses_is_reported(
    client_of: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy's own 407 is a lost connection whose text says so."""
    with run_server(send_and_close(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(ConnectionLostError, match="407 Proxy Authentication Required"):
            client_of("https://localhost:1").fetch(events_request(), body_of, stream="events")


def test_plain_http_to_loopback_needs_no_proxy(
    client_of: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sandbox is reached directly, whatever the environment says."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with run_server(send_response()) as server:
        assert client_of(server).fetch(events_request(), body_of, stream="events") == PAGE_BODY


def free_port() -> int:
    """Return a port of loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_refused_connection_is_retried_then_reported(
    client_of: MakeClient, fake_clock: FakeClock
) -> None:
    """A refused connection: six tries, then the host and a hint; no try counts as a request."""
    server = ScriptedServer(f"http://127.0.0.1:{free_port()}")
    policy = RetryPolicy(max_tries=2)
    with pytest.raises(
        ConnectionLostError, match=r"from 127\.0\.0\.1: ConnectionRefused"
    ) as raised:
        client_of(server).fetch(events_request(), body_of, stream="events", retry_policy=policy)
    assert len(fake_clock.sleeps) == 5
    assert not raised.value.was_sent


def test_a_name_that_cannot_be_resolved_is_retried_then_reported(
    client_of: MakeClient, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS failures pass more often than not; the text names the host."""

    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    server = ScriptedServer("https://a.klaviyo.com")
    with pytest.raises(ConnectionLostError, match=r"a\.klaviyo\.com: gaierror: .*not known"):
        client_of(server).fetch(events_request(), body_of, stream="events")
    assert len(fake_clock.sleeps) == 5


def test_a_name_that_is_blocked_is_reported(
    client_of: MakeClient, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DNS filter that returns 0.0.0.0 is retried, then reported as such."""
    nowhere = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", free_port()))  # noqa: S104

    def resolve_to_blocked_address(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [nowhere]

    monkeypatch.setattr(socket, "getaddrinfo", resolve_to_blocked_address)
    server = ScriptedServer("https://a.klaviyo.com")
    with pytest.raises(ConnectionLostError, match=r"resolves to 0\.0\.0\.0: a DNS filter"):
        client_of(server).fetch(events_request(), body_of, stream="events")
    assert len(fake_clock.sleeps) == 5


@pytest.mark.parametrize("raw_key", ["", f"{KEY}\n", "AbC123"], ids=["none", "line", "public"])
def test_a_key_that_cannot_be_one_opens_no_socket(raw_key: str, client_of: MakeClient) -> None:
    """A client is not even made with it."""
    with run_server(send_response()) as server:
        client = client_of(server)
        with pytest.raises(SettingError):
            type(client)(
                base_url=server.url,
                api_key=raw_key,
                revision="2026-07-15",
                rate_limiter=client.rate_limiter,
            )


FAULTS = {
    "key and person in a 400": send_response(
        400,
        b'{"errors":[{"code":"invalid","detail":"%s said \'%s\'"}]}'
        % (KEY.encode(), PERSON.encode()),
    ),
    "401": send_response(401, b'{"errors":[{"detail":"%s"}]}' % KEY.encode()),
    "403": send_response(403, b'{"errors":[{"detail":"%s"}]}' % PERSON.encode()),
    "429": send_response(429, b'{"errors":[{"detail":"%s"}]}' % KEY.encode(), {"Retry-After": "1"}),
    "500": send_response(500, b'{"errors":[{"detail":"%s %s"}]}' % (KEY.encode(), PERSON.encode())),
    "redirect": send_response(302, b"", {"Location": f"https://{KEY}.example/{PERSON}"}),
    "reset": send_and_reset(b""),
    "echoed status line": send_bytes(b"%s %s\r\n\r\n" % (KEY.encode(), PERSON.encode())),
    "echoed header": send_and_close(
        b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % KEY.encode()
    ),
    "gzip": send_response(200, KEY.encode(), {"Content-Encoding": "gzip"}),
    "coding": send_response(200, b"x", {"Content-Encoding": KEY}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_no_failure_shows_the_key_or_a_person(
    fault: ServerAction, client_of: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Logs at DEBUG, the error, its causes and the client's own text hold neither."""
    query = "filter=equals%28email%2C%22jane.doe%40example.com%22%29"
    with caplog.at_level(logging.DEBUG), run_server(fault) as server:
        client = client_of(server, max_waiting=3)
        with pytest.raises(KlaviyoAssetsError) as caught:
            client.fetch(events_request(query), nothing_good, stream="events")
    shown = [caplog.text, repr(client), str(events_request(query))]
    error: BaseException | None = caught.value
    while error is not None:
        shown += [str(error), repr(error), str(vars(error))]
        error = error.__cause__ or error.__context__
    for text in shown:
        assert KEY[:12] not in text
        assert "jane" not in text


def test_what_a_test_server_saw_is_really_the_key() -> None:
    """The tests above would find the key if it were there."""
    seen = ReceivedRequest(0, "", {"authorization": f"Klaviyo-API-Key {KEY}"}, b"")
    assert KEY[:12] in str(seen)
