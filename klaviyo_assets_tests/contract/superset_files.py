"""The datasets of Superset's starter files, with the columns and comments of their relations.

`python -m klaviyo_assets_tests.contract.golden_streams` writes them anew; what else Superset keeps
of a dataset stays as it is in the file.
"""

from pathlib import Path
from typing import Any

import yaml

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.contract.dictionary_pages import documented_relations

SUPERSET_FOLDER = ROOT / "deploy" / "superset"
TIME_TYPES = {"DATE", "TIMESTAMPTZ"}


def load_superset_file(path: Path) -> Any:  # noqa: ANN401 - YAML of any shape
    """Return the content of a file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def columns_with_meaning(relation: str) -> list[tuple[str, str, str]]:
    """Return name, type and meaning of a relation's columns, those of the one it extends first."""
    own = next(each for each in documented_relations() if each.name == relation)
    return [*(columns_with_meaning(own.base) if own.base else []), *own.columns]


def dataset_file(path: Path) -> str:
    """Return the text of a dataset's file with the columns that its relation has now."""
    dataset = load_superset_file(path)
    dataset["columns"] = [
        {
            "column_name": name,
            "is_dttm": kind in TIME_TYPES,
            "is_active": True,
            "type": {"JSON text": "VARCHAR", "TIMESTAMPTZ": "TIMESTAMP"}.get(kind, kind),
            "groupby": True,
            "filterable": True,
            "description": about,
        }
        for name, kind, about in columns_with_meaning(dataset["table_name"])
    ]
    return yaml.safe_dump(dataset, sort_keys=False, allow_unicode=True, width=110)


def expected_superset_files() -> dict[Path, str]:
    """Return the text of each dataset's file by its place."""
    paths = sorted(SUPERSET_FOLDER.glob("datasets/klaviyo/*.yaml"))
    return {path: dataset_file(path) for path in paths}
