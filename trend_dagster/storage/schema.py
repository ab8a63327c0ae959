"""What each stored array is: its dimensions, its type, its unit.

A store is refused when it is written, not when it is read: an array whose name, type or number of
dimensions is not the one written here never becomes visible.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

CHUNK_BYTES = 16 << 20  # one chunk of a large array; small arrays are one chunk


@dataclass(frozen=True)
class ArraySpec:
    """Dimensions, type and meaning of one stored array.

    Parameters
    ----------
    dims : tuple of str
        Name of each dimension, as zarr's ``dimension_names``.
    dtype : str
        Numpy name of the type.
    description : str
        What the numbers are.
    unit : str
        Unit of the numbers; ``"1"`` for pure numbers.
    optional : bool
        Whether an output may lack it.
    """

    dims: tuple[str, ...]
    dtype: str
    description: str
    unit: str = "1"
    optional: bool = False


_MASK = ArraySpec(("vertex",), "bool", "true where the vertex has signal")
_CELL = ("combination", "n_clusters")


def _place(description: str, *, optional: bool = False) -> ArraySpec:
    return ArraySpec(("vertex", "axis"), "float32", description, "mm", optional)


def _per_vertex(
    dtype: str, description: str, unit: str = "1", *, optional: bool = False
) -> ArraySpec:
    return ArraySpec(("vertex",), dtype, description, unit, optional)


def _metric(description: str, unit: str = "1") -> ArraySpec:
    return ArraySpec(_CELL, "float64", description, unit)


_SWEEP_CELL: dict[str, ArraySpec] = {
    "alpha_W": ArraySpec(("combination",), "float64", "strength of the penalty"),
    "l1_ratio": ArraySpec(("combination",), "float64", "share of the L1 part in the penalty"),
    "n_clusters": ArraySpec(("n_clusters",), "int64", "number of clusters asked for"),
    "W": ArraySpec(("combination", "vertex", "component"), "float32", "loadings of the vertices"),
    "H": ArraySpec(("combination", "component", "vertex"), "float32", "profiles of the components"),
    "n_iter": ArraySpec(("combination",), "int64", "sweeps until the solver stopped"),
    "objective": ArraySpec(("combination",), "float64", "penalised squared error at the end"),
    "zero_row_share": ArraySpec(
        ("combination",), "float64", "share of vertices with signal whose loadings are all zero"
    ),
    "dead_components": ArraySpec(("combination",), "int64", "components that no vertex loads on"),
    "distinct_rows": ArraySpec(("combination",), "int64", "distinct rows among the loadings"),
    "labels": ArraySpec(
        (*_CELL, "vertex"), "int32", "cluster of each vertex; -1 no signal or label"
    ),
    "cluster_sizes": ArraySpec((*_CELL, "cluster"), "int64", "vertices per cluster", "vertices"),
    "silhouette": _metric("mean silhouette of the rows of W"),
    "davies_bouldin": _metric("Davies-Bouldin index of the rows of W"),
    "inertia": _metric("within-cluster sum of squares of the rows of W"),
    "within_connectivity": _metric("mean within clusters, thresholded matrix", "correlation"),
    "between_connectivity": _metric("mean between clusters, thresholded matrix", "correlation"),
    "connectivity_ratio": _metric("within over between"),
    "full_within_connectivity": _metric("mean within clusters, full matrix", "correlation"),
    "full_between_connectivity": _metric("mean between clusters, full matrix", "correlation"),
}

_GRID = ("alpha_W", "l1_ratio", "n_clusters")  # the axes of a cell, the same for every control

_MEASURES = {
    "stability": "adjusted Rand index between the parcellations of two halves of the cohort",
    "half_silhouette": "mean silhouette of the rows of W, mean of both halves",
    "homogeneity": "mean correlation within the clusters of one half, in the other; mean of both",
}
_BESIDE = {
    "null": "mean over surrogate cohorts",
    "null_sd": "standard deviation over surrogate cohorts",
    "excess": "value less the mean over surrogate cohorts",
    "z": "excess in standard deviations of surrogate cohorts, of 0.01 at least; missing for fewer "
    "than 3 of them",
    "margin": "excess that one more surrogate cohort would reach with a probability of 5 %",
}

_STABILITY: dict[str, ArraySpec] = {name: _SWEEP_CELL[name] for name in _GRID}
for _name, _what in _MEASURES.items():
    _STABILITY |= {
        _name: _metric(_what),
        f"{_name}_nulls": ArraySpec(("null", *_CELL), "float64", f"{_what}; of each surrogate"),
        **{f"{_name}_{beside}": _metric(f"{_what}; {how}") for beside, how in _BESIDE.items()},
    }

ANY_ARRAYS = "*"
"""Key of a schema whose arrays are named by something else (the columns of a table)."""

_TABLE = {ANY_ARRAYS: ArraySpec(("cell",), "float64", "one column of the table")}


_N_CLUSTERS = ArraySpec(("parcellation",), "int64", "number of clusters asked for")


def _labels(description: str) -> ArraySpec:
    return ArraySpec(("parcellation", "vertex"), "int32", description)


_KEYS = _labels("number of each vertex in the files; 0 no signal")
_PAGE = {"sha256": ArraySpec(("byte",), "uint8", "SHA-256 of the page")}


def _networks(description: str, unit: str) -> ArraySpec:
    return ArraySpec(("parcellation", "kept_vertex", "network"), "float32", description, unit)


def _of_newborn(description: str) -> ArraySpec:
    return ArraySpec(("parcellation",), "float64", description)


_DEPARTURE = {
    "share": "share of the cortex with another network than the cohort's",
    "null": "the same without any difference, mean",
    "null_sd": "its standard deviation",
    "excess": "share less that of the null",
    "z": "excess in standard deviations of the null, of 0.01 at least",
    "different": "1 where the excess is beyond chance",
    "excess_vertices": "vertices beyond the null; 0 where not beyond chance",
}

_SERIES = ArraySpec(
    ("map", "parcellation", "timepoint", "network"),
    "float64",
    "mean of each network, cohort's map and own map; runs one after another",
)

_OVERLAP = ArraySpec(("parcellation", "atlas", "network"), "float64", "")

SCHEMA: dict[str, dict[str, ArraySpec]] = {
    "bold": {
        "bold": ArraySpec(("vertex", "timepoint"), "float32", "BOLD signal", "as in the file"),
        "vertex_mask": _MASK,
        # Of CIFTI files and of volumes only: storage.space.
        "input_in_data": ArraySpec(
            ("input_vertex",), "bool", "in_data of the files, if resampled", optional=True
        ),
        "in_data": _per_vertex("bool", "true where the file holds the vertex", optional=True),
        "voxels": _per_vertex("int64", "place of each row in the volume, C order", optional=True),
    },
    "cortex": {
        "coordinates": _place("where distances are measured"),
        "triangles": ArraySpec(("triangle", "corner"), "int32", "vertices of each triangle"),
        "hemisphere": _per_vertex("int8", "0 for left, 1 for right"),
        "medial_wall": _per_vertex("bool", "true where there is no cortex"),
        "vertex_area": _per_vertex("float64", "a third of the triangles around the vertex", "mm^2"),
        "inflated": _place("where it is drawn", optional=True),
        "sphere": _place("place on a sphere about the origin", optional=True),
        "sulcal_depth": _per_vertex(
            "float32", "positive in sulci", "as in the file", optional=True
        ),
    },
    "trained_model": {
        # The weights are files beside these arrays (storage/weights.py).
        "history_epoch": ArraySpec(("epoch",), "int64", "number of the epoch, from 1"),
        "history_train_loss": ArraySpec(("epoch",), "float64", "mean loss of the training runs"),
        "history_validation_loss": ArraySpec(("epoch",), "float64", "mean loss of the others"),
        "history_learning_rate": ArraySpec(("epoch",), "float64", "step size of Adam"),
        "history_skipped_steps": ArraySpec(("epoch",), "int64", "steps with NaN or infinity"),
    },
    "embeddings": {
        "features": ArraySpec(("vertex", "feature"), "float32", "features of each vertex"),
        "vertex_mask": _MASK,
    },
    "average_correlation": {
        "correlation": ArraySpec(
            ("vertex", "vertex"), "float32", "mean over runs; 0 without signal", "correlation"
        ),
        "vertex_mask": _MASK,
        "run_masks": ArraySpec(("bold_run", "vertex"), "bool", "vertices with signal per run"),
    },
    "geodesic_distances": {
        ANY_ARRAYS: ArraySpec(
            ("from_vertex", "to_vertex"),
            "float32",
            "distances along the cortex between vertices of one hemisphere; infinite out of reach",
            "mm",
        ),
    },
    "geodesic_labels": {
        "labels": _per_vertex("int64", "geodesic label of each vertex; -1 none"),
    },
    "thresholded_matrix": {
        "data": ArraySpec(("entry",), "float32", "blocks, row by row, one after another"),
        "block_sizes": ArraySpec(("block",), "int64", "vertices per block", "vertices"),
        "permutation": ArraySpec(("kept_vertex",), "int64", "vertex at each place of the blocks"),
    },
    "nmf_sweep": _SWEEP_CELL,
    "split_correlation": {"vertex_mask": replace(_MASK, dims=("half", "vertex"))},
    "null_correlation": {
        name: ArraySpec(("bold_run",), "float64", text, unit)
        for name, text, unit in (
            ("common", "mean correlation of all pairs of vertices", "correlation"),
            ("neighbours", "correlation of neighbours, once the common part is out", "correlation"),
            ("sigma", "standard deviation of the kernel that makes noise as smooth", "mm"),
        )
    },
    "stability": _STABILITY,
    "sweep_summary": _TABLE,
    "selected_parcellations": {
        "n_clusters": _N_CLUSTERS,
        "labels": _labels("cluster of each vertex; -1 no signal or label"),
    },
    "atlas_overlap": {
        "n_clusters": _N_CLUSTERS,
        "best": replace(_OVERLAP, dtype="int64", description="its number in the atlas; -1 none"),
        "dice": replace(_OVERLAP, description="Dice coefficient with it, in its hemispheres"),
        "p": replace(_OVERLAP, description="of as much overlap after a turn of the sphere"),
    },
    "subcortical_networks": {
        "n_clusters": _N_CLUSTERS,
        "labels": replace(
            _labels("network of each voxel; -1 where none is followed"),
            dims=("parcellation", "voxel"),
        ),
        "correlation": ArraySpec(
            ("parcellation", "voxel", "network"),
            "float32",
            "with the mean series of each network, mean over runs",
            "correlation",
        ),
        "voxels": ArraySpec(("voxel", "axis"), "int64", "place of each voxel in the volume"),
        "structure": ArraySpec(("voxel",), "int64", "structure of each voxel: fact structures"),
    },
    "parcellation_images": {"n_clusters": _N_CLUSTERS, "keys": _KEYS},
    "individual_prior": {
        "n_clusters": _N_CLUSTERS,
        "started_from": ArraySpec(
            ("parcellation",), "int64", "map that newborns chose; 0 the chosen one"
        ),
        "n_exchanged": ArraySpec(
            ("parcellation",), "int64", "networks of it exchanged for those of other maps"
        ),
        "labels": _labels("network most newborns have; -1 no signal"),
        "map_prior": _networks("the cohort's map, its borders smoothed", "probability"),
        "total": _networks("sum of the newborns' posteriors", "newborns"),
        "posteriors": ArraySpec(
            ("subject", "parcellation", "kept_vertex", "network"),
            "float32",
            "posterior of each newborn",
            "probability",
        ),
        "vertex_mask": _MASK,
    },
    "individual_networks": {
        "n_clusters": _N_CLUSTERS,
        "labels": _labels("the newborn's network; -1 no signal"),
        "cohort_labels": _labels("the cohort's network; -1 no signal"),
        "probability": ArraySpec(
            ("parcellation", "vertex", "network"), "float32", "of each network; 0 without signal"
        ),
        "confidence": replace(_labels("probability of the newborn's network"), dtype="float32"),
        "vertex_mask": _MASK,
        "agreement": _of_newborn("share of vertices alike in two halves of the runs"),
        **{f"departure_{name}": _of_newborn(text) for name, text in _DEPARTURE.items()},
        **{
            f"network_{name}": ArraySpec(("parcellation", "network"), "float64", text, unit)
            for name, text, unit in (
                ("area_mm2", "area of the network", "mm^2"),
                ("homogeneity", "mean correlation within", "correlation"),
                ("silhouette", "mean silhouette, distance 1 - correlation", "1"),
                ("confidence", "mean confidence", "probability"),
            )
        },
    },
    "network_names": {
        "n_clusters": _N_CLUSTERS,
        "table": ArraySpec(("byte",), "uint8", "name and colour of each network, as JSON"),
    },
    "individual_maps": {"n_clusters": _N_CLUSTERS, "keys": _KEYS},
    "network_series": {
        "n_clusters": _N_CLUSTERS,
        "mean": _SERIES,
        "eigenvariate": replace(_SERIES, description="first eigenvariate of each network"),
        "n_timepoints": ArraySpec(("bold_run",), "int64", "length of each run", "volumes"),
    },
    "network_connectivity": {
        "n_clusters": _N_CLUSTERS,
        **{
            f"{prefix}{name}": ArraySpec(
                ("map", "parcellation", *run, "network", "other_network"), "float64", text
            )
            for prefix, run in (("", ()), ("run_", ("bold_run",)))
            for name, text in (
                ("correlation", "full correlation"),
                ("partial", "partial correlation"),
                ("z", "Fisher's z of the full correlation"),
                ("partial_z", "Fisher's z of the partial correlation"),
            )
        },
    },
    "individuals": {
        ANY_ARRAYS: ArraySpec(("row",), "float64", "one column of the table"),
    },
    "individual_page": _PAGE,
    "report": _PAGE,
    "control_correlation": {
        "features": ArraySpec(
            ("bold_run", "vertex", "feature"),
            "float32",
            "features of the untrained model",
            optional=True,
        ),
        "vertex_mask": _MASK,
    },
    "control_sweep": {
        name: spec if name in _GRID else replace(spec, dims=("control", *spec.dims))
        for name, spec in _SWEEP_CELL.items()
        if name not in {"W", "H"}
    },
    "control_comparison": _TABLE,
}
