"""What is on a command line, and what runs it."""

import inspect
from importlib import import_module

import pytest

from klaviyo_assets.cli.parsing import Verb, repeat_option_names
from klaviyo_assets.cli.verbs import VERBS


@pytest.mark.parametrize(
    ("words", "parsed"),
    [
        ("x.duckdb --tables a b --force", "x.duckdb --tables a --tables b --force"),
        ("--tables a,b c", "--tables a,b --tables c"),
        ("--tables=a b", "--tables=a b"),
        ("--tables --force x", "--tables --force x"),
        ("a --tables", "a --tables"),
        ("--tables -", "--tables -"),
    ],
)
def test_an_option_takes_every_word_up_to_the_next(words: str, parsed: str) -> None:
    """Its name is put before each of them; other words and options stay where they are."""
    assert list(repeat_option_names(words.split(), {"--tables"})) == parsed.split()


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_what_runs_a_verb_takes_its_options(verb: Verb) -> None:
    """The function that a verb names exists, and has a parameter for each of the options."""
    module, _, name = verb.run.partition(":")
    runs = getattr(import_module(f"klaviyo_assets.cli.{module}"), name)
    _, *parameters = inspect.signature(runs).parameters.values()
    options = {each.name for each in verb.params if each.expose_value}
    options |= {"refusals"} if verb.takes_refusals else set()
    assert {each.name for each in parameters} == options
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters)
