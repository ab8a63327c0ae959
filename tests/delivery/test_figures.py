"""Pictures show what they should, stay small, and leave nothing open."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from trend_dagster.delivery.figures.matrices import (
    correlation_figure,
    sizes_figure,
    sweep_figure,
    training_figure,
)
from trend_dagster.delivery.figures.png import small_png, to_png
from trend_dagster.delivery.figures.surface import (
    comparison_figure,
    distinct_colours,
    homologous_labels,
    label_colours,
    oklch_to_rgb,
    parcellation_figure,
)
from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort
from trend_dagster.science.surface import Surface, cut_into_labels


@pytest.fixture(scope="module")
def planted(surface: Surface) -> np.ndarray:
    return simulate_cohort(surface, SimulationConfig())[0]


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"), dtype=float) / 255


def hue_of(rgb: np.ndarray) -> np.ndarray:
    top, low = rgb.max(axis=-1), rgb.min(axis=-1)
    spread = np.maximum(top - low, 1e-9)
    r, g, b = np.moveaxis(rgb, -1, 0)
    hue = np.where(
        top == r, (g - b) / spread, np.where(top == g, 2 + (b - r) / spread, 4 + (r - g) / spread)
    )
    return np.where(top - low > 0.15, hue % 6, np.nan)


def test_every_network_is_seen_in_its_colour(surface: Surface, planted: np.ndarray) -> None:
    picture = pixels(to_png(parcellation_figure(surface, planted, "Planted", 1.0)))
    hues = hue_of(picture)
    for name, colour in label_colours(surface, planted).items():
        near = np.abs((hues - hue_of(colour) + 3) % 6 - 3) < 0.15
        assert near.mean() > 0.002, f"network {name} cannot be seen"


def test_vertices_without_signal_are_grey(surface: Surface) -> None:
    nothing = np.full(surface.n_vertices, -1)
    picture = pixels(to_png(parcellation_figure(surface, nothing, pixels_per_mm=1.0)))
    assert (picture.max(axis=2) - picture.min(axis=2)).max() < 0.1
    assert 0.3 < (picture.mean(axis=2) < 0.95).mean() < 0.9


def test_a_label_of_one_hemisphere_is_drawn_on_its_side(surface: Surface) -> None:
    labels = np.where(surface.hemisphere == 0, 3, -1)
    picture = pixels(to_png(parcellation_figure(surface, labels, pixels_per_mm=1.0)))
    coloured = (picture.max(axis=2) - picture.min(axis=2)) > 0.2
    middle = picture.shape[1] // 2
    assert coloured[:, :middle].mean() > 0.3
    assert not coloured[:, middle + 5 :].any()


@pytest.mark.parametrize("n", [1, 7, 19, 40])
def test_colours_are_distinct_and_fit_the_screen(n: int) -> None:
    table = distinct_colours(n)
    rgb = oklch_to_rgb(*table.T)
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    place = np.column_stack(
        [table[:, 0], table[:, 1] * np.cos(table[:, 2]), table[:, 1] * np.sin(table[:, 2])]
    )
    gaps = np.linalg.norm(place[:, None] - place, axis=2) + np.eye(n)
    assert gaps.min() > (0.08 if n <= 19 else 0.05)  # 0.02 is just visible
    np.testing.assert_array_equal(distinct_colours(n), table)


def test_oklch_of_known_colours() -> None:
    # Ottosson's own table: white, and pure red at L 0.628, C 0.2577, h 29.23 degrees.
    np.testing.assert_allclose(
        oklch_to_rgb(np.array(1.0), np.array(0.0), np.array(0.0)), 1, atol=1e-3
    )
    red = oklch_to_rgb(np.array(0.62796), np.array(0.25768), np.radians(29.234))
    np.testing.assert_allclose(red, [1, 0, 0], atol=2e-3)


def test_partners_across_hemispheres_share_a_hue(surface: Surface, planted: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    names = rng.permutation(100)[:14]
    shuffled = np.where(planted >= 0, names[planted], -1)
    expected = {int(names[k + 7]): int(names[k]) for k in range(7)}
    assert homologous_labels(surface, shuffled) == expected
    colours = label_colours(surface, shuffled)
    for right, left in expected.items():
        assert hue_of(colours[right]) == pytest.approx(hue_of(colours[left]), abs=0.25)
        assert colours[right].sum() < colours[left].sum()


def test_networks_of_both_hemispheres_have_no_partner(surface: Surface) -> None:
    labels = cut_into_labels(surface, 3) % 3
    assert homologous_labels(surface, labels) == {}
    assert len(label_colours(surface, labels)) == 3


def test_comparison_gives_matched_networks_one_colour(
    surface: Surface, planted: np.ndarray
) -> None:
    renamed = np.where(planted >= 0, (planted + 5) % 14, -1)
    figure = comparison_figure(surface, planted, renamed, ("Planted", "Found"), 1.0)
    left, right = figure.subfigs
    for one, other in zip(left.axes, right.axes, strict=True):
        np.testing.assert_array_equal(one.images[0].get_array(), other.images[0].get_array())


def test_comparison_draws_networks_without_a_match(surface: Surface, planted: np.ndarray) -> None:
    finer = np.where(planted >= 0, cut_into_labels(surface, 12), -1)
    assert isinstance(comparison_figure(surface, planted, finer, ("a", "b"), 1.0), Figure)


def test_a_surface_without_extras_can_be_drawn(surface: Surface) -> None:
    bare = Surface(surface.coordinates, surface.triangles, surface.hemisphere)
    assert (
        len(small_png(parcellation_figure(bare, cut_into_labels(bare, 4), pixels_per_mm=1.0)))
        > 1000
    )


def test_correlation_matrix_is_sorted_by_network() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(-1, 3, 90)
    matrix = np.where(labels[:, None] == labels, 0.8, -0.1)
    axes = correlation_figure(matrix, labels).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1", "2", "3"]
    image = axes.images[0].get_array()
    n = (labels >= 0).sum()
    assert image.shape == (n, n)
    inside = np.cumsum([0, *np.bincount(labels[labels >= 0])])
    for start, end in pairwise(inside):
        np.testing.assert_allclose(image[start:end, start:end], 0.8)
    assert (image > 0).sum() == (np.diff(inside) ** 2).sum()


def test_large_correlation_matrices_are_averaged() -> None:
    matrix = np.arange(400.0).reshape(20, 20)
    image = correlation_figure(matrix, max_pixels=10).axes[0].images[0].get_array()
    np.testing.assert_allclose(image, matrix.reshape(10, 2, 10, 2).mean(axis=(1, 3)))


def test_a_correlation_matrix_on_disk_is_drawn_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    matrix, labels = rng.normal(size=(1300, 1300)), rng.integers(-1, 4, 1300)
    stored = zarr.create_array(tmp_path / "c", data=matrix, chunks=(500, 500))
    first, second = (
        correlation_figure(m, labels, max_pixels=50).axes[0].images[0].get_array()
        for m in (matrix, stored)
    )
    np.testing.assert_allclose(first, second)
    order = np.flatnonzero(labels >= 0)
    order = order[labels[order].argsort(kind="stable")]
    corner = order[: len(np.array_split(order, 50)[0])]
    assert first[0, 0] == pytest.approx(matrix[np.ix_(corner, corner)].mean())


METRIC = "silhouette"


def sweep_table(n_components: tuple[int, ...] = (10, 12, 14)) -> pd.DataFrame:
    rows = [
        {"label_file": f, "n_components": k, "n_clusters": c, METRIC: k / 100 + c / 1000}
        for f in ("coarse.npy", "fine.npy")
        for k in n_components
        for c in (14, 38)
    ]
    return pd.DataFrame(rows)


def test_sweep_shows_each_cell_in_its_place() -> None:
    figure = sweep_figure(sweep_table(), METRIC)
    first, second = figure.axes[:2]
    np.testing.assert_allclose(first.images[0].get_array(), [[0.114, 0.134, 0.154]] * 2)
    np.testing.assert_allclose(second.images[0].get_array(), [[0.138, 0.158, 0.178]] * 2)
    assert [t.get_text() for t in first.get_yticklabels()] == ["coarse.npy", "fine.npy"]


def test_a_metric_and_its_null_share_one_scale() -> None:
    table = sweep_table()
    table["null"] = table[METRIC] - 0.5
    figure = sweep_figure(table, METRIC, beside={"rotated": "null"})
    panels = figure.axes[:4]
    assert [axes.get_title() for axes in panels] == [
        "14 clusters", "38 clusters", "14 clusters, rotated", "38 clusters, rotated"
    ]  # fmt: skip
    assert len({axes.images[0].get_clim() for axes in panels}) == 1
    np.testing.assert_allclose(
        panels[2].images[0].get_array(), panels[0].images[0].get_array() - 0.5
    )


@pytest.mark.parametrize("lost", [slice(0, 1), slice(None)])
def test_sweep_leaves_missing_cells_white(lost: slice) -> None:
    table = sweep_table()
    table.loc[table.index[lost], METRIC] = np.nan
    assert len(to_png(sweep_figure(table, METRIC))) > 1000


def test_sweep_of_one_cell_and_of_none_can_be_drawn() -> None:
    table = sweep_table((10,))
    one = sweep_figure(table[:1], METRIC)
    assert one.axes[0].texts[0].get_text() == "0.11"
    assert len(to_png(one)) > 1000
    none = sweep_figure(table[:0], METRIC)
    assert none.texts[0].get_text() == "No finished cell yet"
    assert len(to_png(none)) > 100


def test_sizes_are_counts() -> None:
    figure = sizes_figure(np.array([-1, 0, 0, 0, 4, 4]))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [3, 2]


def test_training_marks_the_best_epoch() -> None:
    figure = training_figure([3, 2, 1], [3, 1, 2], [1e-5, 1e-5, 1e-6])
    marked = figure.axes[0].lines[-1].get_xydata()
    np.testing.assert_array_equal(marked, [[2, 1]])
    assert len(training_figure([1.0], [float("nan")], [1e-5]).axes[0].lines) == 2


def test_small_pictures_are_small_and_nothing_stays_open(
    surface: Surface, planted: np.ndarray
) -> None:
    figures = [
        parcellation_figure(surface, planted, "Planted"),
        correlation_figure(np.random.default_rng(0).normal(size=(300, 300))),
        sweep_figure(sweep_table(tuple(range(10, 41, 2))), METRIC),
    ]
    for figure in figures:
        size = figure.dpi
        small = small_png(figure)
        assert len(small) <= 40_000
        assert min(pixels(small).shape[:2]) > 80
        assert figure.dpi == size
    assert pyplot.get_fignums() == []
