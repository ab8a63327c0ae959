"""Whether features still tell vertices apart, measured without a vertices-by-vertices array."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError


@dataclass(frozen=True)
class CollapseMeasures:
    """How much a set of features still tells vertices apart.

    Attributes
    ----------
    mean_correlation : float
        Mean Pearson correlation between pairs of vertices; 1 where all point one way.
    effective_rank : float
        exp of the entropy of the correlation matrix's normalised eigenvalues, from 1 (one
        direction) to the number of features.
    """

    mean_correlation: float
    effective_rank: float


def collapse_measures(features: NDArray[np.floating]) -> CollapseMeasures:
    """Measure whether features have collapsed to a few directions.

    Both measures are those of the vertices-by-vertices correlation matrix, computed without it:
    its mean from the sum of the standardised rows, its eigenvalues from the smaller Gram matrix.
    The effective rank is Roy and Vetterli's (EUSIPCO 2007).

    Parameters
    ----------
    features : ndarray of shape (n_vertices, n_features)
        Constant rows have no correlation and are left out.

    Returns
    -------
    CollapseMeasures

    Raises
    ------
    InputError
        If fewer than two rows vary.
    """
    centred = np.asarray(features, dtype=np.float64)
    centred = centred - centred.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    varies = norms > 1e-12 * max(float(norms.max(initial=0.0)), 1e-300)
    unit = centred[varies] / norms[varies, None]
    n = len(unit)
    if n < 2:
        raise InputError(
            "Features",
            expected="at least two vertices whose features vary",
            found=str(n),
            remedy="Check the mask of vertices with signal and the model.",
        )
    mean = (np.sum(unit.sum(axis=0) ** 2) - n) / (n * (n - 1))
    gram = unit @ unit.T if n <= unit.shape[1] else unit.T @ unit
    shares = np.clip(np.linalg.eigvalsh(gram), 0, None) / n
    shares = shares[shares > 0]
    return CollapseMeasures(float(mean), float(np.exp(-np.sum(shares * np.log(shares)))))
