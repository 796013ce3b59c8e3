"""Settings of how several clients make one model; `server_runtime` carries them out."""

from typing import Annotated, Literal

import msgspec

__all__ = ["Aggregation", "Epsl", "Parallel", "Sequential", "SplitFed"]


class Sequential(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="sequential"):
    """Devices train one after another, each from the client weights of the one before (Gupta & Raskar, 2018)."""


class SplitFed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="splitfed"):
    """Devices train side by side; after each epoch their client weights are averaged, weighted by samples.

    Thapa et al., arXiv 2004.12088. In version 2 the server-side model is one and takes the devices' batches in turn. In version
    1 each device trains a copy of it, with an optimizer that starts anew, and the copies are averaged, too; with a frozen
    client that is EcoFed's way.
    """

    version: Literal[1, 2] = 2


class Parallel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="parallel"):
    """Devices train side by side; the server updates once on a batch of each, and nobody's client weights are averaged.

    The loss is the mean over devices, weighted by their samples; a client's gradient is that of its own batch.
    """


class Epsl(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="epsl"):
    """`Parallel`, with the last-layer gradients of a share ``phi`` of each batch averaged over devices.

    Lin et al., "Efficient parallel split learning over resource-constrained wireless edge networks" (arXiv 2303.15991). Of
    a batch of b, m = ceil(phi b) rows are shared: their cut gradients are the same for all K devices and are broadcast
    once, so m + K (b - m) rows travel instead of K b. How one gradient at the output becomes one at the cut is not known
    to us from the paper. ``point`` "mean" pushes it through the network at the devices' mean smashed data, which spares the
    server m (K - 1) rows of the backward pass, and costs it a second forward pass of m + K (b - m); where the server's half
    has dropout or BatchNorm, that one draws and normalises anew. "each" pushes it through every device's own, and averages.
    """

    phi: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    point: Literal["mean", "each"] = "mean"


Aggregation = Sequential | SplitFed | Parallel | Epsl
"""The table of aggregations: the types that ``[aggregation]`` in a trial file may name by ``id``."""
