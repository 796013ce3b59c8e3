"""FedLite: product quantization of smashed data, with a correction of the gradient on the board.

Wang, Qi, Rawat, Reddi, Waghmare, Yu & Joshi, "FedLite: a scalable approach for federated learning on
resource-constrained clients" (arXiv 2201.11865).
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs.base import NOTHING, Arrays, BaseCodec, Encoded, Payload, check_length, rows
from cutlayer_core.codecs.kmeans import cluster, first_centroids
from cutlayer_core.codecs.radix import MAX_RADIX, pack_digits, packed_bits, unpack_digits

__all__ = ["ProductQuantizer"]

_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
_ITERATIONS, _WARM_ITERATIONS = 10, 3
"""Iterations of k-means: from scratch, and from the centroids of the previous step."""


class ProductQuantizer(BaseCodec, frozen=True, tag="pq"):
    """Cuts each sample into ``subvectors``; each travels as the index of the nearest of ``clusters`` centroids.

    Each of ``groups`` has its own table of centroids, and holds the same number of neighbouring sub-vectors (of all
    samples). The table is learned anew for every tensor, starting from the centroids of the previous step if the pass
    trains the client. The paper favours one group with many sub-vectors.

    The board adds ``correction`` (lambda) times the quantization error to the gradient that comes back, which pulls
    smashed data towards their centroids. That is the gradient of lambda / 2 times the squared error, summed over the
    batch, while the loss is a mean: so the right lambda depends on the batch size.

    Payload: float32 centroids (groups, clusters, dimensions), then digits.
    """

    subvectors: _Count
    clusters: Annotated[int, msgspec.Meta(ge=2, le=MAX_RADIX)]
    groups: _Count = 1
    correction: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0

    def __post_init__(self) -> None:
        """Raises `ValueError` for settings that do not go together."""
        if self.subvectors % self.groups:
            raise ValueError(f"groups {self.groups} do not divide subvectors {self.subvectors}")

    def problem(self, shape: tuple[int, ...]) -> str:
        """See `BaseCodec`."""
        entries = rows(shape)[1]
        if entries % self.subvectors:
            return f"subvectors: found {self.subvectors}, allowed: divisors of {entries}"
        if self.groups * self.clusters > shape[0] * self.subvectors:
            return f"clusters: found {self.clusters}, allowed: up to {shape[0] * self.subvectors // self.groups}, the points"
        return ""

    def encode(self, tensor: NDArray[np.float32], seed: int = 0, memory: Arrays = NOTHING) -> Encoded:
        """Encode float32 (batch, ...); ``subvectors`` divides the entries per sample. NaN spreads to its centroid."""
        with np.errstate(invalid="ignore", over="ignore"):
            return self._encode(np.ascontiguousarray(tensor), memory)

    def decode(self, payload: Payload, params: Mapping[str, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Float32 of ``shape``. Raises `CodecError` on a wrong length."""
        check_length(payload, shape, self.bits)
        clusters, data = self._clusters(shape), np.frombuffer(payload, np.uint8)
        table = self._table_bytes(shape)
        centroids = data[:table].view("<f4").reshape(self.groups, clusters, -1)
        bits = np.unpackbits(data[table:], bitorder="little")
        labels = unpack_digits(bits, clusters, shape[0] * self.subvectors).reshape(self.groups, -1)
        return self._tensor(centroids, labels, shape)

    def bits(self, shape: tuple[int, ...]) -> int:
        """32 bits per entry of a centroid, and log2 ``clusters`` per sub-vector."""
        if rows(shape)[1] % self.subvectors:
            return 0
        digits = packed_bits(self._clusters(shape), shape[0] * self.subvectors)
        return 8 * (self._table_bytes(shape) + -(-digits // 8))

    def correct(
        self, part: NDArray[np.float32], shape: tuple[int, ...], context: Arrays = NOTHING
    ) -> NDArray[np.float32]:
        """The gradient plus ``correction`` times the quantization error."""
        if not self.correction:
            return part
        return np.add(part, np.float32(self.correction) * context["error"], dtype=np.float32)

    def _encode(self, tensor: NDArray[np.float32], memory: Arrays) -> Encoded:
        points = self._points(tensor)
        clusters, start = self._clusters(tensor.shape), memory.get("centroids")
        if clusters == points.shape[1]:
            centroids, labels = np.array(points, order="C"), np.broadcast_to(np.arange(clusters), points.shape[:2])
        elif start is not None and start.shape == (self.groups, clusters, points.shape[2]) and np.isfinite(start).all():
            centroids, labels = cluster(points, start, _WARM_ITERATIONS)
        else:
            centroids, labels = cluster(points, first_centroids(points, clusters), _ITERATIONS)
        bits = pack_digits(labels.reshape(-1).astype(np.uint16), clusters)
        payload = centroids.astype("<f4").tobytes() + np.packbits(bits, bitorder="little").tobytes()
        context: Arrays = NOTHING
        if self.correction:
            context = {"error": tensor - self._tensor(centroids, labels, tensor.shape)}
        return Encoded(payload, {}, context, {"centroids": centroids})

    def _clusters(self, shape: tuple[int, ...]) -> int:
        """Clusters per group; a small batch has no more of them than points."""
        return min(self.clusters, shape[0] * self.subvectors // self.groups)

    def _table_bytes(self, shape: tuple[int, ...]) -> int:
        return 4 * self.groups * self._clusters(shape) * (rows(shape)[1] // self.subvectors)

    def _points(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """(groups, points, dimensions): the sub-vectors of a group, of all samples."""
        parts = tensor.reshape(len(tensor), self.groups, self.subvectors // self.groups, -1)
        return parts.transpose(1, 0, 2, 3).reshape(self.groups, -1, parts.shape[-1])

    def _tensor(
        self, centroids: NDArray[np.float32], labels: NDArray[np.integer], shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        points = np.take_along_axis(centroids, labels[:, :, None], axis=1)
        parts = points.reshape(self.groups, shape[0], self.subvectors // self.groups, -1)
        return np.ascontiguousarray(parts.transpose(1, 0, 2, 3)).reshape(shape)
