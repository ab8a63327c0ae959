"""Connections to Dagster's records that are kept open while a run is at work."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from trend_dagster.orchestration.connections import kept_open


def opened(file):
    """An engine, as Dagster makes one for each statement."""
    return sa.create_engine(f"sqlite:///{file}", poolclass=NullPool)


def ask(file, statement):
    with opened(file).begin() as connection:
        found = connection.execute(sa.text(statement))
        return found.scalars().all() if found.returns_rows else []


def raw(file):
    with opened(file).connect() as connection:
        return connection.connection.dbapi_connection


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "records.db"
    ask(path, "PRAGMA journal_mode=WAL")
    ask(path, "CREATE TABLE told (x INTEGER)")
    return path


def test_a_file_is_opened_once_within_the_block_and_closed_after_it(file):
    with kept_open():
        kept = raw(file)
        with kept_open():
            assert raw(file) is kept
        assert raw(file) is kept
        ask(file, "INSERT INTO told VALUES (1)")
        with closing(sqlite3.connect(file)) as other:
            assert other.execute("SELECT x FROM told").fetchall() == [(1,)]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        kept.execute("SELECT 1")
    assert raw(file) is not kept
    assert not file.with_name("records.db-wal").exists()


def test_one_sees_what_other_processes_have_written_since(file):
    with kept_open():
        assert ask(file, "SELECT x FROM told") == []
        with closing(sqlite3.connect(file)) as other, other:
            other.execute("INSERT INTO told VALUES (2)")
        assert ask(file, "SELECT x FROM told") == [2]


def test_a_connection_within_another_has_a_transaction_of_its_own(file):
    with kept_open(), opened(file).connect() as outer:
        outer.execute(sa.text("INSERT INTO told VALUES (3)"))
        assert ask(file, "SELECT x FROM told") == []  # and takes nothing back that is under way
        outer.commit()
        assert ask(file, "SELECT x FROM told") == [3]


def test_threads_have_connections_of_their_own_and_may_outlive_the_block(file):
    begun, ended = threading.Event(), threading.Event()

    def work():
        with opened(file).begin() as connection:
            begun.set()
            assert ended.wait(10)
            connection.execute(sa.text("INSERT INTO told VALUES (4)"))
            return connection.connection.dbapi_connection

    with ThreadPoolExecutor(1) as pool:
        with kept_open():
            other = pool.submit(work)
            assert begun.wait(10)
            own = raw(file)
        ended.set()
        assert other.result() is not own
    assert ask(file, "SELECT x FROM told") == [4]


def test_after_an_error_the_file_is_opened_anew(file):
    with kept_open():
        kept = raw(file)
        with pytest.raises(OperationalError, match="no such table"):
            ask(file, "SELECT x FROM nowhere")
        assert raw(file) is not kept
        assert ask(file, "SELECT x FROM told") == []


def test_another_file_of_that_name_is_another_file(file):
    with kept_open():
        ask(file, "INSERT INTO told VALUES (5)")
        file.rename(file.with_name("before.db"))
        ask(file, "CREATE TABLE told (x INTEGER)")
        assert ask(file, "SELECT x FROM told") == []
