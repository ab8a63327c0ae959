"""Advisory locks: on the folder of a version, and on a place that only one process may hold.

The system drops a lock (flock) when the process ends, however it ends. Some file systems have no
such lock (Lustre mounted without ``flock``), none on folders, or one that other machines do not see
(NFS mounted with ``nolock`` or ``local_lock``, Lustre with ``localflock``). There a version is read
and written without one, old versions are not collected, and a place is held by a file that names
its holder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import psutil

# What flock answers where there is none; EBADF: NFS gives no exclusive lock on a folder.
NOT_SUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF}

# Options of mounts, as nfs(5) and mount.lustre(8) have them, whose locks end at this machine.
OF_THIS_MACHINE = {"nolock", "local_lock=all", "local_lock=flock", "localflock"}
MOUNTS = Path("/proc/self/mountinfo")


def flock(handle: int, kind: int) -> bool:
    """Take a lock where the file system has locks.

    Parameters
    ----------
    handle : int
        Of an open file or folder.
    kind : int
        As for ``fcntl.flock``.

    Returns
    -------
    bool
        False where the file system has none, or none that other machines see.

    Raises
    ------
    BlockingIOError
        If another process holds it, and ``kind`` says not to wait.
    """
    try:
        fcntl.flock(handle, kind)
    except OSError as error:
        if error.errno in NOT_SUPPORTED:
            return False
        raise
    return not _of_this_machine(os.fstat(handle).st_dev)


@lru_cache(maxsize=64)
def _of_this_machine(device: int) -> bool:
    """Whether locks on a device end at this machine, which shares it with others."""
    with suppress(OSError):  # no such list: not Linux
        for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
            # 36 35 98:0 /root /mnt rw,noatime shared:1 - nfs host:/path rw,nolock (proc(5))
            left, _, right = line.partition(" - ")
            if left.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                return not OF_THIS_MACHINE.isdisjoint(right.split()[-1].split(","))
    return False


def has_locks(folder: Path) -> bool:
    """Tell whether the file system of a folder has locks on folders, which collecting needs."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        return flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Holder:
    """Who holds a place.

    Parameters
    ----------
    process : int
        Its id.
    host : str
        The machine that it runs on.
    since : float
        When it took the place, in seconds since 1970.
    what : mapping of str to str
        What else it tells of itself.
    began : float, optional
        When its process began (:func:`began`).
    """

    process: int
    host: str
    since: float
    what: Mapping[str, str]
    began: float | None = None

    @classmethod
    def this_process(cls, what: Mapping[str, str]) -> Holder:
        """Name this process as the holder, from now on."""
        return cls(os.getpid(), socket.gethostname(), time.time(), what, began(os.getpid()))

    @classmethod
    def read(cls, file: Path) -> Holder | None:
        """Read who holds, or last held, a place; None if nobody ever did."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        return None

    @property
    def alive(self) -> bool:
        """Whether it still runs; True for another machine, which this one cannot ask."""
        if self.host != socket.gethostname():
            return True
        return is_alive(self.process, self.since, self.began)

    def __str__(self) -> str:
        at = time.strftime("%d %b %H:%M", time.localtime(self.since))
        return f"process {self.process} on {self.host}, since {at}"


def began(process: int) -> float:
    """Seconds between the start of this machine and that of a process.

    Unlike the time of day, which is set right now and then, this stays the same.
    """
    return psutil.Process(process).create_time() - psutil.boot_time()


def is_alive(process: int, since: float, began_at: float | None = None) -> bool:
    """Tell whether a process of this machine still runs.

    Parameters
    ----------
    process : int
        Its id.
    since : float
        A time at which it ran, in seconds since 1970: a process that began later only has the
        same id.
    began_at : float, optional
        When it began (:func:`began`), where that is known; it is believed before ``since``, which
        a change of the clock puts in doubt.
    """
    try:
        found = psutil.Process(process)
        if found.status() == psutil.STATUS_ZOMBIE:
            return False
        if began_at is not None:
            return abs(began(process) - began_at) < SAME_PROCESS_SECONDS
        return found.create_time() <= since + 1
    except psutil.NoSuchProcess:
        return False


SAME_PROCESS_SECONDS = 2.0  # the system gives the time of its start in whole seconds


def is_free(file: Path) -> bool:
    """Tell whether nobody holds a place now.

    Parameters
    ----------
    file : Path
        Stands for it, as in :func:`hold`.
    """
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    try:
        if flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB):
            return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return (holder := Holder.read(file)) is None or not holder.alive


class TakenError(Exception):
    """A place is held by another process.

    Parameters
    ----------
    holder : Holder or None
        Which; None if it does not tell.
    """

    def __init__(self, holder: Holder | None) -> None:
        self.holder = holder
        super().__init__(str(holder))


@contextmanager
def hold(file: Path, what: Mapping[str, str], *, wait: bool = False) -> Iterator[None]:
    """Hold a place that one process has at a time.

    Parameters
    ----------
    file : Path
        Stands for the place; names its holder.
    what : mapping of str to str
        What others may know of this process.
    wait : bool
        Wait until the place is free.

    Raises
    ------
    TakenError
        If another process holds it.
    OSError
        If the file cannot be written.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            locked = flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise TakenError(Holder.read(file)) from None
        here = Holder.this_process(what)
        if not locked:
            _wait_for(file, wait)
        with suppress(OSError) if locked else nullcontext():  # the lock itself needs no room
            _write(handle, json.dumps(asdict(here)))
        if not locked:  # another may have come at the same moment
            time.sleep(0.5)
            if (last := Holder.read(file)) != here:
                raise TakenError(last)
        try:
            yield
        finally:
            _write(handle, "")
    finally:
        os.close(handle)


def _write(handle: int, text: str) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, text.encode(), 0)
    os.fsync(handle)  # where there is no lock, other machines read it


def _wait_for(file: Path, wait: bool) -> None:
    """Where there is no lock, a place is taken while its file names a process that runs."""
    while (holder := Holder.read(file)) is not None and holder.alive:
        if not wait:
            raise TakenError(holder)
        time.sleep(1)
