"""Tests that share what takes long to make run on one worker, so that it is made once."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def made_once() -> object:
    """What a module shares: `conftest.py` makes a group of its tests."""
    return object()


@pytest.fixture
def group(request, worker_id) -> str:
    """The end of a test's name, where pytest-xdist reads the group of the test."""
    if worker_id == "master":
        pytest.skip("one process runs all tests (pytest --numprocesses 2 asks for workers)")
    return request.node.nodeid.rpartition("@")[2]


def test_a_module_with_something_to_share_is_a_group(made_once, group):
    assert group == "test_groups.py"


@pytest.mark.xdist_group("a group")
def test_a_group_that_is_named_is_one(group):
    assert group == "a group"
