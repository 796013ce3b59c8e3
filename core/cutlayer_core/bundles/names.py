"""Names of the files of a bundle; `bundle` says what is in them."""

from collections.abc import Iterable

from cutlayer_core.engines import ENGINES

__all__ = [
    "ARRANGEMENTS",
    "CERTIFICATE",
    "MANIFEST",
    "PARAMS",
    "allowed_files",
    "every_file",
    "filters_of",
    "in_arrangement",
    "wanted_files",
]

MANIFEST, PARAMS, CERTIFICATE = "manifest.json", "params.safetensors", "certificate.json"
ARRANGEMENTS = ("direct", "winograd")
"""Other ways to arrange the graphs that train, of which a board may choose one: without Winograd's convolutions, and
with them wherever they can be had. A bundle's own arrangement has some, as its export estimated."""
_INFERENCE, _TRAINING = "inference", ("forward", "backward")


def filters_of(graph: str) -> str:
    """The name of the graph that computes the convolution weights stored in the file of ``graph``."""
    return f"{graph}-filters"


def in_arrangement(graph: str, arrangement: str) -> str:
    """The name that a graph has in another arrangement."""
    return f"{graph}@{arrangement}"


def wanted_files(engine: str, trains: bool, arrangements: Iterable[str] = ()) -> set[str]:
    """Files that a bundle must have, besides its manifest."""
    others = [in_arrangement(graph, each) for each in arrangements for graph in _TRAINING]
    graphs = [_INFERENCE, *(_TRAINING if trains else ()), *others]
    return {PARAMS, *(f"{graph}.{engine}" for graph in graphs)}


def allowed_files(engine: str, trains: bool, arrangements: Iterable[str] = ()) -> set[str]:
    """Files that a bundle may have, besides its manifest."""
    graphs = [_INFERENCE, *(_TRAINING if trains else ())]
    filters = {filters_of(each) for each in graphs}
    filters |= {in_arrangement(filters_of(graph), each) for each in arrangements for graph in _TRAINING}
    return wanted_files(engine, trains, arrangements) | {f"{each}.{engine}" for each in filters} | {CERTIFICATE}


def every_file() -> set[str]:
    """Files of any bundle."""
    found = {MANIFEST}
    for engine in ENGINES:
        found |= allowed_files(engine, trains=True, arrangements=ARRANGEMENTS)
    return found
