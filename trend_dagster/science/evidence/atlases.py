"""Agreement of a parcellation with an atlas, beside that of the same parcellation elsewhere.

The null of both functions is the parcellation turned on the sphere, from
:func:`trend_dagster.science.evidence.nulls.turns`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.science.evidence.measures import (
    Labels,
    adjusted_rand_index,
    dice_per_network,
    mean_dice,
)
from trend_dagster.science.evidence.nulls import turned, turns
from trend_dagster.science.evidence.stability import beside_null
from trend_dagster.science.surface import Surface

if TYPE_CHECKING:
    import pandas as pd

ONE_SIDED = 0.9  # share of its vertices that a network of one hemisphere has there


def agree(
    surface: Surface,
    found: Labels,
    atlas: Labels,
    name: str,
    n_spins: int = 200,
    random_state: int = 108,
) -> pd.DataFrame:
    """Compare a parcellation with an atlas, and with the atlas turned on the sphere.

    Parameters
    ----------
    surface : Surface
        The mesh of both, with its sphere.
    found : ndarray of shape (n_vertices,)
        Networks; -1 without signal.
    atlas : ndarray of shape (n_vertices,)
        Networks of the atlas; -1 for none.
    name : str
        Of the atlas, for errors.
    n_spins : int
        Turns that make the null.
    random_state : int
        Seed of the turns.

    Returns
    -------
    DataFrame
        Rows: "all" with ``dice`` (mean over networks of the atlas) and ``ari``, then one with the
        Dice of each network; each with the mean of the null, excess, z and p.

    Raises
    ------
    InputError
        If the atlas belongs to another mesh.
    """
    import pandas as pd

    check_atlas(atlas, len(found), name)
    sources = turns(surface, n_spins, random_state)
    spun = [_measures(turned(found, source), atlas) for source in sources]
    rows = []
    for (network, measure), value in _measures(found, atlas).items():
        beside = beside_null(value, np.array([one[network, measure] for one in spun]))
        columns = {name: float(beside[name]) for name in ("null", "excess", "z", "p")}
        rows.append({"network": network, "measure": measure, "value": value, **columns})
    return pd.DataFrame(rows)


def check_atlas(atlas: Labels, n_vertices: int, name: str) -> None:
    """Make sure that an atlas lies on the mesh of the data.

    Raises
    ------
    InputError
        If it has another number of vertices.
    """
    if len(atlas) != n_vertices:
        raise InputError(
            f"atlas {name}",
            expected=f"{n_vertices} labels, one per vertex of the parcellation",
            found=str(len(atlas)),
            remedy="Bring it to the mesh of the data (wb_command -label-resample, mri_surf2surf).",
        )


def _measures(found: Labels, atlas: Labels) -> dict[tuple[str, str], float]:
    """Measure all networks, and each of the atlas; 0 for one that lies where nothing was found."""
    names = np.unique(atlas[atlas >= 0])
    each = np.zeros(len(names))
    each[np.isin(names, atlas[found >= 0])] = dice_per_network(found, atlas)
    return {
        ("all", "dice"): mean_dice(found, atlas),
        ("all", "ari"): adjusted_rand_index(found, atlas),
        **{(str(name), "dice"): float(dice) for name, dice in zip(names, each, strict=True)},
    }


@dataclass(frozen=True)
class Overlaps:
    """The network of an atlas that each network overlaps best.

    Attributes
    ----------
    best : ndarray of shape (n_networks,)
        Number in the atlas; -1 where it overlaps none.
    dice : ndarray of shape (n_networks,)
        Dice coefficient with it, in the hemispheres that the network lies in.
    p : ndarray of shape (n_networks,)
        Share of turned parcellations in which the network overlaps any network of the atlas as
        well, itself counted among them; NaN without turns.
    """

    best: NDArray[np.int64]
    dice: NDArray[np.float64]
    p: NDArray[np.float64]


def best_overlaps(
    found: Labels,
    atlas: Labels,
    hemisphere: NDArray[np.integer],
    sources: Iterable[NDArray[np.intp]] = (),
) -> Overlaps:
    """Find which network of an atlas each network is most like.

    An atlas' networks mostly lie in both hemispheres and ours in one: a network is compared with
    that part of them which lies in its own hemispheres. Vertices without signal do not count.

    Parameters
    ----------
    found : ndarray of shape (n_vertices,)
        Networks from 0; -1 without signal.
    atlas : ndarray of shape (n_vertices,)
        Networks of the atlas from 0; -1 for none.
    hemisphere : ndarray of shape (n_vertices,)
        0 for left, 1 for right.
    sources : iterable of ndarray of shape (n_vertices,)
        Turns of the sphere, from :func:`trend_dagster.science.evidence.nulls.turns`. In each the
        network may overlap any network of the atlas best, as it may when it is compared.

    Returns
    -------
    Overlaps
        One entry per network, from 0 to the largest.
    """
    dice = _dice(found, atlas, hemisphere)
    highest = dice.max(axis=1)
    as_high, n = np.ones(len(dice)), 1
    for source in sources:
        spun = _dice(turned(found, source), atlas, hemisphere, len(dice))
        as_high += spun.max(axis=1) >= highest
        n += 1
    p = as_high / n if n > 1 else np.full(len(dice), np.nan)
    best = np.where(highest > 0, dice.argmax(axis=1), -1)
    return Overlaps(best, highest, p)


def all_overlaps(
    parcellations: Iterable[Labels],
    atlases: Sequence[Labels],
    hemisphere: NDArray[np.integer],
    sources: Sequence[NDArray[np.intp]] = (),
) -> dict[str, NDArray[Any]]:
    """Find the best overlaps of several parcellations with several atlases.

    Returns
    -------
    dict
        As :class:`Overlaps`, each of shape (n_parcellations, n_atlases, n_networks); those of fewer
        networks have -1 and NaN at the end.
    """
    found = [[best_overlaps(p, a, hemisphere, sources) for a in atlases] for p in parcellations]
    n = max(len(each.best) for row in found for each in row)

    def padded(name: str, fill: float) -> NDArray[Any]:
        rows = [[getattr(each, name) for each in row] for row in found]
        wide = [[np.pad(v, (0, n - len(v)), constant_values=fill) for v in row] for row in rows]
        return np.array(wide)

    return {"best": padded("best", -1), "dice": padded("dice", np.nan), "p": padded("p", np.nan)}


def _dice(
    found: Labels, atlas: Labels, hemisphere: NDArray[np.integer], n_networks: int = 0
) -> NDArray[np.float64]:
    """Dice coefficient of each network with each of the atlas, (n_networks, n_in_atlas)."""
    n = max(n_networks, int(found.max(initial=0)) + 1)
    n_atlas = int(atlas.max(initial=0)) + 1
    known = found >= 0
    # The last column holds vertices that the atlas says nothing of.
    in_atlas = np.where(atlas >= 0, atlas, n_atlas)
    place = (hemisphere[known], found[known], in_atlas[known])
    shape = (2, n, n_atlas + 1)
    flat = np.bincount(np.ravel_multi_index(place, shape), minlength=2 * n * (n_atlas + 1))
    counts = flat.reshape(shape).astype(float)
    sizes = counts.sum(axis=2)
    left = sizes[0] / np.maximum(sizes.sum(axis=0), 1)
    used = np.array([left >= 1 - ONE_SIDED, left <= ONE_SIDED], dtype=float)
    shared = np.einsum("sn,sna->na", used, counts[:, :, :n_atlas])
    theirs = np.einsum("sn,sa->na", used, counts[:, :, :n_atlas].sum(axis=1))
    ours = np.einsum("sn,sn->n", used, sizes)
    return np.asarray(2 * shared / np.maximum(ours[:, None] + theirs, 1))
