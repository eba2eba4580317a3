"""What Dagster's UI shows before anything ran: groups, lineage, descriptions, names."""

import re
from collections import defaultdict
from datetime import UTC, datetime

import dagster as dg
import pytest

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.defs.metadata import build_preview
from klaviyo_assets.model.health import Color, LakeHealth, RunOutcome, StreamHealth
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.contract.checkout import ROOT

MAX_WORD_CHARACTERS = 34
"""At 1,400 pixels the Columns table of an asset's page leaves 250 to a description."""

DEFS = build_defs(Settings(streams=("all",)))


@pytest.fixture(scope="module")
def specs() -> dict[str, dg.AssetSpec]:
    """Give the spec of each asset by its stream."""
    return {spec.key.path[-1]: spec for spec in DEFS.resolve_all_asset_specs()}


def test_assets_stand_in_four_groups(specs: dict[str, dg.AssetSpec]) -> None:
    """Whom, what is sent, what they did, and what came of it; no group is a stream or two."""
    groups = defaultdict[str | None, set[str]](set)
    for name, spec in specs.items():
        groups[spec.group_name].add(name)
    assert set(groups) == {"audience", "messaging", "events", "reports"}
    assert groups["audience"] >= {"profiles", "lists", "lists_detailed", "global_exclusions"}
    assert groups["messaging"] >= {"campaigns", "flows", "email_templates"}
    assert groups["events"] >= {"events", "events_detailed", "metrics"}
    assert groups["reports"] >= {"campaign_values_reports", "flow_series_reports"}


@pytest.mark.parametrize(
    ("upstream", "downstream"),
    [
        ("campaigns", "campaign_values_reports"),
        ("flows", "flow_series_reports"),
        ("flows", "flow_values_reports"),
        ("metrics", "flow_series_reports"),
        ("forms", "form_series_reports"),
        ("segments", "segment_series_reports"),
        ("lists", "lists_detailed"),
        ("lists", "list_members"),
        ("segments", "segment_members"),
        ("profiles", "global_exclusions"),
        ("events", "events_detailed"),
        ("metrics", "events_detailed"),
    ],
)
def test_what_rows_are_about_stands_upstream(
    specs: dict[str, dg.AssetSpec], upstream: str, downstream: str
) -> None:
    """The lineage is drawn as an analyst would draw it."""
    assert upstream in {dep.asset_key.path[-1] for dep in specs[downstream].deps}


def test_profiles_that_fail_stop_no_exclusions() -> None:
    """They are drawn in a line, but each is read by itself: no step waits for the other."""
    assert steps_before("events_detailed") == {"klaviyo__events", "klaviyo__metrics"}
    assert steps_before("global_exclusions") == set()


def steps_before(stream: str) -> set[str]:
    """Return the steps of the hourly job that a stream's step waits for."""
    structure = DEFS.resolve_job_def("klaviyo_collections").graph.dependency_structure
    inputs = structure.input_to_upstream_outputs_for_node(f"klaviyo__{stream}")
    return {handle.node_name for handles in inputs.values() for handle in handles}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=lambda stream: stream.name)
def test_a_description_says_what_a_reader_asks_first(
    specs: dict[str, dg.AssetSpec], stream: Stream
) -> None:
    """Grain, caveats and a query come before what the UI folds; a list shows no markup."""
    text = specs[stream.name].description or ""
    assert text.splitlines()[0] == stream.description
    assert text.index("A query to begin with:\n\n```sql\n") < text.index("| key |")
    assert not re.search(r"^[*|`]", text.partition("A query to begin with:")[0], re.MULTILINE)
    assert all(f"`{each}`" in text for each in (*stream.key, *stream.scopes))
    assert "| requests of a second sync |" in text
    assert f"klaviyo.{stream.name}" in text.partition("```sql")[2]
    assert "](https://developers.klaviyo.com/en/reference/" in text
    if stream.cursor is not None:
        assert f"| cursor | `{stream.cursor.column}` |" in text


def test_a_list_of_assets_has_room_for_names(specs: dict[str, dg.AssetSpec]) -> None:
    """One kind says table or view: three cut names off at 1,400 pixels."""
    kinds = {name: specs[name].kinds for name in STREAMS}
    assert {name: found for name, found in kinds.items() if len(found) != 1} == {}
    assert kinds["events"] == {"deltalake"}
    assert kinds["events_detailed"] == {"duckdb"}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=lambda stream: stream.name)
def test_the_table_of_columns_fits_the_page(specs: dict[str, dg.AssetSpec], stream: Stream) -> None:
    """Every column is described, and no word is wider than the UI's column, which breaks none."""
    schema = specs[stream.name].metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    assert [each.name for each in schema.columns if not each.description] == []
    words = {word for each in schema.columns for word in (each.description or "").split()}
    assert max(map(len, words)) <= MAX_WORD_CHARACTERS, max(words, key=len)


def test_a_path_is_shown_where_the_name_is_another(specs: dict[str, dg.AssetSpec]) -> None:
    """`location_city` says its path by its name; `metric_id` does not."""
    columns = {
        each.name: each.description
        for name in ("profiles", "events")
        for each in specs[name].metadata["dagster/column_schema"].columns
    }
    assert columns["location_city"] == "City."
    assert str(columns["metric_id"]).endswith(" `relationships.metric.data.id`")


def test_a_preview_has_no_empty_column() -> None:
    """A column without a value in any row takes the place of one that says something."""
    preview = build_preview(
        [{"id": "a", "status": None, "name": None}, {"id": "b", "status": None, "name": "x"}]
    )
    assert preview is not None
    assert [each.name for each in preview.schema.columns] == ["id", "name"]
    assert [dict(each.data) for each in preview.records] == [
        {"id": "a", "name": ""},
        {"id": "b", "name": "x"},
    ]
    assert build_preview([{"id": None}]) is None


def test_what_is_wrong_stands_first() -> None:
    """The table of health begins with red streams; those of a color are in the order of names."""
    now = datetime(2026, 8, 1, tzinfo=UTC)
    run = RunOutcome(outcome="ok", ended_at=now, stored_at=now)
    colors: dict[str, Color] = {"b": "green", "a": "green", "c": "red", "d": "yellow"}
    health = LakeHealth(
        streams={
            name: StreamHealth(color=color, sentence="", since=now, last_run=run)
            for name, color in colors.items()
        }
    )
    assert [name for name, _ in health.worst_first()] == ["c", "d", "a", "b"]


def test_a_schedule_bears_the_name_of_its_job() -> None:
    """Who has read of a job finds its schedule; each job, schedule and sensor says what for."""
    schedules = [each for each in DEFS.schedules or () if isinstance(each, dg.ScheduleDefinition)]
    jobs = {job.name: job for job in DEFS.jobs or ()}
    scheduled = {each.name for each in schedules if each.job_name in jobs}
    assert scheduled == jobs.keys() - {"klaviyo_first_sync"}
    others = {each.name.removeprefix("klaviyo_") for each in schedules} - {
        name.removeprefix("klaviyo_") for name in jobs
    }
    assert others <= STREAMS.keys()
    named = [*jobs.values(), *schedules, *(DEFS.sensors or ())]
    assert [each.name for each in named if not each.description] == []


def test_names_in_the_docs_are_those_of_the_ui() -> None:
    """Each job, schedule and sensor that README and docs name is one that can be found."""
    repository = DEFS.get_repository_def()
    known = {
        each.name
        for each in (
            *repository.get_all_jobs(),
            *repository.schedule_defs,
            *repository.sensor_defs,
        )
    }
    named = {
        (path.name, name)
        for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for name in re.findall(r"`(klaviyo_[a-z_]+)`", path.read_text(encoding="utf-8"))
        if "__" not in name
    }
    assert len(named) > 20
    assert {each for each in named if each[1] not in known} == set()
