"""Splits the training graph in two: forward runs before the cut gradient is known, backward after that.

Backward gets what it needs from forward as saved tensors. Recomputing them instead was measured too
(benchmarks/results/client_step.txt): saving is faster once the saved tensors stay in the same memory from step to step.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import onnx
from onnx import ModelProto, NodeProto

__all__ = ["Partition", "partition"]

_FREE = {"Constant", "ConstantOfShape", "Identity", "Range", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze"}
"""Operations that cost next to nothing: their results are computed again rather than saved."""


_READ, _MADE = "read.", "made."


class Partition(NamedTuple):
    """Two models; outputs ``saved.*`` of forward, and ``z``, are inputs of backward."""

    forward: ModelProto
    backward: ModelProto


def partition(model: ModelProto, with_gradients: bool = False) -> Partition:
    """Split a training graph; see `training_graph.trace_training` for its inputs and outputs.

    ``with_gradients`` keeps ``gradients.*`` among the outputs of backward, for the certificate.
    """
    model = _batch_size_from_x(onnx.shape_inference.infer_shapes(model, data_prop=True))
    _read_buffers_once(model)
    _give_buffers_once(model)
    graph = model.graph
    outputs = [each.name for each in graph.output]
    first = [name for name in outputs if name == "z" or name.startswith("new_buffers.")]
    producers = {name: node for node in graph.node for name in node.output}
    reads = [name for name in producers if name.startswith(_READ)]
    types = {each.name: each for each in (*graph.value_info, *graph.input, *graph.output)}
    late = _depending_on({"g", "learning_rate", "step"}, graph)
    early = [name for name in producers if name not in late and _is_bytes(types.get(name))]
    before = {
        each
        for name in _needed([*first, *reads, *early], producers)
        if name in producers
        for each in producers[name].output
    }
    second = [name for name in outputs if name not in first and (with_gradients or not name.startswith("gradients."))]
    kept = _kept_values(second, producers, before, graph)
    saved = {name: "z" if name == "z" else f"saved.{number}" for number, name in enumerate(kept)}
    forward = _extract(model, "forward", [], [*first, *(name for name in kept if name != "z")], producers, types, saved)
    backward = _extract(model, "backward", kept, second, producers, types, saved)
    return Partition(forward, backward)


def _kept_values(
    wanted: Iterable[str], producers: dict[str, NodeProto], before: set[str], graph: onnx.GraphProto
) -> list[str]:
    """Results of forward that backward reads; what depends on weights alone, or costs nothing, is computed again."""
    # Those that depend on buffers are kept too: by the time backward runs, forward has replaced the buffers.
    buffers = (each.name for each in graph.input if each.name.startswith(("buffers.", "positions.")))
    from_x = _depending_on({"x", "seed", *buffers}, graph)
    kept, seen, pending = dict[str, None](), set[str](), list(wanted)
    while pending:
        name = pending.pop()
        node = producers.get(name)
        if name in seen or node is None:
            continue
        seen.add(name)
        if name in before and name in from_x and (node.op_type not in _FREE or name.startswith(_READ)):
            kept[name] = None
        else:
            pending.extend(_inputs(node))
    order = {name: at for at, node in enumerate(graph.node) for name in node.output}
    return sorted(kept, key=order.__getitem__)


def _depending_on(names: set[str], graph: onnx.GraphProto) -> set[str]:
    """These names, and all that are computed from their values; not from their sizes."""
    found = set(names)
    for node in graph.node:
        if node.op_type != "Shape" and any(name in found for name in _inputs(node)):
            found.update(node.output)
    return found


def _is_bytes(value: onnx.ValueInfoProto | None) -> bool:
    """Whether this is what `winners.pool_winners` gives: bytes that stand for images, so forward computes them."""
    return value is not None and value.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def _read_buffers_once(model: ModelProto) -> None:
    """Put a node between each buffer and its readers, so that the buffer can be saved like any other result."""
    types = {each.name: each for each in model.graph.input if each.name.startswith("buffers.")}
    for node in model.graph.node:
        node.input[:] = [_READ + name if name in types else name for name in node.input]
    for place, (name, value) in enumerate(types.items()):
        model.graph.node.insert(place, onnx.helper.make_node("Identity", [name], [_READ + name]))
        model.graph.value_info.append(_renamed(value, {name: _READ + name}))


def _give_buffers_once(model: ModelProto) -> None:
    """Put a node before each new buffer, so that backward reads a separate value with a name of its own."""
    names = [each.name for each in model.graph.output if each.name.startswith("new_buffers.")]
    made = {name: _MADE + name for name in names}
    for node in model.graph.node:
        node.input[:] = [made.get(name, name) for name in node.input]
        node.output[:] = [made.get(name, name) for name in node.output]
    for value in [each for each in model.graph.output if each.name in made]:
        model.graph.node.append(onnx.helper.make_node("Identity", [made[value.name]], [value.name]))
        model.graph.value_info.append(_renamed(value, made))


def _needed(names: Iterable[str], producers: dict[str, NodeProto]) -> set[str]:
    needed, pending = set[str](), list(names)
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending.extend(_inputs(producers[name]) if name in producers else [])
    return needed


def _inputs(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, including those that its inner graphs read from outside."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            own = {name for each in attribute.g.node for name in each.output}
            own |= {each.name for each in (*attribute.g.input, *attribute.g.initializer)}
            yield from (name for each in attribute.g.node for name in _inputs(each) if name not in own)


def _extract(
    model: ModelProto,
    name: str,
    given: list[str],
    wanted: list[str],
    producers: dict[str, NodeProto],
    types: dict[str, onnx.ValueInfoProto],
    renamed: dict[str, str],
) -> ModelProto:
    """The part of ``model`` that computes ``wanted`` from its inputs and the values ``given``."""
    needed = _needed(wanted, {key: node for key, node in producers.items() if key not in given})
    nodes = [node for node in model.graph.node if any(each in needed and each not in given for each in node.output)]
    inputs = [each.name for each in model.graph.input if each.name in needed] + given
    part = onnx.helper.make_graph(
        nodes,
        name,
        [_renamed(types[each], renamed) for each in inputs],
        [_renamed(types[each], renamed) for each in wanted],
        [each for each in model.graph.initializer if each.name in needed],
    )
    result = onnx.helper.make_model(part, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    for node in result.graph.node:
        node.input[:] = [renamed.get(each, each) for each in node.input]
        node.output[:] = [renamed.get(each, each) for each in node.output]
    onnx.checker.check_model(result)
    return result


def _renamed(value: onnx.ValueInfoProto, names: dict[str, str]) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = names.get(value.name, value.name)
    return copy


def _batch_size_from_x(model: ModelProto) -> ModelProto:
    """Take the batch size from x wherever it is taken from g, which forward does not have."""
    for node in model.graph.node:
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Shape" and node.input[0] == "g" and ends.get("start", 0) == 0 and ends.get("end") == 1:
            node.input[0] = "x"
    return model
