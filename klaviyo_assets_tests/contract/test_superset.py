"""The starter files of Superset name what klaviyo.duckdb has, and belong together."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.contract.dictionary_pages import documented_relations

FOLDER = ROOT / "deploy" / "superset"
DATASETS = sorted(FOLDER.glob("datasets/klaviyo/*.yaml"))
CHARTS = sorted(FOLDER.glob("charts/*.yaml"))


def load_file(path: Path) -> Any:  # noqa: ANN401 - YAML of any shape
    """Return the content of a file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def relation_columns_with_comments(name: str) -> dict[str, str]:
    """Return the columns of a relation with their meaning, those of the one it extends first."""
    relations = {each.name: each for each in documented_relations()}
    own = relations[name]
    base = relation_columns_with_comments(own.base) if own.base else {}
    return base | {column: about for column, _, about in own.columns}


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_a_dataset_has_the_columns_of_its_relation(path: Path) -> None:
    """Each column, with the words of its comment."""
    dataset = load_file(path)
    described = {each["column_name"]: each["description"] for each in dataset["columns"]}
    columns = relation_columns_with_comments(dataset["table_name"])
    assert set(described) == set(columns)
    for name, about in columns.items():
        assert described[name].startswith(about), name


@pytest.mark.parametrize("path", CHARTS, ids=lambda path: path.stem)
def test_a_chart_asks_a_dataset_that_is_there(path: Path) -> None:
    """By its id; columns that it names plainly are the dataset's."""
    chart = load_file(path)
    datasets = {each["uuid"]: each for each in map(load_file, DATASETS)}
    dataset = datasets[chart["dataset_uuid"]]
    names = {each["column_name"] for each in dataset["columns"]}
    params = chart["params"]
    asked = [*params.get("all_columns", []), *(each["subject"] for each in params["adhoc_filters"])]
    asked += [params["x_axis"]] if "x_axis" in params else []
    assert asked
    assert set(asked) <= names


def test_the_dashboard_shows_every_chart() -> None:
    """Each once, by its id; and all datasets are of the one database."""
    dashboard = load_file(FOLDER / "dashboards" / "klaviyo.yaml")
    shown = [
        each["meta"]["uuid"]
        for name, each in dashboard["position"].items()
        if name.startswith("CHART-")
    ]
    assert sorted(shown) == sorted(load_file(path)["uuid"] for path in CHARTS)
    database = load_file(FOLDER / "databases" / "klaviyo.yaml")
    assert {load_file(path)["database_uuid"] for path in DATASETS} == {database["uuid"]}
    assert database["sqlalchemy_uri"].endswith("?access_mode=READ_ONLY")
