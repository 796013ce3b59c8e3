"""The operators of `graph.winograd` as TFLite operations; shapes are there. Images have their channels last."""

from collections.abc import Callable
from typing import Any

import torch

import cutlayer_export.graph.winograd  # noqa: F401 - registers the operators
from cutlayer_export.graph.toom_cook import PATCH
from cutlayer_export.tflite.graph import Graph
from cutlayer_export.tflite.values import Value, images, plain

__all__ = ["RULES"]

ours = torch.ops.cutlayer


def _spread(graph: Graph, x: Value, rows: Value, columns: Value) -> Value:
    channels, height, width = x.shape[1:]
    pixels = graph.transpose(images(graph, x), (1, 2, 0, 3))
    across = graph.reshape(columns.tensor, (1, *columns.shape))
    lines = graph.product(across, graph.reshape(pixels, (height, width, -channels)))
    found = graph.product(rows.tensor, graph.reshape(lines, (height, None)))
    return Value(graph.reshape(found, (rows.shape[0], columns.shape[0], -1, channels)))


def _collect(graph: Graph, y: Value, rows: Value, columns: Value) -> Value:
    tall, wide, _, channels = y.shape
    down, across = (graph.transpose(each.tensor, (1, 0)) for each in (rows, columns))
    lines = graph.product(down, graph.reshape(y.tensor, (tall, None)))
    across = graph.reshape(across, (1, *across.shape))
    pixels = graph.product(across, graph.reshape(lines, (rows.shape[1], wide, -channels)))
    pixels = graph.reshape(pixels, (rows.shape[1], columns.shape[1], -1, channels))
    return Value(graph.transpose(pixels, (2, 0, 1, 3)), images=True)


def _tile_products(graph: Graph, x: Value, weight: Value, backward: bool) -> Value:
    (tall, wide, _, channels), (*_, outputs, inputs) = x.shape, weight.shape
    tiles = graph.reshape(x.tensor, (PATCH, tall // PATCH, PATCH, -(wide // PATCH), channels))
    each = graph.reshape(plain(graph, weight), (PATCH, 1, PATCH, outputs, inputs))
    mixed = graph.product(tiles, each, turn_b=not backward)
    return Value(graph.reshape(mixed, (tall, wide, -1, inputs if backward else outputs)))


def _tile_correlations(graph: Graph, dy: Value, x: Value) -> Value:
    (tall, wide, _, outputs), inputs = dy.shape, x.shape[3]
    left, right = (
        graph.reshape(each.tensor, (tall, PATCH, -(wide // PATCH), n)) for each, n in ((dy, outputs), (x, inputs))
    )
    return Value(graph.product(graph.transpose(left, (0, 1, 3, 2)), right))


RULES: dict[Any, Callable[..., Any]] = {
    ours.collect.default: _collect,
    ours.spread.default: _spread,
    ours.tile_correlations.default: _tile_correlations,
    ours.tile_products.default: _tile_products,
}
