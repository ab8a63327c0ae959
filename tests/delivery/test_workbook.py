"""The workbook as somebody who opens it finds it, read back with openpyxl."""

from __future__ import annotations

import io

import numpy as np
import openpyxl
import pandas as pd
import pytest

from trend_dagster.delivery.workbook import (
    MORE_COLUMNS,
    label_vector_name,
    workbook_bytes,
)
from trend_dagster.storage.arrays import npy_bytes

TUTORIAL = [
    "label_file",
    "Clustering_Algorithm",
    "Helper_Algo",
    "Alpha_W",
    "L1_ratio",
    "n_clusters",
    "n_components",
    "Average_SI",
    "Average_DBI",
    "ElbowMethod",
    "Within_Cluster_Connectivity",
    "Between_Cluster_Connectivity",
    "Connectivity_Ratio",
]
METRICS = {
    "silhouette": 0.25,
    "davies_bouldin": 1.5,
    "inertia": 12.0,
    "within_connectivity": 0.75,
    "between_connectivity": 0.125,
    "connectivity_ratio": 6.0,
}


def row(label_file: str = "two", n_components: int = 10, n_clusters: int = 3, **changes) -> dict:
    """One cell of the sweep that was computed."""
    sizes = tuple(range(5, 5 + n_clusters))
    where = {"label_file": label_file, "n_components": n_components, "n_clusters": n_clusters}
    penalty = {"alpha_W": 1e-3, "l1_ratio": 0.4}
    more = {"status": "done", "n_labels": 2, "n_iter": 85, "cluster_sizes": sizes}
    return where | penalty | METRICS | more | changes


def failed_row(label_file: str = "two", n_components: int = 10, n_clusters: int = 3) -> dict:
    """One cell that failed: it has a place in the grid and a reason, and no figures."""
    known = ("label_file", "n_components", "n_clusters", "alpha_W", "l1_ratio", "n_labels")
    whole = row(label_file, n_components, n_clusters)
    return {name: whole[name] for name in known} | {"status": "not a matrix"}


def opened(rows: list[dict], names: dict[str, str] | None = None) -> openpyxl.Workbook:
    """Write the workbook and open it."""
    return openpyxl.load_workbook(io.BytesIO(workbook_bytes(pd.DataFrame(rows), names or {})))


def records(sheet) -> list[dict]:
    """Rows of a sheet by the names in its first row."""
    header, *rows = sheet.values
    return [dict(zip(header, values, strict=True)) for values in rows]


def test_the_first_sheet_has_exactly_the_tutorials_columns_in_its_order():
    book = opened([row(n_clusters=3), row(n_clusters=5)])
    header = next(book.worksheets[0].values)
    assert list(header) == TUTORIAL + [f"Voxels_in_Cluster_{i}" for i in range(1, 6)]


def test_the_figures_of_a_cell_stand_under_the_tutorials_names():
    (found,) = records(opened([row()], {"two": "two labels.npy"}).worksheets[0])
    assert found == {
        "label_file": "two labels.npy",
        "Clustering_Algorithm": "NMF",
        "Helper_Algo": "KMeans",
        "Alpha_W": 1e-3,
        "L1_ratio": 0.4,
        "n_clusters": 3,
        "n_components": 10,
        "Average_SI": 0.25,
        "Average_DBI": 1.5,
        "ElbowMethod": 12,
        "Within_Cluster_Connectivity": 0.75,
        "Between_Cluster_Connectivity": 0.125,
        "Connectivity_Ratio": 6,
        "Voxels_in_Cluster_1": 5,
        "Voxels_in_Cluster_2": 6,
        "Voxels_in_Cluster_3": 7,
    }


@pytest.mark.parametrize(("method", "name"), [("kmeans", "KMeans"), ("spectral", "Spectral")])
def test_it_says_what_networks_come_from(method, name):
    book = openpyxl.load_workbook(
        io.BytesIO(workbook_bytes(pd.DataFrame([row()]), {}, method=method))
    )
    assert records(book.worksheets[0])[0]["Helper_Algo"] == name


def test_a_cell_with_fewer_clusters_leaves_the_other_sizes_empty():
    few, many = records(opened([row(n_clusters=2), row(n_clusters=4)]).worksheets[0])
    sizes = [f"Voxels_in_Cluster_{i}" for i in range(1, 5)]
    assert [few[name] for name in sizes] == [5, 6, None, None]
    assert [many[name] for name in sizes] == [5, 6, 7, 8]


def test_rows_keep_the_order_given_in_both_sheets(rng):
    rows = [row(file, k, c) for file in ("b", "a") for k in (12, 10) for c in (4, 2)]
    order = rng.permutation(len(rows))
    book = opened([rows[i] for i in order])
    for sheet in book.worksheets[:2]:
        found = [(r["label_file"], r["n_components"], r["n_clusters"]) for r in records(sheet)]
        expected = [
            (r["label_file"], r["n_components"], r["n_clusters"]) for r in (rows[i] for i in order)
        ]
        assert found == expected


def test_a_failed_cell_has_its_row_with_empty_figures_and_its_reason():
    rows = [row(n_components=10), failed_row(n_components=12), row(n_components=14)]
    book = opened(rows)
    first = records(book.worksheets[0])
    assert [r["n_components"] for r in first] == [10, 12, 14]
    place = set(TUTORIAL[:7])
    assert all((value is not None) == (name in place) for name, value in first[1].items())
    assert all(value is not None for value in first[0].values())
    details = records(book["Details"])
    assert [r["status"] for r in details] == ["done", "not a matrix", "done"]


def test_the_second_sheet_tells_what_else_is_known():
    book = opened([row()])
    assert book.sheetnames == ["Sheet1", "Details", "Columns"]
    told = {(r["sheet"], r["column"]): r["meaning"] for r in records(book["Columns"])}
    shown = {(s, name) for s in ("Sheet1", "Details") for name in next(book[s].values)}
    assert {(s, n) for s, n in shown if "Voxels" not in n or n[-2:] == "_1"} == told.keys()
    assert all(told.values())
    (found,) = records(book["Details"])
    assert tuple(found) == MORE_COLUMNS
    assert found["n_iter"] == 85
    assert found["digest"] is None  # not in this table: an empty column, not a missing one


def test_pandas_reads_numbers_as_numbers():
    table = pd.read_excel(io.BytesIO(workbook_bytes(pd.DataFrame([row(), failed_row()]), {})))
    assert pd.api.types.is_integer_dtype(table["n_components"])
    assert pd.api.types.is_float_dtype(table["Average_SI"])
    assert table["Average_SI"].isna().tolist() == [False, True]


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_ratio_is_written_as_pandas_writes_it(value):
    # No cluster touches another: between is 0 and the tutorial's ratio infinite.
    (found,) = records(opened([row(connectivity_ratio=value)]).worksheets[0])
    assert found["Connectivity_Ratio"] == str(value)


@pytest.mark.parametrize("name", ["=1+2", "=HYPERLINK('x')", "+1", "-1", "@SUM(A1)", "#N/A", "1"])
def test_a_name_that_looks_like_a_formula_stays_text(name):
    book = opened([row(label_file=name, status=name)], {name: f"{name}.npy"})
    cells = [book.worksheets[0]["A2"], book["Details"]["A2"], book["Details"]["G2"]]
    assert [cell.value for cell in cells] == [f"{name}.npy", name, name]
    assert {cell.data_type for cell in cells} == {"s"}


def test_control_characters_in_a_name_are_shown_and_do_not_break_the_file():
    name = "a\x00b\x1fc\nd\x7f"
    (found,) = records(opened([row()], {"two": name}).worksheets[0])
    assert found["label_file"] == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c\nd\x7f"


@pytest.mark.parametrize("name", ["été-Ω-脳.npy", "a\ud800b.npy"])
def test_names_in_any_script_and_names_that_are_no_text_can_be_written(name):
    (found,) = records(opened([row()], {"two": name}).worksheets[0])
    assert found["label_file"] == name.replace("\ud800", "\N{REPLACEMENT CHARACTER}")


def test_a_very_long_name_is_cut_to_what_a_cell_can_hold():
    (found,) = records(opened([row(status="x" * 40_000)])["Details"])
    assert found["status"] == "x" * 32_767


def test_a_measure_that_no_sheet_knows_is_shown_among_the_details():
    (found,) = records(opened([row(evenness=0.75)])["Details"])
    assert found["evenness"] == 0.75


def test_label_vectors_have_the_tutorials_names(rng):
    for _ in range(20):
        n_components, n_clusters = (int(n) for n in rng.integers(1, 99, 2))
        l1_ratio = round(float(rng.random()), 2)
        alpha_W = float(10.0 ** -rng.integers(0, 8))
        cluster_save = f"/{n_components}_comp_{n_clusters}_cl_{l1_ratio}_{alpha_W}.npy"
        found = label_vector_name(n_components, n_clusters, l1_ratio, alpha_W)
        assert f"/{found}" == cluster_save
    assert label_vector_name(20, 14, 0.4, 1e-3) == "20_comp_14_cl_0.4_0.001.npy"


def test_npy_bytes_are_what_numpy_loads(rng):
    labels = rng.integers(-1, 14, 50).astype(np.int32)
    found = np.load(io.BytesIO(npy_bytes(labels)), allow_pickle=False)
    assert found.dtype == np.int32
    assert np.array_equal(found, labels)
