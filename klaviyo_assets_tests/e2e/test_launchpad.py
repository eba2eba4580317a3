"""What Dagster's launchpad writes into its editor, and what a launch cannot say.

The editor's text is made by the function that the UI's server calls for it; that a person can
launch it from the page is shown in a real browser (`browser`).
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._config import ConfigTypeKind
from dagster._config.snap import snap_from_config_type
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap

from klaviyo_assets.model.stream import Detail, ViewSource
from klaviyo_assets.streams import DEFAULT_COLLECTIONS, DEFAULT_STREAMS, REPORTS
from klaviyo_assets.sync.plan import SyncMode
from klaviyo_assets_tests.e2e.home import Home, asset_key

MODE: dict[str, object] = {"sync_mode": "incremental_deduped"}
WINDOW: dict[str, object] = {"start": "", "end": ""}
CONFIRM: dict[str, object] = {"confirm_shrink": False}
WITHOUT_WINDOW = {
    stream.name
    for stream in DEFAULT_COLLECTIONS
    if stream.is_snapshot or isinstance(stream.source, Detail)
}
"""Streams that Klaviyo cannot filter by time, and what is asked for record by record."""

SHOWN: dict[str, Mapping[str, object]] = {
    **dict.fromkeys(DEFAULT_STREAMS, MODE | WINDOW | CONFIRM),
    **dict.fromkeys(WITHOUT_WINDOW, MODE | CONFIRM),
    **{stream.name: {"ask_refused": False} for stream in REPORTS},
    "profiles": MODE | WINDOW | CONFIRM | {"sweep_ids": False},
    **{each.name: {} for each in DEFAULT_COLLECTIONS if isinstance(each.source, ViewSource)},
}


def job_of(home: Home, stream: str) -> dg.JobDefinition:
    """Return the job behind the Materialize button of an asset's page."""
    implicit = home.load_definitions().get_repository_def().get_job("__ASSET_JOB")
    return implicit.get_subset(asset_selection={asset_key(stream)})


def editor_of(job: dg.JobDefinition) -> dict[str, Any]:
    """Return what the launchpad writes into its editor when it is opened."""
    root = job.run_config_schema.config_type
    text = default_values_yaml_from_type_snap(
        job.get_job_snapshot().config_schema_snapshot, snap_from_config_type(root)
    )
    return yaml.safe_load(text)


def sentences_of(job: dg.JobDefinition, op: str) -> Mapping[str, str | None]:
    """Return the descriptions of the fields of an op's schema, and those of an enum's values."""
    schema = job.get_node_named(op).definition.config_schema
    found: dict[str, str | None] = {}
    for name, field in getattr(schema and schema.config_type, "fields", {}).items():
        found[name] = field.description
        if field.config_type.kind is ConfigTypeKind.ENUM:
            found |= {each.config_value: each.description for each in field.config_type.enum_values}
    return found


@pytest.mark.parametrize("stream", DEFAULT_STREAMS)
def test_the_editor_shows_what_the_stream_can_do(home: Home, stream: str) -> None:
    """A few lines of op config, each with a sentence; nothing of the deployment."""
    job, op = job_of(home, stream), f"klaviyo__{stream}"
    shown = editor_of(job)
    assert not shown.pop("resources", None)
    ops: dict[str, object] = shown.pop("ops", None) or {}
    assert shown == {}
    assert ops == ({op: {"config": SHOWN[stream]}} if SHOWN[stream] else {})
    sentences = sentences_of(job, op)
    assert all(sentences.get(name) for name in SHOWN[stream])
    if "sync_mode" in SHOWN[stream]:
        assert all(sentences.get(mode) for mode in SyncMode)


@pytest.mark.parametrize("stream", ["events", "profiles", "lists", "campaigns_detailed"])
def test_launching_the_editor_unchanged_is_a_sync(home: Home, stream: str) -> None:
    """Open launchpad, change nothing, Materialize: the run is green and the rows are there."""
    home.sync("events", "campaigns", "metrics")
    job = job_of(home, stream)
    run = home.execute(
        lambda instance: job.execute_in_process(
            run_config=editor_of(job), instance=instance, raise_on_error=False
        )
    )
    assert run.success, run.failures
    assert run.materializations[stream]["klaviyo/sync_mode"] == "incremental_deduped"
    assert home.row_count(stream) == len(home.account.true_ids(stream.removesuffix("_detailed")))


@pytest.mark.parametrize(
    ("resource", "field", "value"),
    [
        ("klaviyo", "base_url", "http://127.0.0.1:1"),
        ("klaviyo", "api_key", "pk_0123456789abcdef0123456789abcdef00"),
        ("klaviyo", "key_variable", "SECOND_ACCOUNT_KEY"),
        ("klaviyo", "settings", {}),
        ("lake", "data_dir", "elsewhere"),
        ("lake_io_manager", "lake", {}),
    ],
)
@pytest.mark.parametrize("name", ["__ASSET_JOB", "klaviyo_collections"])
def test_the_deployment_is_no_run_config(
    home: Home, name: str, resource: str, field: str, value: object
) -> None:
    """A block of resources is refused before the run, so that it overrides nothing by half."""
    job = home.load_definitions().get_repository_def().get_job(name)
    config = {"resources": {resource: {"config": {field: value}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match=f'unexpected config entry "{field}"'):
        dg.validate_run_config(job, config)


NONSENSE: dict[str, tuple[str, dict[str, object], str]] = {
    "a window of what is read whole": ("lists", {"start": "2026-10-01"}, "cannot filter"),
    "a window of a view": ("events_detailed", {"end": "2026-10-01"}, "cannot filter"),
    "a history of a view": ("events_detailed", {"sync_mode": "full_refresh_append"}, "a history"),
    "a mode that there is not": ("events_detailed", {"sync_mode": "full"}, "incremental_append"),
    "what only a full read needs": (
        "events",
        {"confirm_shrink": True},
        "neither drops rows nor marks",
    ),
    "an option that there is not": ("lists", {"sync_mod": "x"}, "no option sync_mod here"),
    "one of another stream": ("lists", {"ask_refused": True}, "there are: sync_mode"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_what_a_stream_cannot_do_is_refused_in_words(home: Home, case: str) -> None:
    """An option that the editor does not show fails in a sentence, before the first request."""
    stream, config, sentence = NONSENSE[case]
    run = home.sync(stream, config=config)
    assert sentence in run.failures[stream]
    assert home.account.request_counts().total() == 0


def test_a_typing_error_is_marked_in_the_editor(home: Home) -> None:
    """Where all of the contract's options are there, Dagster refuses others before the launch."""
    config = {"ops": {"klaviyo__events": {"config": {"sync_mod": "full_refresh_overwrite"}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match='unexpected config entry "sync_mod"'):
        dg.validate_run_config(job_of(home, "events"), config)
