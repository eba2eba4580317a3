"""The pages for developers tell the truth: what they name exists, and is found from the README."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from klaviyo_assets_tests.contract.checkout import PACKAGE, ROOT, read_import_contracts

TESTS = ROOT / "klaviyo_assets_tests"
README = ROOT / "README.md"

DOCS = ROOT / "docs"

DECISIONS = sorted((DOCS / "decisions").glob("*.md"))

CHECKED_PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    DOCS / "architecture.md",
    DOCS / "developers.md",
    *DECISIONS,
    *sorted(PACKAGE.rglob("README.md")),
]
"""The pages whose backticked paths and modules must exist."""

LINKING_PAGES = sorted({*CHECKED_PAGES, *DOCS.rglob("*.md")})

FILE_ENDINGS = (".py", ".md", ".toml", ".cfg", ".yaml", ".yml")

CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

DATA_PATH = re.compile(r"lake/(_[a-z]\w*(/|$)|klaviyo)|\.\.|.*\*")
"""Paths of stored data, which a checkout does not have; and patterns."""


def page_name(page: Path) -> str:
    """Return a page's path below the checkout."""
    return str(page.relative_to(ROOT))


def quoted_words(page: Path) -> Iterator[str]:
    """Yield what stands in backticks, and the paths below the packages in blocks of code."""
    text = page.read_text(encoding="utf-8")
    yield from re.findall(r"`([^`\n]+)`", CODE_BLOCK.sub("", text))
    for block in CODE_BLOCK.findall(text):
        yield from re.findall(r"\bklaviyo_assets(?:_tests)?/[\w./-]+", block)


def places_of(page: Path) -> tuple[Path, ...]:
    """Return the folders that a path of a page may start from."""
    above = [folder for folder in page.parents if folder.is_relative_to(ROOT)]
    return (PACKAGE, TESTS, *above)


@cache
def first_names(folder: Path) -> frozenset[str]:
    """Return the names of a folder's own folders that hold files of the project."""
    return frozenset(
        each.name
        for each in folder.iterdir()
        if each.is_dir() and each.name not in {"data", "demo"}
    )


def is_project_path(page: Path, word: str) -> bool:
    """Tell whether a word names a file or folder of the project."""
    if not re.fullmatch(r"[\w./-]+", word) or word.startswith("/") or DATA_PATH.match(word):
        return False
    first, slash, _ = word.partition("/")
    known = any(first in first_names(place) for place in places_of(page))
    return word.endswith(FILE_ENDINGS) or bool(slash and known)


def exists_as_path(page: Path, word: str) -> bool:
    """Tell whether a path leads somewhere from one of the folders that it may start from."""
    return any((place / word).exists() for place in places_of(page))


def exists_as_module(word: str) -> bool:
    """Tell whether a dotted name is a module, or a name that a module defines at its top."""
    parts = word.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.exists():
            rest = parts[length:]
            return not rest or rest[0] in top_names(file)
    return False


def top_names(file: Path) -> set[str]:
    """Return the names that a module defines at its top."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets += [node.target] if isinstance(node, ast.AnnAssign) else []
        found |= {each.id for each in targets if isinstance(each, ast.Name)}
    return found


def links_of(page: Path) -> Iterator[Path]:
    """Yield the files and folders of the project that a page links to."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        place = target.partition("#")[0]
        if place and "://" not in place:
            yield (page.parent / place).resolve()


@pytest.mark.parametrize("page", CHECKED_PAGES, ids=page_name)
def test_what_a_page_names_exists(page: Path) -> None:
    """A file that was renamed or removed is renamed in the pages that send people there."""
    words = set(quoted_words(page))
    paths = {word for word in words if is_project_path(page, word)}
    modules = {word for word in words if re.fullmatch(r"klaviyo_assets(_tests)?(\.\w+)+", word)}
    missing = {word for word in paths - modules if not exists_as_path(page, word)}
    missing |= {word for word in modules if not exists_as_module(word)}
    assert missing == set(), f"{page_name(page)} names what does not exist: {sorted(missing)}"


@pytest.mark.parametrize("page", LINKING_PAGES, ids=page_name)
def test_no_link_is_broken(page: Path) -> None:
    """A link of a page leads to a file or folder of the project."""
    broken = [str(target) for target in links_of(page) if not target.exists()]
    assert broken == [], f"{page_name(page)} links to what does not exist"


def test_every_page_is_two_links_from_the_readme() -> None:
    """What explains the project is found: CONTRIBUTING and each page of docs, in two links."""
    first = {target for target in links_of(README) if target.suffix == ".md"}
    second = {target for page in first for target in links_of(page)}
    folders = {target for target in first | second if target.is_dir()}
    found = first | second | {page for folder in folders for page in folder.glob("*.md")}
    wanted = {ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")}
    assert sorted(page_name(page) for page in wanted - found) == []


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=page_name)
def test_a_page_of_docs_links_to_pages_of_docs(page: Path) -> None:
    """The site that `make docs` builds has what is below docs/, and nothing else to link to."""
    outside = [str(each) for each in links_of(page) if not each.is_relative_to(DOCS)]
    folders = [str(each) for each in links_of(page) if each.is_dir()]
    assert outside + folders == []


def test_every_page_stands_in_the_navigation_of_the_site() -> None:
    """Each page of docs has a line in mkdocs.yml; those of streams and decisions have a list."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w-]+\.md", str(site["nav"])))
    assert {page.name for page in DOCS.glob("*.md")} - named == set()
    linked = {target for page in DOCS.glob("*.md") for target in links_of(page)}
    assert {page for page in DOCS.glob("*/*.md") if page not in linked} == set()


def test_the_rooms_are_drawn_as_they_are_fenced() -> None:
    """Every layer of setup.cfg is one line of the drawing in docs/architecture.md, in its order."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    drawn = [set(re.findall(r"\w+", line)) for line in CODE_BLOCK.findall(page)[0].splitlines()]
    layers = read_import_contracts()["importlinter:contract:layers"]["layers"].split("\n")
    begin = 0
    for layer in filter(None, layers):
        names = set(re.findall(r"\w+", layer))
        places = [at for at in range(begin, len(drawn)) if names <= drawn[at]]
        assert places, (
            f"docs/architecture.md does not draw this layer, or not in this place: {layer}"
        )
        begin = places[0] + 1


def test_every_question_has_a_place_to_go() -> None:
    """Each row of CONTRIBUTING's table of questions names a file of the project, or links on."""
    page = ROOT / "CONTRIBUTING.md"
    table = page.read_text(encoding="utf-8").partition("## Where is it?")[2]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", table, flags=re.MULTILINE)[1:]
    answers = {question: answer for question, answer in rows if not question.startswith("-")}
    assert len(answers) >= 15
    for question, answer in answers.items():
        paths = [word for word in re.findall(r"`([^`]+)`", answer) if is_project_path(page, word)]
        assert paths or "](" in answer, question


@pytest.mark.parametrize("page", DECISIONS, ids=page_name)
def test_a_decision_fits_on_one_page(page: Path) -> None:
    """A decision says what was decided, why, and what was measured, in at most 45 lines."""
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 45
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert headings == ["Decision", "Why", "Figures", "What it costs"]
    assert re.match(rf"# {page.name[:4]}: ", text)


def test_decisions_are_numbered_without_a_gap() -> None:
    """A decision is cited by its number, so numbers are never given twice."""
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))
