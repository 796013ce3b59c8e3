"""Winograd's convolutions F(4x4, 3x3) as matrix products: 2.25 products an entry where a 3x3 convolution takes 9.

Lavin and Gray, arXiv 1509.09308: a tile of 4x4 results is ``A' [(G w G') * (B' x B)] A``, where x is a patch of 6x6
entries. ``B'``, ``A'`` and where the patches of an image lie are one matrix for each axis, so that an image is
transformed by two products; padding and the edges of images of any size are zeros in these matrices. Between the
transforms are 36 products of matrices, one for each entry of a transformed patch. Both gradients are the transposes of
the same steps, and read the same transformed patches and tiles.

Shapes: x (B, C, H, W), weight (O, C, 3, 3), dy (B, O, *out); transformed, (6 * rows of tiles, 6 * columns of tiles, B, C).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.library import custom_op

from cutlayer_export.graph.toom_cook import KERNEL, PATCH, TILE, matrices

__all__ = ["Layer", "forward", "grad_input", "grad_weight", "transformed_dy", "transformed_x"]

aten, ours = torch.ops.aten, torch.ops.cutlayer


class Layer(NamedTuple):
    """A 3x3 convolution with stride 1, without groups and dilation.

    Attributes:
        inputs: channels of x.
        outputs: channels of the result.
        size: height and width of x.
        padding: zeros around x, at most 2 along each axis.
    """

    inputs: int
    outputs: int
    size: tuple[int, int]
    padding: tuple[int, int]

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of the result."""
        height, width = (n + 2 * p - KERNEL + 1 for n, p in zip(self.size, self.padding, strict=True))
        return height, width

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles along each axis; the last ones may reach beyond the result."""
        rows, columns = (-(-n // TILE) for n in self.out)
        return rows, columns

    def from_x(self) -> list[Tensor]:
        """For each axis (6 * tiles, size): what transforms x."""
        along = zip(self.tiles, self.size, self.padding, strict=True)
        return [_banded(matrices().patch, n, size, -p) for n, size, p in along]

    def from_dy(self) -> list[Tensor]:
        """For each axis (6 * tiles, out): what transforms dy."""
        return [_banded(matrices().back.T, n, size, 0) for n, size in zip(self.tiles, self.out, strict=True)]


def forward(x: Any, weight: Any, layer: Layer) -> Any:
    """The convolution (B, O, *out) without bias, given `transformed_x`."""
    mixed = ours.tile_products.default(x, _transformed_weight(weight, layer), False)
    return ours.collect.default(mixed, *layer.from_dy())


def grad_input(dy: Any, weight: Any, layer: Layer) -> Any:
    """The input's gradient (B, C, H, W), given `transformed_dy`."""
    mixed = ours.tile_products.default(dy, _transformed_weight(weight, layer), True)
    return ours.collect.default(mixed, *layer.from_x())


def grad_weight(x: Any, dy: Any, layer: Layer) -> Any:
    """The weight's gradient (O, C, 3, 3), given `transformed_x` and `transformed_dy`."""
    products = ours.tile_correlations.default(dy, x)
    kernel = matrices().kernel
    both: NDArray[Any] = np.einsum("ia,jb->abij", kernel, kernel)[:, :, :, None].repeat(layer.tiles[0], 3)
    taps = aten.mm.default(
        _tensor(both.reshape(KERNEL**2, -1)),
        aten.view.default(products, [PATCH**2 * layer.tiles[0], layer.outputs * layer.inputs]),
    )
    return aten.reshape.default(aten.permute.default(taps, [1, 0]), [layer.outputs, layer.inputs, KERNEL, KERNEL])


def transformed_x(x: Any, layer: Layer) -> Any:
    """``B' x B`` for each patch of x."""
    return ours.spread.default(x, *layer.from_x())


def transformed_dy(dy: Any, layer: Layer) -> Any:
    """``A dy A'`` for each tile of dy."""
    return ours.spread.default(dy, *layer.from_dy())


def _transformed_weight(weight: Any, layer: Layer) -> Any:
    """``G w G'`` for each pair of channels: (6, 6, O, C)."""
    kernel = matrices().kernel
    flat = aten.reshape.default(weight, [layer.outputs * layer.inputs, KERNEL**2])
    spread = aten.mm.default(_tensor(np.kron(kernel, kernel)), aten.permute.default(flat, [1, 0]))
    return aten.view.default(spread, [PATCH, PATCH, layer.outputs, layer.inputs])


@custom_op("cutlayer::spread", mutates_args=())
def spread(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Linear maps along both axes of images, with pixels outermost: (B, C, H, W) to (P, Q, B, C)."""
    return torch.einsum("ph,qw,bchw->pqbc", rows, columns, x).contiguous()


@spread.register_fake
def _(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return x.new_empty(rows.shape[0], columns.shape[0], *x.shape[:2])


@custom_op("cutlayer::collect", mutates_args=())
def collect(y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The transpose of `spread`: (P, Q, B, C) to (B, C, H, W)."""
    return torch.einsum("ph,qw,pqbc->bchw", rows, columns, y).contiguous()


@collect.register_fake
def _(y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return y.new_empty(*y.shape[2:], rows.shape[1], columns.shape[1])


@custom_op("cutlayer::tile_products", mutates_args=())
def tile_products(x: Tensor, weight: Tensor, backward: bool) -> Tensor:
    """Mix channels: transformed x with C channels and weight (6, 6, O, C) to O channels; backward, from O to C."""
    tall, wide, *rest = x.shape
    tiles = x.reshape(PATCH, tall // PATCH, PATCH, wide // PATCH, *rest)
    mixed = torch.einsum("itjkbo,ijoc->itjkbc" if backward else "itjkbc,ijoc->itjkbo", tiles, weight)
    return mixed.reshape(*x.shape[:3], -1)


@tile_products.register_fake
def _(x: Tensor, weight: Tensor, backward: bool) -> Tensor:
    return x.new_empty(*x.shape[:3], weight.shape[3 if backward else 2])


@custom_op("cutlayer::tile_correlations", mutates_args=())
def tile_correlations(dy: Tensor, x: Tensor) -> Tensor:
    """Sums over samples and columns of tiles of dy (P, Q, B, O) times x (P, Q, B, C): (P, 6, O, C)."""
    left, right = (each.reshape(each.shape[0], PATCH, -1, *each.shape[2:]) for each in (dy, x))
    return torch.einsum("pjkbo,pjkbc->pjoc", left, right)


@tile_correlations.register_fake
def _(dy: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], PATCH, dy.shape[3], x.shape[3])


def _banded(matrix: NDArray[np.float64], tiles: int, size: int, start: int) -> Tensor:
    """(6 * tiles, size): ``matrix`` (6, width) on the entries from ``start + 4 * tile`` on, as far as there are any."""
    found = np.zeros((PATCH, tiles, size))
    for tile in range(tiles):
        for column in range(matrix.shape[1]):
            at = start + TILE * tile + column
            if 0 <= at < size:
                found[:, tile, at] = matrix[:, column]
    return _tensor(found.reshape(PATCH * tiles, size))


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
