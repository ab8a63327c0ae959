"""Every page of the docs can be found from their index, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trend_dagster.project.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
MADE = {
    DOCS / "reference" / f"{name}.md"
    for name in ("settings", "commands", "python", "assets", "errors")
}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """A page without its blocks of code, in which brackets mean other things."""
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def links(page: Path) -> list[tuple[Path, str]]:
    """Files and headings in this repository that a page links to."""
    found = []
    for link in LINK.findall(prose(page)):
        if "://" not in link:
            path, _, heading = link.partition("#")
            found.append(((page.parent / path).resolve() if path else page, heading))
    return found


def headings(page: Path) -> set[str]:
    """The names by which headings of a page are linked, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_index_lists_every_page():
    listed = {path for path, _ in links(INDEX)}
    missing = [
        p.relative_to(ROOT).as_posix()
        for p in PAGES
        if p not in {*listed, INDEX, ROOT / "README.md"}
    ]
    assert missing == [], "list them in docs/README.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for path, heading in links(page):
        if path in MADE:
            continue  # made from the code; `make docs` holds its headings
        assert path.exists(), path
        if heading:
            assert heading in headings(path), f"{path.name}#{heading}"


ROOMS = "trend_dagster|science|storage|project|delivery|orchestration|validation|cli"
CODE = re.compile(rf"`((?:{ROOMS}|tests|docs|profiles|benchmarks|experiments)[./][\w./]*\w)`")


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def exists(name: str) -> bool:
    """Tell whether there is such a file, setting, or module with such a name in it."""
    section, _, setting = name.partition(".")
    if setting in type(getattr(Settings(), section, None) or Settings()).model_fields:
        return True  # settings have sections of the same names
    for folder in (ROOT, ROOT / "trend_dagster"):
        if (folder / name).exists():
            return True
        module, parts = folder, name.split(".")
        while parts and (module / parts[0]).is_dir():
            module /= parts.pop(0)
        if len(parts) == 1 and f"def {parts[0]}(" in _text(module / "__init__.py"):
            return True
        if parts and (module := module / f"{parts[0]}.py").exists():
            defined = rf"\b(def|class) {parts[-1]}\b|^\s*{parts[-1]}\b.*="
            text = module.read_text()
            return len(parts) == 1 or re.search(defined, text, re.MULTILINE) is not None
        if not parts:
            return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_that_a_page_names_is_there(page):
    if page.name == "CHANGELOG.md":
        return  # it also names what is gone
    assert [name for name in CODE.findall(prose(page)) if not exists(name)] == []


def test_decisions_are_numbered_without_gaps():
    found = sorted(DOCS.glob("decisions/*.md"))
    assert [int(p.name[:4]) for p in found] == list(range(1, len(found) + 1))
    for page in found:
        assert page.read_text().startswith(f"# {page.name[:4]} "), page.name


def test_pictures_are_shown_somewhere():
    shown = {path for page in PAGES for path, _ in links(page)}
    assert [p.name for p in sorted(DOCS.glob("*.png")) if p not in shown] == []
