"""Inference graphs with fewer bits: weights in float16, or weights and activations in int8.

* float16: weights are stored as float16 and converted when the file is loaded; computation stays in float32.
* int8: affine quantization by the ranges that activations have on representative samples; for weights it is symmetric,
  with one scale per channel (Jacob et al., arXiv 1712.05877; the recipe ``static_wi8_ai8`` of ai-edge-quantizer).
  Samples and smashed data stay float32.
"""

import io
import warnings
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.errors import UserError
from cutlayer_export.tflite.file import to_file
from cutlayer_export.tflite.graph import Graph, Tensor

__all__ = ["in_float16", "in_int8"]

_LEAST_ENTRIES = 64
"""Fewest entries of a tensor for which halving it is worth another operation."""
_BATCH = 32
"""Samples at a time while the ranges of activations are found."""
_GREATEST = 65504.0
"""The greatest number of float16."""


def in_float16(graph: Graph) -> Graph:
    """The same graph with its weights in float16."""
    result = graph.like()
    halved: dict[Tensor, Tensor] = {}
    for operation in graph.operations:
        for each in operation.inputs:
            if each is not None and each not in halved and each.dtype == "float32" and each.data is not None:
                wide = each.data.size >= _LEAST_ENTRIES and float(np.abs(each.data).max()) <= _GREATEST
                half = result.constant(each.data, "float16") if wide else each
                halved[each] = result.add("DEQUANTIZE", [half], each.shape) if wide else each
        inputs = tuple(each and halved.get(each, each) for each in operation.inputs)
        result.operations.append(operation._replace(inputs=inputs))
    return result


def in_int8(graph: Graph, samples: NDArray[Any] | None) -> bytes:
    """The file of a graph in int8.

    Args:
        graph: with ``x`` and ``z`` alone; it is changed: one more operation follows its result.
        samples: representative inputs, (N, *input).

    Raises:
        UserError: ai-edge-quantizer is not installed.
    """
    assert samples is not None
    try:
        from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
        from ai_edge_quantizer.utils import qsv_utils
    except ModuleNotFoundError as error:
        raise UserError("--precision int8 needs ai-edge-quantizer: pip install 'cutlayer[tflite-int8]'") from error

    # The last operation is not quantized, so that its result keeps its name.
    z = graph.outputs["z"]
    z.name = ""
    graph.outputs["z"] = last = graph.copy(z)
    last.name = "z"
    content = to_file(graph, "inference").content
    recipe = _recipe(qtyping, recipe_manager.RecipeManager())
    converter: Any = quantizer.Quantizer(bytearray(content))
    converter.load_quantization_recipe(recipe.get_quantization_recipe())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it keeps all tensors on purpose
        ranges: Any = calibrator.Calibrator(content, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
        batches = [{"x": samples[at : at + _BATCH]} for at in range(0, len(samples), _BATCH)]
        with redirect_stdout(io.StringIO()):  # a progress bar
            ranges.calibrate({"inference": batches}, recipe)
        found = converter.quantize(ranges.get_model_qsvs(), enable_progress_bar=False, enable_progress_report=False)
    return bytes(found.quantized_model)


def _recipe(qtyping: Any, recipe: Any) -> Any:
    """int8 for everything that has a kernel for it, but not for what enters and leaves the graph."""
    every, products = qtyping.TFLOperationName.ALL_SUPPORTED, qtyping.TFLOperationName.BATCH_MATMUL
    recipe.add_static_config(".*", every, 8, 8)
    # With a scale per channel, the kernel gives its zero point for every input.
    recipe.add_static_config(".*", products, 8, 8, weight_granularity=qtyping.QuantGranularity.TENSORWISE)
    for pattern, operation in (("^z;?$", "RESHAPE"), (".*", "INPUT"), (".*", "OUTPUT")):
        name = qtyping.TFLOperationName(operation)
        recipe.add_quantization_config(pattern, name, algorithm_key="no_quantize")
    return recipe
