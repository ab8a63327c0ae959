"""Files that users bring: what is read, and what is refused with which words."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from trend_dagster.errors import InputError
from trend_dagster.storage.arrays import (
    key_of,
    read_bold,
    read_labels,
    read_signed_labels,
    subject_of,
)

READERS = [read_bold, read_labels, read_signed_labels]


def refused(read, path: Path) -> InputError:
    """The error of reading a bad file; it must name the file and all that a user needs."""
    with pytest.raises(InputError) as caught:
        read(path)
    error = caught.value
    assert str(path) in error.subject
    assert all((error.expected, error.found, error.remedy))
    assert all(p in str(error) for p in (error.subject, error.expected, error.found, error.remedy))
    return error


class WritesAFile:
    """Unpickling it leaves a file behind: the proof that code inside a file was run."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def saved(tmp_path):
    """Save an array as sub-01.npy."""

    def save(array) -> Path:
        path = tmp_path / "sub-01.npy"
        np.save(path, array)
        return path

    return save


# What is read


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int16", "uint8", ">f4", ">i2"])
def test_bold_of_any_number_type_is_read_as_float32(saved, rng, dtype):
    bold = rng.integers(0, 200, (5, 7)).astype(dtype)
    found = read_bold(saved(bold))
    assert found.dtype == np.float32
    assert np.array_equal(found, bold)


def test_bold_in_column_order_and_of_any_length_is_read(saved, rng):
    for n_timepoints in (1, 3, 1600):
        bold = np.asfortranarray(rng.standard_normal((4, n_timepoints), dtype=np.float32))
        assert np.array_equal(read_bold(saved(bold)), bold)


def test_nan_and_inf_are_passed_on_for_the_caller_to_judge(saved):
    bold = np.array([[1, np.nan], [np.inf, -np.inf]], dtype=np.float32)
    np.testing.assert_array_equal(read_bold(saved(bold)), bold)


def test_what_is_read_can_be_changed_without_changing_the_file(saved):
    path = saved(np.ones((2, 3), dtype=np.float32))
    read_bold(path)[:] = 7
    assert (read_bold(path) == 1).all()


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", ">i4"])
def test_labels_of_any_integer_type_are_read_as_int64(saved, dtype):
    labels = np.array([0, 3, 3, 127], dtype=dtype)
    found = read_labels(saved(labels))
    assert found.dtype == np.int64
    assert np.array_equal(found, labels)


def test_networks_may_be_minus_one(saved):
    assert read_signed_labels(saved(np.array([-1, 0, 2]))).tolist() == [-1, 0, 2]


# What is refused


@pytest.mark.parametrize("read", READERS)
class TestEveryReaderRefuses:
    """Whatever is expected in the file, it must be a complete .npy of plain numbers."""

    def test_a_missing_file(self, read, tmp_path):
        assert refused(read, tmp_path / "gone.npy").found == "no such file"

    def test_an_empty_file(self, read, tmp_path):
        (tmp_path / "sub-01.npy").touch()
        assert refused(read, tmp_path / "sub-01.npy").found == "an empty file"

    def test_a_file_that_is_no_npy(self, read, tmp_path):
        (tmp_path / "sub-01.npy").write_text("vertex,label\n0,1\n")
        error = refused(read, tmp_path / "sub-01.npy")
        assert "complete .npy file" in error.expected
        assert error.found.startswith("something else")
        assert "numpy.save" in error.remedy

    @pytest.mark.parametrize("n_bytes", [8, 60, 128, 200, 8127])
    def test_a_truncated_file(self, read, saved, n_bytes):
        path = saved(np.zeros((50, 40), dtype=np.float32))  # 128 bytes of header, 8000 of data
        path.write_bytes(path.read_bytes()[:n_bytes])
        error = refused(read, path)
        assert "complete .npy file" in error.expected
        assert error.found == f"a truncated file of {n_bytes} bytes"
        assert "copy it again" in error.remedy

    def test_a_raw_pickle_without_running_the_code_inside(self, read, tmp_path):
        path, trace = tmp_path / "sub-01.npy", tmp_path / "trace"
        path.write_bytes(pickle.dumps(WritesAFile(trace)))
        assert "pickle" in refused(read, path).found
        assert not trace.exists()
        pickle.loads(path.read_bytes())
        assert trace.exists()  # the file was as dangerous as it seemed

    def test_an_object_array_without_running_the_code_inside(self, read, tmp_path, saved):
        trace = tmp_path / "trace"
        path = saved(np.array([WritesAFile(trace)], dtype=object))
        assert "Python objects (a pickle)" in refused(read, path).found
        assert not trace.exists()
        np.load(path, allow_pickle=True)
        assert trace.exists()

    def test_an_archive_of_several_arrays(self, read, tmp_path):
        path = tmp_path / "sub-01.npy"
        with path.open("wb") as file:
            np.savez(file, a=np.zeros((2, 3)), b=np.zeros((2, 3)))
        assert "numpy.savez" in refused(read, path).found

    def test_a_truncated_archive(self, read, tmp_path):
        path = tmp_path / "sub-01.npy"
        with path.open("wb") as file:
            np.savez(file, a=np.zeros((20, 30)))
        path.write_bytes(path.read_bytes()[:200])
        error = refused(read, path)
        assert "damaged" in error.found
        assert "copy it again" in error.remedy

    def test_a_folder_with_the_name_of_a_file(self, read, tmp_path):
        (tmp_path / "sub-01.npy").mkdir()
        assert refused(read, tmp_path / "sub-01.npy").found == "a folder"

    def test_text_in_place_of_numbers(self, read, saved):
        shape = (2, 2) if read is read_bold else 4
        error = refused(read, saved(np.full(shape, "a")))
        assert error.found == "type <U1"

    @pytest.mark.parametrize("shape", [(), (2, 3, 4)])
    def test_no_or_three_dimensions(self, read, saved, shape):
        assert refused(read, saved(np.zeros(shape, dtype=int))).found == f"shape {shape}"


@pytest.mark.parametrize("shape", [(7,), (0, 5), (5, 0)])
def test_bold_must_have_vertices_and_timepoints(saved, shape):
    error = refused(read_bold, saved(np.zeros(shape)))
    assert error.found == f"shape {shape}"
    assert error.expected == "a 2-D array of shape (vertices, timepoints)"
    assert "vertices in rows" in error.remedy


@pytest.mark.parametrize("dtype", ["complex64", "bool", "datetime64[s]"])
def test_bold_must_be_numbers(saved, dtype):
    error = refused(read_bold, saved(np.zeros((2, 3), dtype=dtype)))
    assert error.found == f"type {dtype}"
    assert "float32" in error.remedy


@pytest.mark.parametrize("shape", [(3, 1), (2, 3), (0,)])
@pytest.mark.parametrize("read", [read_labels, read_signed_labels])
def test_labels_must_be_one_vector(saved, read, shape):
    error = refused(read, saved(np.zeros(shape, dtype=int)))
    assert error.found == f"shape {shape}"
    assert "one label per vertex" in error.expected


@pytest.mark.parametrize("values", [[0.5, 1], [1.0, 2.0], [np.nan, 1]])
@pytest.mark.parametrize("read", [read_labels, read_signed_labels])
def test_labels_must_be_integers_even_if_the_floats_are_whole(saved, read, values):
    error = refused(read, saved(np.array(values)))
    assert (error.expected, error.found) == ("integers", "type float64")
    assert "astype('int64')" in error.remedy


def test_labels_must_not_be_negative(saved):
    error = refused(read_labels, saved(np.array([0, -3, 2])))
    assert error.expected == "labels from 0 up"
    assert error.found == "a label of -3"


def test_labels_that_int64_cannot_hold_are_refused(saved):
    error = refused(read_labels, saved(np.array([0, 2**63], dtype=np.uint64)))
    assert str(2**63) in error.found


# Keys, subjects


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sub-01_run-1.npy", "sub-01_run-1"),
        ("a b|c/d.npy".replace("/", ":"), "a_b_c_d"),
        ("=1+2.npy", "_1_2"),
        ("v1.5.npy", "v1.5"),
        ("..hidden.npy", "hidden"),
        ("été.npy", "_t_"),
    ],
)
def test_keys_are_safe_parts_of_a_path(name, key):
    assert key_of(Path(name)) == key


def test_a_name_of_nothing_but_dots_still_gets_a_key():
    assert key_of(Path("....npy")).startswith("file_")


@pytest.mark.parametrize(
    ("key", "subject"),
    [
        ("sub-01_ses-1_run-2", "01"),
        ("sub-CC00062XX05", "CC00062XX05"),
        ("cohort_sub-7_rest", "7"),
        ("run-1", None),
        ("mysub-01_run-1", None),
        ("sub-_run-1", None),
        ("subject01", None),
    ],
)
def test_the_subject_is_told_by_the_name_as_in_bids(key, subject):
    assert subject_of(key) == subject
