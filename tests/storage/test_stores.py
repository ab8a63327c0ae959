"""The store: whole versions or none, lazily read, collected when old, damage is found."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from trend_dagster.errors import StoreError
from trend_dagster.storage import stores
from trend_dagster.storage.provenance import Recipe
from trend_dagster.storage.stores import Store

RECIPE = Recipe("bold", "1", {"bold": {"standardize": "none"}}, {"file bold": "abc"})
RUN = {"bold_run": "sub-01"}


def publish(store: Store, value: float, n: int = 50, **keywords):
    with store.draft("bold", RUN) as draft:
        draft.write("bold", np.full((n, 20), value, dtype=np.float32))
        draft.write("vertex_mask", np.ones(n, dtype=bool))
        return store.publish(draft, RUN, RECIPE, **keywords)


def test_what_is_published_comes_back_with_its_recipe_and_facts(tmp_path):
    store = Store(tmp_path)
    publish(store, 3.0, facts={"n_vertices": 50}, run={"run_id": "r1"})
    version = store.latest("bold", RUN)
    assert version.read("bold").tolist() == np.full((50, 20), 3.0).tolist()
    assert version.recipe == RECIPE
    assert version.facts == {"n_vertices": 50}
    assert version.attributes["run"] == {"run_id": "r1"}
    assert version.array("bold").metadata.dimension_names == ("vertex", "timepoint")
    version.verify()


def test_a_version_can_be_read_while_its_draft_is_still_open(tmp_path):
    store = Store(tmp_path)
    with store.draft("bold", RUN) as draft:
        draft.write("bold", np.ones((5, 5), dtype=np.float32))
        draft.write("vertex_mask", np.ones(5, dtype=bool))
        assert store.publish(draft, RUN, RECIPE).read("vertex_mask").all()


def test_plain_zarr_opens_a_store_without_this_package(tmp_path):
    publish(Store(tmp_path), 3.0)
    folder = tmp_path / "bold" / "bold_run=sub-01"
    group = zarr.open_group(folder / (folder / "current").read_text().strip(), mode="r")
    assert group["bold"][0, 0] == 3.0
    assert group.attrs["provenance"]["inputs"] == {"file bold": "abc"}


def publish_with_file(store: Store, name: str, content: bytes):
    with store.draft("bold", RUN) as draft:
        draft.write("bold", np.ones((5, 5), dtype=np.float32))
        draft.write("vertex_mask", np.ones(5, dtype=bool))
        draft.attach(name, content)
        return store.publish(draft, RUN, RECIPE)


def test_an_attached_file_is_part_of_the_version(tmp_path):
    store = Store(tmp_path)
    first, again, other = (publish_with_file(store, "a.txt", c) for c in (b"x", b"x", b"y"))
    assert first.file("a.txt").read_bytes() == b"x"
    assert first.digest == again.digest != other.digest
    assert first.names() == ["bold", "vertex_mask"]
    other.file("a.txt").write_bytes(b"changed")
    with pytest.raises(StoreError, match="digest"):
        other.verify()
    for missing in ("b.txt", "../current"):
        with pytest.raises(StoreError, match="no file"):
            first.file(missing)


@pytest.mark.parametrize("name", ["../a.txt", "zarr.json", "bold", ".hidden", ""])
def test_a_file_cannot_take_another_place_than_its_own(tmp_path, name):
    with pytest.raises(StoreError, match="a name of its own"):
        publish_with_file(Store(tmp_path), name, b"x")


def test_equal_content_has_an_equal_digest_and_other_content_another(tmp_path):
    store = Store(tmp_path)
    first, again, other = publish(store, 1.0), publish(store, 1.0), publish(store, 2.0)
    assert first.digest == again.digest != other.digest


def test_nothing_is_visible_of_a_draft_that_is_not_published(tmp_path):
    store = Store(tmp_path)

    def fail_in_the_middle():
        with store.draft("bold", RUN) as draft:
            draft.write("bold", np.ones((5, 5), dtype=np.float32))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail_in_the_middle()
    assert store.latest("bold", RUN) is None
    assert list((tmp_path / "bold" / "bold_run=sub-01").iterdir()) == []


def test_an_incomplete_draft_is_refused(tmp_path):
    store = Store(tmp_path)
    with store.draft("bold", RUN) as draft:
        draft.write("bold", np.ones((5, 5), dtype=np.float32))
        with pytest.raises(StoreError, match="none named vertex_mask"):
            store.publish(draft, RUN, RECIPE)


def test_an_array_of_the_wrong_kind_is_refused(tmp_path):
    with Store(tmp_path).draft("bold", RUN) as draft:
        with pytest.raises(StoreError, match="complex"):
            draft.write("bold", np.ones((5, 5), dtype=complex))
        with pytest.raises(StoreError, match="dimensions"):
            draft.write("vertex_mask", np.ones((5, 5), dtype=bool))
        with pytest.raises(StoreError, match="no such array"):
            draft.write("blod", np.ones((5, 5), dtype=np.float32))


@pytest.mark.parametrize("name", ["..", "a/b", "", "a b", "ünï", ".hidden", "a\n"])
def test_no_name_becomes_a_path_unchecked(tmp_path, name):
    with pytest.raises(StoreError, match="names of letters"):
        Store(tmp_path).folder("bold", {"bold_run": name})


def test_damage_is_named_and_never_read(tmp_path):
    version = publish(Store(tmp_path), 3.0)
    chunk = next(p for p in (version.path / "bold" / "c").rglob("*") if p.is_file())
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    chunk.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"bold_run=sub-01.*Materialize it again"):
        version.read("bold")
    with pytest.raises(StoreError, match="digest"):
        version.verify()


@pytest.mark.parametrize("where", ["zarr.json", "bold/zarr.json"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        "{}",
        '{"zarr_format": 3, "node_type": "group"}',
        '{"zarr_format": 3, "node_type": "array"}',
        '{"zarr_format": 2, "node_type": "group", "attributes": []}',
        '{"zarr_format": 3, "node_type": "array", "shape": "x", "data_type": 1, "codecs": 2}',
    ],
)
def test_damaged_metadata_is_named(tmp_path, where, text):
    folder = publish(Store(tmp_path), 3.0).path
    (folder / where).write_text(text)
    with pytest.raises(StoreError, match=r"bold_run=sub-01.*Materialize it again"):
        Store(tmp_path).latest("bold", RUN).array("bold")


def test_a_version_that_is_held_is_the_same_to_all_who_ask(tmp_path):
    publish(Store(tmp_path), 3.0)
    held = Store(tmp_path).latest("bold", RUN)
    assert Store(tmp_path).latest("bold", RUN) is held
    publish(Store(tmp_path), 4.0)
    assert Store(tmp_path).latest("bold", RUN) is not held
    assert held.read("bold")[0, 0] == 3.0


def test_a_store_of_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "STORE_FORMAT", 2)
    publish(Store(tmp_path), 3.0)
    monkeypatch.setattr(stores, "STORE_FORMAT", 1)
    with pytest.raises(StoreError, match="another version of trend_dagster"):
        _ = Store(tmp_path).latest("bold", RUN).group


def test_the_last_versions_are_kept_and_older_ones_collected(tmp_path):
    store = Store(tmp_path, keep_versions=2, grace_seconds=0)
    paths = [publish(store, value).path for value in range(5)]
    assert [p.exists() for p in paths] == [False, False, False, True, True]


def test_what_others_put_beside_versions_is_none_and_stays(tmp_path):
    store = Store(tmp_path, keep_versions=1, grace_seconds=0)
    folder = publish(store, 0.0).path.parent
    theirs = [folder / name for name in ("@eaDir", "old", ".partial-mine")]
    for path in theirs:
        path.mkdir()
    for value in range(3):
        publish(store, value)
    assert all(path.exists() for path in theirs)
    assert stores.versions_in(folder) == [store.latest("bold", RUN).path]


def test_an_output_goes_whole_or_not_at_all(tmp_path):
    store = Store(tmp_path)
    publish(store, 1.0)
    folder = publish(store, 2.0).path.parent
    held = store.latest("bold", RUN)
    for path in (folder, tmp_path / "bold"):
        stores.remove_outputs(path)
    assert len(stores.versions_in(folder)) == 2
    held.verify()
    del held
    stores.remove_outputs(tmp_path / "bold")
    assert not (tmp_path / "bold").exists()


def matrix_of(draft, scratch):
    return draft.resume("left", (6, 6), (3, 3), scratch)


def fill(matrix, tiles):
    for i, j in tiles:
        for row, column in ((i, j), (j, i)):
            matrix.array[row : row + 3, column : column + 3] = 1 + i + j
        matrix.mark((i, j))


TILES = [(0, 0), (0, 3), (3, 3)]  # of a symmetric matrix


def test_two_that_make_the_same_matrix_at_once_do_not_disturb_each_other(tmp_path):
    store, recipe = Store(tmp_path), Recipe("geodesic_distances", "1", {}, {})
    scratch = store.scratch("geodesic_distances", {}, recipe)
    with store.draft("geodesic_distances") as one, store.draft("geodesic_distances") as two:
        first, second = matrix_of(one, scratch), matrix_of(two, scratch)
        fill(first, TILES[:2])
        fill(second, TILES)
        stores.remove_unless_used(second.folder.parent)  # as who collects does
        two.adopt(second)
        published = store.publish(two, {}, recipe)
        fill(first, TILES[2:])
        one.adopt(first)
        again = store.publish(one, {}, recipe)
    assert published.digest == again.digest
    assert sorted(path.name for path in scratch.parent.iterdir()) == sorted(
        ["current", published.path.name, again.path.name]
    )


def test_what_a_killed_writer_left_of_a_tile_is_not_taken_over(tmp_path):
    store, recipe = Store(tmp_path), Recipe("geodesic_distances", "1", {}, {})
    scratch, digests = store.scratch("geodesic_distances", {}, recipe), []
    for leavings in ([], ["0.3f.partial"]):
        with store.draft("geodesic_distances") as draft:
            matrix = matrix_of(draft, scratch)
            fill(matrix, TILES)
            for name in leavings:
                (matrix.folder / "c" / "0" / name).write_bytes(b"0")
            draft.adopt(matrix)
            digests.append(store.publish(draft, {}, recipe).digest)
    assert digests[0] == digests[1]


def test_a_matrix_without_all_of_its_tiles_is_not_taken_over(tmp_path):
    store = Store(tmp_path)
    with store.draft("geodesic_distances") as draft:
        matrix = matrix_of(draft, tmp_path / "scratch")
        fill(matrix, TILES[:2])
        with pytest.raises(StoreError, match=r"expected all of its tiles.*run again"):
            draft.adopt(matrix)


def test_more_versions_are_held_than_a_shell_usually_allows_files(tmp_path):
    publish(Store(tmp_path), 1.0)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "from trend_dagster.storage.stores import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "held = [store.latest('bold', {'bold_run': 'sub-01'}) for _ in range(200)]\n"
        "print(len(held))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "200\n", done.stderr


def test_a_superseded_version_stays_for_the_grace_time(tmp_path):
    store = Store(tmp_path, keep_versions=1, grace_seconds=3600)
    paths = [publish(store, value).path for value in range(3)]
    assert all(p.exists() for p in paths)


def test_a_version_that_is_held_open_is_never_collected(tmp_path):
    store = Store(tmp_path, keep_versions=1, grace_seconds=0)
    publish(store, 7.0)
    array = store.latest("bold", RUN).array("bold")
    for value in range(3):
        publish(store, value)
    assert float(array[3, 3]) == 7.0  # read only now, after it was superseded three times
    path = array.store_path.store.root
    del array
    publish(store, 9.0)
    assert not path.exists()


def test_what_a_dead_writer_left_is_collected_but_not_what_a_living_one_fills(
    tmp_path, monkeypatch
):
    store = Store(tmp_path, grace_seconds=0)
    folder = tmp_path / "bold" / "bold_run=sub-01"
    dead = folder / ".partial-20200101T000000.000000-0000dead"
    dead.mkdir(parents=True)
    with store.draft("bold", RUN) as living:
        old = living.path.with_name(".partial-20200101T000000.000000-00000a11")
        living.path.rename(old)
        publish(store, 1.0)
        assert not dead.exists()
        assert old.exists()


def _write_forever(root: str, value: float) -> None:
    store = Store(Path(root), keep_versions=1, grace_seconds=0)
    while True:
        publish(store, value, n=2000)


def test_readers_never_see_half_a_store_while_writers_are_killed(tmp_path):
    """Two writers, one reader; the writers are killed at random moments and started again."""
    context = multiprocessing.get_context("fork")
    publish(Store(tmp_path), 1.0, n=2000)
    writers = []
    rng = np.random.default_rng(0)
    reads, stop = 0, time.monotonic() + 4
    store = Store(tmp_path)
    try:
        while time.monotonic() < stop or reads <= 20:
            while len(writers) < 2:
                writer = context.Process(
                    target=_write_forever, args=(str(tmp_path), float(len(writers) + reads))
                )
                writer.start()
                writers.append((writer, time.monotonic() + rng.uniform(0.05, 0.3)))
            values = store.latest("bold", RUN).read("bold")
            assert values.shape == (2000, 20)
            assert len(np.unique(values)) == 1  # every number from one writer
            reads += 1
            for writer, end in list(writers):
                if time.monotonic() > end:
                    os.kill(writer.pid, signal.SIGKILL)
                    writer.join()
                    writers.remove((writer, end))
    finally:
        for writer, _ in writers:
            writer.kill()
            writer.join()
    store.latest("bold", RUN).verify()


def test_a_full_disk_leaves_the_old_version(tmp_path, monkeypatch):
    store = Store(tmp_path)
    publish(store, 1.0)

    def full(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(StoreError, match="No space left on device"):
        publish(store, 2.0)
    monkeypatch.undo()
    assert store.latest("bold", RUN).read("bold")[0, 0] == 1.0
    assert not list((tmp_path / "bold" / "bold_run=sub-01").glob(".partial-*"))


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "store").write_text("a file where the store should be")
    with pytest.raises(StoreError, match="expected a folder, found Not a directory"):
        publish(Store(tmp_path / "store"), 1.0)


def test_a_failure_is_remembered_until_the_next_success(tmp_path):
    store = Store(tmp_path)
    store.record_failure("bold", RUN, "the file is truncated")
    assert store.failure("bold", RUN) == "the file is truncated"
    publish(store, 1.0)
    assert store.failure("bold", RUN) is None


def test_a_tile_of_zeros_is_there_after_a_resume_as_well(tmp_path):
    store = Store(tmp_path)
    for tiles in (TILES[:1], TILES[1:]):
        with store.draft("geodesic_distances") as draft:
            matrix = matrix_of(draft, tmp_path / "scratch")
            for i, j in tiles:
                for row, column in ((i, j), (j, i)):
                    matrix.array[row : row + 3, column : column + 3] = 0
                matrix.mark((i, j))
    with store.draft("geodesic_distances") as draft:
        matrix = matrix_of(draft, tmp_path / "scratch")
        assert matrix.done == set(TILES)
        draft.adopt(matrix)
