"""What a lost connection means: the failure below, in words, and who can do something about it.

What belongs here: from Python's own exceptions to our tree. What does not: answers that did come
(`refusals.py`).
"""

import ssl
from collections.abc import Iterator
from ipaddress import ip_address

from klaviyo_assets.api.exchange import Request
from klaviyo_assets.api.gate import is_loopback
from klaviyo_assets.api.refusals import asked, scrubbed
from klaviyo_assets.errors import ConfigError, ConnectionLostError, KlaviyoAssetsError


def lost(  # noqa: PLR0913 - what is known of one failure, each with a name
    request: Request,
    failure: Exception,
    *,
    stream: str,
    host: str,
    addresses: list[str],
    was_sent: bool = True,
) -> KlaviyoAssetsError:
    """Return the error for a request that got no whole answer.

    `addresses` are what the host name now stands for, empty where that is not known; `was_sent` is
    false where no server can have got the request. A certificate that cannot be verified is a
    `ConfigError`, never tried again and never let pass; all else may be better a moment later.
    """
    text = f"{asked(request)} got no answer from {host}: {reason_of(failure)}."
    if is_blocked(host, addresses):
        hint = (
            f"The name resolves to {addresses[0]}: a DNS filter on this network blocks it. Allow "
            f"{host} there."
        )
        return ConnectionLostError(f"{text} {hint}", stream=stream, was_sent=was_sent)
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in chain_of(failure)):
        hint = (
            "The connection is not safe, and the key was not sent. If a proxy of yours signs "
            "certificates, name its authority's file in REQUESTS_CA_BUNDLE or SSL_CERT_FILE; check "
            "the clock as well."
        )
        return ConfigError(f"{text} {hint}", stream=stream)
    hint = f"Check the network, any proxy, and that {host} can be reached."
    return ConnectionLostError(f"{text} {hint}", stream=stream, was_sent=was_sent)


def is_blocked(host: str, addresses: list[str]) -> bool:
    """Tell whether a public name stands for no machine or for this one, as DNS filters answer."""
    if is_loopback(host) or not addresses:
        return False
    places = [ip_address(each.partition("%")[0]) for each in addresses]
    return all(place.is_unspecified or place.is_loopback for place in places)


def reason_of(failure: Exception) -> str:
    """Return the innermost reason, scrubbed: libraries wrap it, and their own words name URLs."""
    inner = list(chain_of(failure))[-1]
    return scrubbed(f"{type(inner).__name__}: {inner}" if str(inner) else type(inner).__name__)


def chain_of(failure: BaseException) -> Iterator[BaseException]:
    """Yield a failure and what it wraps, outermost first, as causes or as arguments."""
    seen: set[int] = set()
    inner: BaseException | None = failure
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        yield inner
        wrapped = [each for each in inner.args if isinstance(each, BaseException)]
        inner = wrapped[0] if wrapped else inner.__cause__
