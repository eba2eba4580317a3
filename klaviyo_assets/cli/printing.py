"""What every verb prints with: errors, JSON, questions. Tables and bars are in `tables.py`."""

import json
import sys
from collections.abc import Iterable

from klaviyo_assets.errors import SettingError


def print_errors(problems: Iterable[object]) -> None:
    """Print each problem as a line on standard error."""
    for problem in problems:
        print(problem, file=sys.stderr)


def print_json(value: object) -> None:
    """Print a value as JSON; what JSON does not know, such as times, becomes its text."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def confirm(question: str, *, is_confirmed: bool, without_terminal: str) -> bool:
    """Return whether the user agrees; `is_confirmed` is the option --yes.

    Raises:
        SettingError: nobody can answer; `without_terminal` says that nothing was done.
    """
    if is_confirmed:
        return True
    if not sys.stdin.isatty():
        raise SettingError(f"{without_terminal}: give --yes if that is meant")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
