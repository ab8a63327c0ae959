"""Connections to Dagster's records in SQLite that stay open while runs follow one another.

What belongs here: what SQLAlchemy is given when it connects to a file. What does not: where the
records are, and how their files are made (``instance``).

See https://docs.sqlalchemy.org/en/20/core/events.html and https://sqlite.org/wal.html.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, ExceptionContext, event

Key = tuple[int, int, int]  # the thread, and the file's device and number on it

_kept: dict[Key, _Kept] | None = None


@contextmanager
def kept_open() -> Iterator[None]:
    """Keep connections to SQLite open within the block, one for each thread and file.

    Dagster opens a file anew for each statement. Then SQLite reads the schema again, and the last
    one to close a file writes its log back: a quarter of what it costs to record an output.

    Only for `trend run`. In the processes of a page's runs it kept jobs from ending in time on a
    disk that had been full; the log of a file that stays open takes room there.

    Yields
    ------
    None
        Within another such block nothing changes.
    """
    global _kept
    if _kept is not None:
        yield
        return
    _kept = {}
    try:
        yield
    finally:
        kept, _kept = _kept, None
        for connection in kept.values():
            if not connection.in_use:  # in another thread, which closes it
                connection.end()


class _Kept(sqlite3.Connection):
    """Stays open when it is closed, until :meth:`end`."""

    key: Key
    in_use = False

    def close(self) -> None:
        self.in_use = False
        if _kept is None or _kept.get(self.key) is not self:
            self.end()

    def end(self) -> None:
        super().close()


@event.listens_for(Engine, "do_connect")
def _connect(
    dialect: Any, record: Any, arguments: list[Any], options: dict[str, Any]
) -> sqlite3.Connection | None:
    """Give the connection that is kept; None leaves it to whoever makes one."""
    if _kept is None or dialect.name != "sqlite" or not arguments:
        return None
    try:
        found = Path(arguments[0]).stat()
    except OSError:
        return None  # a file that is yet to be made, or SQLite says what is wrong
    key = threading.get_ident(), found.st_dev, found.st_ino
    if key not in _kept:
        # Another thread closes it in the end.
        options = options | {"factory": _Kept, "check_same_thread": False}
        connection = sqlite3.connect(*arguments, **options)
        assert isinstance(connection, _Kept)
        connection.key = key
        _kept[key] = connection
    if _kept[key].in_use:
        return None  # one within another: each has a transaction of its own
    _kept[key].in_use = True
    return _kept[key]


@event.listens_for(Engine, "handle_error")
def _let_go(context: ExceptionContext) -> None:
    """Open anew after an error: what a full disk has left behind is not used further."""
    raw = context.connection and context.connection.connection.dbapi_connection
    if _kept is not None and isinstance(raw, _Kept):
        _kept.pop(raw.key, None)  # it is closed when SQLAlchemy closes it
