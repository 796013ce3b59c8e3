"""Settings for how several clients train one model; `server_runtime` implements them."""

from typing import Annotated, Literal

import msgspec

__all__ = ["Aggregation", "Epsl", "Parallel", "Sequential", "SplitFed"]


class Sequential(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="sequential"):
    """Devices train one after another, each from the client weights of the one before (Gupta & Raskar, 2018)."""


class SplitFed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="splitfed"):
    """Devices train side by side; after each epoch their client weights are averaged, weighted by samples.

    Thapa et al., arXiv 2004.12088. In version 2 there is one server-side model, which takes the devices' batches in
    turn. In version 1 each device trains its own copy of it, with a fresh optimizer, and the copies are averaged too;
    with a frozen client that is what EcoFed does.
    """

    version: Literal[1, 2] = 2


class Parallel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="parallel"):
    """Devices train side by side; the server updates once on a batch of each, and client weights are not averaged.

    The loss is the mean over devices, weighted by their samples; a client's gradient is that of its own batch.
    """


class Epsl(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="epsl"):
    """`Parallel`, with the last-layer gradients of a share ``phi`` of each batch averaged over devices.

    Lin et al., "Efficient parallel split learning over resource-constrained wireless edge networks" (arXiv 2303.15991).
    Of a batch of b, m = ceil(phi b) rows are shared: their cut gradients are the same for all K devices and are
    broadcast once, so m + K (b - m) rows travel instead of K b.

    We do not know from the paper how one gradient at the output becomes one at the cut. ``point`` "mean" backpropagates
    it at the devices' mean smashed data, which saves the server m (K - 1) rows of the backward pass but costs it a
    second forward pass of m + K (b - m) rows, in which any dropout or BatchNorm of the server-side model draws and
    normalises anew. "each" backpropagates it at every device's own smashed data, and averages.
    """

    phi: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    point: Literal["mean", "each"] = "mean"


Aggregation = Sequential | SplitFed | Parallel | Epsl
"""The table of aggregations: the types that ``[aggregation]`` in a trial file may name by ``id``."""
