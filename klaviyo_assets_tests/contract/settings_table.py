"""The tables of settings in README.md and docs/settings.md, made from the settings themselves.

`python -m klaviyo_assets_tests.contract.settings_table` writes them anew.
"""

import re
from collections.abc import Collection
from pathlib import Path

from klaviyo_assets.settings import KEY_VARIABLE, environment_variables
from klaviyo_assets_tests.contract.checkout import ROOT

TABLE_HEAD = "| variable | default | allowed | meaning |\n|---|---|---|---|\n"

README_VARIABLES = {
    KEY_VARIABLE,
    "KLAVIYO_AUTOMATION",
    "KLAVIYO_START_DATE",
    "KLAVIYO_CONVERSION_METRIC_IDS",
    "KLAVIYO_DATA_DIR",
}
"""What a newcomer sets; docs/settings.md has them all."""


def settings_table(names: Collection[str]) -> str:
    """Return the table of these variables, in the order of their declarations."""
    rows = [
        f"| `{each.name}` | {each.default} | {each.allowed} | {each.description} |"
        for each in environment_variables()
        if each.name in names
    ]
    escaped = [re.sub(r"(?<=\S)\|(?=\S)", r"\\|", row) for row in rows]
    return TABLE_HEAD + "\n".join(escaped) + "\n"


def expected_pages() -> dict[Path, str]:
    """Return the pages that hold a table of settings, with the tables as they must be."""
    every = {each.name for each in environment_variables()}
    wanted = {ROOT / "README.md": README_VARIABLES, ROOT / "docs" / "settings.md": every}
    pages: dict[Path, str] = {}
    for path, names in wanted.items():
        before, _, rest = path.read_text(encoding="utf-8").partition(TABLE_HEAD)
        after = re.sub(r"\A(\|.*\n)*", "", rest)
        pages[path] = f"{before}{settings_table(names)}{after}"
    return pages


if __name__ == "__main__":
    for place, text in expected_pages().items():
        place.write_text(text, encoding="utf-8")
