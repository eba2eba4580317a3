"""Redacts API keys in every text that leaves the process.

Errors redact themselves, and so do the loggers and metadata of runs and the output of the console
command, so no other code has to.
"""

import logging
import re
from collections.abc import Callable, Iterator
from io import TextIOBase
from typing import TextIO

KEY_PLACEHOLDER = "[key]"

KEY_PATTERN = re.compile(r"(?i)(?<![a-z0-9])pk_(?=\w*\d)\w{10,}")
"""A private key: it has a digit, unlike an ordinary word that begins with `pk_`."""

KEY_IN_MESSAGE_PATTERN = re.compile(rf"{KEY_PATTERN.pattern}|\bpk_\w+|(?<=klaviyo-api-key )\S+")
"""In a message `pk_` is enough: a key that was truncated or mistyped must not be shown either."""

MIN_SECRET_CHARACTERS = 10
"""The shortest secret that is searched for in texts; a shorter one may be an ordinary word."""

known_secrets: set[str] = set()
"""The keys of this process, whatever their form; no text that it writes may contain one."""


def register_secret(key: str) -> None:
    """Have `redact_keys` redact this key in every text of the process from now on."""
    if len(key) >= MIN_SECRET_CHARACTERS:
        known_secrets.add(key)


def contains_key(text: str) -> bool:
    """Return whether a text contains a key of this process, or anything of a private key's form."""
    return KEY_PATTERN.search(text) is not None or any(each in text for each in known_secrets)


def redact_keys(text: str) -> str:
    """Return the text with `[key]` in place of keys, in any letter case."""
    for each in tuple(known_secrets):
        text = re.sub(re.escape(each), KEY_PLACEHOLDER, text, flags=re.IGNORECASE)
    return KEY_IN_MESSAGE_PATTERN.sub(KEY_PLACEHOLDER, text)


def redact_known_keys(body: bytes) -> bytes:
    """Return the bytes of a response with `[key]` in place of the keys of the process.

    Only exact matches: anything else that looks like a key is the account's data.
    """
    for each in tuple(known_secrets):
        body = body.replace(each.encode(), KEY_PLACEHOLDER.encode())
    return body


def redact_error_chain(error: BaseException) -> None:
    """Redact the arguments of an exception, and of those that a traceback prints before it."""
    for each in iterate_error_chain(error, lambda one: one.__cause__ or one.__context__):
        each.args = tuple(redact_keys(arg) if isinstance(arg, str) else arg for arg in each.args)


def iterate_error_chain(
    error: BaseException, inner_error: Callable[[BaseException], BaseException | None]
) -> Iterator[BaseException]:
    """Yield an exception, then `inner_error` of it, of that one, and so on; each once."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = inner_error(current)


class KeyRedactingFilter(logging.Filter):
    """A logging filter that redacts each message, and drops none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record's message; return True."""
        record.msg, record.args = redact_keys(record.getMessage()), ()
        return True


class KeyRedactingStream(TextIOBase):
    """A text stream that redacts what is written to another one."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream

    def write(self, text: str, /) -> int:
        """Write the redacted text; return the length of `text`, as all of it was consumed."""
        self._stream.write(redact_keys(text))
        return len(text)

    def flush(self) -> None:
        """Flush the other stream."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Return whether the other stream is a terminal."""
        return self._stream.isatty()
