"""How a step ended: as a Dagster failure, and in the asset `klaviyo/health`.

Dagster tries a failed step again only if the error passes by itself.

A step that ends writes how it ended into the lake (`lake/_health.json`), where `status` and whoever
alerts read it. It is no asset that runs: a step of its own would cost each hourly job more than the
answer is worth. The step that wrote it reports its materialization, once a run and whenever a color
changed, outside of the run's own events: those are about the streams that it was launched for.

A color that changed is posted too, where `KLAVIYO_ALERT_WEBHOOK` or `KLAVIYO_ALERT_COMMAND` says.
Nothing that records health can fail a run.
"""

import json
import logging
import os
import shlex
import subprocess
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import dagster as dg

from klaviyo_assets.api.client import post_to_webhook
from klaviyo_assets.defs.resources import LakeResource
from klaviyo_assets.errors import (
    ConfigError,
    ContractError,
    KlaviyoAssetsError,
    LakeConflictError,
    LakeVersionError,
    OtherLakeError,
    PermanentError,
    QuotaError,
    RefusedStreamError,
    ReportFailedError,
    StoppedError,
    TransientError,
    WrongAccountError,
    redact_error_chain,
    redact_keys,
)
from klaviyo_assets.lake.health import HEALTH_FILE, update_health
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.health import ColorChange, LakeHealth, RunOutcome, take_outcome
from klaviyo_assets.model.selection import MESSAGING_GROUP
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.seams import utc_now
from klaviyo_assets.settings import (
    ALERT_COMMAND_VARIABLE,
    ALERT_WEBHOOK_VARIABLE,
    KEY_VARIABLE,
    SALT_VARIABLE,
)
from klaviyo_assets.streams import STREAMS

HEALTH_ASSET_NAME = "health"

HEALTH_DESCRIPTION = (
    "How healthy each stream is: red, yellow or green, and why. Written by every run into "
    f"lake/{HEALTH_FILE}; `klaviyo-assets status` shows it."
)

COMMAND_TIMEOUT_SECONDS = 30

_FOREIGN_LAKE_ERRORS = frozenset(
    each.__name__ for each in (WrongAccountError, OtherLakeError, LakeVersionError)
)


def build_health_asset(key_prefix: str | Sequence[str] = ()) -> dg.AssetSpec:
    """Return the asset that runs of other assets materialize; `key_prefix` is theirs."""
    key = dg.AssetKey(["klaviyo", HEALTH_ASSET_NAME])
    return dg.AssetSpec(
        key.with_prefix(key_prefix) if key_prefix else key,
        description=HEALTH_DESCRIPTION,
        # With the account, which it is about.
        group_name=MESSAGING_GROUP,
        kinds={"json"},
    )


@contextmanager
def _without_logging() -> Generator[None]:
    """Log nothing in this process during the block, which takes milliseconds.

    Dagster's SQLite storage holds a lock while it stores an event. Its libraries log in there, and
    with `managed_python_loggers: [root]` such a line is an event too: the lock would be waited for
    by its holder, for ever.
    """
    before = logging.getLogger().manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnd:
    """Where the end of a stream's step is recorded.

    `will_retry`: Dagster tries a failure that passes by itself once more, so it is no end yet.
    """

    stream: Stream
    asset_key: dg.AssetKey
    run_id: str
    lake: Callable[[], Lake]
    instance: dg.DagsterInstance
    warn: Callable[[str], None]
    will_retry: bool = False

    def record(self, last_run: RunOutcome) -> None:
        """Store the outcome, materialize the asset, and alert. Problems are warnings."""
        try:
            known_run_ids: set[str] = set()

            def change(known: LakeHealth) -> tuple[LakeHealth, list[ColorChange]]:
                known_run_ids.update(each.last_run.run_id for each in known.streams.values())
                return take_outcome(
                    known, self.stream.name, last_run, streams=STREAMS, now=last_run.ended_at
                )

            lake = self.lake()
            # Not into a folder without a lake: a disk may not be mounted, or a setting be wrong.
            if not lake.has_tables():
                return
            health, changes = update_health(lake, change)
            if changes or self.run_id not in known_run_ids:
                with _without_logging():
                    self.instance.report_runless_asset_event(self._build_materialization(health))
            news = [each for each in changes if each.is_news]
            if news:
                send_alert(health, news, warn=self.warn)
        except (KlaviyoAssetsError, OSError, dg.DagsterError) as error:
            self.warn(f"the health of {self.stream.name} is not recorded: {error}")

    def record_success(self, *, judged: RunOutcome | None = None) -> None:
        """Record that the stream was read completely."""
        now = utc_now()
        self.record(
            judged or RunOutcome(outcome="ok", ended_at=now, stored_at=now, run_id=self.run_id)
        )

    def record_other(self, outcome: str, detail: str) -> None:
        """Record a failure, or that the stream was skipped, in the words of the run's log."""
        self.record(
            RunOutcome(
                outcome="skipped" if outcome == "skipped" else "failed",
                ended_at=utc_now(),
                stored_at=None,
                run_id=self.run_id,
                detail=redact_keys(detail),
            )
        )

    @contextmanager
    def recording_failures(self) -> Generator[None]:
        """Record a failure of the block that Dagster does not try again; raise it as it was.

        A lake that is not this account's or this asset's own, or that another version of this
        project wrote, is left as it is.
        """
        try:
            yield
        except dg.Failure as failure:
            error = failure.metadata.get("klaviyo/error")
            is_foreign = error is not None and error.value in _FOREIGN_LAKE_ERRORS
            if not is_foreign and not (self.will_retry and failure.allow_retries):
                self.record_other("failed", failure.description or "")
            raise

    def _build_materialization(self, health: LakeHealth) -> dg.AssetMaterialization:
        colors = [each.color for each in health.streams.values()]
        # No Markdown: a sentence may have Klaviyo's words in it.
        rows = [
            dg.TableRecord({"stream": name, "color": each.color, "why": each.sentence})
            for name, each in health.worst_first()
        ]
        # Beside the stream's own asset: a user may have put all of them below another prefix.
        key = dg.AssetKey([*self.asset_key.path[:-1], HEALTH_ASSET_NAME])
        return dg.AssetMaterialization(
            key,
            description=f"{health.color}, after a run of {self.stream.name}",
            metadata={
                "klaviyo/color": health.color,
                **{f"klaviyo/{each}": colors.count(each) for each in ("green", "yellow", "red")},
                "klaviyo/streams": dg.MetadataValue.table(rows),
            },
        )


def build_step_end(
    context: dg.AssetExecutionContext, stream: Stream, lake: LakeResource
) -> StepEnd:
    """Return where the end of this step is recorded."""
    return StepEnd(
        stream=stream,
        asset_key=context.asset_key,
        run_id=context.run.run_id,
        lake=lake.lake,
        instance=context.instance,
        warn=context.log.warning,
        will_retry=context.op_execution_context.retry_number < MAX_STEP_RETRIES,
    )


def send_alert(
    health: LakeHealth, changes: Sequence[ColorChange], *, warn: Callable[[str], None]
) -> None:
    """Post changed colors to the webhook, and give them to the command, where these are set.

    `warn` takes a sentence if that fails.
    """
    text = redact_keys("\n".join(f"Klaviyo: {each.describe()}" for each in changes))
    targets: list[tuple[str, Callable[[str, str], None]]] = [
        (ALERT_WEBHOOK_VARIABLE, post_to_webhook),
        (ALERT_COMMAND_VARIABLE, partial(run_alert_command, health, changes)),
    ]
    for variable, send in targets:
        target = os.environ.get(variable, "").strip()
        if not target:
            continue
        try:
            send(target, text)
        except (KlaviyoAssetsError, OSError, ValueError, subprocess.SubprocessError) as error:
            reason = str(error) if isinstance(error, KlaviyoAssetsError) else type(error).__name__
            warn(f"{variable}: the alert was not delivered ({reason}); the run goes on")


def run_alert_command(
    health: LakeHealth, changes: Sequence[ColorChange], command: str, text: str
) -> None:
    """Run a command without a shell, with the changes as JSON on its standard input.

    Its environment has neither the key nor the salt.

    Raises:
        OSError, ValueError, subprocess.SubprocessError: it did not run, or did not end with 0.
    """
    content = {
        "text": text,
        "color": health.color,
        "changes": [
            {
                "stream": each.stream,
                "before": each.before,
                "after": each.after.color,
                "sentence": redact_keys(each.after.sentence),
            }
            for each in changes
        ],
    }
    secrets = {KEY_VARIABLE, SALT_VARIABLE, ALERT_WEBHOOK_VARIABLE}
    subprocess.run(  # noqa: S603 - the operator's own command
        shlex.split(command),
        input=json.dumps(content).encode(),
        env={name: text for name, text in os.environ.items() if name not in secrets},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=COMMAND_TIMEOUT_SECONDS,
        check=True,
    )


MAX_STEP_RETRIES = 1
"""How often Dagster tries a step again after a transient error."""

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
