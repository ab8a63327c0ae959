"""What a reader sees of newborns: pictures, and what goes with what."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trend_dagster.delivery.associations import (
    association_files,
    association_notes,
    foreseen_notes,
    why_left_out,
)
from trend_dagster.delivery.figures.newborns import (
    CONFIDENCE_STEPS,
    association_figure,
    confidence_figure,
    connectivity_figure,
    series_figure,
)
from trend_dagster.delivery.figures.surface import maps_figure, maps_png, shared_colours
from trend_dagster.delivery.individuals import (
    COLUMNS,
    individuals_table,
    networks_of_most,
    newborn_maps,
    prior_notes,
    table_files,
    with_participants,
    without_row,
)
from trend_dagster.delivery.maps import networks_of
from trend_dagster.errors import InputError
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


def test_a_network_that_the_chosen_map_does_not_have_is_not_called_as_that_of_its_number(
    surface: Surface,
) -> None:
    """Most newborns have 2 as a half of 5, in the right hemisphere, and 1 where 2 was."""
    chosen = cut_into_labels(surface, 3).astype(np.int32)
    consensus = np.where(chosen == 2, 1, chosen)
    fifth = np.flatnonzero(chosen == 5)
    consensus[fifth[: len(fifth) // 2]] = 2
    space, networks = MapSpace(surface, None), networks_of(chosen, surface)
    assert [n.hemisphere for n in networks] == ["L"] * 3 + ["R"] * 3
    found = networks_of_most(networks, chosen, consensus, space)
    assert found[2].name == "RH_newborns_03"
    assert (found[2].hemisphere, found[2].homologue, found[2].rgb) == ("R", None, networks[2].rgb)
    assert all(n.homologue != 3 for n in found)
    others = [i for i in range(6) if i != 2]
    assert [found[i].name for i in others] == [networks[i].name for i in others]
    assert len({n.name for n in found}) == len({n.rgb for n in found}) == 6
    assert networks_of_most(networks, chosen, chosen, space) == networks

    (note,) = prior_notes(
        [6, 7, 6], [True, True, False], [chosen] * 3, [consensus, chosen, consensus]
    )
    assert note.startswith("6 clusters: newborns follow networks of other clusterings of")
    assert "maps/consensus 1 of the numbers (3) stand" in note


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


def newborns(n: int = 20) -> pd.DataFrame:
    """Network 1 grows with age; the homogeneity of network 2 is the same in all."""
    rng = np.random.default_rng(1)
    age = rng.normal(40, 2, n)
    return pd.DataFrame(
        {"subject": f"{i:02d}", "network": k, "n_clusters": 4, "age": age[i], "minutes": 8.0}
        | {"area_mm2": 500 + (k == 1) * 20 * age[i] + e, "homogeneity": 0.3 + (k == 1) * 0.01 * e}
        for k in (1, 2)
        for i, e in enumerate(rng.normal(size=n))
    )


def test_what_is_found_is_filled_and_written() -> None:
    files = association_files(newborns(), IndividualsConfig(associate=("age",)))
    found = pd.read_csv(io.BytesIO(files["individuals_associations.csv"]))
    said = json.loads(files["individuals_associations.json"])
    assert said["Description"].startswith("Exploratory")
    assert list(found) == [name for name in said if name not in ("Description", "Covariates")]
    (without,) = found[found["slope"].isna()].to_dict("records")
    assert (without["measure"], without["network"]) == ("homogeneity", 2)
    assert without["note"] == "homogeneity is the same in all newborns"
    figure = association_figure(found)
    assert len(figure.axes) == 2  # area and homogeneity
    filled, open_ = (c.lines[0] for c in figure.axes[0].containers)
    assert (filled.get_xdata().tolist(), open_.get_xdata().tolist()) == ([1], [2])
    marks = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "x"]
    crosses = [line.get_xdata().tolist() for line in marks]
    assert crosses == [[], [2]]
    assert files["individuals_associations.png"].startswith(b"\x89PNG")
    assert association_files(newborns(), IndividualsConfig()) == {}


def test_an_association_that_cannot_be_made_is_left_out_with_the_reason() -> None:
    table = newborns().assign(sex="F", mean_fd=0.1)
    config = IndividualsConfig(associate=("age", "sex", "agee"), covariates=("mean_fdd",))
    left_out = why_left_out(table, config)
    assert left_out["age"].startswith(
        "individuals.covariates names mean_fdd, which is no column of individuals.csv "
        "(did you mean mean_fd?); it has network, "
    )
    assert left_out["age"].endswith("individuals.participants names no table")
    assert left_out["agee"].startswith("individuals.associate names agee, which")
    assert association_files(table, config) == {}
    notes = association_notes(left_out)
    assert [note.split(":")[0] for note in notes] == [
        "no association with age, sex",
        "no association with agee",
    ]
    config = IndividualsConfig(associate=("age", "sex"), covariates=("mean_fd",))
    said = json.loads(association_files(table, config)["individuals_associations.json"])
    assert said["LeftOut"] == {"sex": "sex holds what is no number, such as 'F'"}
    few = why_left_out(newborns(4), IndividualsConfig(associate=("age",), covariates=()))
    assert few == {"age": "5 newborns are needed, and 4 have age"}


def test_what_the_tables_tell_of_associations_is_foreseen(tmp_path: Path) -> None:
    people = [f"sub-{i:02d}" for i in range(6)]
    file = tmp_path / "participants.tsv"
    table = pd.DataFrame({"participant_id": people, "age": range(6), "sex": "F"})
    table.assign(weight=[1.0, 2.0, 3.0, 4.0, None, None]).to_csv(file, sep="\t", index=False)
    config = IndividualsConfig(
        participants="participants.tsv",
        associate=("age", "mean_fd", "sex", "weight", "wait"),
        covariates=("minutes", "mean_fd"),
    )
    sex, weight, wait = foreseen_notes(people, file, config)
    assert sex == "no association with sex: sex holds what is no number, such as 'F'"
    assert weight.endswith("5 newborns are needed, and 4 have weight, minutes, mean_fd")
    assert "individuals.associate names wait" in wait
    assert foreseen_notes(people, None, IndividualsConfig()) == []


PEOPLE = pd.DataFrame({"subject": ["sub-01", "sub-02", "sub-02", "film"]})


@pytest.mark.parametrize(
    "text",
    [
        "participant_id\tage\nsub-01\t40\nsub-02\t41\nfilm\t42\n",
        "\ufeffparticipant_id\tage\r\nsub-01\t40\r\nsub-02\t41\r\nfilm\t42\r\n",
        "participant_id\tage\nsub-01\t40\t\nsub-02\t41\t\nfilm\t42\t\n",
        "participant_id\tage\n01\t40\n02\t41\nfilm\t42\n",
        " participant_id \tage\n 01\t40\n02 \t41\nfilm\t42\n",
        '"participant_id"\t"age"\n"1"\t"01"\t40\n"2"\t"02"\t41\n"3"\t"film"\t42\n',
    ],
)
def test_participants_as_other_programs_write_them(tmp_path: Path, text: str) -> None:
    file = tmp_path / "participants.tsv"
    file.write_bytes(text.encode())
    assert with_participants(PEOPLE, file)["age"].tolist() == [40, 41, 41, 42]
    assert without_row(["sub-01", "sub-02", "film"], file) == []


def test_a_column_called_subject_is_the_participants_own(tmp_path: Path) -> None:
    file = tmp_path / "participants.tsv"
    file.write_text("participant_id\tsubject\n01\tA\n02\tB\n")
    joined = with_participants(PEOPLE, file)
    assert joined["subject"].tolist() == PEOPLE["subject"].tolist()
    assert joined["subject_participants"].tolist()[:1] == ["A"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("01\t40\nsub-01\t41\n", "found more than one row of sub-01"),
        ("n/a\t40\nn/a\t41\n", "found no name in 2 rows"),
    ],
)
def test_participants_named_twice_or_not_at_all(tmp_path: Path, rows: str, said: str) -> None:
    file = tmp_path / "participants.tsv"
    file.write_text(f"participant_id\tage\n{rows}")
    with pytest.raises(InputError, match=said):
        with_participants(PEOPLE, file)


def test_newborns_without_a_row_are_said(tmp_path: Path) -> None:
    file = tmp_path / "participants.tsv"
    file.write_text("participant_id\tage\n01\t40\n99\t41\n")
    (note,) = foreseen_notes(["sub-01", "sub-02"], file, IndividualsConfig())
    assert note.startswith("participants.tsv has no row of 1 of 2 newborns: sub-02")


class Stored:
    """As much of a version as a table of newborns reads."""

    def __init__(self, partition: dict, facts: dict, **arrays: object) -> None:
        self.partition, self.facts, self.read = partition, facts, lambda name: arrays[name]


def run_of(name: str, **facts: float) -> Stored:
    return Stored({"bold_run": name}, facts)


def test_motion_is_the_mean_over_volumes_and_every_column_is_described(tmp_path: Path) -> None:
    departure = ("share", "null", "null_sd", "excess", "z", "different", "excess_vertices")
    arrays = {f"departure_{name}": np.array([0.0]) for name in departure}
    arrays |= {
        f"network_{name}": np.array([[1.0, 2.0]])
        for name in ("area_mm2", "homogeneity", "silhouette", "confidence")
    }
    arrays |= {"agreement": np.array([np.nan]), "n_clusters": np.array([2])}
    runs = {"sub-1": ["a", "b", "c"], "sub-2": ["d"]}
    versions = [
        Stored({"subject": key}, {"runs": own, "minutes": 8.0}, **arrays)
        for key, own in runs.items()
    ]
    recorded = [
        run_of("a", n_timepoints=100, n_volumes=300, mean_framewise_displacement=0.1),
        run_of("b", n_timepoints=100, mean_framewise_displacement=0.5),
        run_of("c", n_timepoints=100),
        run_of("d", n_timepoints=100),
        run_of("e", n_timepoints=100, mean_framewise_displacement=9.0),
    ]
    file = tmp_path / "participants.tsv"
    file.write_text("participant_id\tminutes\tage\nsub-1\t7\t40\nsub-2\t7\t41\n")
    names = {key: [["LH_01", "RH_02"]] for key in runs}
    table = individuals_table(versions, names, recorded, file)
    people = table.groupby("subject")[["minutes", "mean_fd", "minutes_participants"]].first()
    assert people.loc["sub-1"].tolist() == [8.0, 0.2, 7.0]
    assert np.isnan(people.loc["sub-2", "mean_fd"])
    files = table_files(table)
    columns = json.loads(files["individuals.json"])
    assert list(columns) == list(pd.read_csv(io.BytesIO(files["individuals.csv"])))
    assert list(columns) == [*COLUMNS, "minutes_participants", "age"]
    assert columns["mean_fd"]["Units"] == "mm"
