"""Runs a graph on one thread and on several: a kernel may be right on one thread only."""

import os
from collections.abc import Callable

from cutlayer_export.errors import CertificateError
from cutlayer_export.graph.form import Arrays, Run

__all__ = ["SEVERAL", "on_any_threads"]

SEVERAL = max(2, os.cpu_count() or 1)


def on_any_threads(load: Callable[[int], Run]) -> Run:
    """A function that runs a graph on one thread and on `SEVERAL`, and insists on the same bits.

    Kernels that add in parallel to the same place lose additions, and not in every run. onnxruntime's ``ScatterND`` does
    (microsoft/onnxruntime#23396).

    Args:
        load: gives the graph as a function, for a number of threads.

    Raises:
        CertificateError: by the function, where results differ; the text names the output.
    """
    alone, together = load(1), load(SEVERAL)

    def run(values: Arrays) -> Arrays:
        found, again = alone(values), together(values)
        for name, value in found.items():
            if value.tobytes() != again[name].tobytes():
                raise CertificateError(f"{name} is not the same on one thread and on {SEVERAL}")
        return found

    return run
