"""Connectome Workbench as a judge of what is written and of what is computed."""

from __future__ import annotations

import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WB_COMMAND = shutil.which("wb_command")


@pytest.fixture
def workbench() -> None:
    """Skip with a reason where there is no Workbench; fail where it was promised."""
    if WB_COMMAND is None:
        if os.environ.get("TREND_REQUIRE_WORKBENCH"):
            pytest.fail("no wb_command found, and TREND_REQUIRE_WORKBENCH is set")
        pytest.skip("no wb_command on this machine (Debian: apt-get install connectome-workbench)")


def wb_command(*arguments: str | Path) -> str:
    """Run it and return what it prints; whatever it complains of is an error.

    It may end with status 0 although files are missing, so a word on stderr counts as well; what
    it says there of the time it takes to read a file does not.
    """
    done = subprocess.run(
        [str(WB_COMMAND), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [line.strip() for line in done.stderr.splitlines()]
    complaints = [line for line in said if line and not line.startswith("Info: Time to ")]
    assert not complaints, done.stderr
    return done.stdout


def render(spec: Path, width: int = 800, height: int = 500) -> np.ndarray:
    """See what a person sees who opens a spec file in `wb_view`: (height, width, 3), 0 to 255.

    A scene with nothing in it but the files of the spec leaves everything else, such as which map
    is shown on which surface, to Workbench.
    """
    scene, picture = spec.with_suffix(".scene"), spec.with_suffix(".scene.png")
    scene.write_bytes(_scene(spec))
    wb_command("-show-scene", scene, "1", picture, str(width), str(height))
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB"))


def _scene(spec: Path) -> bytes:
    """The least that `-show-scene` does not crash on."""
    root = ET.Element("SceneFile", Version="3")
    scene = ET.SubElement(root, "Scene", Index="0", Type="SCENE_TYPE_FULL")
    session = _class(_class(scene, "guiManager"), "m_sessionManager")
    brain = _class(_element(_array(session, "class", "m_brains", 1), 0), "m_brains")
    files = ET.parse(spec).getroot().findall("DataFile")
    listed = _array(_class(brain, "specFile"), "class", "dataFilesArray", len(files))
    for i, file in enumerate(files):
        entry = _class(_element(listed, i), "specFileDataFile")
        _value(entry, "enumeratedType", "dataFileType", file.attrib["DataFileType"])
        _value(entry, "pathName", "fileName", str(file.text).strip())
        _value(entry, "boolean", "selected", "true")
    for name in ("models", "m_brainStructures"):
        _array(brain, "class", name, 1)
    _array(session, "class", "m_browserTabs", 1)
    windows = ET.SubElement(session, "ObjectMap", Type="class", Name="browserWindowContentMap")
    window = _class(ET.SubElement(windows, "Value", Key="0"), "m_browserWindowContent")
    _value(window, "boolean", "m_validFlag", "true")
    _element(_array(window, "integer", "m_sceneTabIndices", 1), 0).text = "0"
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _class(parent: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(parent, "Object", Type="class", Class=name, Name=name, Version="1")


def _array(parent: ET.Element, kind: str, name: str, length: int) -> ET.Element:
    return ET.SubElement(parent, "ObjectArray", Type=kind, Name=name, Length=str(length))


def _element(array: ET.Element, index: int) -> ET.Element:
    return ET.SubElement(array, "Element", Index=str(index))


def _value(parent: ET.Element, kind: str, name: str, value: str) -> None:
    ET.SubElement(parent, "Object", Type=kind, Name=name).text = value
