"""From traced graphs to the TFLite files of a bundle."""

from cutlayer_export.certificate import Graphs
from cutlayer_export.tflite.file import to_file
from cutlayer_export.tflite.filters import with_filters
from cutlayer_export.tflite.fusion import fused
from cutlayer_export.tflite.graph import Graph
from cutlayer_export.tflite.lowering import lower
from cutlayer_export.tflite.partition import part, partition
from cutlayer_export.tflite.runner import runner
from cutlayer_export.training_graph import Graph as Traced

__all__ = ["tflite_files"]


def tflite_files(inference: Traced, training: Traced | None, delegated: bool) -> tuple[dict[str, bytes], Graphs]:
    """The files by graph name, and the same graphs as functions.

    Args:
        inference: as traced.
        training: the same; None for a frozen client.
        delegated: see `Graph`; weights of convolutions then stand in the files.

    Raises:
        UserError: a graph has an operation that TFLite's builtin operations cannot express.
    """
    graphs = {"inference": fused(lower(inference, delegated))}
    if training is None:
        files = _files(graphs, delegated)
        return files, Graphs(runner(files, "inference"))
    forward, backward = partition(lower(training, delegated))
    graphs |= {"forward": fused(forward), "backward": fused(backward)}
    certified = _files(graphs, delegated)
    steps = {name: each for name, each in backward.outputs.items() if not name.startswith("gradients.")}
    files = _files({**graphs, "backward": fused(part(backward, steps))}, delegated)
    return files, Graphs(*(runner(certified, name) for name in graphs))


def _files(graphs: dict[str, Graph], delegated: bool) -> dict[str, bytes]:
    return with_filters(graphs) if delegated else {name: to_file(each, name).content for name, each in graphs.items()}
