"""The starter files of Superset name what klaviyo.duckdb has, and belong together."""

from pathlib import Path

import pytest

from klaviyo_assets_tests.contract.superset_files import (
    SUPERSET_FOLDER,
    expected_superset_files,
    load_superset_file,
)

DATASETS = sorted(SUPERSET_FOLDER.glob("datasets/klaviyo/*.yaml"))
CHARTS = sorted(SUPERSET_FOLDER.glob("charts/*.yaml"))


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_a_dataset_has_the_columns_of_its_relation(path: Path) -> None:
    """Each with the words of its comment.

    `python -m klaviyo_assets_tests.contract.golden_streams` writes them anew.
    """
    assert path.read_text(encoding="utf-8") == expected_superset_files()[path]


@pytest.mark.parametrize("path", CHARTS, ids=lambda path: path.stem)
def test_a_chart_asks_a_dataset_that_is_there(path: Path) -> None:
    """By its id; columns that it names plainly are the dataset's."""
    chart = load_superset_file(path)
    datasets = {each["uuid"]: each for each in map(load_superset_file, DATASETS)}
    dataset = datasets[chart["dataset_uuid"]]
    names = {each["column_name"] for each in dataset["columns"]}
    params = chart["params"]
    asked = [*params.get("all_columns", []), *(each["subject"] for each in params["adhoc_filters"])]
    asked += [params["x_axis"]] if "x_axis" in params else []
    assert asked
    assert set(asked) <= names


def test_the_dashboard_shows_every_chart() -> None:
    """Each once, by its id; and all datasets are of the one database."""
    dashboard = load_superset_file(SUPERSET_FOLDER / "dashboards" / "klaviyo.yaml")
    shown = [
        each["meta"]["uuid"]
        for name, each in dashboard["position"].items()
        if name.startswith("CHART-")
    ]
    assert sorted(shown) == sorted(load_superset_file(path)["uuid"] for path in CHARTS)
    database = load_superset_file(SUPERSET_FOLDER / "databases" / "klaviyo.yaml")
    assert {load_superset_file(path)["database_uuid"] for path in DATASETS} == {database["uuid"]}
    assert database["sqlalchemy_uri"].endswith("?access_mode=READ_ONLY")
