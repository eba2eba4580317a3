"""The proxy on the way, as the environment or the system's settings name it.

What belongs here: reading those settings. What does not: connecting (`client.py`).
"""

from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import getproxies, proxy_bypass

from klaviyo_assets.errors import SettingError


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
    url = urlsplit(raw if "://" in raw else f"http://{raw}")
    login, _, place = url.netloc.rpartition("@")
    if url.scheme != "http" or not place:
        raise SettingError(
            f"HTTPS_PROXY or ALL_PROXY names a proxy by {url.scheme[:10]!a}. Allowed is http://, "
            "through which the connection to Klaviyo is encrypted all the way."
        )
    basic = b64encode(unquote_to_bytes(login)).decode()
    return Proxy(
        url=f"{url.scheme}://{place}",
        headers={"Proxy-Authorization": f"Basic {basic}"} if login else {},
    )
