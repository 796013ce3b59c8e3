"""Runs a graph on one thread and on several: a kernel may be right on one thread only."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer_export.errors import CertificateError
from cutlayer_export.graph.form import Arrays, Run
from cutlayer_export.graph.scales import least_scales

__all__ = ["SEVERAL", "on_any_threads"]

SEVERAL = max(2, os.cpu_count() or 1)
_ROUNDING = 1e-5
"""Greatest difference over numbers of threads, as a share of the tensor's greatest value, or of its least scale."""


def on_any_threads(load: Callable[[int], Run]) -> Run:
    """A function that runs a graph on one thread, and insists on the same from `SEVERAL`.

    Kernels that add in parallel to the same place lose additions, and not in every run: onnxruntime's ``ScatterND`` does
    (microsoft/onnxruntime#23396). So the graph runs on several threads twice, and has to give the same bits. Between one
    thread and several, rounding may differ: onnxruntime divides the product of a single sample in another way.

    Args:
        load: gives the graph as a function, for a number of threads.

    Raises:
        CertificateError: by the function, where results differ; the text names the output.
    """
    alone, together = load(1), load(SEVERAL)

    def run(values: Arrays) -> Arrays:
        found, first, second = alone(values), together(values), together(values)
        least = least_scales({name: float(np.abs(value).max(initial=0.0)) for name, value in found.items()})
        for name, value in found.items():
            if first[name].tobytes() != second[name].tobytes():
                raise CertificateError(f"{name} is not the same twice on {SEVERAL} threads")
            if not _near(first[name], value, least[name]):
                raise CertificateError(f"{name} is not the same on one thread and on {SEVERAL}")
        return found

    return run


def _near(found: NDArray[Any], wanted: NDArray[Any], least: float) -> bool:
    if found.tobytes() == wanted.tobytes():
        return True
    limit = _ROUNDING * max(float(np.abs(wanted).max()), least)
    return bool((np.abs(found.astype(np.float64) - wanted) <= limit).all())
