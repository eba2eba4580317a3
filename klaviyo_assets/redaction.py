"""Keys out of text: what everything that leaves a process passes through.

What belongs here: what counts as a key, and what stands in its place. What does not: people's data
in Klaviyo's words (`api/refusals`), and columns that are left out or hashed (`tables/screen`).

Errors redact themselves, and so do the loggers and metadata of runs, and whatever a verb prints: no
other place has to think of it.
"""

import logging
import re
from collections.abc import Iterator
from io import TextIOBase
from typing import TextIO

REDACTED = "[key]"

FORM = re.compile(r"(?i)(?<![a-z0-9])pk_(?=\w*\d)\w{10,}")
"""A private key: beside its beginning and length it has digits, unlike a word that begins so."""

IN_MESSAGES = re.compile(rf"{FORM.pattern}|\bpk_\w+|(?<=klaviyo-api-key )\S+")
"""In a message the beginning is enough: what was cut short, or mistyped, may still be a key."""

SHORTEST = 10
"""Characters of a secret that is looked for wherever it stands; a shorter one may be a word."""

secrets: set[str] = set()
"""The keys of this process, whatever their form: nothing that it writes may hold one."""


def keep_secret(key: str) -> None:
    """Have `redact` take this key out of every text of the process from now on."""
    if len(key) >= SHORTEST:
        secrets.add(key)


def holds_key(text: str) -> bool:
    """Return whether a private key stands in the text: one of the process, or one by its form."""
    return FORM.search(text) is not None or any(each in text for each in secrets)


def redact(text: str) -> str:
    """Return the text with `[key]` in place of keys, whatever their case."""
    for each in tuple(secrets):
        text = re.sub(re.escape(each), REDACTED, text, flags=re.IGNORECASE)
    return IN_MESSAGES.sub(REDACTED, text)


def without_keys(body: bytes) -> bytes:
    """Return the bytes of an answer with `[key]` in place of the keys of the process.

    By their exact letters alone: what else looks like one is the account's data.
    """
    for each in tuple(secrets):
        body = body.replace(each.encode(), REDACTED.encode())
    return body


def redact_causes(error: BaseException) -> None:
    """Redact what an exception, and those that led to it, will say in a trace."""
    for each in chain_of_errors(error):
        each.args = tuple(redact(arg) if isinstance(arg, str) else arg for arg in each.args)


def chain_of_errors(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, then what it was raised from or while handling, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class Redaction(logging.Filter):
    """A filter of a logger: redacts each message, and lets all of them through."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record's message."""
        record.msg, record.args = redact(record.getMessage()), ()
        return True


class RedactedOutput(TextIOBase):
    """A text stream that redacts what is written to another one."""

    def __init__(self, out: TextIO) -> None:
        """Write to `out`."""
        self._out = out

    def write(self, text: str, /) -> int:
        """Write the text, redacted; return how much of it was taken."""
        self._out.write(redact(text))
        return len(text)

    def flush(self) -> None:
        """Flush the other stream."""
        self._out.flush()

    def isatty(self) -> bool:
        """Return whether the other stream is a terminal."""
        return self._out.isatty()
