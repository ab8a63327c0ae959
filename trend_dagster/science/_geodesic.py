"""Shortest ways along a mesh up to a radius, compiled: they let go of Python's lock."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(nogil=True, cache=True)
def ways_within(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    steps: NDArray[np.float64],
    sources: NDArray[np.int64],
    radius: float,
    with_itself: bool,
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]:
    """Dijkstra's way from each source to all vertices within a radius, by a heap.

    The steps are a matrix (CSR) with each step both ways, none negative. Returned are distances
    and vertices of one source after the other, vertices ascending, and how many of each.
    """
    n_vertices = len(indptr) - 1
    best = np.full(n_vertices, np.inf)
    done = np.zeros(n_vertices, dtype=np.bool_)
    touched = np.empty(n_vertices, dtype=np.int32)
    # A vertex is pushed each time that a shorter way is found: at most once for each step.
    keys, vertices = np.empty(len(indices) + 1), np.empty(len(indices) + 1, dtype=np.int32)
    distances, reached = np.empty(1024, dtype=np.float32), np.empty(1024, dtype=np.int32)
    counts = np.zeros(len(sources), dtype=np.int64)
    n_found = 0
    for number in range(len(sources)):
        source = sources[number]
        best[source] = 0.0
        touched[0], n_touched = source, 1
        keys[0], vertices[0], size = 0.0, source, 1
        while size > 0:
            near, vertex = keys[0], vertices[0]
            size -= 1
            # The last takes the place of the first, and sinks.
            key, moved, hole = keys[size], vertices[size], 0
            while 2 * hole + 1 < size:
                child = 2 * hole + 1
                if child + 1 < size and keys[child + 1] < keys[child]:
                    child += 1
                if keys[child] >= key:
                    break
                keys[hole], vertices[hole] = keys[child], vertices[child]
                hole = child
            keys[hole], vertices[hole] = key, moved
            if done[vertex]:
                continue
            done[vertex] = True
            for place in range(indptr[vertex], indptr[vertex + 1]):
                other, way = indices[place], near + steps[place]
                if way > radius or way >= best[other]:
                    continue
                if best[other] == np.inf:
                    touched[n_touched] = other
                    n_touched += 1
                best[other] = way
                hole = size
                size += 1
                while hole > 0 and keys[(hole - 1) // 2] > way:
                    parent = (hole - 1) // 2
                    keys[hole], vertices[hole] = keys[parent], vertices[parent]
                    hole = parent
                keys[hole], vertices[hole] = way, other
        while n_found + n_touched > len(reached):
            distances = np.concatenate((distances, np.empty_like(distances)))
            reached = np.concatenate((reached, np.empty_like(reached)))
        before = n_found
        for vertex in np.sort(touched[:n_touched]):
            if with_itself or vertex != source:
                distances[n_found], reached[n_found] = best[vertex], vertex
                n_found += 1
            best[vertex] = np.inf
            done[vertex] = False
        counts[number] = n_found - before
    return distances[:n_found], reached[:n_found], counts
