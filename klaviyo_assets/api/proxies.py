"""The proxy on the way, as the environment or the system's settings name it.

What belongs here: reading those settings. What does not: connecting (`client.py`).
"""

import re
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit
from urllib.request import getproxies, proxy_bypass

from klaviyo_assets.errors import SettingError

_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where it is, without a login, and the headers that carry the login."""

    url: str
    headers: dict[str, str] = field(repr=False)


def proxy_for(host: str) -> Proxy | None:
    """Return the proxy for https to a host; None where none is named or NO_PROXY exempts the host.

    The proxy is spoken to by plain http; the tunnel through it is encrypted.

    Raises:
        SettingError: the proxy wants to be spoken to in another way.
    """
    named = getproxies()
    raw = named.get("https") or named.get("all") or ""
    if not raw or proxy_bypass(host):
        return None
    url = checked_proxy(raw)
    login, _, place = url.netloc.rpartition("@")
    basic = b64encode(unquote_to_bytes(login)).decode()
    return Proxy(
        url=f"{url.scheme}://{place}",
        headers={"Proxy-Authorization": f"Basic {basic}"} if login else {},
    )


def checked_proxy(raw: str) -> SplitResult:
    """Return the address of a proxy in its parts; without a scheme it is spoken to by http.

    Raises:
        SettingError: it is none, or one that wants to be spoken to in another way. The text quotes
            nothing but the scheme: a login may stand in the rest.
    """
    is_word = "://" not in raw and "." not in raw and ":" not in raw
    try:
        url = urlsplit(raw if "://" in raw else f"http://{raw}")
        host, port = url.hostname, url.port
    except ValueError:
        host, port, url = None, None, urlsplit("")
    is_plain = _HOST.fullmatch(host or "") is not None and url.path in {"", "/"} and port != 0
    if url.scheme and url.scheme != "http":
        raise SettingError(
            f"HTTPS_PROXY or ALL_PROXY names a proxy by {url.scheme[:10]!a}. Allowed is http://, "
            "through which the connection to Klaviyo is encrypted all the way."
        )
    if is_word or not is_plain:
        raise SettingError(
            "HTTPS_PROXY or ALL_PROXY holds no address of a proxy. Allowed is http://host:port; "
            "unset it where there is no proxy, or name Klaviyo's host in NO_PROXY."
        )
    return url
