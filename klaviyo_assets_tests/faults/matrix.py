"""The rows of the matrix, the tests that carry their numbers, and the page made of both."""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klaviyo_assets_tests.contract.checkout import ROOT

FAULTS_FOLDER = Path(__file__).parent
PAGE_PATH = ROOT / "docs" / "faults.md"

NUMBERED_TEST_PATTERN = re.compile(r"test_f(\d+)_\w+")

INTRODUCTION = """\
# What may go wrong

Every row is a test with its number in its name: a sandbox Klaviyo over a socket, Dagster, real
files, and real kills where the row is about them. After each, what is stored is compared with what
the sandbox holds and with what its journal says was sent intact; every key is unique, and no cursor
is later than the rows.

* **OK**: the run is green, and the tables are what the account holds.
* **RETRY**: the same, after waits.
* **SKIP**: a stream or a parent is left out with its reason; everything else is read.
* **FAIL**: the stream fails with a text that says what to do. What was committed stays, and the
  next run completes it.

Made by `python -m klaviyo_assets_tests.faults`; the tests lie in `klaviyo_assets_tests/faults`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRow:
    """One row: its number as `F01`, and words; `note` tells of another outcome, and why."""

    number: str
    stage: str
    fault: str
    outcome: str
    codes: tuple[str, ...]
    note: str = ""


def read_fault_rows() -> list[FaultRow]:
    """Return all rows in order."""
    written = tomllib.loads((FAULTS_FOLDER / "matrix.toml").read_text(encoding="utf-8"))
    return [build_fault_row(number, words) for number, words in written.items()]


def build_fault_row(number: str, words: Mapping[str, Any]) -> FaultRow:
    """Return a row; a word that rows do not have is a TypeError."""
    fields = dict(words)
    return FaultRow(number=number, codes=tuple(fields.pop("codes")), **fields)


def find_numbered_tests() -> dict[str, list[str]]:
    """Return the numbered tests of this folder by their row, each as `file::name`."""
    found: dict[str, list[str]] = {}
    for path in sorted(FAULTS_FOLDER.rglob("test_*.py")):
        for name in function_names(path):
            if match := NUMBERED_TEST_PATTERN.fullmatch(name):
                found.setdefault(f"F{match[1]}", []).append(f"{path.name}::{name}")
    return found


def function_names(path: Path) -> Iterator[str]:
    """Yield the names of the functions of a file, in order."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name


def render_page() -> str:
    """Return `docs/faults.md` as it should be now."""
    tests = find_numbered_tests()
    lines = ["| row | stage | fault | outcome | test |", "|---|---|---|---|---|"]
    notes: list[str] = []
    for row in read_fault_rows():
        named = "<br>".join(f"`{each}`" for each in tests.get(row.number, ())) or "**missing**"
        outcome = f"**{' / '.join(row.codes)}** {row.outcome}"
        lines.append(f"| {row.number} | {row.stage} | {row.fault} | {outcome} | {named} |")
        if row.note:
            notes.append(f"* {row.number}: {row.note}")
    note_lines = ["", "## Notes", "", *notes] if notes else []
    return "\n".join([INTRODUCTION, *lines, *note_lines, ""])
