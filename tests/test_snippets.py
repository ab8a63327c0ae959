"""Commands, settings and Python in README and docs: run, loaded, or looked up by their names.

Blocks of ``sh`` are run as they are, in the order of the page, in a folder with a finished project
``study``, those of the tutorials in an empty folder; each ``trend`` in them is a process of its
own. Blocks of ``console`` are commands that take too long, or serve; they, and each ``trend ...``
in the text, must be commands with options that there are. Blocks of ``yaml`` must be settings,
blocks of ``python`` run, the notebook too.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from tests.conftest import run
from trend_dagster import cli
from trend_dagster.orchestration.assets import select_assets
from trend_dagster.project.settings import load_settings
from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOK = ROOT / "examples" / "from_the_notebook.ipynb"
KNOWN = {"", "sh", "console", "yaml", "python", "text", "nginx"}  # nginx: as it was tried
ELSEWHERE = {
    "method-engine.md",  # tests/science/connectivity/test_thresholding.py
    "how-to.md",  # needs a project with a mesh: test_the_recipe_for_nilearn_...
    "maps.md",  # needs the mesh and maps of a project: tests/pipeline/test_maps.py
    "python.md",  # all but its first two blocks: tests/test_python_page.py
}


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a page in one language."""
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def with_blocks(language: str) -> list:
    found = [page for page in PAGES if blocks(page, language)]
    return [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in found]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder, and `trend` and `python` on the path as an environment has them."""
    commands = tmp_path / "bin"
    commands.mkdir()
    trend = f"#!{sys.executable}\nfrom trend_dagster.cli import main; main()\n"
    python = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n'  # a link would lose packages
    for name, script in {"trend": trend, "python": python}.items():
        (commands / name).write_text(script)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def sandbox(finished, empty, monkeypatch):
    """A folder with the finished project `study`, and `trend` on the path."""
    finished.rename(finished.with_name("study"))
    monkeypatch.chdir(finished.parent)
    return finished.parent


def test_blocks_are_in_languages_that_are_tested():
    found = {n for p in PAGES for n in re.findall(r"^```(\w+)", p.read_text(), re.MULTILINE)}
    assert found <= KNOWN


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks("sh"))
def test_commands_run(page, request):
    # A tutorial makes all that it needs.
    request.getfixturevalue("empty" if page.parent.name == "tutorials" else "sandbox")
    for block in blocks(page, "sh"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        assert "error" not in done.stderr.lower(), block


COMMANDS = typer.main.get_command(cli.app.app).commands  # type: ignore[attr-defined]
WORDS = re.compile(r"\btrend ([a-z][a-z-]+)((?: +[^\s`'|;&)]+)*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_that_is_named_exists_with_its_options(page):
    text = page.read_text()
    named = "\n".join([*re.findall(r"`(trend [^`\n]+)`", text), *blocks(page, "console")])
    named = "\n".join([named, *blocks(page, "sh"), *blocks(page, "")])
    for command, rest in WORDS.findall(named):
        if command == "import-":  # `trend import-...`: any of them
            continue
        assert command in COMMANDS, f"trend {command}"
        options = {name for p in COMMANDS[command].params for name in (*p.opts, *p.secondary_opts)}
        asked = {word.partition("=")[0] for word in rest.split() if word.startswith("--")}
        assert asked <= options | {"--help", "--debug"}, f"trend {command}{rest}"


@pytest.mark.parametrize("page", with_blocks("yaml"))
def test_settings_are_settings(page, tmp_path):
    for block in blocks(page, "yaml"):
        if block.startswith("storage:\n  postgres:"):
            continue  # dagster.yaml: tests/orchestration/test_postgres.py
        (tmp_path / "trend.yaml").write_text(block)
        load_settings(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks("python"))
def test_python_runs(page, sandbox):
    code = blocks(page, "python")
    if page.name in ELSEWHERE:
        code = code[:2] if page.name == "python.md" else []
    shown: dict = {}
    for block in code:
        exec(compile(block, str(page), "exec"), shown)


@pytest.mark.slow
def test_the_recipe_for_nilearn_finds_the_series_of_newborns(tmp_path, surface, monkeypatch):
    (tmp_path / "study" / "bold").mkdir(parents=True)
    _, runs = simulate_cohort(surface, SimulationConfig(n_subjects=2))
    for name, bold in runs:
        np.save(tmp_path / "study" / "bold" / f"{name}.npy", bold)
    (tmp_path / "study" / "trend.yaml").write_text(
        "inputs: {surface: fsaverage3}\nsweep: {n_components: [20], n_clusters: [14]}\n"
        "validation: {n_nulls: 0}\nindividuals: {n_nulls: 3}\n"
    )
    monkeypatch.chdir(tmp_path)
    shown: dict = {}
    (code,) = blocks(ROOT / "docs" / "how-to.md", "python")
    with pytest.raises(FileNotFoundError, match="no series of own14"):
        exec(code, shown)
    run(tmp_path / "study", select=select_assets(["+network_series"]))
    exec(code, shown)
    assert len(shown["files"]) == 4
    assert shown["matrices"].shape == (4, len(shown["everywhere"]), len(shown["everywhere"]))
    assert len(shown["everywhere"]) == 14


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_notebook_runs_and_finds_what_it_says(sandbox, capsys):
    shutil.rmtree(sandbox / "study")  # the notebook makes its own
    shown: dict = {}
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), shown)
    said = capsys.readouterr().out
    assert "Error" not in said
    written = "".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))
    labels = re.compile(r"adjusted Rand index ([\d.]+)")
    found, before = (list(map(float, labels.findall(text))) for text in (said, written))
    assert len(found) == len(before) == 4
    assert min(found[:2]) > 0.9, "solver: sklearn is the notebook's code but for rounding"
    assert found == pytest.approx(before, abs=0.05)
