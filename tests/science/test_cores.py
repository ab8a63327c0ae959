"""Work on things in threads while the next are made."""

from __future__ import annotations

import threading

import pytest

from trend_dagster.science import cores
from trend_dagster.science.cores import while_made


@pytest.mark.parametrize("n_cores", [1, 2, 8])
def test_what_is_worked_on_in_threads_keeps_its_order(n_cores, monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: n_cores)
    assert list(while_made(lambda n: n * n, range(20))) == [n * n for n in range(20)]


def test_the_next_thing_is_made_while_one_is_worked_on(monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    made = threading.Event()

    def things():
        yield "first"
        made.set()
        yield "second"

    # The first can only end if the second is made before.
    work = lambda thing: made.wait(60) and thing  # noqa: E731
    assert list(while_made(work, things())) == ["first", "second"]


def test_no_more_is_made_than_is_worked_on_and_one(monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    made = []

    def things():
        for n in range(10):
            made.append(n)
            yield n

    found = while_made(lambda n: n, things(), at_once=2)
    next(found)
    assert len(made) == 3


def test_what_goes_wrong_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        list(while_made(lambda n: 1 / n, [1, 0, 1]))
