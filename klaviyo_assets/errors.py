"""Defines every exception of the project; the branch of the tree says who has to act.

KlaviyoAssetsError
├── ConfigError            the operator acts
│   ├── SettingError           a setting has a value that cannot be used
│   ├── BadKeyError            401: Klaviyo refuses the key
│   ├── RefusedStreamError     403: this is not for this key or account; the stream is skipped
│   │   ├── MissingScopeError      the key lacks a scope
│   │   └── PlanError              the account's plan does not have it
│   ├── AccessDeniedError      403 for any other reason: the account, the network
│   ├── UnknownMetricError     the account has no metric of an id that a setting names
│   └── LakeError              the lake cannot be read or written as it is
│       ├── WrongAccountError      the lake holds another account's data
│       ├── OtherLakeError         Dagster's history of the asset is that of another lake
│       ├── LakeVersionError       the lake was written by another version
│       ├── LakeConflictError      another writer committed first
│       ├── CorruptFileError       a data file cannot be read
│       ├── QueryError             DuckDB refuses the SQL of a view or query
│       ├── MissingTableError      a table that this one is built from was never read
│       ├── ShrinkError            a read would remove more of a table than is plausible
│       └── StorageError           disk full, read-only folder, locked file
├── TransientError         nobody acts: try again
│   ├── RateLimitError         429
│   ├── QuotaError             429 with a wait beyond the cap, or a spent quota: run it later
│   ├── ServerError            5xx, 408, a proxy's page
│   ├── ReportFailedError      a report failed too often of late: it is requested again later
│   ├── ConnectionLostError    no response, or half of one
│   ├── BrokenBodyError        a response that is not the JSON it claims to be
│   └── LargeBodyError         a response larger than KLAVIYO_MAX_BODY_MIB
├── StoppedError           nobody acts: the run was cancelled
├── PermanentError         the developer acts: the request is wrong
│   ├── RequestError           400 and other 4xx
│   ├── IneligibleMetricError  400 about the conversion metric: Klaviyo makes no report with it
│   ├── CursorLostError        400 "Invalid cursor provided.": the slice starts again
│   ├── PageSizeError          400 about the page size: fewer records are requested
│   ├── NotFoundError          404
│   └── RevisionRetiredError   410, or a revision without this endpoint
└── ContractError          the developer acts: Klaviyo's API differs from its documentation
    ├── MalformedPageError     a page without the documented shape
    ├── QuarantineError        too many records that cannot be stored
    ├── RepeatedPageError      a next link leads to a page already read
    └── ForeignLinkError       a next link leaves the host or the path

API keys are redacted in every text that leaves the process: errors redact themselves, and so do the
loggers and metadata of runs and the output of the console command, so no other code has to.

Numbers in messages are formatted here too: a count with its noun, a duration in fitting units.
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
        """Flush the other stream, unless it is closed.

        Python flushes a stream that nobody holds any more, and says aloud from 3.13 on if that
        fails; by then the other one may be gone.
        """
        if not self._stream.closed:
            self._stream.flush()

    def isatty(self) -> bool:
        """Return whether the other stream is a terminal."""
        return self._stream.isatty()


@dataclass(eq=False)
class KlaviyoAssetsError(Exception):
    """The root of all. `message`: what was tried, what came back, and what to do; never a key."""

    message: str
    stream: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Redact keys in the message, whoever put them there."""
        self.message = redact_keys(self.message)

    def __str__(self) -> str:
        """Return the message without keys, after the stream's name if it is known."""
        return redact_keys(f"{self.stream}: {self.message}" if self.stream else self.message)


class ConfigError(KlaviyoAssetsError):
    """The operator acts: a retry cannot succeed before something is mended.

    `LakeConflictError` is the exception: Dagster tries the step again.
    """


class SettingError(ConfigError):
    """A setting or option has a value that cannot be used."""


class BadKeyError(ConfigError):
    """Klaviyo refuses the key (401): the step fails without a retry, as every other stream will."""


@dataclass(eq=False)
class RefusedStreamError(ConfigError):
    """The key or account may not read this (403); the stream is skipped.

    `detail` is Klaviyo's own text, without keys and personal data.
    """

    detail: str | None = field(default=None, kw_only=True)


@dataclass(eq=False)
class MissingScopeError(RefusedStreamError):
    """The key lacks a scope. `scopes`: as Klaviyo names them; empty where it names none."""

    scopes: tuple[str, ...] = field(default=(), kw_only=True)


class PlanError(RefusedStreamError):
    """The account's plan does not have it."""


class AccessDeniedError(ConfigError):
    """Klaviyo refuses for another reason (403): a suspended account, a network, an unknown one."""


class UnknownMetricError(ConfigError):
    """The account has no metric with an id that a setting or a partition names."""


class LakeError(ConfigError):
    """The lake cannot be read or written as it is."""


class WrongAccountError(LakeError):
    """The lake holds another account's data."""


class OtherLakeError(LakeError):
    """Dagster's history of the asset was written for another lake."""


class LakeVersionError(LakeError):
    """The lake was written by a version of the project whose format this one cannot read."""


class LakeConflictError(LakeError):
    """Another writer of the stream committed first; the next attempt starts from its commit."""


class CorruptFileError(LakeError):
    """A data file cannot be read."""


class QueryError(LakeError):
    """DuckDB refuses the SQL of a view or query; `stream` is the view's name, if it is one."""


class MissingTableError(LakeError):
    """A table that this one is built from was never read."""


@dataclass(eq=False)
class ShrinkError(LakeError):
    """A complete read would remove more rows of a table than KLAVIYO_SHRINK_LIMIT allows.

    `rows_before` and `rows_now`: rows not marked as deleted, before and after. Nothing was
    committed; run config can confirm the removal.
    """

    rows_before: int = field(default=0, kw_only=True)
    rows_now: int = field(default=0, kw_only=True)


class StorageError(LakeError):
    """Disk full, read-only folder, or a file that another process keeps locked."""


@dataclass(eq=False)
class TransientError(KlaviyoAssetsError):
    """It passes by itself: try again, after `retry_after_seconds` where Klaviyo named a time.

    Dagster tries the step again, except after `QuotaError` and `ReportFailedError`: a retry within
    minutes cannot help them.
    """

    retry_after_seconds: float | None = field(default=None, kw_only=True)


class RateLimitError(TransientError):
    """Too many requests (429)."""


class QuotaError(TransientError):
    """The wait that Klaviyo requires is too long for a run; run it again after that."""


class ServerError(TransientError):
    """Klaviyo, or a proxy in front of it, could not respond (5xx, 408)."""


class ReportFailedError(TransientError):
    """A metric's report failed too often within a day; it is retried later, or on demand."""


@dataclass(eq=False)
class ConnectionLostError(TransientError):
    """No complete response came. Not `was_sent`: no server can have received the request."""

    was_sent: bool = field(default=True, kw_only=True)


class BrokenBodyError(TransientError):
    """The body is not what its headers say: truncated, not JSON, or with corrupt compression."""


class LargeBodyError(TransientError):
    """The body exceeds KLAVIYO_MAX_BODY_MIB, compressed or not; a smaller page may help."""


class StoppedError(KlaviyoAssetsError):
    """The run was cancelled: requests in flight are aborted, and no new ones are sent."""


@dataclass(eq=False)
class PermanentError(KlaviyoAssetsError):
    """The request is wrong; the same request fails again.

    `code`, `source` and `detail` are Klaviyo's; they are only shown, nothing depends on them.
    """

    status: int | None = field(default=None, kw_only=True)
    code: str | None = field(default=None, kw_only=True)
    source: str | None = field(default=None, kw_only=True)
    detail: str | None = field(default=None, kw_only=True)


class RequestError(PermanentError):
    """400 and the other 4xx that have no class of their own."""


class IneligibleMetricError(PermanentError):
    """Klaviyo makes no report with this conversion metric; it is not requested again."""


class CursorLostError(PermanentError):
    """Klaviyo no longer accepts the paging cursor; the slice resumes from its last progress."""


class PageSizeError(PermanentError):
    """Klaviyo refuses the page size; the page is requested with fewer records."""


class NotFoundError(PermanentError):
    """404: the record does not exist, or no longer."""


class RevisionRetiredError(PermanentError):
    """410, or a revision that does not know this endpoint."""


class ContractError(KlaviyoAssetsError):
    """Klaviyo's API differs from its documentation; going on would store something wrong."""


class MalformedPageError(ContractError):
    """A page without the documented shape."""


class QuarantineError(ContractError):
    """More records than the threshold could not be stored."""


class RepeatedPageError(ContractError):
    """A next link leads to a page already read."""


class ForeignLinkError(ContractError):
    """A next link leaves the host or the path; it was not followed."""


FEW_SECONDS, MINUTE_SECONDS, HOUR_SECONDS = 10, 60, 3600


def format_quantity(number: int, noun: str, *, plural: str | None = None) -> str:
    """Return a number with what it counts: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def format_seconds(seconds: float) -> str:
    """Return a duration for people: `4.2 s`, `48 s`, `2 min 5 s`, `5 h 12 min`."""
    whole = round(seconds)
    if whole < MINUTE_SECONDS:
        return f"{seconds:.1f} s" if whole < FEW_SECONDS else f"{whole} s"
    if whole < HOUR_SECONDS:
        return f"{whole // MINUTE_SECONDS} min {whole % MINUTE_SECONDS} s"
    return f"{whole // HOUR_SECONDS} h {whole % HOUR_SECONDS // MINUTE_SECONDS} min"
