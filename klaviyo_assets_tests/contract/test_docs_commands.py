"""Commands in the pages are commands: verbs, options and targets that exist."""

import re

import click
import pytest

from klaviyo_assets.cli.verbs import COMMAND
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.contract.docs_blocks import (
    NOT_RUN,
    OTHER_LANGUAGES,
    PAGES,
    RUN_ELSEWHERE,
    RUN_LANGUAGES,
    docs_blocks,
    inline_commands,
)

INLINE = sorted({(page, *words) for page, words in inline_commands()})


@pytest.mark.parametrize("command", INLINE, ids=" ".join)
def test_a_command_within_a_sentence_exists(command: tuple[str, ...]) -> None:
    """Its verb, and every option of it, are those of the command line; a target is make's."""
    _, program, verb, *words = command
    if program == "make":
        targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert verb in targets
        assert all(re.fullmatch(r"[A-Z_]+=.+", each) for each in words)
    elif verb not in {"VERB", "--help", "sandbox"}:
        found = COMMAND.get_command(click.Context(COMMAND), verb)
        assert found is not None, verb
        if words:
            found.make_context(verb, list(words))


def test_every_block_has_a_language() -> None:
    """A block says what it is, so that it is run, or known not to be code."""
    languages = {each.language for each in docs_blocks()}
    assert languages <= RUN_LANGUAGES | OTHER_LANGUAGES
    for page in {each.page for each in docs_blocks()}:
        fences = re.findall(r"^ *```.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) % 2 == 0, page


def test_a_block_in_a_list_is_seen() -> None:
    """Every fence of a page that opens a block belongs to one, however far it is indented."""
    opened = {
        (page, text.count("\n", 0, each.start()) + 1)
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for each in re.finditer(r"^ *```\w", text, re.MULTILINE)
    }
    assert opened == {(each.page, each.line) for each in docs_blocks()}
    titled = [each for each in docs_blocks() if each.title == "superset_config.py"]
    for block in titled:
        compile(block.text, block.place, "exec")
    assert titled


def test_no_reason_is_left_over() -> None:
    """What is not run is still in the pages, and each test that is named instead is there."""
    shells = [each for each in docs_blocks() if each.language == "sh"]
    commands = [each for block in shells for each in block.commands]
    blocks = {(str(each.page.relative_to(ROOT)), each.language) for each in docs_blocks()}
    assert RUN_ELSEWHERE.keys() - blocks == set()
    for start in NOT_RUN:
        assert any(each.startswith(start) for each in commands), start
    for reason in (*NOT_RUN.values(), *RUN_ELSEWHERE.values()):
        for path in re.findall(r"klaviyo_assets_tests/[\w/]+\.py", reason):
            assert (ROOT / path).exists(), path
