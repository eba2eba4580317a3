"""The shape of the package's code: sizes, names, and the purity that imports cannot show."""

import ast
import sys
from itertools import chain

import pytest

from klaviyo_assets_tests.contract.checkout import (
    Module,
    count_code_lines,
    functions_of_module,
    imported_names,
    parse_package,
)

LINES_OF_A_FILE = 700
LINES_OF_A_FUNCTION = 40

MODULES = 108
"""How many modules the product may have; 105 on 2026-12-01, after 146 in the morning of that day.

Neither packages' `__init__` count, nor the sandbox, nor `streams`, which grows with Klaviyo.
"""

# What may be longer, by dotted name, with the reason. Both are empty, and should stay so.
LONGER_FILES: dict[str, str] = {}
LONGER_FUNCTIONS: dict[str, str] = {}

# Words that say nothing about what a file holds.
EMPTY_WORDS = {"base", "common", "handler", "helper", "helpers", "manager", "misc", "util", "utils"}

# Rooms and files in which the time is an argument; what they import is fenced in setup.cfg.
PURE = (
    "klaviyo_assets.api.limits",
    "klaviyo_assets.api.requests",
    "klaviyo_assets.errors",
    "klaviyo_assets.model",
    "klaviyo_assets.streams",
    "klaviyo_assets.decode",
)


@pytest.fixture(name="package", scope="module")
def parsed_package() -> list[Module]:
    """Return every module of the package, parsed; an empty list would prove nothing."""
    found = parse_package()
    assert found
    return found


def test_a_file_has_one_subject(package: list[Module]) -> None:
    """No file of the package is longer than 700 lines; 500 is the aim."""
    lengths = {module.name: len(module.text.splitlines()) for module in package}
    long = {name: lines for name, lines in lengths.items() if lines > LINES_OF_A_FILE}
    assert long.keys() == LONGER_FILES.keys(), long


def test_a_new_module_is_rare(package: list[Module]) -> None:
    """The product has few modules: a new subject is added to the module that has it, as a rule."""
    modules = [
        module.name
        for module in package
        if module.room not in {"sandbox", "streams"} and module.path.stem != "__init__"
    ]
    assert len(modules) > MODULES // 2
    assert len(modules) <= MODULES, "merge small ones of one subject before you raise the limit"


def test_a_function_fits_on_a_screen(package: list[Module]) -> None:
    """No function is longer than 40 lines, its docstring not counted."""
    long = {
        f"{module.name}.{function.name}": count_code_lines(function)
        for module in package
        for function in functions_of_module(module)
        if count_code_lines(function) > LINES_OF_A_FUNCTION
    }
    assert long.keys() == LONGER_FUNCTIONS.keys(), long


def test_a_file_is_named_for_what_it_holds(package: list[Module]) -> None:
    """No file or folder is called utils, helpers or the like; `io_manager` is Dagster's word."""
    parts = {part for module in package for part in module.name.split(".")} - {"io_manager"}
    assert {part for part in parts if EMPTY_WORDS.intersection(part.split("_"))} == set()


def public_names(module: Module) -> set[str]:
    """Return what a module defines at its top level: functions, classes, variables and aliases."""
    found: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [each for target in targets for each in ast.walk(target)]
            found |= {each.id for each in names if isinstance(each, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def test_a_name_has_one_home(package: list[Module]) -> None:
    """No public name is defined at the top of two modules: who searches it finds what it is.

    The sandbox is a program of its own.
    """
    homes: dict[str, list[str]] = {}
    for module in package:
        if module.room != "sandbox":
            for name in public_names(module):
                homes.setdefault(name, []).append(module.name)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_pure_rooms_take_the_time_as_an_argument(package: list[Module]) -> None:
    """Pure rooms read no clock through `datetime` or `date`, which no import fence can see."""
    pure = [module for module in package if module.name.startswith(PURE)]
    assert pure
    requested = [
        f"{module.path}:{node.lineno} {ast.unparse(node)}"
        for module in pure
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and node.attr in {"now", "utcnow", "today"}
        and ast.unparse(node.value).split(".")[-1] in {"datetime", "date"}
    ]
    assert requested == []


def test_only_the_lake_joins_paths_below_its_folder(package: list[Module]) -> None:
    """Outside of the room `lake`, no code reads `root`: the class `Lake` has a method for it."""
    outside = [module for module in package if module.room not in {"lake", "sandbox"}]
    uses = [
        f"{module.path}:{node.lineno} {ast.unparse(node)}"
        for module in outside
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr == "root"
    ]
    assert uses == []


def test_the_package_itself_imports_nothing(package: list[Module]) -> None:
    """`import klaviyo_assets` costs nothing: `__init__` holds the version alone."""
    door = next(module for module in package if module.name == "klaviyo_assets")
    assert list(imported_names(door)) == []


def test_the_sandbox_stands_on_the_standard_library(package: list[Module]) -> None:
    """The sandbox needs no package that the product uses."""
    sandbox_modules = [module for module in package if module.room == "sandbox"]
    assert sandbox_modules
    names = set(chain.from_iterable(imported_names(module) for module in sandbox_modules))
    foreign = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith("klaviyo_assets.sandbox")} == set()
