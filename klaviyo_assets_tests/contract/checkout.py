"""The checkout as the house rules see it: its tracked files, and the package's modules parsed.

What a rule demands belongs in the tests beside this; here is only what they look at.
"""

import ast
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "klaviyo_assets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One file of the package: where it lies below the root, its dotted name, text and syntax."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """Return the first name below the package: `api`, `sync`; empty for the package itself."""
        return self.name.partition(".")[2].partition(".")[0]


def tracked_files() -> list[Path]:
    """Return every file that git knows and that exists: what would be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return [path for path in paths if path.is_file()]


def parse_package() -> list[Module]:
    """Return every module of the package, parsed, sorted by path."""
    return [parse_module(path) for path in sorted(PACKAGE.rglob("*.py"))]


def parse_module(path: Path) -> Module:
    """Return the module that a file of the package holds."""
    below = path.relative_to(ROOT)
    parts = below.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = path.read_text(encoding="utf-8")
    return Module(path=below, name=name, text=text, tree=ast.parse(text))


def functions_of_module(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of a module, methods and inner ones included."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def count_code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines from `def` to the end; a docstring, which states the contract, is free."""
    length = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return length
    docstring = function.body[0]
    return length - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def imported_names(module: Module) -> Iterator[str]:
    """Yield the dotted name of every module that a module imports, wherever the import stands."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def read_import_contracts() -> ConfigParser:
    """Return setup.cfg, which holds the import contracts."""
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser
