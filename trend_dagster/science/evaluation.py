"""How good a parcellation is: against a known truth, by itself, and against chance.

In every label vector, -1 means a vertex without signal; it is left out of every measure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

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


def _dice(shared: NDArray[np.intp]) -> FloatArray:
    return np.asarray(2 * shared / (shared.sum(axis=1, keepdims=True) + shared.sum(axis=0)))


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
    rows, columns = linear_sum_assignment(_dice(shared), maximize=True)
    partner = dict(zip(found_names[rows].tolist(), truth_names[columns].tolist(), strict=True))
    matched = np.full(len(found), -1, dtype=np.int32)
    spare = int(np.max(truth)) + 1
    for name in np.unique(found[found >= 0]).tolist():
        if name not in partner:
            partner[name], spare = spare, spare + 1
        matched[found == name] = partner[name]
    return matched


def dice_per_network(found: Labels, truth: Labels) -> NDArray[np.float64]:
    """Dice coefficient of each true network with its match; 0 for a network without one.

    Returns
    -------
    ndarray of shape (n_true_networks,)
        In the order of the true names.
    """
    _, truth_names, shared = _overlap(found, truth)
    dice = _dice(shared)
    rows, columns = linear_sum_assignment(dice, maximize=True)
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
    return float(adjusted_rand_score(*_comparable(found, truth)))


def normalized_mutual_information(found: Labels, truth: Labels) -> float:
    """Shared information of two parcellations over the mean of their own, 0 to 1."""
    return float(normalized_mutual_info_score(*_comparable(found, truth)))
