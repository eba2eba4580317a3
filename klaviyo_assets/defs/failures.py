"""Our errors as Dagster failures: who acts decides whether Dagster tries again."""

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

_WHO_ACTS: tuple[tuple[type[KlaviyoAssetsError], str], ...] = (
    (QuotaError, "whoever launched the run, when requests are free again"),
    (ReportFailedError, "nobody: a later run asks again"),
    (StoppedError, "nobody: the run was cancelled"),
    (TransientError, "nobody: a later run goes on from the last commit"),
    (ConfigError, "the operator"),
    (PermanentError, "the developers of klaviyo_assets"),
    (ContractError, "the developers of klaviyo_assets"),
)


class RunCancelledError(dg.DagsterExecutionInterruptedError, dg.DagsterError):
    """A cancel that stays one.

    Dagster takes an interrupt of a step with a retry policy for a failure, waits and begins the
    step anew (1.13, `op_execution_error_boundary`); its own errors it lets through as they are.
    """


@contextmanager
def raise_as_failures(
    stream: str, *, may_skip: bool = False, rewrite_message: Callable[[str], str] = str
) -> Generator[None]:
    """Raise what happens inside as Dagster failures that name the stream.

    `rewrite_message` has the last word on the text of an error of ours.

    Raises:
        dg.Failure: for any exception.
        RefusedStreamError: where the caller `may_skip` the stream, which has not begun.
        CancelledError: the run was cancelled, which is no failure; nothing may swallow it.
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
        raise to_dagster_failure(error) from error
    except Exception as error:
        redact_error_chain(error)
        raise dg.Failure(
            description=f"{stream}: {type(error).__name__}, a defect of klaviyo_assets; what was "
            "committed before stays. Please report it with the trace below.",
            allow_retries=False,
        ) from error


def to_dagster_failure(error: KlaviyoAssetsError) -> dg.Failure:
    """Return the failure to raise; only what passes by itself may be retried by Dagster."""
    who = next((text for kind, text in _WHO_ACTS if isinstance(error, kind)), "the operator")
    # After a conflict the next attempt plans from the newer mark, as if it had come second.
    passes = isinstance(error, TransientError | LakeConflictError)
    passes = passes and not isinstance(error, QuotaError | ReportFailedError)
    return dg.Failure(
        description=str(error),
        metadata={"klaviyo/error": type(error).__name__, "klaviyo/who_acts": who},
        allow_retries=passes,
    )
