"""What a reader sees of newborns: pictures, and what goes with what."""

import io

import numpy as np
import pandas as pd
from PIL import Image

from trend_dagster.delivery.figures.newborns import (
    CONFIDENCE_STEPS,
    association_figure,
    confidence_figure,
    connectivity_figure,
    series_figure,
)
from trend_dagster.delivery.figures.surface import maps_figure, maps_png, shared_colours
from trend_dagster.delivery.individuals import individuals_files, newborn_maps
from trend_dagster.delivery.maps import networks_of
from trend_dagster.project.target import MapSpace
from trend_dagster.science.individuals.settings import IndividualsConfig
from trend_dagster.science.surface import Surface, cut_into_labels


def test_a_network_that_the_cohort_lacks_has_a_colour_and_a_row(surface: Surface) -> None:
    own = cut_into_labels(surface, 3).astype(np.int32)
    cohort = np.where(own == 5, 4, own)
    colours = shared_colours(surface, [cohort, own])
    assert sorted(colours) == [0, 1, 2, 3, 4, 5]
    assert len({tuple(c) for c in colours.values()}) == 6
    picture = np.asarray(Image.open(io.BytesIO(maps_png(surface, {"a": cohort, "b": own}))))
    drawn = np.asarray(maps_figure(surface, {"b": own}, 1.0, colours).axes[0].images[0].get_array())
    assert picture.shape[1] > 3 * drawn.shape[1]  # two maps of two columns
    space = MapSpace(surface, None)
    files = newborn_maps("sub-01", [6], [cohort], [networks_of(own, surface)], space)
    table = files["maps/sub-01/sub-01_6_clusters.tsv"].decode().splitlines()
    assert len(table) == 1 + 6


def test_confidence_is_drawn_in_steps(surface: Surface) -> None:
    sure = np.where(surface.hemisphere == 0, 0.6, 0.95)
    figure = confidence_figure(surface, sure, np.ones(surface.n_vertices, dtype=bool))
    views = (np.asarray(figure.subfigs[0].axes[i].images[0].get_array()) for i in (0, 1))
    left, right = (np.median(view[view[..., 3] > 0], axis=0) for view in views)
    assert np.abs(left - right).max() > 50
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(CONFIDENCE_STEPS) + 1


def test_series_have_a_row_each_and_runs_a_line_between() -> None:
    series = np.random.default_rng(0).normal(size=(50, 3))
    series[:, 2] = np.nan
    axes = series_figure(
        series, np.array([20, 30]), [f"LH_{k:02d}" for k in range(series.shape[1])]
    ).axes[0]
    assert [line.get_xdata()[0] for line in axes.lines[3:]] == [19.5]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "LH_00 (1)",
        "LH_01 (2)",
        "LH_02 (3)",
    ]
    means = [np.nanmean(line.get_ydata()) for line in axes.lines[:2]]
    np.testing.assert_allclose(means, [0, -4], atol=1e-9)


def test_connectivity_has_one_scale() -> None:
    figure = connectivity_figure({"full": np.eye(3), "partial": np.zeros((3, 3))}, ["a", "b", "c"])
    assert {image.get_clim() for axes in figure.axes[:2] for image in axes.images} == {(-1, 1)}


def test_what_is_found_is_filled_and_written() -> None:
    rng = np.random.default_rng(1)
    age = rng.normal(40, 2, 20)
    table = pd.DataFrame(
        {"subject": f"{i:02d}", "network": k, "n_clusters": 4, "age": age[i], "minutes": 8.0}
        | {"area_mm2": 500 + (k == 1) * 20 * age[i] + e, "homogeneity": 0.3 + 0.01 * e}
        for k in (1, 2)
        for i, e in enumerate(rng.normal(size=20))
    )
    files = individuals_files(table, IndividualsConfig(associate=("age",)))
    text = files["individuals_associations.csv"].decode()
    assert text.startswith("# exploratory")
    found = pd.read_csv(io.StringIO(text), comment="#")
    figure = association_figure(found)
    assert len(figure.axes) == 2  # area and homogeneity
    filled, open_ = (c.lines[0] for c in figure.axes[0].containers)
    assert (filled.get_xdata().tolist(), open_.get_xdata().tolist()) == ([1], [2])
    assert files["individuals_associations.png"].startswith(b"\x89PNG")
    assert list(individuals_files(table, IndividualsConfig())) == ["individuals.csv"]
