"""Tests that share what takes long to make run on one worker, so that it is made once."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def made_once() -> object:
    """What a module shares: `conftest.py` makes a group of its tests."""
    return object()


def test_a_module_with_something_to_share_is_a_group(made_once, request):
    (marker,) = request.node.iter_markers("xdist_group")
    assert marker.args == (request.node.path.name,)


@pytest.mark.xdist_group("a group")
def test_workers_are_given_whole_groups(request, worker_id):
    if worker_id == "master":
        pytest.skip("one process runs all tests (pytest --numprocesses 2 asks for workers)")
    # pytest-xdist reads the group from the end of a name, and fails to write it there with
    # pytest 9.2.
    assert request.node.nodeid.endswith("@a group")
