"""When a difference is a difference: each newborn beside itself without any.

Two maps of one newborn differ by noise alone, the more the shorter the runs. So each newborn's
departure from the cohort's map stands beside the departures of runs that have its noise, as smooth
and as long, its networks' time series, and the cohort's map in the place of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, stats

from trend_dagster.science.individuals.model import (
    Cortex,
    FloatArray,
    Individual,
    IndividualsConfig,
    Labels,
    PreparedRun,
    find_individual,
    prepare_run,
)

CHANCE = 0.05


def without_difference(
    run: PreparedRun,
    individual: Individual,
    labels: NDArray[np.integer],
    cortex: Cortex,
    rng: np.random.Generator,
) -> FloatArray:
    """Make a run of a newborn in which it has the cohort's map.

    Parameters
    ----------
    run : PreparedRun
        One of its runs.
    individual : Individual
        What was found in its runs.
    labels : ndarray of shape (n_kept,)
        The cohort's map; -1 without network.
    cortex : Cortex
        From `Cortex.along`.
    rng : Generator
        Source of chance.

    Returns
    -------
    ndarray of shape (n_kept, n_timepoints)
        At each vertex the time series of its network in the cohort's map, as strong as the vertex
        followed its own, and noise: what no network's series explains in the run, with the phases
        of its frequencies turned by chance, the same for all vertices, which keeps its variance,
        its spectrum and its smoothness (Prichard and Theiler 1994,
        doi:10.1103/PhysRevLett.73.951).
    """
    q = individual.probability
    sums = q.T @ run.series
    energy = np.square(sums).sum(axis=1)
    strength, true = _strength(run, q, sums, cortex)
    networks = sums / np.sqrt(np.maximum(energy, 1e-9))[:, None]
    # Taking out all of a network's series would take its vertices' mean noise with it, and leave
    # noise that cancels within the network. What is left here has the energy of that mean noise.
    kept = np.sqrt(np.maximum(energy - true, 0) / np.maximum(energy, 1e-9))
    out = (1 - kept) * np.sqrt(energy / true)
    noise = run.series - (strength[:, None] * q * out) @ networks
    signal = np.where(labels[:, None] >= 0, strength[:, None] * networks[labels], 0)
    length = np.linalg.norm(noise, axis=1, keepdims=True)
    scale = np.sqrt(1 - strength[:, None] ** 2) / np.maximum(length, 1e-9)
    return np.asarray(signal + scale * _turned(noise, rng), dtype=np.float32)


def _strength(
    run: PreparedRun, q: FloatArray, sums: FloatArray, cortex: Cortex
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation of each vertex with its network's true series, and the energy of those.

    The series found is the true one and the mean noise of its vertices: what vertices share with
    those far from them tells how much is true.
    """
    far = run.series @ sums.T - _near_sums(run, q, cortex)
    share = 1 - (q * (cortex.near @ q)).sum(axis=0) / np.square(q.sum(axis=0))
    far = far / np.maximum(share, 1e-3)
    energy = np.square(sums).sum(axis=1)
    true = np.clip((q * far).sum(axis=0), 1e-3 * energy, energy)
    follows = (q * far / np.sqrt(true)).sum(axis=1)
    both = np.column_stack([follows, np.square(q).sum(axis=1)])
    smooth = cortex.smooth(both, 2.0, 1.0)
    return np.clip(smooth[:, 0] / smooth[:, 1], 0, 0.95), true


def _near_sums(run: PreparedRun, q: FloatArray, cortex: Cortex) -> FloatArray:
    """Sum over vertices near v of probability times product with v, exactly."""
    near = cortex.near
    rows = np.repeat(np.arange(near.shape[0]), np.diff(near.indptr))
    found = np.zeros(q.shape)
    for start in range(0, near.nnz, 1 << 18):
        pairs = slice(start, start + (1 << 18))
        i, j = rows[pairs], near.indices[pairs]
        product = np.einsum("ij,ij->i", run.series[i], run.series[j])
        np.add.at(found, i, product[:, None] * q[j])
    return found


def _turned(noise: FloatArray, rng: np.random.Generator) -> FloatArray:
    n = noise.shape[1]
    spectrum = fft.rfft(noise, axis=1)
    turn = np.exp(2j * np.pi * rng.random(spectrum.shape[1]))
    turn[0] = 1
    if n % 2 == 0:
        turn[-1] = rng.choice([-1, 1])
    return np.asarray(fft.irfft(spectrum * turn, n=n, axis=1))
