"""The commands and code in README.md, CONTRIBUTING.md and docs/: what a reader would paste.

`e2e/test_docs_blocks.py` runs them; what cannot be run stands in `NOT_RUN`, with the reason.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from klaviyo_assets_tests.contract.checkout import ROOT

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
"""Pages of streams are generated; `test_readme.py` runs their queries."""

BLOCK_PATTERN = re.compile(
    r'^(?P<indent> *)```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n'
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
"""A block, also one inside a list, where it is indented."""

RUN_LANGUAGES = {"sh", "python", "sql", "yaml"}
OTHER_LANGUAGES = {"diff", "text", "mermaid", "json"}

NOT_RUN = {
    "make demo": "installs and runs for minutes: .ci/run runs it",
    "make install": "installs packages: every other verb of make does so first",
    "make dev": "does not end: klaviyo_assets_tests/browser/test_pages.py starts what it starts",
    "make check": "is what runs this test",
    "make test": "is what runs this test",
    "make docs": "needs the extra docs: .ci/run runs it",
    ". .venv/bin/activate": "changes the shell of the reader",
    "git pull": "needs the network",
    "pip install": "needs a registry",
    "duckdb -readonly": "opens a prompt: klaviyo_assets_tests/e2e/test_queries.py asks by it",
    "chromium --headless": "needs Chromium and the demo: "
    "klaviyo_assets_tests/browser/test_overview_page.py opens such a page",
    "superset ": "needs Superset in an environment of its own: "
    "klaviyo_assets_tests/contract/test_superset.py holds the files that it imports",
    "(cd deploy && python -m zipfile": "writes into the checkout",
    "klaviyo-assets init": "asks: klaviyo_assets_tests/e2e/test_sql_and_init.py answers",
    "KLAVIYO_API_KEY=pk_... dagster dev": "does not end; klaviyo_assets_tests/e2e/"
    "test_embedding.py loads the same module",
    "dagster asset materialize": "takes seconds: klaviyo_assets_tests/e2e/test_cli.py runs it",
    ".venv/bin/dagster-webserver": "does not end: `dagster dev` starts the same",
    ".venv/bin/dagster-daemon": "does not end: `dagster dev` starts the same",
    ".venv/bin/python -m klaviyo_assets_tests.contract.read_": "needs Klaviyo's document: "
    "klaviyo_assets_tests/contract/test_read_endpoints.py calls them with one",
}
"""How commands begin that no test of these pages runs, and why, or which other test does."""


RUN_ELSEWHERE = {
    ("docs/embed.md", "sql"): "klaviyo_assets_tests/e2e/test_embedding.py",
    ("docs/dbt.md", "sh"): "klaviyo_assets_tests/e2e/test_dbt.py",
    ("docs/migrate.md", "sh"): "klaviyo_assets_tests/e2e/test_dbt.py",
    ("docs/dbt.md", "yaml"): "klaviyo_assets_tests/e2e/test_dbt.py",
    ("docs/queries.md", "python"): "klaviyo_assets_tests/e2e/test_queries.py",
    ("docs/queries.md", "sql"): "klaviyo_assets_tests/e2e/test_queries.py",
}
"""Pages whose blocks of a language another test runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocsBlock:
    """One block of code: `line` is where it begins, `title` the file that it is meant to be."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str

    @property
    def place(self) -> str:
        """Return page and line, as an editor opens them."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Return the commands of a shell's block, a line each, without comments."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [re.sub(r"\s+#\s.*", "", each).strip() for each in lines if each.strip()]


def docs_blocks() -> Iterator[DocsBlock]:
    """Yield every block of code that has a language."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in BLOCK_PATTERN.finditer(text):
            yield DocsBlock(
                page=page,
                line=text.count("\n", 0, found.start()) + 1,
                language=found["language"],
                title=found["title"],
                text=dedent(found["text"]),
            )


def is_run_elsewhere(block: DocsBlock) -> bool:
    """Return whether another test than that of the pages runs a block."""
    return (str(block.page.relative_to(ROOT)), block.language) in RUN_ELSEWHERE


def reason_not_run(command: str) -> str | None:
    """Return why a command is not run; None for one that is."""
    reasons = [reason for start, reason in NOT_RUN.items() if command.startswith(start)]
    return reasons[0] if reasons else None


def inline_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield each command of ours in backticks, with its page: `klaviyo-assets verify`."""
    for page in PAGES:
        text = BLOCK_PATTERN.sub("", page.read_text(encoding="utf-8"))
        for found in re.findall(r"`(klaviyo-assets [^`]+|make [^`]+)`", text):
            words = shlex.split(" ".join(found.split()).partition(" >> ")[0])
            yield str(page.relative_to(ROOT)), words
