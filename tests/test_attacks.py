"""What a stranger's project can do: every row of the table in docs/security.md, and no other."""

from __future__ import annotations

import base64
import gzip
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.freesurfer.mghformat import MGHImage

from tests.delivery.test_page import EVIL, report, without_plotly
from tests.delivery.test_workbook import opened, row
from trend_dagster.delivery.page import render
from trend_dagster.errors import InputError, SettingsError, StoreError, TrendError
from trend_dagster.orchestration.service import Part, Service
from trend_dagster.project.settings import load_settings
from trend_dagster.storage.arrays import key_of, read_bold
from trend_dagster.storage.label_files import find_label_files, read_geodesic_labels
from trend_dagster.storage.provenance import digest_of_input
from trend_dagster.storage.runs import find_runs, read_run
from trend_dagster.storage.stores import Store
from trend_dagster.storage.weights import read_checkpoint

TABLE = (Path(__file__).parents[1] / "docs" / "security.md").read_text()
ROWS = [
    line.split("|")[1].strip()
    for line in TABLE.splitlines()
    if line.startswith("| ") and not line.startswith(("| attack", "| ---"))
]
ATTACKS: dict[str, Callable[[Path], None]] = {}


def attack(name: str) -> Callable[[Callable[[Path], None]], None]:
    def keep(tried: Callable[[Path], None]) -> None:
        ATTACKS[name] = tried

    return keep


def test_the_table_and_the_attacks_are_the_same():
    assert list(ATTACKS) == ROWS


@pytest.mark.parametrize("name", ROWS)
def test_an_attack_comes_to_nothing(tmp_path, name):
    ATTACKS[name](tmp_path)
    assert not (tmp_path / "trace").exists()


class Bomb:
    """Leaves a trace if it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.trace = str(folder / "trace")

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self.trace,))


def refused(kind: type[TrendError], word: str, call: Callable[[], object]) -> None:
    with pytest.raises(kind, match=word):
        call()


@attack("`trend.yaml` with a Python object")
def _(folder):
    text = f"profile: !!python/object/apply:os.mkdir ['{folder / 'trace'}']"
    (folder / "trend.yaml").write_text(text)
    refused(SettingsError, "could not determine a constructor", lambda: load_settings(folder))


@attack("`trend.yaml` of ten lines that stand for 10^9 values")
def _(folder):
    lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (folder / "trend.yaml").write_text("\n".join([*lines, "profile: *a8"]))
    refused(SettingsError, "at most 100000 values", lambda: load_settings(folder))


@attack("`trend.yaml` that holds itself")
def _(folder):
    (folder / "trend.yaml").write_text("profile: &all [*all]")
    refused(SettingsError, "at most 100000 values", lambda: load_settings(folder))


def pickled(folder: Path) -> Path:
    file = folder / "sub-01.npy"
    np.save(file, np.array([[Bomb(folder)]], dtype=object), allow_pickle=True)
    return file


@attack("pickle as BOLD")
def _(folder):
    refused(InputError, "could run code when read", lambda: read_bold(pickled(folder)))


@attack("pickle as label file")
def _(folder):
    pickled(folder)
    (found,) = find_label_files(folder).values()
    refused(InputError, "could run code when read", lambda: read_geodesic_labels(found))


@attack("pickle as checkpoint")
def _(folder):
    file = folder / "model.pth"
    file.write_bytes(pickle.dumps({"model_state_dict": Bomb(folder)}))
    refused(InputError, "model.pth", lambda: read_checkpoint(file))


@attack("`.npy` whose header claims more than the file holds")
def _(folder):
    file = folder / "sub-01.npy"
    np.save(file, np.zeros((2, 2), np.float32))
    text = file.read_bytes()
    file.write_bytes(text.replace(b"(2, 2), }" + b" " * 16, b"(20000000000, 2), }" + b" " * 6))
    assert file.read_bytes() != text
    refused(InputError, "truncated", lambda: read_bold(file))


@attack("NIfTI whose header claims more than the memory holds")
def _(folder):
    for name, shape in (("bold", (30000,) * 4), ("mask", (30000,) * 3)):
        header = nib.nifti1.Nifti1Header()
        header.set_data_dtype(np.float32)
        header.set_data_shape(shape)
        header.set_sform(np.eye(4), 1)
        (folder / name).mkdir()
        file = folder / name / f"sub-01_{name}.nii.gz"
        file.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    (run,) = find_runs(folder / "bold").values()
    refused(InputError, "that fits into memory|complete NIfTI", lambda: read_run(run, file))


@attack("`.mgz` of more zeros than its header says")
def _(folder):
    image = MGHImage(np.zeros((4, 1, 1, 3), np.float32), np.eye(4))
    for side in ("lh", "rh"):
        content = image.to_bytes() + bytes(8 * 2**20)
        (folder / f"{side}.sub-01.mgz").write_bytes(gzip.compress(content, 1))
    (run,) = find_runs(folder).values()
    refused(InputError, "more than the .* bytes that its header says", lambda: read_run(run))


GIFTI = """<?xml version="1.0"?>
{entities}<GIFTI Version="1.0" NumberOfDataArrays="1"><DataArray Intent="NIFTI_INTENT_TIME_SERIES"
DataType="NIFTI_TYPE_FLOAT32" ArrayIndexingOrder="RowMajorOrder" Dimensionality="1" Dim0="4"
Encoding="{encoding}" Endian="LittleEndian" ExternalFileName="{external}" ExternalFileOffset="0">
<Data>{data}</Data></DataArray></GIFTI>"""


def gifti(folder: Path, **parts: str) -> None:
    zeros = base64.b64encode(bytes(16)).decode()
    usual = {"entities": "", "encoding": "Base64Binary", "external": "", "data": zeros}
    for side in "LR":
        text = GIFTI.format(**(usual | parts))
        (folder / f"sub-01_hemi-{side}_bold.func.gii").write_text(text)


@attack("GIFTI whose XML expands without end")
def _(folder):
    lines = ['<!ENTITY a0 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa">']
    lines += [f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10)]
    gifti(folder, entities=f"<!DOCTYPE GIFTI [{''.join(lines)}]>", data="&a9;")
    (run,) = find_runs(folder).values()
    refused(InputError, "amplification|complete GIFTI", lambda: read_run(run))


@attack("GIFTI whose data lie in another folder")
def _(folder):
    (folder / "secret").write_bytes(bytes(16))
    inner = folder / "bold"
    inner.mkdir()
    gifti(inner, encoding="ExternalFileBinary", external="../secret", data="")
    (run,) = find_runs(inner).values()
    refused(InputError, "in a file beside it", lambda: digest_of_input(run.files[0]))
    refused(InputError, "in a file beside it", lambda: read_run(run))


@attack("file named like a folder above")
def _(folder):
    for name in ("...npy", "..npy", "..\\..\\x.npy", "a/../b.npy", "a b;c$(d).npy"):
        key = key_of(Path(name))
        assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", key), key


@attack("store whose pointer names a folder elsewhere")
def _(folder):
    store = Store(folder / "store", keep_versions=1, grace_seconds=0)
    (folder / "store" / "report").mkdir(parents=True)
    (folder / "store" / "report" / "current").write_text("../../elsewhere")
    refused(StoreError, "elsewhere", lambda: store.latest("report"))


@attack("formula as the name of a label file")
def _(folder):
    name = "=cmd|' /C calc'!A0"
    book = opened([row(label_file=name)], {name: f"{name}.npy"})
    cells = [cell for sheet in book.worksheets for line in sheet.iter_rows() for cell in line]
    assert any(cell.value == name for cell in cells)
    assert not any(cell.data_type == "f" for cell in cells)


CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import statistics, yaml'])"


@attack("Python modules beside `trend.yaml`")
def _(folder):
    for name in ("statistics", "yaml"):
        (folder / f"{name}.py").write_text(f"import os; os.mkdir({str(folder / 'trace')!r})")
    command = f"import trend_dagster.cli.app as cli; cli.app = lambda: exec({CHILD!r}); cli.main()"
    subprocess.run([sys.executable, "-P", "-c", command], cwd=folder, check=True)
    with tempfile.TemporaryDirectory() as scratch:
        service = Service(None, folder, 0, os.environ, print, scratch=Path(scratch))
        part = Part("webserver", ["-c", CHILD])
        service._start_part(part)
        assert part.process.wait(60) == 0


@attack("HTML as the name of a run")
def _(folder):
    plain, evil = (without_plotly(render(report(name))) for name in ("plain", EVIL))
    assert len(re.findall(r"<[a-z]", evil)) == len(re.findall(r"<[a-z]", plain))
