"""Every crash point is used: the product reaches it, and a test kills a process there."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from klaviyo_assets.seams import CrashPoint
from klaviyo_assets_tests.contract.checkout import ROOT


def first_arguments(folder: Path, function: str) -> Iterator[str]:
    """Yield the first argument of each call of a function below a folder, where it is a text."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(text)), *_]):
                    if name == function:
                        yield text
                case _:
                    pass


def test_a_test_kills_a_process_at_every_crash_point() -> None:
    """No point is named without a kill there; these tests fail where it is not reached."""
    killed = set(first_arguments(ROOT / "klaviyo_assets_tests", "KillAt"))
    assert set(get_args(CrashPoint)) - killed == set()


def test_each_crash_point_stands_in_one_place() -> None:
    """A point is one line of the product, so that a test knows what is done and what is not."""
    places = sorted(first_arguments(ROOT / "klaviyo_assets", "reach_crash_point"))
    assert places == sorted(get_args(CrashPoint))
