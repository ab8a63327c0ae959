"""Versioned zarr stores: published whole or not at all, opened lazily, collected when old.

On disk, below the root of the store::

    nmf_sweep/label_file=L20/n_components=14/
        20261123T213000.123456-4f2a90c1/    one version: a zarr v3 group that never changes
        20261123T220512.004211-b01d22e7/
        current                             text: the name of the version to read
        .partial-...                        a version being written; never visible to readers

A writer fills a ``.partial-`` folder, renames it, then replaces ``current`` in one step. A reader
reads ``current`` first and stays with that version, so it never sees half a store, whoever else
writes. Readers and writers hold an advisory lock (flock) on the folder they use; the system drops
it when the process ends, however it ends. That is how old versions and the leavings of killed
writers are told from those in use.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import secrets
import shutil
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr import AsyncGroup
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore, StorePath

from trend_dagster.errors import StoreError, cannot_write
from trend_dagster.files import replace_file, sync
from trend_dagster.storage.locks import flock
from trend_dagster.storage.provenance import Recipe, digest_of_folder, library_versions
from trend_dagster.storage.schema import ANY_ARRAYS, CHUNK_BYTES, SCHEMA, ArraySpec
from trend_dagster.storage.scratch import ResumableMatrix, Tile

STORE_FORMAT = 1
METADATA = "zarr.json"  # of a group or an array, as zarr version 3 has it
POINTER = "current"
FAILURE = ".failed"
NOTHING_LOST = (
    "run again: what was published before is complete, and only this output has to be made again."
)
SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"\d{8}T\d{6}\.\d{6}-[0-9a-f]{8}")
_DRAFT, _WORK, _LOCK = ".partial-", ".work", ".lock"

Partition = Mapping[str, str]
"""Key of a partition by dimension, e.g. ``{"label_file": "L20", "n_components": "14"}``."""

WHOLE: Partition = {}
"""The partition of an asset that has none."""


def describe(asset: str, partition: Partition) -> str:
    """Name an output as messages do: ``nmf_sweep[label_file=L20, n_components=14]``."""
    if not partition:
        return asset
    return f"{asset}[{', '.join(f'{dim}={key}' for dim, key in partition.items())}]"


def described(name: str) -> tuple[str, Partition]:
    """Read back what :func:`describe` has named: the asset and the partition."""
    asset, _, rest = name.rstrip("]").partition("[")
    return asset, dict(part.split("=", 1) for part in rest.split(", ")) if rest else {}


@dataclass(frozen=True)
class Version:
    """One published version of one output: it never changes.

    Parameters
    ----------
    asset : str
        Name of the asset.
    partition : mapping of str to str
        Key by dimension; empty for an asset without partitions.
    path : Path
        Folder of the zarr group.
    """

    asset: str
    partition: Partition
    path: Path

    @cached_property
    def name(self) -> str:
        """What messages and recipes call the output."""
        return describe(self.asset, self.partition)

    @cached_property
    def group(self) -> zarr.Group:
        """The zarr group, opened lazily; the version is kept on disk as long as it is held."""
        lock = _lock(self.path, fcntl.LOCK_SH)
        if not self.path.is_dir():  # collected while we waited for the lock
            os.close(lock)
            raise FileNotFoundError(self.path)
        store = LocalStore(self.path, read_only=True)
        # Arrays share this store object, so the lock ends with the last of them.
        weakref.finalize(store, os.close, lock)
        metadata = self._metadata("group")
        try:
            group = zarr.Group(AsyncGroup.from_dict(StorePath(store), metadata))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._corrupt(str(error)) from error
        if "store_format" not in group.attrs:
            raise self._corrupt("one that does not say what it is")
        if group.attrs["store_format"] != STORE_FORMAT:
            raise StoreError(
                f"store {self.path}",
                expected=f"store format {STORE_FORMAT}",
                found=f"format {group.attrs['store_format']}",
                remedy="It was made by another version of trend_dagster: use that version, "
                "or materialize the asset again.",
            )
        return group

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the group: provenance, facts, files."""
        return dict(self.group.attrs)

    @property
    def digest(self) -> str:
        """Digest of the stored arrays: equal content, equal digest."""
        return str(self.group.attrs["digest"])

    @property
    def recipe(self) -> Recipe:
        """What it was made from."""
        provenance: Any = self.group.attrs["provenance"]
        return Recipe.from_dict(provenance)

    @property
    def imported(self) -> bool:
        """Whether a user brought it; it is then in use until it is made anew on request."""
        return self.recipe.imported_from is not None

    @property
    def facts(self) -> dict[str, Any]:
        """What was measured when it was made."""
        facts: Any = self.group.attrs["facts"]
        return dict(facts)

    @property
    def excluded(self) -> str | None:
        """Why this output is an exclusion, or None if it holds data."""
        reason = self.group.attrs.get("excluded")
        return None if reason is None else str(reason)

    def __contains__(self, name: str) -> bool:
        return (self.path / name / METADATA).is_file()

    def _metadata(self, kind: str, name: str = "") -> dict[str, Any]:
        """Read what zarr has written of the group, or of an array in it.

        An output is looked at some twenty times while it is made and checked. To ask zarr each time
        takes ten times as long, for it reads in threads of its own.
        """
        try:
            found = json.loads((self.path / name / METADATA).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise self._corrupt(str(error)) from error
        if not isinstance(found, dict) or found.get("node_type") != kind:
            raise self._corrupt(f"no {kind} of zarr in {self.path / name / METADATA}")
        return found

    def names(self) -> list[str]:
        """Names of the arrays."""
        # Not by asking zarr, which warns of every attached file that it meets.
        return sorted(path.parent.name for path in self.path.glob(f"*/{METADATA}"))

    def file(self, name: str) -> Path:
        """Find a file that was stored beside the arrays.

        Parameters
        ----------
        name : str
            Name that it was attached under.

        Returns
        -------
        Path
            It must not be changed.

        Raises
        ------
        StoreError
            If it is not there.
        """
        path = self.path / name
        if not SAFE_NAME.fullmatch(name) or not path.is_file():
            raise self._corrupt(f"no file {name!r}")
        return path

    def array(self, name: str) -> zarr.Array[Any]:
        """Open one array lazily.

        Parameters
        ----------
        name : str
            Name of the array.

        Returns
        -------
        zarr.Array
            Nothing of it is read yet.
        """
        group = self.group
        if name not in self:
            raise self._corrupt(f"no array {name!r}; it has {', '.join(self.names())}")
        metadata = self._metadata("array", name)
        try:
            return zarr.Array.from_dict(StorePath(group.store, name), metadata)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._corrupt(f"array {name!r}: {error}") from error

    def read(self, name: str) -> NDArray[Any]:
        """Read one array whole; its checksums are verified.

        Parameters
        ----------
        name : str
            Name of the array.

        Returns
        -------
        ndarray
            In memory.

        Raises
        ------
        StoreError
            If a chunk is missing or damaged.
        """
        array = self.array(name)
        try:
            return np.asarray(array[...])
        except (ValueError, OSError, RuntimeError) as error:
            raise self._corrupt(f"array {name!r}: {error}") from error

    def verify(self) -> None:
        """Compare every stored byte with the digest taken when it was written.

        Raises
        ------
        StoreError
            If they differ.
        """
        if (found := digest_of_folder(self.path, leave_out=_UNDIGESTED)) != self.digest:
            raise self._corrupt(f"digest {found} in place of {self.digest}")

    def _corrupt(self, found: str) -> StoreError:
        return StoreError(
            f"store of {describe(self.asset, self.partition)} ({self.path})",
            expected="a complete, unchanged zarr group",
            found=found,
            remedy="Materialize it again with force (`trend run --force --select "
            f"{self.asset}`), or delete that folder.",
        )


_HELD: weakref.WeakValueDictionary[Path, Version] = weakref.WeakValueDictionary()
"""Versions that somebody in this process has open: none of them changes, and none is removed."""

# The group's own metadata carries run id and times, which are no content.
_UNDIGESTED = frozenset({METADATA})


class Draft:
    """A version being written: invisible until it is published.

    Parameters
    ----------
    asset : str
        Name of the asset; decides the schema.
    path : Path
        The partial folder.
    lock : int
        Handle of the writer's lock on that folder.
    """

    def __init__(self, asset: str, path: Path, lock: int) -> None:
        self.asset = asset
        self.path = path
        self.lock = lock
        self.group = zarr.open_group(LocalStore(path), mode="a", zarr_format=3)
        self._claimed: dict[Path, int] = {}

    def workplace(self, scratch: Path) -> Path:
        """Where unfinished work is done: there, or apart while another draft works there."""
        if self._claims(scratch):
            return scratch
        self._claims(self._apart)
        return self._apart

    def _claims(self, scratch: Path) -> bool:
        if scratch in self._claimed:
            return True
        scratch.mkdir(parents=True, exist_ok=True)
        # Of a file, for NFS gives no exclusive lock on a folder. Where there is no lock at all the
        # folder is taken: to find unfinished work again is worth more.
        handle = os.open(scratch / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._claimed[scratch] = handle
        return True

    def discard(self, scratch: Path) -> None:
        """Remove a folder of unfinished work, unless another draft works in it now."""
        if scratch.exists() and self._claims(scratch):
            shutil.rmtree(scratch, ignore_errors=True)
            os.close(self._claimed.pop(scratch))  # who makes it anew has another one

    def close(self) -> None:
        """Let go of every folder, and throw away what was not published."""
        for handle in (self.lock, *self._claimed.values()):
            os.close(handle)
        for folder in (self.path, self._apart):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _apart(self) -> Path:
        """Folder for unfinished work that nobody finds again."""
        return self.path.with_name(f"{self.path.name}{_WORK}")

    def create(self, name: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
        """Create an array to be filled piece by piece.

        Parameters
        ----------
        name : str
            Name, as in the schema of the asset.
        shape : tuple of int
            Its shape.

        Returns
        -------
        zarr.Array
            Empty, of the schema's type.
        """
        return _new_array(self.group, self.asset, name, shape)

    def resume(
        self, name: str, shape: tuple[int, int], tile: Tile, scratch: Path
    ) -> ResumableMatrix:
        """Open a matrix that is filled tile by tile and outlives this process, unfinished.

        Parameters
        ----------
        name : str
            Name, as in the schema of the asset.
        shape : tuple of int
            Its shape.
        tile : tuple of int
            Rows and columns of a tile; with another size the work begins anew.
        scratch : Path
            Folder of unfinished work, on the disk of the store; see :meth:`workplace`.

        Returns
        -------
        ResumableMatrix
            To be given to :meth:`adopt` when all tiles are there.
        """
        scratch = self.workplace(scratch)
        group = zarr.open_group(LocalStore(scratch), mode="a", zarr_format=3)
        tile = min(tile[0], shape[0]), min(tile[1], shape[1])
        found = group.get(name)
        if not isinstance(found, zarr.Array) or (found.shape, found.chunks) != (shape, tile):
            (scratch / f"{name}.done").unlink(missing_ok=True)
            found = _new_array(group, self.asset, name, shape, chunks=tile)
        # Of a matrix that is filled tile by tile a missing file is work to be done, not zeros.
        found = found.with_config({"write_empty_chunks": True})
        return ResumableMatrix(found, scratch / name)

    def adopt(self, matrix: ResumableMatrix) -> None:
        """Take over a finished matrix, with the files that it has: nothing is copied.

        Parameters
        ----------
        matrix : ResumableMatrix
            It stays where it is, too, until the version is published.

        Raises
        ------
        StoreError
            If tiles are missing.
        """
        shutil.copytree(
            matrix.folder,
            self.path / matrix.folder.name,
            copy_function=_link,
            ignore=shutil.ignore_patterns("*.partial"),  # of a chunk that a killed writer began
        )
        adopted = self.group.get(matrix.folder.name)
        if not isinstance(adopted, zarr.Array) or adopted.nchunks_initialized < adopted.nchunks:
            raise StoreError(
                f"array {matrix.folder.name!r} of {self.asset}",
                expected="all of its tiles",
                found=f"some that are no more in {matrix.folder}",
                remedy="Another process has made the same output: run again.",
            )

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Write one array whole.

        Parameters
        ----------
        name : str
            Name, as in the schema of the asset.
        values : ndarray
            Cast to the schema's type; a cast that would lose information is refused.
        """
        dtype = np.dtype(_spec(self.asset, name).dtype)
        values = np.asarray(values)
        if not np.can_cast(values.dtype, dtype, casting="same_kind"):
            subject = f"array {name!r} of {self.asset}"
            raise _mistake(subject, f"numbers that fit {dtype}", str(values.dtype))
        data = values.astype(dtype, copy=False)
        _new_array(self.group, self.asset, name, data.shape, data=data)

    def attach(self, name: str, content: bytes) -> None:
        """Put a file beside the arrays, for what is better kept in a format of its own.

        Parameters
        ----------
        name : str
            Name of the file.
        content : bytes
            What it holds; it counts in the digest of the version.
        """
        if not SAFE_NAME.fullmatch(name) or (self.path / name).exists():
            expected = "a name of its own, of letters, digits, '_', '-' and '.'"
            raise _mistake(f"file {name!r} of {self.asset}", expected, repr(name))
        (self.path / name).write_bytes(content)


class Store:
    """All outputs of one project.

    Parameters
    ----------
    root : Path
        Folder of the store; made when first written to.
    keep_versions : int
        Versions of each output that are always kept, the current one included.
    grace_seconds : float
        Time for which a superseded version is kept besides, for readers that hold no lock (plain
        zarr, a copy in progress).
    """

    def __init__(
        self, root: Path, *, keep_versions: int = 2, grace_seconds: float = 3600.0
    ) -> None:
        self.root = root
        self.keep_versions = keep_versions
        self.grace_seconds = grace_seconds
        self._opened: dict[Path, Version | None] | None = None
        _allow_many_open_files()

    def folder(self, asset: str, partition: Partition = WHOLE) -> Path:
        """Folder that holds the versions of one output."""
        parts = [asset, *(f"{dim}={key}" for dim, key in partition.items())]
        for name in (asset, *partition.keys(), *partition.values()):
            if not SAFE_NAME.fullmatch(name):
                raise StoreError(
                    describe(asset, partition),
                    expected="names of letters, digits, '_', '-' and '.'",
                    found=repr(name),
                    remedy="Rename the file it comes from.",
                )
        return self.root.joinpath(*parts)

    def stored(self, asset: str, dims: tuple[str, ...] = ()) -> list[Partition]:
        """Partitions of an asset that have a current version, whether or not their input is there.

        Parameters
        ----------
        asset : str
            Name of the asset.
        dims : tuple of str
            Dimensions of its partitions.

        Returns
        -------
        list of mappings
            Sorted by key.
        """
        pattern = "/".join([*(f"{dim}=*" for dim in dims), POINTER])
        found = (pointer.parent.relative_to(self.root / asset).parts for pointer in
                 (self.root / asset).glob(pattern))  # fmt: skip
        return [dict(part.split("=", 1) for part in parts) for parts in sorted(found)]

    def size(self, asset: str) -> int:
        """Bytes on disk of all versions of an asset, with unfinished work."""
        return size_of(self.root / asset)

    def scratch(self, asset: str, partition: Partition, recipe: Recipe) -> Path:
        """Folder for unfinished work that a later attempt at the same recipe may take up."""
        return self.folder(asset, partition) / f".scratch-{recipe.fingerprint}"

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """Open the current version of each output once, for who looks at many and changes none."""
        self._opened = {}
        try:
            yield
        finally:
            self._opened = None

    def latest(self, asset: str, partition: Partition = WHOLE) -> Version | None:
        """Return the current version of an output, or None where there is none."""
        folder = self.folder(asset, partition)
        if self._opened is None:
            return self._latest(asset, partition, folder)
        if folder not in self._opened:
            self._opened[folder] = self._latest(asset, partition, folder)
        return self._opened[folder]

    def _latest(self, asset: str, partition: Partition, folder: Path) -> Version | None:
        tried = None
        while (name := _text(folder / POINTER)) is not None:
            if (held := _HELD.get(folder / name)) is not None:
                return held
            version = Version(asset, dict(partition), folder / name)
            if not SAFE_NAME.fullmatch(name):
                raise version._corrupt(f"{name!r} in {folder / POINTER}")
            try:
                _ = version.group  # takes the lock: from here on it stays
                _HELD[version.path] = version
            except FileNotFoundError:
                if name != tried:  # superseded and collected since the pointer was read
                    tried = name
                    continue
                raise StoreError(
                    f"store of {describe(asset, partition)}",
                    expected=f"the version that {folder / POINTER} names",
                    found=f"no folder {name}",
                    remedy=f"Materialize {asset} again, or restore the folder.",
                ) from None
            return version
        return None

    @contextmanager
    def draft(self, asset: str, partition: Partition = WHOLE) -> Iterator[Draft]:
        """Open a version to be written; it is thrown away unless it gets published.

        Parameters
        ----------
        asset : str
            Name of the asset.
        partition : mapping
            Key by dimension.

        Yields
        ------
        Draft
            To be filled and given to :meth:`publish` inside the block.
        """
        folder = self.folder(asset, partition)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        path = folder / f"{_DRAFT}{stamp}-{secrets.token_hex(4)}"
        try:
            path.mkdir(parents=True)
            lock = _lock(path, fcntl.LOCK_EX)
        except OSError as error:
            raise cannot_write(f"store {folder}", error, NOTHING_LOST) from error
        draft = None
        try:
            draft = Draft(asset, path, lock)
            yield draft
        except OSError as error:
            raise cannot_write(f"store {folder}", error, NOTHING_LOST) from error
        finally:
            if draft is not None:
                draft.close()
            else:
                os.close(lock)
                shutil.rmtree(path, ignore_errors=True)

    def publish(
        self,
        draft: Draft,
        partition: Partition,
        recipe: Recipe,
        *,
        facts: Mapping[str, Any] | None = None,
        excluded: str | None = None,
        run: Mapping[str, Any] | None = None,
    ) -> Version:
        """Make a draft the current version, in one step.

        Parameters
        ----------
        draft : Draft
            Filled; its folder becomes the version.
        partition : mapping
            Key by dimension.
        recipe : Recipe
            What it was made from.
        facts : mapping, optional
            What was measured while it was made.
        excluded : str, optional
            Why the output is an exclusion.
        run : mapping, optional
            Who made it: run id, seconds, peak memory.

        Returns
        -------
        Version
            The new current version.
        """
        schema = SCHEMA[draft.asset]
        written = {path.name for path in draft.path.iterdir()}
        missing = [
            name
            for name, spec in schema.items()
            if name != ANY_ARRAYS and name not in written and not spec.optional
        ]
        if missing and excluded is None:
            subject, found = describe(draft.asset, partition), f"none named {', '.join(missing)}"
            raise _mistake(subject, f"arrays {', '.join(schema)}", found)
        folder = draft.path.parent
        version = Version(
            draft.asset, dict(partition), folder / draft.path.name.removeprefix(_DRAFT)
        )
        try:
            draft.group.update_attributes(  # at once, where attrs.update writes one by one
                {
                    "store_format": STORE_FORMAT,
                    "asset": draft.asset,
                    "partition": dict(partition),
                    "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "digest": digest_of_folder(draft.path, leave_out=_UNDIGESTED),
                    "provenance": recipe.as_dict(),
                    "libraries": library_versions(),
                    "facts": dict(facts or {}),
                    "excluded": excluded,
                    "run": dict(run or {}),
                }
            )
            # Data before names: after a power cut no name leads to data that never arrived.
            _sync_tree(draft.path)
            draft.path.rename(version.path)
            replace_file(folder / POINTER, f"{version.path.name}\n".encode())
            flock(draft.lock, fcntl.LOCK_SH)  # from here on it may be read
        except OSError as error:
            raise cannot_write(f"store {folder}", error, NOTHING_LOST) from error
        (folder / FAILURE).unlink(missing_ok=True)
        draft.discard(self.scratch(draft.asset, partition, recipe))
        self._collect(folder)
        return version

    def record_failure(self, asset: str, partition: Partition, reason: str) -> None:
        """Keep why an output could not be made, for those who find it missing."""
        # Where not even this can be written the error itself tells what is wrong.
        with suppress(OSError):
            replace_file(self.folder(asset, partition) / FAILURE, reason.encode())

    def failure(self, asset: str, partition: Partition = WHOLE) -> str | None:
        """Why the last attempt at an output failed; None if it succeeded."""
        return _text(self.folder(asset, partition) / FAILURE)

    def _collect(self, folder: Path) -> None:
        """Remove superseded versions and the leavings of dead writers, in one output's folder."""
        current = (folder / POINTER).read_text().strip()
        others = [path.name for path in versions_in(folder) if path.name != current]
        cutoff = time.time() - self.grace_seconds
        # The newest of the others come last; each was superseded when its successor was made.
        for name, successor in zip(others, [*others[1:], current], strict=False):
            rank = len(others) - others.index(name)
            if rank >= self.keep_versions and _made_at(successor) < cutoff:
                remove_unless_used(folder / name)
        for partial in drafts_in(folder):
            if _made_at(partial.name.removeprefix(_DRAFT)) < time.time() - 60:
                remove_unless_used(partial)


MOST_OPEN_FILES = 65536


@cache
def _allow_many_open_files() -> None:
    """Raise this process's limit: a version that is held is an open folder, and there are many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # it stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _mistake(subject: str, expected: str, found: str) -> StoreError:
    remedy = "This is a mistake in the asset: mend it there."
    return StoreError(subject, expected=expected, found=found, remedy=remedy)


def _text(path: Path) -> str | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return path.read_text(encoding="utf-8").strip()
    return None


def _spec(asset: str, name: str) -> ArraySpec:
    schema = SCHEMA[asset]
    spec = schema.get(name, schema.get(ANY_ARRAYS))
    if spec is None:
        raise StoreError(
            f"array {name!r} of {asset}",
            expected=f"one of {', '.join(schema)}",
            found="no such array in the schema",
            remedy="Add it to trend_dagster/storage/schema.py.",
        )
    return spec


def _new_array(
    group: zarr.Group,
    asset: str,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...] | None = None,
    data: NDArray[Any] | None = None,
) -> zarr.Array[Any]:
    spec = _spec(asset, name)
    if spec.dims and len(spec.dims) != len(shape):
        subject = f"array {name!r} of {asset}"
        raise _mistake(subject, f"dimensions {spec.dims}", f"shape {shape}")
    dtype = np.dtype(spec.dtype)
    return group.create_array(
        name,
        chunks=chunks or _chunks(shape, dtype.itemsize),
        **({"shape": shape, "dtype": dtype} if data is None else {"data": data}),
        # The checksum makes a damaged chunk an error in place of wrong numbers.
        compressors=[BloscCodec(cname="lz4", typesize=dtype.itemsize), Crc32cCodec()],
        dimension_names=spec.dims or None,
        attributes={"description": spec.description, "units": spec.unit},
        overwrite=chunks is not None,
    )


def _link(source: str, target: str) -> None:
    """Give a file a second name; where the file system knows no such thing, copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Halve the longest side until a chunk is small enough to read alone."""
    chunk = [max(1, side) for side in shape]
    while int(np.prod(chunk)) * itemsize > CHUNK_BYTES:
        longest = chunk.index(max(chunk))
        chunk[longest] = -(-chunk[longest] // 2)
    return tuple(chunk)


def _lock(folder: Path, kind: int) -> int:
    handle = os.open(folder, os.O_RDONLY)
    flock(handle, kind)
    return handle


def pointed_to(folder: Path) -> str | None:
    """Name the current version in the folder of an output; None if there is none."""
    return _text(folder / POINTER)


def versions_in(folder: Path) -> list[Path]:
    """Versions in the folder of an output, the oldest first; what others put there is none."""
    return sorted(p for p in folder.iterdir() if _VERSION.fullmatch(p.name) and p.is_dir())


def drafts_in(folder: Path) -> list[Path]:
    """What writers fill in the folder of an output, or have left there when they were killed."""
    found = {p: p.name.removeprefix(_DRAFT).removesuffix(_WORK) for p in folder.glob(f"{_DRAFT}*")}
    return sorted(path for path, name in found.items() if _VERSION.fullmatch(name))


def size_of(path: Path) -> int:
    """Bytes on disk of a file, or of all files below a folder."""
    size = path.stat().st_size if path.is_file() else 0
    for folder, _, files in os.walk(path):  # twice as fast as Path.rglob
        for name in files:
            with suppress(FileNotFoundError):  # collected meanwhile
                size += os.lstat(f"{folder}/{name}").st_size
    return size


def _locked(folder: Path) -> Path:
    """What is locked of a folder in use: a file in it where there is unfinished work."""
    file = folder / _LOCK
    return file if file.exists() else folder


def remove_unless_used(folder: Path) -> None:
    """Remove a version, unless it is the current one or a process reads or writes it.

    Parameters
    ----------
    folder : Path
        The version's.
    """
    try:
        handle = os.open(_locked(folder), os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        if not flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return  # no locks here: nobody knows whether it is read
    except BlockingIOError:
        return
    else:
        # A writer holds its lock until the pointer is replaced, so only now is this for certain.
        if pointed_to(folder.parent) != folder.name:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def remove_outputs(folder: Path) -> None:
    """Remove an output, or all of an asset, unless a process reads or writes any version of it.

    Parameters
    ----------
    folder : Path
        That holds the versions, or folders of partitions that do.
    """
    places = [folder, *_partitions_below(folder)]
    with ExitStack() as held:
        for version in (v for place in places for v in (*versions_in(place), *drafts_in(place))):
            handle = os.open(_locked(version), os.O_RDONLY)
            held.callback(os.close, handle)
            try:
                if not flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    return  # no locks here: nobody knows whether it is read
            except BlockingIOError:
                return
        for place in places:  # nobody is led to what is half removed
            (place / POINTER).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _partitions_below(folder: Path) -> Iterator[Path]:
    for below in sorted(folder.iterdir()):
        if "=" in below.name and below.is_dir():
            yield below
            yield from _partitions_below(below)


def _made_at(version: str) -> float:
    """Read the time of making, in seconds since 1970, from a version's name."""
    stamp = version.split("-", 1)[0]
    return datetime.strptime(stamp, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC).timestamp()


def _sync_tree(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        sync(path)
