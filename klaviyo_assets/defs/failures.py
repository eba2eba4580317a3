"""Our errors as Dagster failures: only an error that passes by itself is retried by Dagster."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import dagster as dg

from klaviyo_assets.errors import (
    ConfigError,
    ContractError,
    KlaviyoAssetsError,
    LakeConflictError,
    PermanentError,
    QuotaError,
    RefusedStreamError,
    ReportFailedError,
    StoppedError,
    TransientError,
)
from klaviyo_assets.redaction import redact_error_chain

MAX_STEP_RETRIES = 1
"""How often Dagster tries a step again that failed by what passes by itself."""

_WHO_ACTS: tuple[tuple[type[KlaviyoAssetsError], str], ...] = (
    (QuotaError, "whoever launched the run, when requests are free again"),
    (ReportFailedError, "nobody: a later run requests it again"),
    (StoppedError, "nobody: the run was cancelled"),
    (TransientError, "nobody: a later run continues from the last commit"),
    (ConfigError, "the operator"),
    (PermanentError, "the developers of klaviyo_assets"),
    (ContractError, "the developers of klaviyo_assets"),
)


class RunCancelledError(dg.DagsterExecutionInterruptedError, dg.DagsterError):
    """The run was cancelled, and must end as cancelled.

    If a step has a retry policy, Dagster treats an interrupt as a failure: it waits and starts the
    step again (1.13, `op_execution_error_boundary`). It raises its own errors unchanged, so this
    class is one of them as well.
    """


@contextmanager
def raise_as_failures(
    stream: str, *, may_skip: bool = False, rewrite_message: Callable[[str], str] = str
) -> Generator[None]:
    """Turn exceptions of the block into Dagster failures that name the stream.

    `rewrite_message` gets the text of an error of ours, and returns the text to show.

    Raises:
        dg.Failure: for any exception.
        RefusedStreamError: unchanged, if the caller `may_skip` a stream that has not started.
        RunCancelledError: the run was cancelled, which is no failure. Nothing may swallow it.
    """
    try:
        yield
    except dg.DagsterExecutionInterruptedError as cancel:
        raise RunCancelledError from cancel
    except KlaviyoAssetsError as error:
        if may_skip and isinstance(error, RefusedStreamError):
            raise
        error.stream = error.stream or stream
        redact_error_chain(error)
        error.message = rewrite_message(error.message)
        failure = to_dagster_failure(error)
        if isinstance(error, ConfigError):
            # Its text says what to do; where in our code it was found helps no operator.
            raise failure from None
        raise failure from error
    except Exception as error:
        redact_error_chain(error)
        raise dg.Failure(
            description=f"{stream}: {type(error).__name__}, a defect of klaviyo_assets; what was "
            "committed before stays. Please report it with the trace below.",
            allow_retries=False,
        ) from error


def to_dagster_failure(error: KlaviyoAssetsError) -> dg.Failure:
    """Return the failure to raise for an error; its metadata says who has to act.

    Dagster may retry what passes by itself, and a conflict of commits: the next attempt starts
    from the newer high-water mark. It may not retry a spent quota or a failed report, which a
    retry seconds later cannot help.
    """
    who = next((text for kind, text in _WHO_ACTS if isinstance(error, kind)), "the operator")
    is_retryable = isinstance(error, TransientError | LakeConflictError) and not isinstance(
        error, QuotaError | ReportFailedError
    )
    return dg.Failure(
        description=str(error),
        metadata={"klaviyo/error": type(error).__name__, "klaviyo/who_acts": who},
        allow_retries=is_retryable,
    )
