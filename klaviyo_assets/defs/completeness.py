"""The check that all events are there: what is stored beside what Klaviyo counts, day by day.

What belongs here: Dagster's side of it: config, verdict, metadata. What does not: the comparison
(`sync.reckoning`), healing (`healing`).

One check for all metrics: whether events are complete is one question, with one answer in the list
of checks, and a day is read again for all metrics at once. Which metric lacks what is in the table
that comes with the answer.

Dagster plans every check of an asset in a run that a person launches for the asset alone. The
comparison costs a request a metric and year, so such a run makes none: it repeats the last verdict
and says that it does.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import cast

import dagster as dg
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from pydantic import Field

from klaviyo_assets.defs.completeness_verdict import COMPLETE, READ_AGAIN, shown_of, verdict
from klaviyo_assets.defs.failures import as_failures
from klaviyo_assets.defs.lateness import lateness_shown
from klaviyo_assets.defs.resources import KlaviyoResource, LakeResource
from klaviyo_assets.defs.verdicts import warned
from klaviyo_assets.errors import MissingTableError, RefusedStreamError, SettingError
from klaviyo_assets.model.window import instant
from klaviyo_assets.sync.counts import STREAM
from klaviyo_assets.sync.reckoning import Wish, reckon

REQUESTS = "klaviyo/requests"

REPEATED_RUN = "klaviyo/repeated_from_run"
"""The run whose verdict a run repeats that compares nothing itself."""

NOT_COMPARED = "klaviyo/not_compared_yet"
"""Metadata of a verdict that rests on no comparison, because there was none yet."""

RECORDS_AT_ONCE = 20
"""Verdicts read at a time, in search of one that is not repeated."""


DAYS_COMPARED, TOLERANCE_HOURS, MOST_REQUESTS = 35, 6, 1000


class CompletenessConfig(dg.Config):
    """All optional, and without defaults of Dagster's, which the launchpad of events would show."""

    days: int | None = Field(
        default=None,
        ge=0,
        description=f"Days before the mark that are compared; 0: everything stored. "
        f"{DAYS_COMPARED} where it is left out.",
    )
    tolerance_hours: int | None = Field(
        default=None,
        ge=0,
        description="Newest hours left alone: Klaviyo's counts lag, and so do we. "
        f"{TOLERANCE_HOURS} where it is left out.",
    )
    most_requests: int | None = Field(
        default=None,
        ge=1,
        description="A comparison that takes more is refused: one a metric and year. "
        f"{MOST_REQUESTS} where it is left out.",
    )
    read_again: dict[str, str] = Field(
        default_factory=dict,
        description="Days that this run has read again, each with Klaviyo's time before: stored "
        "events that were not shown since are gone at Klaviyo.",
    )

    def wish(self, before: Mapping[date, datetime]) -> Wish:
        """Return what to compare; `before` are days read again that an earlier check knew of.

        Raises:
            SettingError: a day or moment cannot be read.
        """
        hours = TOLERANCE_HOURS if self.tolerance_hours is None else self.tolerance_hours
        return Wish(
            days=DAYS_COMPARED if self.days is None else self.days,
            tolerance=timedelta(hours=hours),
            most_requests=self.most_requests or MOST_REQUESTS,
            read_again={**before, **moments_of(self.read_again)},
        )


SPEC = dg.AssetCheckSpec(
    COMPLETE.name,
    asset=COMPLETE.asset_key,
    description="As many events are stored of every metric and UTC day as Klaviyo counts.",
)


def completeness_check() -> dg.AssetChecksDefinition:
    """Return the check; one request a metric and year, three a second and sixty a minute."""

    @dg.multi_asset_check(specs=[SPEC], name=f"klaviyo__{STREAM}_{COMPLETE.name}", can_subset=True)
    def complete(
        context: dg.AssetCheckExecutionContext,
        config: CompletenessConfig,
        klaviyo: KlaviyoResource,
        lake: LakeResource,
    ) -> Iterator[dg.AssetCheckResult]:
        # A healing run reads days again in order to compare them.
        (check,) = context.selected_asset_check_keys
        if materializes(context, check.asset_key) and not config.read_again:
            yield repeated_verdict(last_verdict(context.instance, check))
            return
        with as_failures(STREAM):
            wish = config.wish(_remembered(context.instance, check))
            try:
                with klaviyo.connect(say=context.log.warning) as connection:
                    outcome = reckon(
                        wish,
                        client=connection.client,
                        lake=lake.lake(),
                        settings=connection.settings,
                        say=context.log.info,
                    )
            except (RefusedStreamError, MissingTableError) as error:
                yield warned(COMPLETE, f"Not checked: {error.message}")
                return
            late = lateness_shown(context.instance, check.asset_key, outcome.names)
            shown = shown_of(outcome, wish) | late
            yield verdict(outcome, shown | {REQUESTS: connection.client.counters.requests})

    return complete


def materializes(context: dg.AssetCheckExecutionContext, key: dg.AssetKey) -> bool:
    """Tell whether the run materializes the asset as well."""
    return key in context.job_def.asset_layer.executable_asset_keys


def repeated_verdict(record: AssetCheckExecutionRecord | None) -> dg.AssetCheckResult:
    """Return the verdict of the last comparison once more; a warning where there was none yet.

    Dagster knows passed and failed alone, and its log calls a warning "failed". Passed it would be
    green, and green says that every event is there: nobody has looked.
    """
    evaluation = record.evaluation if record is not None else None
    if record is None or evaluation is None:
        return warned(
            COMPLETE,
            "Not compared yet: that asks Klaviyo for its counts, and has a job of its own. Launch "
            "klaviyo_checks.",
            {NOT_COMPARED: True},
        )
    at = datetime.fromtimestamp(record.create_timestamp, tz=UTC)
    return dg.AssetCheckResult(
        passed=evaluation.passed,
        severity=evaluation.severity,
        check_name=COMPLETE.name,
        description=f"As of {at:%Y-%m-%d %H:%M} UTC, when klaviyo_checks or a healing run last "
        f"asked Klaviyo for its counts; this run did not. {evaluation.description}",
        metadata={**evaluation.metadata, REPEATED_RUN: dg.MetadataValue.dagster_run(record.run_id)},
    )


def last_verdict(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey
) -> AssetCheckExecutionRecord | None:
    """Return the last comparison that came to an end; None before the first."""
    done = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
    cursor: int | None = None
    while records := instance.event_log_storage.get_asset_check_execution_history(
        check, limit=RECORDS_AT_ONCE, cursor=cursor, status=done
    ):
        for record in records:
            if told_in(record, REPEATED_RUN) is None and told_in(record, NOT_COMPARED) is None:
                return record
        cursor = records[-1].id
    return None


def told_in(record: AssetCheckExecutionRecord, name: str) -> object:
    """Return a value of a verdict's metadata, None where it has none of that name."""
    evaluation = record.evaluation
    value = evaluation.metadata.get(name) if evaluation is not None else None
    return value.value if value is not None else None


def moments_of(texts: Mapping[str, str]) -> dict[date, datetime]:
    """Return days and moments from their ISO texts.

    Raises:
        SettingError: one cannot be read.
    """
    try:
        moments = {date.fromisoformat(day): instant(text) for day, text in texts.items()}
    except ValueError as error:
        raise SettingError(f"read_again cannot be used: {error}", stream=STREAM) from None
    return {day: moment for day, moment in moments.items() if moment is not None}


def _remembered(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> dict[date, datetime]:
    record = last_verdict(instance, check)
    told = told_in(record, READ_AGAIN) if record is not None else None
    return moments_of(cast("Mapping[str, str]", told)) if isinstance(told, Mapping) else {}
