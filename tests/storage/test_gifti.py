"""Arrays of GIFTI files by their intents; and the files that hold their numbers."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from trend_dagster.errors import InputError
from trend_dagster.storage.gifti import external_files, read_map, read_series
from trend_dagster.storage.provenance import digest_of_file, digest_of_input
from trend_dagster.storage.runs import load_image

N = 12
FILE = Path("a.func.gii")


def image(*arrays: tuple[str, np.ndarray]):
    """A GIFTI image of arrays with these intents."""
    return nib.gifti.GiftiImage(
        darrays=[
            nib.gifti.GiftiDataArray(np.ascontiguousarray(values), f"NIFTI_INTENT_{intent}")
            for intent, values in arrays
        ]
    )


@pytest.fixture
def series(rng) -> np.ndarray:
    return rng.standard_normal((N, 5), dtype=np.float32)


def volumes(series: np.ndarray, intent: str = "TIME_SERIES") -> list[tuple[str, np.ndarray]]:
    return [(intent, column) for column in series.T]


def index(values) -> tuple[str, np.ndarray]:
    return "NODE_INDEX", np.asarray(values, dtype=np.int32)


@pytest.mark.parametrize("intent", ["TIME_SERIES", "NORMAL", "NONE"])
@pytest.mark.parametrize("how", ["volumes", "columns", "one array"])
def test_a_series_by_each_intent_that_tools_write(series, intent, how):
    arrays = volumes(series, intent)
    if how == "columns":
        arrays = [(name, values[:, None]) for name, values in arrays]
    if how == "one array":
        arrays = [(intent, series)]
    found, notes = read_series(FILE, image(*arrays), None)
    assert np.array_equal(found, series)
    assert notes == []


@pytest.mark.parametrize("other", ["SHAPE", "NONE", "ZSCORE", "VECTOR", "LABEL"])
def test_other_arrays_beside_a_series_are_no_volumes(series, other):
    beside = (other, np.ones((3, N) if other == "VECTOR" else N, dtype=np.float32))
    if other == "LABEL":
        beside = (other, np.ones(N, dtype=np.int32))
    found, (note,) = read_series(FILE, image(beside, *volumes(series)), None)
    assert np.array_equal(found, series)
    assert f"1 of intent NIFTI_INTENT_{other}" in note


@pytest.mark.parametrize(
    "kinds", [["SHAPE"], ["VECTOR"], ["POINTSET", "TRIANGLE"], ["NONE", "NORMAL"], []]
)
def test_what_may_be_no_series_is_refused_by_its_intent(kinds):
    arrays = [(kind, np.ones((N, 3), dtype=np.float32)) for kind in kinds]
    with pytest.raises(InputError) as caught:
        read_series(FILE, image(*arrays), None)
    assert all(f"1 of intent NIFTI_INTENT_{kind}" in caught.value.found for kind in kinds)


def test_a_list_of_vertices_says_where_rows_lie(series, rng):
    order = rng.permutation(N)
    found, _ = read_series(FILE, image(index(order), *volumes(series)), None)
    assert np.array_equal(found[order], series)
    some = np.array([7, 2, 30, 11])
    found, _ = read_series(FILE, image(index(some), *volumes(series[:4])), 40)
    assert found.shape == (40, 5)
    assert np.array_equal(found[some], series[:4])
    assert np.flatnonzero(found.any(axis=1)).tolist() == sorted(some)


@pytest.mark.parametrize(
    ("listed", "n"),
    [
        ([0, 1, 2, 50], None),
        ([0, 1, 2, 50], 40),
        ([0, 1, 2], 40),
        ([0, 1, 1, 2], 40),
        ([-1, 0, 1, 2], 40),
    ],
)
def test_a_list_of_vertices_that_does_not_fit(series, listed, n):
    with pytest.raises(InputError, match="pad_to_node"):
        read_series(FILE, image(index(listed), *volumes(series[:4])), n)


def test_a_map_is_one_array(series):
    found = read_map(FILE, image(index([3, 1]), ("SHAPE", series[:2, 0])), 5, "cortex mask")
    assert np.array_equal(found[[3, 1]], series[:2, 0])
    assert not found[[0, 2, 4]].any()
    with pytest.raises(InputError, match="2 arrays"):
        read_map(FILE, image(*volumes(series[:, :2])), None, "cortex mask")


def test_numbers_in_another_file_are_part_of_the_digest(tmp_path):
    path, data = tmp_path / "a.func.gii", tmp_path / "a.dat"
    path.write_text('<GIFTI><DataArray ExternalFileName="./a.dat" ExternalFileOffset="0"/></GIFTI>')
    data.write_bytes(b"1")
    assert external_files(path) == (data,)
    before = digest_of_input(path)
    data.write_bytes(b"2")
    assert digest_of_input(path) != before
    data.unlink()
    with pytest.raises(InputError, match=r"a\.dat"):
        digest_of_input(path)
    path.write_text('<GIFTI><DataArray ExternalFileName=""/></GIFTI>')
    assert digest_of_input(path) == digest_of_file(path)


@pytest.mark.parametrize("name", ["..&#x2F;secret.bin", "secret.bin"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_data_that_no_digest_would_have_are_refused(tmp_path, name, encoding):
    """An entity for a slash, or another encoding: the parser sees a name that a search does not."""
    folder = tmp_path / "bold"
    folder.mkdir()
    for place in (tmp_path, folder):
        np.arange(4, dtype="<f4").tofile(place / "secret.bin")
    text = f"""<?xml version="1.0" encoding="{encoding}"?>
<GIFTI Version="1.0" NumberOfDataArrays="1"><DataArray Intent="NIFTI_INTENT_TIME_SERIES"
 DataType="NIFTI_TYPE_FLOAT32" ArrayIndexingOrder="RowMajorOrder" Dimensionality="1" Dim0="4"
 Encoding="ExternalFileBinary" Endian="LittleEndian" ExternalFileName="{name}"
 ExternalFileOffset="0"><Data></Data></DataArray></GIFTI>"""
    path = folder / "a.func.gii"
    path.write_bytes(text.encode(encoding))
    if (name, encoding) == ("secret.bin", "utf-8"):
        assert load_image(path, "GIFTI file").darrays[0].data.tolist() == [0, 1, 2, 3]
        assert digest_of_input(path) != digest_of_file(path)
        return
    with pytest.raises(InputError, match="secret"):
        load_image(path, "GIFTI file")
