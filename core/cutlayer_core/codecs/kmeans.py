"""K-means for many groups of points at once."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["cluster", "first_centroids"]

_SCORES = 1 << 22
"""Distances held in memory at a time: 16 MiB, however large the tensor."""
_Floats = NDArray[np.float32]
_Labels = NDArray[np.intp]


def cluster(points: _Floats, centroids: _Floats, iterations: int) -> tuple[_Floats, _Labels]:
    """Run Lloyd's algorithm from ``centroids`` until nothing changes, or for ``iterations``.

    A cluster that lost all its points restarts at the point with the greatest error.

    Args:
        points: (groups, points, dimensions).
        centroids: (groups, clusters, dimensions).
        iterations: at most.

    Returns:
        The centroids, each the mean of its points, and the index of every point's centroid, (groups, points). The last
        step moves the centroids, so a few points may now be nearer to another one.
    """
    labels = _nearest(points, centroids)
    for number in range(iterations):
        centroids = _means(points, labels, centroids)
        before, labels = labels, labels if number == iterations - 1 else _nearest(points, centroids)
        if before is not labels and np.array_equal(before, labels):
            break
    return centroids, labels


def first_centroids(points: _Floats, clusters: int) -> _Floats:
    """Per group, the points at evenly spaced ranks of the norm: for smashed data, from almost zero to the strongest."""
    order = np.argsort(np.einsum("gpd,gpd->gp", points, points), axis=1, kind="stable")
    ranks = ((np.arange(clusters) + 0.5) / clusters * points.shape[1]).astype(int)
    return np.take_along_axis(points, order[:, ranks, None], axis=1)


def _nearest(points: _Floats, centroids: _Floats) -> _Labels:
    """The centroid with the least |c|^2 / 2 - x c, which orders them as the distance does."""
    groups, count, _ = points.shape
    halves = np.einsum("gcd,gcd->gc", centroids, centroids) / 2
    nearest = np.zeros((groups, count), np.intp)
    block = max(1, _SCORES // (groups * centroids.shape[1]))
    for start in range(0, count, block):
        part = points[:, start : start + block]
        scores: _Floats = halves[:, :, None] - centroids @ part.transpose(0, 2, 1)
        least, found = np.full(part.shape[:2], np.inf, np.float32), nearest[:, start : start + block]
        for number in range(centroids.shape[1]):  # numpy's argmin over a short axis is many times slower
            closer = scores[:, number] < least
            found[closer] = number
            np.minimum(least, scores[:, number], out=least)
    return nearest


def _means(points: _Floats, labels: _Labels, centroids: _Floats) -> _Floats:
    """The mean of each cluster's points."""
    groups, clusters, dimensions = centroids.shape
    flat = (labels + np.arange(groups)[:, None] * clusters).reshape(-1)
    counts = np.bincount(flat, minlength=groups * clusters)
    order = np.argsort(flat, kind="stable")
    filled = np.flatnonzero(counts)
    starts = np.cumsum(counts)[filled] - counts[filled]
    means = centroids.copy()
    sums = np.add.reduceat(points.reshape(-1, dimensions)[order], starts, axis=0)
    means.reshape(-1, dimensions)[filled] = sums / counts[filled, None].astype(np.float32)
    for group in np.unique(np.flatnonzero(counts == 0) // clusters):
        empty = np.flatnonzero(counts[group * clusters : (group + 1) * clusters] == 0)
        error = ((points[group] - means[group, labels[group]]) ** 2).sum(axis=1)
        means[group, empty] = points[group, np.argsort(-error, kind="stable")[: empty.size]]
    return means
