"""With the tutorial's settings the stored sweep is what the tutorial's own code gives."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF
from sklearn.metrics import davies_bouldin_score, silhouette_score

from tests.conftest import run
from trend_dagster.project.folder import Project

CELL = {"label_file": "two", "n_components": "4"}


def threshold(matrix, labels):
    """Step 3 of the tutorial, restated."""
    return np.where(labels[:, None] == labels[None, :], matrix, 0)


def mean_within(matrix, labels):
    means = []
    for label in np.unique(labels):
        block = matrix[np.ix_(labels == label, labels == label)]
        means.append(block[np.triu_indices(len(block), 1)].mean() if len(block) > 1 else 0)
    return np.mean(means)


def mean_between(matrix, labels):
    names = np.unique(labels)
    return np.mean(
        [
            matrix[np.ix_(labels == a, labels == b)].mean()
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        ]
    )


@pytest.fixture(scope="module")
def tutorial(finished_once, tmp_path_factory):
    """The finished project, its sweep made anew by scikit-learn as the tutorial does."""
    finished = tmp_path_factory.mktemp("tutorial") / "project"
    shutil.copytree(finished_once.folder, finished)
    settings = (finished / "trend.yaml").read_text()
    (finished / "trend.yaml").write_text(
        settings
        + "bold: {global_signal: keep}\nnetworks: {method: kmeans}\n"
        + "factorization: {solver: sklearn}\ndelivery: {label_vectors: true}\n"
    )
    outcomes = run(finished)
    assert outcomes["nmf_sweep"].made == 4
    return Project.open(finished)


def test_labels_and_metrics_are_the_tutorials(tutorial):
    average = tutorial.store.latest("average_correlation")
    kept = average.read("vertex_mask")
    labels = np.load(tutorial.folder / "geodesic_labels" / "two.npy")[kept]
    full = np.maximum(average.read("correlation")[np.ix_(kept, kept)], 0)
    matrix = threshold(full, labels).astype(np.float64)
    nmf = NMF(4, init="nndsvda", random_state=108, l1_ratio=0.4, max_iter=10000, tol=1e-4,
              solver="cd", alpha_W=1e-4)  # fmt: skip
    W = nmf.fit_transform(matrix)
    cell = tutorial.store.latest("nmf_sweep", CELL)
    np.testing.assert_allclose(cell.read("W")[0][kept], W, atol=2e-3 * W.max())
    for j, n_clusters in enumerate([3, 4]):
        kmeans = KMeans(n_clusters, n_init="auto", random_state=108).fit(W)
        found = cell.read("labels")[0, j][kept]
        assert np.array_equal(found, kmeans.labels_)
        expected = {
            "silhouette": silhouette_score(W, kmeans.labels_),
            "davies_bouldin": davies_bouldin_score(W, kmeans.labels_),
            "inertia": kmeans.inertia_,
            "within_connectivity": mean_within(matrix, kmeans.labels_),
            "between_connectivity": mean_between(matrix, kmeans.labels_),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(cell.read(name)[0, j], value, rtol=1e-2, err_msg=name)
        sizes = cell.read("cluster_sizes")[0, j, :n_clusters]
        assert np.array_equal(sizes, np.bincount(kmeans.labels_))


def test_label_vectors_are_written_per_label_file_under_the_tutorials_names(tutorial):
    path = tutorial.outputs / "label_vectors" / "two" / "4_comp_3_cl_0.4_0.0001.npy"
    expected = tutorial.store.latest("nmf_sweep", CELL).read("labels")[0, 0]
    assert np.array_equal(np.load(path, allow_pickle=False), expected)
    assert {p.name for p in (tutorial.outputs / "label_vectors").iterdir()} == {"two", "six"}
