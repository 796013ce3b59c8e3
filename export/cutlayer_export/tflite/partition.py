"""The training graph in two, as in `cutlayer_export.partition`, and parts of a graph in general."""

from collections.abc import Iterable, Iterator

from cutlayer_export.tflite.graph import Graph, Operation, Tensor

__all__ = ["needed", "part", "partition"]

_FREE = {"RESHAPE", "SHAPE"}
"""Operations that cost next to nothing: done again rather than saved."""
_CHANGING = ("x", "seed", "buffers.")
"""Inputs from which backward takes nothing anew that forward has computed: samples and draws are many, buffers are others by then."""


def partition(graph: Graph) -> tuple[Graph, Graph]:
    """Forward and backward; outputs ``saved.*`` of forward, and ``z``, are inputs of backward."""
    first = {name: each for name, each in graph.outputs.items() if name == "z" or name.startswith("new_buffers.")}
    second = {name: each for name, each in graph.outputs.items() if name not in first}
    producers = {operation.output: operation for operation in graph.operations}
    before = set(needed(first.values(), producers))
    changing = _changing(graph)
    given = dict[Tensor, Tensor]()
    saved = dict[str, Tensor]()
    for tensor in _crossing(second.values(), producers, before, changing):
        if tensor.name == "z":
            given[tensor] = tensor
            continue
        name = f"saved.{len(saved)}"
        given[tensor] = Tensor(tensor.shape, tensor.dtype, name=name)
        saved[name] = tensor
    return part(graph, first | saved), part(graph, second, given)


def needed(wanted: Iterable[Tensor], producers: dict[Tensor, Operation]) -> Iterator[Tensor]:
    """All that ``wanted`` is computed from, themselves included."""
    seen, pending = set[Tensor](), list(wanted)
    while pending:
        tensor = pending.pop()
        if tensor not in seen:
            seen.add(tensor)
            yield tensor
            pending.extend(each for each in _inputs(producers, tensor) if each is not None)


def part(graph: Graph, outputs: dict[str, Tensor], given: dict[Tensor, Tensor] | None = None) -> Graph:
    """What computes ``outputs``: ``given`` tensors come in, under the names of what stands in for them.

    A tensor that has a name already is copied where it goes out under another one.
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
    """What depends on such inputs. Sizes alone do not count."""
    found = {each for name, each in graph.inputs.items() if name.startswith(_CHANGING)}
    for operation in graph.operations:
        if operation.kind != "SHAPE" and any(each in found for each in operation.inputs):
            found.add(operation.output)
    return found


def _crossing(
    wanted: Iterable[Tensor], producers: dict[Tensor, Operation], before: set[Tensor], changing: set[Tensor]
) -> list[Tensor]:
    """Results of forward that backward reads; what follows from weights alone, or costs nothing, is done again."""
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
        elif tensor in before and tensor in changing and operation.kind not in _FREE:
            found.add(tensor)
        else:
            pending.extend(each for each in operation.inputs if each is not None)
    order = {tensor: at for at, tensor in enumerate(producers)}
    return sorted(found, key=lambda tensor: order.get(tensor, -1))
