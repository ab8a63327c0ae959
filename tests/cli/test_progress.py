"""How far a long piece of work is: on a terminal, in a log, and asked from elsewhere."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from trend_dagster import progress
from trend_dagster.cli import app
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.overview import overview
from trend_dagster.orchestration.production import Task, under_way
from trend_dagster.progress import Pace, time_left
from trend_dagster.project.folder import Project
from trend_dagster.storage.provenance import Recipe


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (80, "80 s"), (100, "2 min"), (5000, "83 min"), (9000, "2 h"), (90000, "25 h")],
)
def test_time_left_is_said_as_people_say_it(seconds, said):
    assert time_left(seconds) == f"about {said} left"


def test_pace_is_that_of_this_run_and_of_one_output(clock):
    pace = Pace()
    assert pace.seconds_left("model", 0.5) is None  # found done
    clock[0] += 10
    assert pace.seconds_left("model", 0.6) == pytest.approx(40)
    clock[0] += 30
    assert pace.seconds_left("model", 0.9) == pytest.approx(10)
    assert pace.seconds_left("other", 0.95) is None  # another output
    clock[0] += 10
    assert pace.seconds_left("other", 0.1) is None  # or the next of its kind


def shown(monkeypatch, clock, *, terminal: bool) -> str:
    """What five epochs of three seconds each print."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, highlight=False)
    monkeypatch.setattr(app, "console", console)
    with app.progress_bar() as show:
        for epoch, part in itertools.product(range(5), range(3)):
            clock[0] += 1
            show(f"trained_model: epoch {epoch} of 5", (3 * epoch + part) / 15)
    return out.getvalue()


def test_a_log_has_a_line_for_each_epoch_with_the_time_left(monkeypatch, clock):
    lines = shown(monkeypatch, clock, terminal=False).splitlines()
    assert lines == [
        "trained_model: epoch 0 of 5 (0%)",
        "trained_model: epoch 1 of 5 (20%, about 12 s left)",
        "trained_model: epoch 2 of 5 (40%, about 9 s left)",
        "trained_model: epoch 3 of 5 (60%, about 6 s left)",
        "trained_model: epoch 4 of 5 (80%, about 3 s left)",
    ]


def test_a_log_hears_of_work_whose_words_stay_the_same(monkeypatch, clock):
    out = io.StringIO()
    monkeypatch.setattr(app, "console", Console(file=out, width=100))
    with app.progress_bar() as show:
        for second in range(150):
            clock[0] += 1
            show("average_correlation: tiles", second / 150)
    assert len(out.getvalue().splitlines()) == 3


def test_a_terminal_has_a_bar_that_leaves_nothing_behind(monkeypatch, clock):
    out = shown(monkeypatch, clock, terminal=True)
    assert "epoch 4 of 5" in out
    assert "about 3 s left" in out or "about 1 s left" in out
    assert out.endswith("\x1b[2K")  # the line is erased


def test_status_says_how_far_work_is_until_it_is_published(finished):
    project = Project.open(finished)
    asset = ASSETS["trained_model"]
    recipe = Recipe("trained_model", "not published")
    with project.store.draft("trained_model") as draft:
        task = Task(project, {}, draft, recipe, lambda line: None)
        task.progress("epoch 7 of 20: validation loss 0.5", 0.35)
        task.progress("epoch 8 of 20: within a second", 0.4)
        assert "epoch 7 of 20: validation loss 0.5, 35% done (" in under_way(project, asset, {})
    # What is current is not being made.
    assert not any(status.under_way for status in overview(project))
    (project.store.folder("trained_model") / "current").unlink()
    (status,) = (s for s in overview(project) if s.asset == "trained_model")
    assert list(status.under_way) == ["trained_model"]
    (task.scratch / "under_way.json").write_text("{")
    assert under_way(project, asset, {}) is None
