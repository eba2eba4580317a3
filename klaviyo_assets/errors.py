"""Every exception of the project, drawn as a tree: the branch says who acts.

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
│       ├── MissingTableError      a table that this one is made of was never read
│       ├── ShrinkError            a read would take away more of a table than is believed
│       └── StorageError           disk full, read-only folder, locked file
├── TransientError         nobody acts: try again
│   ├── RateLimitError         429
│   ├── QuotaError             429 with a wait beyond the cap, or a spent quota: come back later
│   ├── ServerError            5xx, 408, a proxy's page
│   ├── ReportFailedError      a report failed too often of late: it is asked again later
│   ├── ConnectionLostError    no answer, or half of one
│   ├── BrokenBodyError        an answer that is not the JSON it claims to be
│   └── LargeBodyError         an answer larger than KLAVIYO_MAX_BODY_MIB
├── StoppedError           nobody acts: the run was cancelled
├── PermanentError         the developer acts: the request is wrong
│   ├── RequestError           400 and other 4xx
│   ├── IneligibleMetricError  400 about the conversion metric: Klaviyo makes no report with it
│   ├── CursorLostError        400 "Invalid cursor provided.": the slice starts again
│   ├── PageSizeError          400 about the page size: fewer records are asked for
│   ├── NotFoundError          404
│   └── RevisionRetiredError   410, or a revision without this endpoint
└── ContractError          the developer acts: Klaviyo broke its word
    ├── MalformedPageError     a page without the shape that is documented
    ├── QuarantineError        too many records that cannot be stored
    ├── RepeatedPageError      paging came back to a page already read
    └── ForeignLinkError       a next link leaves the host or the path
"""

from dataclasses import dataclass, field

from klaviyo_assets.redaction import redact_keys


@dataclass(eq=False)
class KlaviyoAssetsError(Exception):
    """The root. `message` says what was tried, what came back and what to do; never a key."""

    message: str
    stream: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Take keys out of the sentence, whoever has put them there."""
        self.message = redact_keys(self.message)

    def __str__(self) -> str:
        """Return the sentence, led by the stream where one is known; without keys."""
        return redact_keys(f"{self.stream}: {self.message}" if self.stream else self.message)


class ConfigError(KlaviyoAssetsError):
    """The operator acts; a rerun alone changes nothing."""


class SettingError(ConfigError):
    """A setting or option has a value that cannot be used."""


class BadKeyError(ConfigError):
    """Klaviyo refuses the key (401); the whole run stops."""


@dataclass(eq=False)
class RefusedStreamError(ConfigError):
    """This is not for this key or account (403); the stream is skipped.

    `detail` is Klaviyo's own sentence, scrubbed.
    """

    detail: str | None = field(default=None, kw_only=True)


@dataclass(eq=False)
class MissingScopeError(RefusedStreamError):
    """The key lacks a scope. `scopes` as Klaviyo names them; empty where it names none."""

    scopes: tuple[str, ...] = field(default=(), kw_only=True)


class PlanError(RefusedStreamError):
    """The account's plan does not have it."""


class AccessDeniedError(ConfigError):
    """Klaviyo refuses for another reason (403): a suspended account, a network, an unknown one."""


class UnknownMetricError(ConfigError):
    """The account has no metric of this id: a setting, or a partition, names one that is not."""


class LakeError(ConfigError):
    """The lake cannot be read or written as it is."""


class WrongAccountError(LakeError):
    """The lake holds another account's data."""


class OtherLakeError(LakeError):
    """Dagster's history of the asset was written for another lake."""


class LakeVersionError(LakeError):
    """The lake was written by a version that this one does not read."""


class LakeConflictError(LakeError):
    """Another writer of the same stream committed first."""


class CorruptFileError(LakeError):
    """A data file cannot be read."""


class MissingTableError(LakeError):
    """A table that this one is made of was never read."""


@dataclass(eq=False)
class ShrinkError(LakeError):
    """A complete read would take away more of a table than is believed without being confirmed.

    `rows_before` and `rows_now` are the living rows before and after it; nothing was committed.
    """

    rows_before: int = field(default=0, kw_only=True)
    rows_now: int = field(default=0, kw_only=True)


class StorageError(LakeError):
    """Disk full, read-only folder, or a file that another process keeps locked."""


@dataclass(eq=False)
class TransientError(KlaviyoAssetsError):
    """Nobody acts: try again, `retry_after_seconds` from now where Klaviyo said when."""

    retry_after_seconds: float | None = field(default=None, kw_only=True)


class RateLimitError(TransientError):
    """Too many requests (429)."""


class QuotaError(TransientError):
    """The wait that Klaviyo asks for is too long to sleep through; come back then."""


class ServerError(TransientError):
    """Klaviyo, or a proxy before it, could not answer."""


class ReportFailedError(TransientError):
    """A metric's report failed too often within a day; it is asked again later, or when told to."""


@dataclass(eq=False)
class ConnectionLostError(TransientError):
    """No answer came, or only a part of one; not `was_sent`: no server can have got the request."""

    was_sent: bool = field(default=True, kw_only=True)


class BrokenBodyError(TransientError):
    """The answer is not what its headers say: cut, not JSON, or bad compression."""


class LargeBodyError(TransientError):
    """The answer is larger than this machine is to hold, packed or not; a smaller page may do."""


class StoppedError(KlaviyoAssetsError):
    """The run was cancelled: what was under way ends, and nothing more is asked."""


@dataclass(eq=False)
class PermanentError(KlaviyoAssetsError):
    """The request is wrong; the same request fails again.

    `code`, `source` and `detail` are Klaviyo's; its words are shown, and nothing depends on them.
    """

    status: int | None = field(default=None, kw_only=True)
    code: str | None = field(default=None, kw_only=True)
    source: str | None = field(default=None, kw_only=True)
    detail: str | None = field(default=None, kw_only=True)


class RequestError(PermanentError):
    """400 and the other 4xx without a name of their own."""


class IneligibleMetricError(PermanentError):
    """Klaviyo makes no report with this conversion metric; it is not asked for again."""


class CursorLostError(PermanentError):
    """Klaviyo no longer knows the paging cursor; the slice starts again from its last progress."""


class PageSizeError(PermanentError):
    """Klaviyo does not take the page size; the page is asked for with fewer records."""


class NotFoundError(PermanentError):
    """404: the record is gone."""


class RevisionRetiredError(PermanentError):
    """410, or a revision that does not know this endpoint."""


class ContractError(KlaviyoAssetsError):
    """Klaviyo broke its word; going on would store something wrong."""


class MalformedPageError(ContractError):
    """A page without the documented shape."""


class QuarantineError(ContractError):
    """More records than the threshold could not be stored."""


class RepeatedPageError(ContractError):
    """Paging came back to a page already read."""


class ForeignLinkError(ContractError):
    """A next link leaves the host or the path; it was not followed."""
