"""Runs the files of a bundle on the stock runtime, for the certificate."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from ai_edge_litert import interpreter as runtime
from numpy.typing import NDArray

from cutlayer_core.bundles.names import filters_of
from cutlayer_core.errors import UserError
from cutlayer_export.graph.threads import on_any_threads

__all__ = ["runner"]

Arrays = dict[str, NDArray[Any]]


def runner(files: Mapping[str, bytes], name: str) -> Callable[[Arrays], Arrays]:
    """A function that runs a graph on values by name; weights that its file stores are written before each run."""

    def run(threads: int, values: Arrays) -> Arrays:
        content = bytearray(files[name])
        if filters_of(name) in files:
            for offset, value in _run(files[filters_of(name)], values, threads).items():
                content[int(offset) : int(offset) + value.nbytes] = value.tobytes()
        return _run(bytes(content), values, threads)

    return on_any_threads(lambda threads: partial(run, threads))


def _run(content: bytes, values: Arrays, threads: int) -> Arrays:
    try:
        return _outputs(content, values, threads)
    except RuntimeError as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(
            f"the part before the cut cannot be exported to TFLite: ai-edge-litert says {reason}"
        ) from error


def _outputs(content: bytes, values: Arrays, threads: int) -> Arrays:
    interpreter: Any = runtime.Interpreter(model_content=content, num_threads=threads)
    inputs = interpreter.get_input_details()
    for each in inputs:
        if -1 in each["shape_signature"]:
            interpreter.resize_tensor_input(each["index"], values[each["name"]].shape)
    interpreter.allocate_tensors()
    for each in inputs:
        interpreter.set_tensor(each["index"], np.asarray(values[each["name"]], order="C"))
    interpreter.invoke()
    return {each["name"]: interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()}
