"""Settings of how several clients make one model; `server_runtime` carries them out."""

import msgspec

__all__ = ["Aggregation", "Sequential", "SplitFed"]


class Sequential(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="sequential"):
    """Devices train one after another, each from the client weights of the one before (Gupta & Raskar, 2018)."""


class SplitFed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="splitfed"):
    """Devices train side by side; after each epoch their client weights are averaged, weighted by samples.

    The server-side model is one and takes the devices' batches in turn (Thapa et al., arXiv 2004.12088, SplitFedV2).
    """


Aggregation = Sequential | SplitFed
"""The table of aggregations: the types that ``[aggregation]`` in a trial file may name by ``id``."""
