"""The notebook in examples/: its cells run, and its numbers are those of the questions."""

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from klaviyo_assets.dashboard.questions import QUESTIONS
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.integration.dashboard.shop import open_empty_shop, open_shop

NOTEBOOK = ROOT / "examples" / "marketing_overview.py"

# Importing it takes a second, which each worker would spend on collecting.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("marimo") is None,
    reason="pip install marimo altair, to run the notebook",
)

NOT_ASKED = {"revenue_before", "other_currencies", "list_history", "list_sizes", "newest_event"}
"""Questions of the page alone: they only put another one into proportion."""


def run_notebook(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """Run all cells on a lake's folder, as `marimo export` does; return what they define."""
    monkeypatch.setenv("KLAVIYO_DATA_DIR", str(folder))
    spec = importlib.util.spec_from_file_location("notebook", NOTEBOOK)
    assert spec is not None
    assert spec.loader is not None
    notebook = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        # Of the packages that the notebook stands on, in their own code.
        warnings.simplefilter("ignore")
        spec.loader.exec_module(notebook)
        _, found = notebook.app.run()
    found["database"].close()
    return found


def test_the_notebook_asks_the_same_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every picture's question has its box and its answer; the people are all there."""
    open_shop(tmp_path / "klaviyo.duckdb").close()
    found = run_notebook(tmp_path, monkeypatch)
    boxes = {value.value for name, value in found.items() if name.endswith("_sql")}
    assert boxes == {each.sql for name, each in QUESTIONS.items() if name not in NOT_ASKED}
    consent = found["consent"]
    assert consent[consent.channel == "Email"].people.sum() == 20


def test_an_empty_account_has_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no row, the cells run all the same."""
    open_empty_shop(tmp_path / "klaviyo.duckdb").close()
    assert run_notebook(tmp_path, monkeypatch)["revenue"].empty
