"""What the board computes, as two torch functions, and their traces as graphs of ordinary ATen operations.

Backward recomputes the forward pass from ``x`` instead of reading saved tensors: a runtime pays for every extra graph
output with an allocation and a copy.
The optimizer is torch code like the rest, so it is traced, exported and checked like the rest.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize, vjp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.dropout import _DropoutNd

from cutlayer.errors import UserError
from cutlayer.optimizers import Sgd
from cutlayer_export.decompositions import decompositions
from cutlayer_export.sgd import sgd_state, sgd_step

__all__ = ["Graph", "initial_values", "trace_backward", "trace_forward"]

Tensors = dict[str, Tensor]


class Graph(NamedTuple):
    """A traced function with named inputs and outputs; axis 0 of the inputs in ``batched`` is dynamic."""

    module: fx.GraphModule
    inputs: Tensors
    outputs: list[str]
    batched: frozenset[str]


def initial_values(client: nn.Module, optimizer: Sgd) -> Tensors:
    """Everything that the board keeps from step to step, by graph input name.

    Raises:
        UserError: the client has a module whose training cannot be exported.
    """
    for name, module in client.named_modules():
        if isinstance(module, _DropoutNd) and module.p > 0:
            raise UserError(f"the part before the cut has the dropout {name!r}, which boards cannot do: cut before it")
    params = {f"params.{name}": value.detach().clone() for name, value in client.named_parameters()}
    buffers = {f"buffers.{name}": value.detach().clone() for name, value in client.named_buffers()}
    return (
        params
        | buffers
        | {f"state.{name}": value for name, value in sgd_state(_of(params, "params"), optimizer).items()}
    )


def trace_forward(client: nn.Module, values: Tensors, input_shape: tuple[int, ...]) -> Graph:
    """x, params and buffers to smashed data ``z``, and ``new_buffers.*`` of the buffers that change."""
    kept = {name: value for name, value in values.items() if not name.startswith("state.")}
    example = torch.randn(_example_batch(kept, input_shape), *input_shape)
    changed = _changed_buffers(client, kept, example)

    def forward(inputs: Tensors) -> Tensors:
        z, buffers = _run(client, _of(inputs, "params"), _of(inputs, "buffers"), inputs["x"])
        return {"z": z} | {f"new_buffers.{name}": buffers[name] for name in changed}

    inputs = {"x": example, **kept}
    return Graph(_trace(forward, inputs), inputs, ["z", *(f"new_buffers.{name}" for name in changed)], frozenset("x"))


def trace_backward(
    client: nn.Module, values: Tensors, input_shape: tuple[int, ...], smashed_shape: tuple[int, ...], optimizer: Sgd
) -> Graph:
    """x, cut gradient ``g``, params, buffers, state and learning rate to ``new_params.*`` and ``new_state.*``."""

    def backward(inputs: Tensors) -> Tensors:
        params, buffers, state = (_of(inputs, kind) for kind in ("params", "buffers", "state"))
        pull_back = vjp(lambda each: _run(client, each, buffers, inputs["x"])[0], params)[1]
        (gradients,) = pull_back(inputs["g"])
        new_params, new_state = sgd_step(params, gradients, state, inputs["learning_rate"], optimizer)
        return _named("new_params", new_params) | _named("new_state", new_state)

    batch = _example_batch(values, input_shape, smashed_shape)
    inputs = {
        "x": torch.randn(batch, *input_shape),
        "g": torch.randn(batch, *smashed_shape),
        "learning_rate": torch.tensor(optimizer.learning_rate),
        **values,
    }
    outputs = [f"new_{name}" for name in values if not name.startswith("buffers.")]
    return Graph(_trace(backward, inputs), inputs, outputs, frozenset("xg"))


def _run(client: nn.Module, params: Tensors, buffers: Tensors, x: Tensor) -> tuple[Tensor, Tensors]:
    """The client's output, and its buffers after the call; nothing passed in is changed."""
    copies = {name: value.clone() for name, value in buffers.items()}
    z: Tensor = functional_call(client, (params, copies), (x,))
    return z, copies


def _example_batch(values: Tensors, *shapes: tuple[int, ...]) -> int:
    """A batch size for tracing that is no other dimension, since torch takes equal sizes for the same one."""
    taken = {0, 1, 2}.union(*shapes, *(tuple(value.shape) for value in values.values()))
    return next(size for size in range(3, len(taken) + 4) if size not in taken)


def _changed_buffers(client: nn.Module, values: Tensors, example: Tensor) -> list[str]:
    before = _of(values, "buffers")
    with torch.no_grad():
        _, after = _run(client, _of(values, "params"), before, example)
    return [name for name, value in before.items() if not torch.equal(value, after[name])]


def _trace(function: Callable[[Tensors], Tensors], inputs: Tensors) -> fx.GraphModule:
    pure: Any = functionalize(function, remove="mutations_and_views")
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            module = make_fx(pure, decomposition_table=decompositions(), tracing_mode="symbolic")(inputs)
    except (NotImplementedError, RuntimeError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"the part before the cut cannot be trained on a board: {reason}; cut before it") from error
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _of(values: Tensors, kind: str) -> Tensors:
    return {name.removeprefix(f"{kind}."): value for name, value in values.items() if name.startswith(f"{kind}.")}


def _named(kind: str, values: Tensors) -> Tensors:
    return {f"{kind}.{name}": value for name, value in values.items()}
