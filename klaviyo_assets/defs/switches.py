"""Whether schedules and sensors are on: from the start by a setting, or by their switch in the UI.

What belongs here: default statuses, and asking Dagster whether one is on now. What does not: what
schedules and sensors do.
"""

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.promises import ALWAYS_ON, automated
from klaviyo_assets.settings import RECOMMENDED, Settings


def schedule_status(settings: Settings) -> dg.DefaultScheduleStatus:
    """Return whether the schedules that keep the README's promises run from the start."""
    is_on = settings.automation == RECOMMENDED
    return dg.DefaultScheduleStatus.RUNNING if is_on else dg.DefaultScheduleStatus.STOPPED


def sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    """Return whether the sensors that keep the README's promises run from the start."""
    is_on = settings.automation == RECOMMENDED
    return dg.DefaultSensorStatus.RUNNING if is_on else dg.DefaultSensorStatus.STOPPED


def is_switched_on(
    instance: dg.DagsterInstance, name: str, settings: Settings, *, run: dg.DagsterRun | None = None
) -> bool:
    """Tell whether a schedule or sensor is on now.

    Its switch in the UI decides where somebody used it, else the setting. Two code locations may
    each have one of that name: where `run` says which of them it is of, only that one counts.
    """
    states = [each for each in _states(instance, run) if each.name == name]
    switched = [each for each in states if each.status is not InstigatorStatus.DECLARED_IN_CODE]
    if switched:
        return any(each.status is InstigatorStatus.RUNNING for each in switched)
    return settings.automation == RECOMMENDED


def switched_on(settings: Settings) -> set[str]:
    """Return the names of the schedules and sensors that are on in the DAGSTER_HOME of now.

    Raises:
        SettingError: there is none, or it cannot be read.
    """
    try:
        with dg.DagsterInstance.get() as instance:
            on = {each for each in automated() if is_switched_on(instance, each, settings)}
            states = {each.name: each.status for each in _states(instance, None)}
    except dg.DagsterError as error:
        raise SettingError(f"the switches in DAGSTER_HOME cannot be read: {error}") from error
    return on | {each for each in ALWAYS_ON if states.get(each) is not InstigatorStatus.STOPPED}


def _states(instance: dg.DagsterInstance, run: dg.DagsterRun | None) -> list[InstigatorState]:
    """Return what Dagster keeps of schedules and sensors; nothing where it keeps no history."""
    if instance.schedule_storage is None:
        return []
    origin = run.remote_job_origin if run is not None else None
    selector = origin.repository_origin.get_selector_id() if origin is not None else None
    return list(instance.all_instigator_state(repository_selector_id=selector))
