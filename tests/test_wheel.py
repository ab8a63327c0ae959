"""The wheel works outside a checkout, and says what it is."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import trend_dagster

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(ROOT)], check=True, cwd=folder)
    (file,) = folder.glob("*.whl")
    return file


def test_the_commands_run_from_the_wheel_alone(wheel, tmp_path):
    installed, here = tmp_path / "installed", tmp_path / "elsewhere"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    here.mkdir()
    code = (
        "import trend_dagster as t; print(t.__file__); from trend_dagster.cli import main; main()"
    )

    def trend(*words):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=here,
            env=os.environ | {"PYTHONPATH": str(installed)},
        )
        file, _, said = done.stdout.partition("\n")
        assert Path(file).is_relative_to(installed)
        return said

    assert trend("--version") == f"trend_dagster {trend_dagster.__version__}\n"
    assert "trend run study" in trend("init", "study", "--profile", "tutorial")
    assert "n_components" in trend("settings", "study")


def test_what_does_not_lie_in_the_package_is_inside(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {f"trend_dagster/_shipped/profiles/{p.name}" for p in (ROOT / "profiles").iterdir()}
    inside |= {"trend_dagster/_shipped/constraints.txt"}
    inside |= {"trend_dagster/_shipped/dagster.yaml", "trend_dagster/_shipped/workspace.yaml"}
    inside |= {"trend_dagster/delivery/page/page.html", "trend_dagster/py.typed"}
    assert inside <= names


def test_the_metadata_is_complete(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        found = email.message_from_bytes(archive.read(name))
    assert found["Version"] == trend_dagster.__version__
    assert found["Requires-Python"] == ">=3.11"
    assert found["License-Expression"] == "MIT"
    for field in ("Summary", "Keywords", "Author", "Description-Content-Type"):
        assert found[field], field
    pythons = re.findall(r"Python :: (3\.\d+)", str(found.get_all("Classifier")))
    assert pythons == ["3.11", "3.12", "3.13"]


def test_the_citation_has_the_version_of_the_code():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == trend_dagster.__version__
    assert citation["preferred-citation"]["url"].endswith("2503.02685")
