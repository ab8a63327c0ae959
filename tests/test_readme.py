"""What the README says of the repository is so."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tree_names_what_is_there_and_leaves_nothing_out():
    page = (ROOT / "docs" / "inside.md").read_text()
    tree = page.split("## The tree")[1].split("```")[1].removeprefix("text")
    parent, named = ROOT, set()
    for line in tree.strip().splitlines():
        name = line.split()[0]
        path = (ROOT / "trend_dagster" / name) if line.startswith("  ") else ROOT / name
        assert path.exists(), name
        named.add(path)
    package = {
        p
        for p in (ROOT / "trend_dagster").iterdir()
        if not p.name.startswith("_") and (p.suffix == ".py" or p.is_dir())
    }
    assert package <= named, parent


def test_links_and_make_targets_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for word in re.findall(r"`make ([a-z-]+)", README):
        assert re.search(rf"^{word}:", makefile, re.MULTILINE), word
