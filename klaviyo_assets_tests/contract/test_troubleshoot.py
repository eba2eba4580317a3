"""docs/troubleshoot.md is found by what people see: its headings are messages of the program."""

import ast
import inspect
import re
from collections.abc import Iterator

import pytest

from klaviyo_assets import errors
from klaviyo_assets_tests.contract.checkout import ROOT, parse_package

PAGE = (ROOT / "docs" / "troubleshoot.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### (.+)$", PAGE, flags=re.MULTILINE)

PLACEHOLDER = re.compile(r"%(?:\.\d+)?[sdr]")
"""What stands in the texts of loggers for a value."""


def product_texts() -> Iterator[str]:
    """Yield each text of the product's code, with an ellipsis for each value in it."""
    for module in parse_package():
        if module.room == "sandbox":
            continue
        statements = (each for each in ast.walk(module.tree) if isinstance(each, ast.Expr))
        docstrings = {id(each.value) for each in statements}
        for node in ast.walk(module.tree):
            if id(node) in docstrings:
                continue
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield PLACEHOLDER.sub("…", node.value)


@pytest.fixture(scope="module")
def texts() -> str:
    """Give all of the product's texts, a line each."""
    return "\n".join(" ".join(each.split()) for each in product_texts())


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_heading_is_a_message_of_the_program(heading: str, texts: str) -> None:
    """A message that is reworded is reworded in the page; `…` stands for any part of a text."""
    parts = [re.escape(each.strip()) for each in heading.split("…") if each.strip()]
    assert parts
    assert re.search(r"[^\n]*".join(parts), texts), heading


def test_every_kind_of_error_is_on_the_page() -> None:
    """Whoever sees `klaviyo/error` in the metadata of a run finds that word there."""
    kinds = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.KlaviyoAssetsError) and not kind.__subclasses__()
    }
    never_shown = {"CursorLostError", "PageSizeError"}
    assert kinds - never_shown - set(re.findall(r"`(\w+Error)`", PAGE)) == set()


def test_no_two_headings_are_one_message() -> None:
    """Each message has one place to look at, and most of the operator's have one."""
    assert len(HEADINGS) == len(set(HEADINGS)) >= 60
