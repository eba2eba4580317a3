"""What a Dagster run did, read from its event log, which is what an operator sees afterwards."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

Metadata = Mapping[str, object]

PROMISED = {"records_read", "rows_written", "requests", "retries", "throttled_seconds"}
"""The numbers that every materialization has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check said: `colour` is green, yellow or red, as the UI shows it."""

    colour: str
    description: str
    metadata: Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A run by stream: metadata of materializations and observations, failures, and all it said.

    `failures` is what ended a stream, `tracebacks` the frames of each error of it that the UI
    shows, `retries` what an attempt before its last one met; `check_results` are those of checks,
    by stream and name; `partitions` is each materialization of a partition, in order.
    """

    id: str
    success: bool
    materializations: Mapping[str, Metadata]
    observations: Mapping[str, list[Metadata]]
    failures: Mapping[str, str]
    tracebacks: Mapping[str, list[int]]
    retries: Mapping[str, str]
    attempts: Mapping[str, int]
    check_results: Mapping[tuple[str, str], CheckResult]
    partitions: tuple[tuple[str, Metadata], ...]
    log: tuple[tuple[int, str], ...]

    @property
    def warnings(self) -> str:
        """Return what was said at level WARNING or above, a line each."""
        return "\n".join(text for level, text in self.log if level >= logging.WARNING)

    def metadata_number(self, stream: str, name: str) -> float:
        """Return a number of a stream's materialization, `klaviyo/<name>`.

        What most syncs have none of is there only where it is not 0.
        """
        found = self.materializations[stream]
        value = found[f"klaviyo/{name}"] if name in PROMISED else found.get(f"klaviyo/{name}", 0)
        assert isinstance(value, int | float)
        return value

    def cursor(self, stream: str) -> object:
        """Return the cursor in a stream's materialization, None where there is none."""
        return self.materializations[stream].get("klaviyo/cursor")


def read_run(instance: dg.DagsterInstance, run_id: str, *, success: bool) -> RunResult:
    """Return a finished run from its event log."""
    entries = instance.all_logs(run_id)
    events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
    observed: dict[str, list[Metadata]] = {}
    materialized: dict[str, Metadata] = {}
    failed: dict[str, str] = {}
    tracebacks: dict[str, list[int]] = {}
    retried: dict[str, str] = {}
    attempts: dict[str, int] = {}
    verdicts: dict[tuple[str, str], CheckResult] = {}
    for event in events:
        if event.is_step_materialization:
            found = event.step_materialization_data.materialization
            materialized[found.asset_key.path[-1]] = metadata_values(found.metadata)
        elif event.is_asset_observation:
            seen = event.asset_observation_data.asset_observation
            observed.setdefault(seen.asset_key.path[-1], []).append(metadata_values(seen.metadata))
        elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            checked = event.asset_check_evaluation_data
            verdicts[checked.asset_key.path[-1], checked.check_name] = read_check_result(checked)
        elif event.is_step_failure:
            failed[stream_of_event(event)] = failure_text(event)
            tracebacks[stream_of_event(event)] = [
                len(each.stack) for each in error_chain(event.step_failure_data.error)
            ]
        elif event.is_step_up_for_retry:
            retried[stream_of_event(event)] = event.step_retry_data.error.to_string()
        elif event.is_step_start or event.is_step_restarted:
            attempts[stream_of_event(event)] = attempts.get(stream_of_event(event), 0) + 1
    return RunResult(
        id=run_id,
        success=success,
        materializations=materialized,
        observations=observed,
        failures=failed,
        tracebacks=tracebacks,
        retries=retried,
        attempts=attempts,
        check_results=verdicts,
        partitions=tuple(partition_metadata(events)),
        log=tuple(log_lines(entries)),
    )


def partition_metadata(events: Iterable[dg.DagsterEvent]) -> Iterable[tuple[str, Metadata]]:
    """Yield the partition and the metadata of each materialization of one."""
    for event in events:
        if event.is_step_materialization:
            found = event.step_materialization_data.materialization
            if found.partition is not None:
                yield found.partition, metadata_values(found.metadata)


def read_check_result(evaluation: dg.AssetCheckEvaluation) -> CheckResult:
    """Return a check's evaluation in the colours of the UI."""
    is_error = evaluation.severity is dg.AssetCheckSeverity.ERROR
    colour = "green" if evaluation.passed else "red" if is_error else "yellow"
    return CheckResult(
        colour=colour,
        description=evaluation.description or "",
        metadata=metadata_values(evaluation.metadata),
    )


def stream_of_event(event: dg.DagsterEvent) -> str:
    """Return the stream whose step an event is of."""
    return str(event.step_key).removeprefix("klaviyo__")


def failure_text(event: dg.DagsterEvent) -> str:
    """Return the description of a failure, or the error's own text where it has none."""
    found = event.step_failure_data
    if found.user_failure_data is not None:
        return str(found.user_failure_data.description)
    return found.error_display_string


def error_chain(error: SerializableErrorInfo | None) -> Iterable[SerializableErrorInfo]:
    """Yield an error and those that caused it, as the UI shows them below each other."""
    while error is not None:
        yield error
        error = error.cause or error.context


def log_lines(entries: Iterable[dg.EventLogEntry]) -> Iterable[tuple[int, str]]:
    """Yield level and text of everything that was logged by hand."""
    for entry in entries:
        if entry.dagster_event is None:
            yield int(entry.level), entry.user_message


def metadata_values(metadata: Mapping[str, dg.MetadataValue[Any]]) -> Metadata:
    """Return metadata as plain values."""
    return {name: value.value for name, value in metadata.items()}
