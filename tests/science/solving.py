"""One factorisation at a time: what tests ask for and the product does not."""

import numpy as np

from trend_dagster.science.parcellation.factorization import factorize_many, nndsvda
from trend_dagster.science.parcellation.settings import Problem


def factorize(
    matrix,
    n_components,
    alpha_W,
    l1_ratio,
    config=None,
    *,
    W0=None,
    H0=None,
    eigenpairs=None,
    **how,
):
    """Factorise a matrix in one way, from given factors or from given eigenpairs."""
    if eigenpairs is not None:
        Wt, H = nndsvda(matrix, eigenpairs, n_components)
        W0 = np.zeros((matrix.n_vertices, n_components), matrix.dtype)
        H0 = np.zeros((n_components, matrix.n_vertices), matrix.dtype)
        W0[matrix.permutation], H0[:, matrix.permutation] = Wt.T, H
    starts = None if W0 is None else [(W0, H0)]
    problems = [Problem(n_components, alpha_W, l1_ratio)]
    return next(iter(factorize_many(matrix, problems, config, starts=starts, **how)))[1]
