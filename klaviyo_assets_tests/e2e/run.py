"""What a Dagster run did, as its event log tells: the log is what an operator sees afterwards.

What belongs here: reading a finished run. What does not: starting one (`home`).
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

Metadata = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a check said: `colour` is green, yellow or red, as the UI shows it."""

    colour: str
    text: str
    shown: Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run by stream: metadata of materializations and observations, failures, and all it said.

    `failed` is what ended a stream, `retried` what an attempt before its last one met; `verdicts`
    are those of checks, by stream and name.
    """

    id: str
    success: bool
    materialized: Mapping[str, Metadata]
    observed: Mapping[str, list[Metadata]]
    failed: Mapping[str, str]
    retried: Mapping[str, str]
    attempts: Mapping[str, int]
    verdicts: Mapping[tuple[str, str], Verdict]
    log: tuple[tuple[int, str], ...]

    @property
    def warnings(self) -> str:
        """Return what was said at level WARNING or above, a line each."""
        return "\n".join(text for level, text in self.log if level >= logging.WARNING)

    def number(self, stream: str, name: str) -> float:
        """Return a number of a stream's materialization, `klaviyo/<name>`."""
        value = self.materialized[stream][f"klaviyo/{name}"]
        assert isinstance(value, int | float)
        return value

    def cursor(self, stream: str) -> object:
        """Return the mark in a stream's materialization, None where there is none."""
        return self.materialized[stream].get("klaviyo/cursor")


def run_from_log(instance: dg.DagsterInstance, run_id: str, *, success: bool) -> Run:
    """Return a finished run from its event log."""
    entries = instance.all_logs(run_id)
    events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
    observed: dict[str, list[Metadata]] = {}
    materialized: dict[str, Metadata] = {}
    failed: dict[str, str] = {}
    retried: dict[str, str] = {}
    attempts: dict[str, int] = {}
    verdicts: dict[tuple[str, str], Verdict] = {}
    for event in events:
        if event.is_step_materialization:
            found = event.step_materialization_data.materialization
            materialized[found.asset_key.path[-1]] = values_of(found.metadata)
        elif event.is_asset_observation:
            seen = event.asset_observation_data.asset_observation
            observed.setdefault(seen.asset_key.path[-1], []).append(values_of(seen.metadata))
        elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            judged = event.asset_check_evaluation_data
            verdicts[judged.asset_key.path[-1], judged.check_name] = verdict_of(judged)
        elif event.is_step_failure:
            failed[stream_of(event)] = failure_text(event)
        elif event.is_step_up_for_retry:
            retried[stream_of(event)] = event.step_retry_data.error.to_string()
        elif event.is_step_start or event.is_step_restarted:
            attempts[stream_of(event)] = attempts.get(stream_of(event), 0) + 1
    return Run(
        id=run_id,
        success=success,
        materialized=materialized,
        observed=observed,
        failed=failed,
        retried=retried,
        attempts=attempts,
        verdicts=verdicts,
        log=tuple(lines_of(entries)),
    )


def verdict_of(judged: dg.AssetCheckEvaluation) -> Verdict:
    """Return a check's evaluation in the colours of the UI."""
    is_error = judged.severity is dg.AssetCheckSeverity.ERROR
    colour = "green" if judged.passed else "red" if is_error else "yellow"
    return Verdict(colour=colour, text=judged.description or "", shown=values_of(judged.metadata))


def stream_of(event: dg.DagsterEvent) -> str:
    """Return the stream whose step an event is of."""
    return str(event.step_key).removeprefix("klaviyo__")


def failure_text(event: dg.DagsterEvent) -> str:
    """Return the description of a failure, or the error's own text where it has none."""
    found = event.step_failure_data
    if found.user_failure_data is not None:
        return str(found.user_failure_data.description)
    return found.error_display_string


def lines_of(entries: Iterable[dg.EventLogEntry]) -> Iterable[tuple[int, str]]:
    """Yield level and text of everything that was logged by hand."""
    for entry in entries:
        if entry.dagster_event is None:
            yield int(entry.level), entry.user_message


def values_of(metadata: Mapping[str, dg.MetadataValue[Any]]) -> Metadata:
    """Return metadata as plain values."""
    return {name: value.value for name, value in metadata.items()}
