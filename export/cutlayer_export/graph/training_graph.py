"""What the board computes, as torch functions and as graphs of ordinary operations traced from them.

One training graph holds the forward pass, the backward pass and the optimizer; a writer splits it where the cut
gradient comes in. The optimizer is torch code like the rest, so it is traced, exported and checked like the rest.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel

from cutlayer_core.errors import UserError
from cutlayer_core.trial.optimizers import Optimizer
from cutlayer_cut import ClientState, mode, tracing, training
from cutlayer_export.graph.batch_decisions import sizes_decided_otherwise
from cutlayer_export.graph.decompositions import decompositions
from cutlayer_export.graph.draws import Draws, refuse_other_draws
from cutlayer_export.graph.optimizer_step import initial_state, optimizer_step
from cutlayer_export.graph.owners import Owners
from cutlayer_export.graph.rewrites import simplify, use_plain_softmax, use_reshape
from cutlayer_export.graph.substitutes import substituted

__all__ = ["BATCHED", "Graph", "initial_values", "trace_inference", "trace_training"]

Tensors = dict[str, Tensor]
BATCHED = ("x", "g")
"""Inputs whose axis 0 is the batch."""


class Graph(NamedTuple):
    """A traced function of named tensors.

    Attributes:
        module: takes ``inputs`` and returns ``outputs``, by position.
        inputs: examples by name; axis 0 of ``x`` and ``g`` is the batch. ``constants.*`` never change.
        outputs: names of the outputs.
        other_sizes: batch sizes for which the client's code may compute otherwise; see `batch_decisions`.
        optimizer: whose step the graph takes; None if it takes none.
    """

    module: fx.GraphModule
    inputs: Tensors
    outputs: list[str]
    other_sizes: tuple[int, ...]
    optimizer: Optimizer | None = None


def initial_values(state: ClientState, optimizer: Optimizer | None) -> Tensors:
    """Copies of everything that the board keeps from step to step, by the name of the graph input."""
    moments = initial_state(state.params, optimizer) if optimizer else {}
    kinds = {"params": state.params, "buffers": state.buffers, "state": moments}
    return {f"{kind}.{name}": value.clone() for kind, values in kinds.items() for name, value in values.items()}


def trace_training(
    client: nn.Module, state: ClientState, example: Tensor, trainable: str, optimizer: Optimizer
) -> Graph:
    """Trace one training step.

    Inputs: ``x``, ``g`` (the cut gradient), ``learning_rate``, ``step`` for optimizers that count steps, ``seed`` for
    clients that draw random numbers, ``params.*``, ``buffers.*``, ``state.*``, ``constants.*``.
    Outputs: ``z``, ``new_buffers.*``, ``new_params.*``, ``new_state.*``, ``gradients.*`` (before clipping and decay).

    Raises:
        UserError: an operation cannot be differentiated or exported; the text names the module it belongs to.
    """

    def step(inputs: Tensors) -> Tensors:
        params, buffers, moments = (_of(inputs, kind) for kind in ("params", "buffers", "state"))
        fixed = _of(inputs, "constants")

        with torch.enable_grad():
            watched = {name: value.detach().requires_grad_() for name, value in params.items()}
            changed = {name: value.clone() for name, value in buffers.items()}
            z = functional_call(client, {**watched, **changed, **fixed}, (inputs["x"],))
            derivatives = torch.autograd.grad(z, list(watched.values()), inputs["g"])
        gradients = dict(zip(params, derivatives, strict=True))
        rate, count = inputs["learning_rate"], inputs["step"]
        new_params, new_moments = optimizer_step(params, gradients, moments, rate, count, optimizer)
        news = {"new_buffers": changed, "new_params": new_params, "new_state": new_moments, "gradients": gradients}
        return {"z": z.detach()} | {
            f"{kind}.{name}": value for kind, each in news.items() for name, value in each.items()
        }

    with training(client, trainable):
        return _trace(step, client, _inputs(client, state, example, optimizer))._replace(optimizer=optimizer)


def trace_inference(client: nn.Module, state: ClientState, example: Tensor) -> Graph:
    """Trace the forward pass in eval mode: ``x``, ``params.*``, ``buffers.*``, ``constants.*`` to ``z``.

    Raises:
        UserError: as in `trace_training`.
    """

    def infer(inputs: Tensors) -> Tensors:
        tensors = {name: value for kind in ClientState._fields for name, value in _of(inputs, kind).items()}
        return {"z": functional_call(client, tensors, (inputs["x"],))}

    with mode(client, training=False), torch.no_grad():
        return _trace(infer, client, _inputs(client, state, example, None))


def _inputs(client: nn.Module, state: ClientState, example: Tensor, optimizer: Optimizer | None) -> Tensors:
    inputs = {"x": example}
    if optimizer:
        with mode(client, training=False), torch.no_grad():
            z = functional_call(
                client, {name: value.clone() for each in state for name, value in each.items()}, example
            )
        inputs |= {"g": torch.randn_like(z), "learning_rate": torch.tensor(optimizer.learning_rate)}
        inputs |= {"step": torch.tensor(1), "seed": torch.tensor(0)}
    constants = {f"constants.{name}": value for name, value in state.constants.items()}
    return inputs | initial_values(state, optimizer) | constants


def _trace(function: Callable[[Tensors], Tensors], client: nn.Module, inputs: Tensors) -> Graph:
    names, outputs, draws, shapes = list(inputs), list[str](), Draws(), ShapeEnv()
    owners = Owners()

    def flat(*values: Tensor) -> list[Tensor]:
        results = function(dict(zip(names, values, strict=True)))
        outputs[:] = results
        return list(results.values())

    def with_draws(*values: Tensor) -> list[Tensor]:
        draws.seed = dict(zip(names, values, strict=True)).get("seed")
        results: list[Tensor] = functionalize(replay.run, remove="mutations")(*values)
        return results

    try:
        with tracing(), sdpa_kernel(SDPBackend.MATH), _without_onednn():
            fakes = _fakes(inputs, shapes)
            options: dict[str, Any] = {"tracing_mode": "symbolic", "_allow_non_fake_inputs": True}
            with owners.of(client):
                with substituted(client):
                    joint = make_fx(flat, **options)(*fakes)  # differentiates; the next one decomposes
                use_plain_softmax(joint)
                use_reshape(joint)
                replay = owners.replay(joint)
                module = make_fx(with_draws, {**decompositions(), **draws.table()}, **options)(*fakes)
            refuse_other_draws(module)
    except (NotImplementedError, RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        if "data-dependent" in reason:
            reason = "it decides by the values of tensors, as BatchNorm with momentum=None does"
        raise UserError(
            f"the part before the cut cannot be trained on a board: {reason}{owners.blamed()}; cut before it, or freeze it"
        ) from error
    simplify(module)
    used = [node for node in module.graph.find_nodes(op="placeholder") if node.users]
    for node, name in zip(module.graph.find_nodes(op="placeholder"), names, strict=True):
        node.meta["input"] = name
        if not node.users:
            module.graph.erase_node(node)
    module.recompile()
    sizes = sizes_decided_otherwise(shapes)
    return Graph(module, {node.meta["input"]: inputs[node.meta["input"]] for node in used}, outputs, sizes)


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Switch oneDNN off: each of its recurrent layers is one operation, without parts that could be exported."""
    enabled = torch._C._get_mkldnn_enabled()  # noqa: SLF001 - torch.backends.mkldnn.flags warns about GPUs
    torch._C._set_mkldnn_enabled(False)  # noqa: SLF001
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)  # noqa: SLF001


def _fakes(inputs: Tensors, shapes: ShapeEnv) -> list[Tensor]:
    """Fake tensors whose batch size is a symbol and whose other sizes are numbers."""
    fake = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    stand_ins = list[Tensor]()
    for name, value in inputs.items():
        batched = [DimDynamic.DUCK] if name in BATCHED else []
        sizes = batched + [DimDynamic.STATIC] * (value.dim() - len(batched))
        stand_ins.append(fake.from_tensor(value.detach(), symbolic_context=StatelessSymbolicContext(sizes)))
    return stand_ins


def _of(values: Tensors, kind: str) -> Tensors:
    return {name.removeprefix(f"{kind}."): value for name, value in values.items() if name.startswith(f"{kind}.")}
