"""How good a parcellation is: against a known truth, by itself, and against chance.

In every label vector, -1 means a vertex without signal; it is left out of every measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # loads a part of its own when it is first asked for
from numpy.typing import NDArray

from trend_dagster.errors import InputError

Labels = NDArray[np.integer]
FloatArray = NDArray[np.floating]


def _overlap(found: Labels, truth: Labels) -> tuple[Labels, Labels, NDArray[np.intp]]:
    """Names of both label sets and the vertices each pair shares."""
    found, truth = _comparable(found, truth)
    found_names, found_index = np.unique(found, return_inverse=True)
    truth_names, truth_index = np.unique(truth, return_inverse=True)
    shared = np.zeros((len(found_names), len(truth_names)), dtype=np.intp)
    np.add.at(shared, (found_index, truth_index), 1)
    return found_names, truth_names, shared


def _comparable(found: Labels, truth: Labels) -> tuple[Labels, Labels]:
    found, truth = np.asarray(found), np.asarray(truth)
    if found.shape != truth.shape or found.ndim != 1:
        raise InputError(
            "parcellations to compare",
            expected="two label vectors over the same vertices",
            found=f"shapes {found.shape} and {truth.shape}",
            remedy="Compare parcellations of one mesh.",
        )
    both = (found >= 0) & (truth >= 0)
    if not both.any():
        raise InputError(
            "parcellations to compare",
            expected="vertices labelled in both",
            found="none",
            remedy="Check that both use -1 only for vertices without signal.",
        )
    return found[both], truth[both]


def _matched(shared: NDArray[np.intp]) -> tuple[FloatArray, NDArray[np.intp], NDArray[np.intp]]:
    """Dice of each pair, and the pairs of the matching whose sum is largest."""
    dice = np.asarray(2 * shared / (shared.sum(axis=1, keepdims=True) + shared.sum(axis=0)))
    return dice, *scipy.optimize.linear_sum_assignment(dice, maximize=True)


def match_labels(found: Labels, truth: Labels) -> NDArray[np.int32]:
    """Rename found networks after the true ones they overlap best.

    One to one, with the largest possible sum of Dice coefficients (Hungarian algorithm).

    Parameters
    ----------
    found, truth : ndarray of shape (n_vertices,)
        Label vectors; -1 without signal.

    Returns
    -------
    ndarray of shape (n_vertices,), int32
        `found` in the names of `truth`; networks without partner get names after the last one.
    """
    found_names, truth_names, shared = _overlap(found, truth)
    _, rows, columns = _matched(shared)
    partner = dict(zip(found_names[rows].tolist(), truth_names[columns].tolist(), strict=True))
    matched = np.full(len(found), -1, dtype=np.int32)
    spare = int(np.max(truth)) + 1
    for name in np.unique(found[found >= 0]).tolist():
        if name not in partner:
            partner[name], spare = spare, spare + 1
        matched[found == name] = partner[name]
    return matched


def renumbered(found: Labels, before: Labels) -> NDArray[np.int32]:
    """Rename networks after those of another parcellation, in the names 0 to n - 1.

    Parameters
    ----------
    found, before : ndarray of shape (n_vertices,)
        Label vectors; -1 without signal.

    Returns
    -------
    ndarray of shape (n_vertices,), int32
        `found`, a permutation of its names: as :func:`match_labels`, and networks without partner
        take the names that are left.
    """
    matched = match_labels(found, before)
    names = np.unique(matched[matched >= 0])
    last = int(np.max(found, initial=-1))
    spare = iter(sorted(set(range(last + 1)) - set(names.tolist())))
    for name in names[names > last]:
        matched[matched == name] = next(spare)
    return matched


SAME_NETWORK = 0.5
"""Dice from which a network is that of the same name in another parcellation."""


def replaced_networks(before: Labels, found: Labels) -> list[int]:
    """Tell which names stand for another network than in the parcellation before.

    Parameters
    ----------
    before, found : ndarray of shape (n_vertices,)
        Label vectors in the same names (`renumbered`); -1 without signal.

    Returns
    -------
    list of int
        Names whose Dice coefficient is below `SAME_NETWORK`.
    """
    changed = []
    for name in range(int(np.max(before, initial=-1)) + 1):
        one, other = before == name, found == name
        size = int(one.sum() + other.sum())
        if size and 2 * int((one & other).sum()) < SAME_NETWORK * size:
            changed.append(name)
    return changed


def dice_per_network(found: Labels, truth: Labels) -> NDArray[np.float64]:
    """Dice coefficient of each true network with its match; 0 for a network without one.

    Returns
    -------
    ndarray of shape (n_true_networks,)
        In the order of the true names.
    """
    _, truth_names, shared = _overlap(found, truth)
    dice, rows, columns = _matched(shared)
    result = np.zeros(len(truth_names))
    result[columns] = dice[rows, columns]
    return result


def iou_per_network(found: Labels, truth: Labels) -> NDArray[np.float64]:
    """Intersection over union of each true network with its match (see `dice_per_network`)."""
    dice = dice_per_network(found, truth)
    return dice / (2 - dice)


def mean_dice(found: Labels, truth: Labels) -> float:
    """Mean over true networks of `dice_per_network`: large and small networks count alike."""
    return float(dice_per_network(found, truth).mean())


def mean_iou(found: Labels, truth: Labels) -> float:
    """Mean over true networks of `iou_per_network`."""
    return float(iou_per_network(found, truth).mean())


def adjusted_rand_index(found: Labels, truth: Labels) -> float:
    """Agreement of two parcellations over pairs of vertices, 0 by chance, 1 if they are equal."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_comparable(found, truth)))


def normalized_mutual_information(found: Labels, truth: Labels) -> float:
    """Shared information of two parcellations over the mean of their own, 0 to 1."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_comparable(found, truth)))


# Shape on the cortex


@dataclass(frozen=True)
class Contiguity:
    """How far each network hangs together.

    Attributes
    ----------
    networks : ndarray of shape (n_networks,)
        Names, ascending.
    pieces : ndarray of shape (n_networks,)
        Connected pieces of each. A network of both hemispheres has two at least.
    share_in_largest : ndarray of shape (n_networks,)
        Share of its vertices that lie in the largest piece, 0 to 1.
    """

    networks: NDArray[np.integer]
    pieces: NDArray[np.intp]
    share_in_largest: NDArray[np.float64]


def spatial_contiguity(labels: Labels, graph: scipy.sparse.csr_array) -> Contiguity:
    """Count the connected pieces of each network.

    Parameters
    ----------
    labels : ndarray of shape (n_vertices,)
        Label vector; -1 without signal.
    graph : csr_array of shape (n_vertices, n_vertices)
        Edges of the mesh, from `trend_dagster.science.surface.edge_graph`.

    Returns
    -------
    Contiguity
        One entry per network.
    """
    names = np.unique(labels[labels >= 0])
    sizes = [_piece_sizes(graph, labels == name) for name in names]
    pieces = np.array([len(s) for s in sizes])
    return Contiguity(names, pieces, np.array([s.max() / s.sum() for s in sizes]))


def _piece_sizes(graph: scipy.sparse.csr_array, inside: NDArray[np.bool_]) -> NDArray[np.intp]:
    own = np.flatnonzero(inside)
    _, piece = scipy.sparse.csgraph.connected_components(graph[own][:, own], directed=False)
    return np.bincount(piece)


# Function within and between networks


def _correlation_to_networks(
    correlation: FloatArray, labels: Labels, stripe: int = 1024
) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """Sum of each vertex' correlations with each network, itself left out.

    Reads the matrix in stripes of rows, in the order of storage, as it may lie on disk.
    """
    labels = np.asarray(labels)
    inside = np.flatnonzero(labels >= 0)
    names, index = np.unique(labels[inside], return_inverse=True)
    member = scipy.sparse.csr_array(
        (np.ones(len(inside)), (inside, index)), shape=(len(labels), len(names))
    )
    sums = np.empty((len(labels), len(names)))
    for start in range(0, len(labels), stripe):
        values = np.array(correlation[start : start + stripe], dtype=np.float64)
        np.fill_diagonal(values[:, start:], 0)
        sums[start : start + stripe] = values @ member
    return index, np.bincount(index), sums[inside]


def network_correlations(correlation: FloatArray, labels: Labels) -> NDArray[np.float64]:
    """Mean correlation between the vertices of each two networks.

    Parameters
    ----------
    correlation : ndarray of shape (n_vertices, n_vertices)
        Symmetric; may be a lazy array that gives rows.
    labels : ndarray of shape (n_vertices,)
        Label vector; -1 without signal.

    Returns
    -------
    ndarray of shape (n_networks, n_networks)
        Between distinct vertices; NaN on the diagonal of a network of one vertex.
    """
    index, sizes, sums = _correlation_to_networks(correlation, labels)
    total = np.zeros((len(sizes), len(sizes)))
    np.add.at(total, index, sums)
    pairs = np.outer(sizes, sizes) - np.diag(sizes)
    means: NDArray[np.float64] = np.full(total.shape, np.nan)
    np.divide(total, pairs, out=means, where=pairs > 0)
    return means


def functional_homogeneity(correlation: FloatArray, labels: Labels) -> float:
    """Mean correlation within networks, each network weighted by its vertices.

    As used for parcellations of the cortex by Schaefer et al. 2018, doi:10.1093/cercor/bhx179.
    Any partition of smooth data into compact parts has a high value: read it beside its null.

    Parameters
    ----------
    correlation : ndarray of shape (n_vertices, n_vertices)
        Pearson correlation; may be lazy.
    labels : ndarray of shape (n_vertices,)
        Label vector; -1 without signal.

    Returns
    -------
    float
        -1 to 1; networks of one vertex do not count.
    """
    within = np.diag(network_correlations(correlation, labels))
    sizes = np.bincount(np.unique(labels[labels >= 0], return_inverse=True)[1])
    several = sizes > 1
    return float(np.average(within[several], weights=sizes[several]))


def functional_silhouette(correlation: FloatArray, labels: Labels) -> float:
    """Mean silhouette of vertices under the distance ``1 - correlation``.

    Equal to scikit-learn's with a precomputed distance, without another matrix of that size
    (Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7).

    Parameters
    ----------
    correlation : ndarray of shape (n_vertices, n_vertices)
        Pearson correlation; may be lazy.
    labels : ndarray of shape (n_vertices,)
        Label vector of two networks or more; -1 without signal.

    Returns
    -------
    float
        -1 to 1; a vertex that is a network of its own counts as 0. NaN for a single network.
    """
    from trend_dagster.science.parcellation.clustering import silhouette

    index, sizes, sums = _correlation_to_networks(correlation, labels)
    distances = sizes - sums
    distances[np.arange(len(index)), index] -= 1  # of a vertex to itself
    return silhouette(distances, index)


def distance_controlled_boundary_coefficient(
    correlation: FloatArray,
    labels: Labels,
    distances: scipy.sparse.csr_array,
    bin_width: float = 1.0,
) -> float:
    """How much more vertices correlate within a network than across, at equal distance (DCBC).

    Pairs are sorted into bins of their distance; in each, the mean correlation of pairs within a
    network minus that of pairs across; bins are averaged with weight 1 / (1 / n_within + 1 /
    n_across), which is as precise as the bin. Zhi et al. 2022, doi:10.1002/hbm.25878. Smooth data
    without networks has an expected value of zero.

    Parameters
    ----------
    correlation : ndarray of shape (n_vertices, n_vertices)
        Pearson correlation.
    labels : ndarray of shape (n_vertices,)
        Label vector; -1 without signal.
    distances : csr_array of shape (n_vertices, n_vertices)
        Geodesic distances in mm up to the largest that counts (35 mm in the paper), from
        `trend_dagster.science.surface.geodesic_neighbours`.
    bin_width : float
        Width of a bin in mm; 1 in the paper.

    Returns
    -------
    float
        0 if networks are no better than chance; NaN if no bin has pairs of both kinds.
    """
    pairs = scipy.sparse.coo_array(scipy.sparse.triu(distances, k=1))
    first, second = pairs.coords
    known = (labels[first] >= 0) & (labels[second] >= 0)
    first, second, distance = first[known], second[known], pairs.data[known]
    values = np.asarray(correlation[first, second], dtype=np.float64)
    within = labels[first] == labels[second]
    # A bin holds distances above its lower end, up to and including its upper end.
    bins = np.ceil(distance / bin_width).astype(np.intp)
    n_bins = int(bins.max(initial=0)) + 1
    n_within, n_across = (np.bincount(bins[m], minlength=n_bins) for m in (within, ~within))
    both = (n_within > 0) & (n_across > 0)
    if not both.any():
        return float("nan")
    mean_within, mean_across = (
        np.bincount(bins[m], values[m], n_bins)[both] / n[both]
        for m, n in ((within, n_within), (~within, n_across))
    )
    weights = 1 / (1 / n_within[both] + 1 / n_across[both])
    return float(np.average(mean_within - mean_across, weights=weights))
