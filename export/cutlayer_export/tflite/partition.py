"""Splits the training graph in two, as `cutlayer_export.graph.partition` does, and extracts any part of a graph."""

from collections.abc import Iterable, Iterator

import numpy as np

from cutlayer_export.tflite.graph import Graph, Operation, Tensor

__all__ = ["needed", "part", "partition"]

_SAVED = "saved."
_FREE = {"RESHAPE", "SHAPE"}
"""Operations that cost next to nothing: their results are computed again rather than saved."""
_LIGHT = {*_FREE, "PAD", "RELU", "RELU6", "STRIDED_SLICE", "TRANSPOSE"}
_FEW = 64
"""A result is computed again if all convolutions from the samples to it take no more products per entry than this.

Saving it would take as long.
"""
_CHANGING = ("x", "seed", "buffers.", "positions.")
"""Only results that depend on these are worth saving: samples, draws and places of tokens are large, and buffers will have
changed."""


def partition(graph: Graph) -> tuple[Graph, Graph]:
    """Forward and backward; outputs ``saved.*`` of forward, and ``z``, are inputs of backward."""
    first = {name: each for name, each in graph.outputs.items() if name == "z" or name.startswith("new_buffers.")}
    second = {name: each for name, each in graph.outputs.items() if name not in first}
    before = set(needed(first.values(), _producers(graph)))
    graph = _with_smashed_turned_back(graph, before)
    again = _computed_again(graph) - {graph.outputs["z"]}
    given = dict[Tensor, Tensor]()
    saved = dict[str, Tensor]()
    for tensor in _crossing(second.values(), _producers(graph), before & _changing(graph) - again):
        if tensor.name == "z":
            given[tensor] = tensor
            continue
        name = f"{_SAVED}{len(saved)}"
        given[tensor] = Tensor(tensor.shape, tensor.dtype, name=name)
        saved[name] = tensor
    backward = part(graph, second, given)
    backward.operations = _late(backward)
    return part(graph, first | saved), backward


def _with_smashed_turned_back(graph: Graph, before: set[Tensor]) -> Graph:
    """Let backward get a tensor by transposing the smashed data, which it has, instead of saving it as well."""
    z = graph.outputs["z"]
    producer = _producers(graph).get(z)
    if producer is None or producer.kind != "TRANSPOSE":
        return graph
    source, order = producer.inputs
    assert source is not None
    assert order is not None
    assert order.data is not None
    inverse = graph.integers(*(int(at) for at in np.argsort(order.data)))
    back = Operation("TRANSPOSE", (z, inverse), Tensor(source.shape, source.dtype), {})
    result = graph.like()
    for operation in graph.operations:
        read = (
            operation.inputs
            if operation.output in before
            else (back.output if each is source else each for each in operation.inputs)
        )
        result.operations.append(operation._replace(inputs=tuple(read)))
        if operation is producer:
            result.operations.append(back)
    return result


def _computed_again(graph: Graph) -> set[Tensor]:
    """Results that take no longer to compute again from samples than to save."""
    products = {graph.inputs["x"]: 0}
    changing = _changing(graph)
    for operation in graph.operations:
        read = [each for each in operation.inputs if each in changing]
        if read and all(each in products for each in read) and (own := _products(operation)) is not None:
            total = own + max(products[each] for each in read)
            if total <= _FEW:
                products[operation.output] = total
    return set(products)


def _products(operation: Operation) -> int | None:
    """How many products an entry of the result takes; None if the operation is not light."""
    if operation.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return 0 if operation.kind in _LIGHT else None
    kernel = operation.inputs[1]
    assert kernel is not None
    taps = kernel.shape[1] * kernel.shape[2]
    return taps * (kernel.shape[3] if operation.kind == "CONV_2D" else 1)


def _late(graph: Graph) -> list[Operation]:
    """Put operations that do not depend on the cut gradient just before their first reader, to use less memory."""
    gradients = {each for name, each in graph.inputs.items() if name == "g"}  # empty if all gradients are zero
    for operation in graph.operations:
        if not gradients.isdisjoint(operation.inputs):
            gradients.add(operation.output)
    waiting = {each.output: each for each in graph.operations if each.output not in gradients}
    ordered: list[Operation] = []

    def add(operation: Operation) -> None:
        for each in operation.inputs:
            if each in waiting:
                add(waiting.pop(each))
        ordered.append(operation)

    for operation in graph.operations:
        if operation.output in gradients:
            add(operation)
    return [*ordered, *waiting.values()]


def _producers(graph: Graph) -> dict[Tensor, Operation]:
    return {operation.output: operation for operation in graph.operations}


def needed(wanted: Iterable[Tensor], producers: dict[Tensor, Operation]) -> Iterator[Tensor]:
    """All tensors that ``wanted`` are computed from, including themselves."""
    seen, pending = set[Tensor](), list(wanted)
    while pending:
        tensor = pending.pop()
        if tensor not in seen:
            seen.add(tensor)
            yield tensor
            pending.extend(each for each in _inputs(producers, tensor) if each is not None)


def part(graph: Graph, outputs: dict[str, Tensor], given: dict[Tensor, Tensor] | None = None) -> Graph:
    """The part of a graph that computes ``outputs``; ``given`` tensors become inputs, named like their stand-ins.

    A tensor that already has a name is copied if it is also an output under another name.
    """
    given = given or {}
    producers = {each.output: each for each in graph.operations if each.output not in given}
    wanted = set(needed(outputs.values(), producers))
    result = Graph(graph.delegated)
    result.inputs = {name: each for name, each in graph.inputs.items() if each in wanted and each not in given}
    result.inputs |= {stand_in.name: stand_in for tensor, stand_in in given.items() if tensor in wanted}
    for operation in graph.operations:
        if operation.output in wanted and operation.output not in given:
            inputs = tuple(each and given.get(each, each) for each in operation.inputs)
            result.operations.append(operation._replace(inputs=inputs))
    for name, tensor in outputs.items():
        own = given.get(tensor, tensor)
        if own.name and own.name != name:
            own = result.copy(own)
        own.name = name
        result.outputs[name] = own
    return result


def _inputs(producers: dict[Tensor, Operation], tensor: Tensor) -> tuple[Tensor | None, ...]:
    return producers[tensor].inputs if tensor in producers else ()


def _changing(graph: Graph) -> set[Tensor]:
    """The tensors that depend on the inputs of `_CHANGING`; depending on a size alone does not count."""
    found = {each for name, each in graph.inputs.items() if name.startswith(_CHANGING)}
    for operation in graph.operations:
        if operation.kind != "SHAPE" and any(each in found for each in operation.inputs):
            found.add(operation.output)
    return found


def _crossing(wanted: Iterable[Tensor], producers: dict[Tensor, Operation], kept: set[Tensor]) -> list[Tensor]:
    """Results of forward that backward reads; what depends on weights alone, or costs little, is computed again."""
    found, seen, pending = set[Tensor](), set[Tensor](), list(wanted)
    while pending:
        tensor = pending.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        operation = producers.get(tensor)
        if operation is None:
            if tensor.name.startswith("buffers."):
                found.add(tensor)
        elif tensor in kept and operation.kind not in _FREE:
            found.add(tensor)
        else:
            pending.extend(each for each in operation.inputs if each is not None)
    order = {tensor: at for at, tensor in enumerate(producers)}
    return sorted(found, key=lambda tensor: order.get(tensor, -1))
