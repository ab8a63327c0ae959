"""Recipes and digests: equal for what is equal, and words for what is not."""

from __future__ import annotations

import dataclasses
import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trend_dagster.errors import InputError
from trend_dagster.storage import provenance
from trend_dagster.storage.provenance import (
    LIBRARIES,
    InputDigests,
    Recipe,
    differences,
    digest_of,
    digest_of_file,
    digest_of_folder,
    library_versions,
)

RECIPE = Recipe(
    "embeddings",
    "1",
    {"features": {"source": "encoder"}, "sweep": {"alpha_W": (1e-3,), "n_clusters": [14, 38]}},
    {"trained_model": "aa", "bold[bold_run=sub-01]": "bb"},
)

texts = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4)


@given(settings=texts, inputs=texts)
def test_equal_recipes_have_equal_fingerprints_in_whatever_order_they_are_written(settings, inputs):
    one = Recipe("bold", "1", {"bold": settings}, inputs)
    other = Recipe(
        "bold", "1", {"bold": dict(reversed(settings.items()))}, dict(reversed(inputs.items()))
    )
    assert one.fingerprint == other.fingerprint
    assert differences(one, other) == []


@pytest.mark.parametrize(
    "change",
    [
        {"asset": "bold"},
        {"code_version": "2"},
        {"settings": {}},
        {"settings": {"features": {"source": "bold"}, "sweep": RECIPE.settings["sweep"]}},
        {"inputs": {}},
        {"inputs": {"trained_model": "bb", "bold[bold_run=sub-01]": "aa"}},
    ],
)
def test_any_change_gives_another_fingerprint(change):
    assert dataclasses.replace(RECIPE, **change).fingerprint != RECIPE.fingerprint


def test_a_recipe_survives_being_stored_as_json():
    stored = Recipe.from_dict(json.loads(json.dumps(RECIPE.as_dict())))
    assert stored.fingerprint == RECIPE.fingerprint
    assert stored.as_dict() == RECIPE.as_dict()
    assert differences(stored, RECIPE) == []  # a tuple and the list it was stored as are the same


def test_each_difference_is_one_sentence_part():
    today = Recipe(
        "embeddings",
        "2",
        {"features": {"source": "bold"}, "sweep": {"alpha_W": (1e-3,), "n_clusters": [14]}},
        {"trained_model": "cc", "bold[bold_run=sub-02]": "bb"},
    )
    assert differences(RECIPE, today) == [
        "the code is version 2, was 1",
        "setting features.source is bold, was encoder",
        "setting sweep.n_clusters is [14], was [14, 38]",
        "input bold[bold_run=sub-01] is gone",
        "input bold[bold_run=sub-02] is new",
        "input trained_model has changed",
    ]


def test_settings_that_came_or_went_are_named():
    without = dataclasses.replace(RECIPE, settings={"features": {}})
    assert "setting features.source is not set, was encoder" in differences(RECIPE, without)
    assert "setting features.source is encoder, was not set" in differences(without, RECIPE)


def test_of_what_is_left_out_only_the_reason_is_named():
    out = Recipe("embeddings", "1", {"left_out": {"because": "moved"}})
    other = Recipe("embeddings", "1", {"left_out": {"because": "asleep"}})
    assert differences(RECIPE, out) == ["it is left out now: moved"]
    assert differences(out, other) == ["it is left out now: asleep"]
    assert differences(out, RECIPE) == ["it was left out (moved), and is taken now"]
    assert differences(out, out) == []


def test_a_digest_does_not_depend_on_the_order_of_keys_but_on_that_of_lists():
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of([1, 2]) != digest_of([2, 1])
    assert digest_of(1) != digest_of("1")
    assert len(digest_of(None)) == 16


def test_what_json_cannot_express_has_no_digest():
    with pytest.raises(ValueError, match="JSON"):
        digest_of(float("nan"))


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    content = bytes(range(256)) * 5000  # longer than what is read in one piece
    one.write_bytes(content)
    same.write_bytes(content)
    other.write_bytes(content[:-1] + b"\0")
    assert digest_of_file(one) == digest_of_file(same) != digest_of_file(other)


@pytest.fixture
def folder(tmp_path):
    """A folder with files at two depths."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("zarr.json", "deep/0", "deep/er/1"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_a_folder_unchanged_has_the_same_digest(folder):
    before = digest_of_folder(folder)
    (folder / "deep" / "0").write_bytes(b"deep/0")
    (folder / "an empty folder").mkdir()
    assert digest_of_folder(folder) == before


def test_a_folder_of_many_files_is_digested_as_one_of_few(folder, monkeypatch):
    for number in range(100):
        (folder / f"{number}").write_bytes(bytes([number]))
    found = digest_of_folder(folder)
    monkeypatch.setattr(provenance, "_MANY_FILES", 1000)
    assert digest_of_folder(folder) == found


def test_a_folder_notices_a_changed_byte(folder):
    before = digest_of_folder(folder)
    (folder / "deep" / "er" / "1").write_bytes(b"deep/er/2")
    assert digest_of_folder(folder) != before


def test_a_folder_notices_a_renamed_a_moved_a_new_and_a_missing_file(folder):
    seen = {digest_of_folder(folder)}
    (folder / "zarr.json").rename(folder / "zarr2.json")
    seen.add(digest_of_folder(folder))
    (folder / "deep" / "er" / "1").rename(folder / "deep" / "1")
    seen.add(digest_of_folder(folder))
    (folder / "empty").touch()
    seen.add(digest_of_folder(folder))
    (folder / "deep" / "1").unlink()
    seen.add(digest_of_folder(folder))
    assert len(seen) == 5


def test_a_folder_notices_two_files_that_changed_places(folder):
    before = digest_of_folder(folder)
    a, b = folder / "deep" / "0", folder / "deep" / "er" / "1"
    a_bytes, b_bytes = a.read_bytes(), b.read_bytes()
    a.write_bytes(b_bytes)
    b.write_bytes(a_bytes)
    assert digest_of_folder(folder) != before


def test_what_is_left_out_does_not_count(folder):
    leave_out = frozenset({"zarr.json"})
    before = digest_of_folder(folder, leave_out=leave_out)
    (folder / "zarr.json").write_bytes(b"other")
    assert digest_of_folder(folder, leave_out=leave_out) == before
    (folder / "deep" / "zarr.json").touch()  # only the one at the top is meant
    assert digest_of_folder(folder, leave_out=leave_out) != before


def test_the_versions_of_the_libraries_are_those_imported():
    import numpy as np

    assert set(library_versions()) == set(LIBRARIES)
    assert library_versions()["numpy"] == np.__version__


# Input files are read once


def test_an_unchanged_file_is_not_read_again_and_a_changed_one_is(tmp_path, monkeypatch):
    """Also where it has the size and the time of the file before."""
    from trend_dagster.storage import provenance

    read = []

    def watched(path):
        read.append(path.name)
        return digest_of_file(path)

    monkeypatch.setattr(provenance, "digest_of_file", watched)
    monkeypatch.setattr(provenance, "_TICK_NS", 0)  # written a moment ago is long ago
    memory, file = tmp_path / "memory.json", tmp_path / "bold.npy"

    def digest() -> str:  # each time as another process
        return InputDigests(memory).of(file)

    file.write_bytes(b"one")
    first, stat = digest(), file.stat()
    assert digest() == first == digest_of_file(file)
    assert read == ["bold.npy"]
    time.sleep(0.05)  # more than a tick of this clock
    file.write_bytes(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest() == digest_of_file(file) != first
    time.sleep(0.05)
    other = tmp_path / "other"
    other.write_bytes(b"six")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(file)
    assert digest() == digest_of_file(file)
    memory.write_text("{")
    assert digest() == digest_of_file(file)
    assert len(read) == 4
    file.unlink()
    with pytest.raises(InputError, match="a file that can be read"):
        digest()


def test_what_was_written_a_moment_ago_is_not_remembered(tmp_path):
    """A second change within one tick of the clock would not be seen."""
    memory, file = tmp_path / "memory.json", tmp_path / "bold.npy"
    file.write_bytes(b"one")
    InputDigests(memory).of(file)
    assert not memory.exists()


def test_a_remembered_file_is_not_opened_and_the_file_of_its_numbers_still_counts(
    tmp_path, monkeypatch
):
    """A GIFTI file may name another that holds its numbers; which, is remembered as well."""
    from trend_dagster.storage import provenance

    monkeypatch.setattr(provenance, "_TICK_NS", 0)
    memory, path, data = (tmp_path / name for name in ("memory.json", "a.func.gii", "a.dat"))
    path.write_text('<GIFTI><DataArray ExternalFileName="a.dat"/></GIFTI>')
    data.write_bytes(b"1")
    known = provenance.InputDigests(memory)
    first = known.of(path)
    assert first == provenance.digest_of_input(path) != digest_of_file(path)
    time.sleep(0.05)  # more than a tick of the clock
    data.write_bytes(b"2")
    opened = []
    monkeypatch.setattr(provenance, "external_files", lambda p: opened.append(p) or ())
    second = known.of(path)
    assert second == known.of(path) != first
    assert opened == []
    monkeypatch.undo()
    assert second == provenance.digest_of_input(path)
